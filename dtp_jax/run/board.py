"""TensorBoard: what metrics.jsonl holds, under the same names."""

import json
from collections.abc import Mapping
from numbers import Real
from typing import Any


class NoBoard:
    """TensorBoard of the processes that write no files."""

    def config(self, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class Board:
    """TensorBoard, fed with the rows of metrics.jsonl."""

    def __init__(self, writer: Any, step: int = 0):
        self._writer, self._step = writer, step

    def config(self, config: Mapping[str, Any]) -> None:
        """The config as a table among the texts, at the step from which on it holds."""
        lines = ["| field | value |", "| --- | --- |"]
        for name, value in config.items():
            text = json.dumps(value).replace("|", "\\|")
            lines.append(f"| {name} | `{text}` |")
        self._writer.add_text("config", "\n".join(lines), self._step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row, under SPLIT/KEY, at its step."""
        for key, value in row.items():
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if is_number and key not in ("step", "epoch"):
                self._writer.add_scalar(f"{row['split']}/{key}", value, row["step"])

    def flush(self) -> None:
        """Puts into the file what has come out of the writer's queue: a killed run lacks little then."""
        self._writer.flush()
