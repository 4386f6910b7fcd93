"""What a tracker is: five methods, which a run calls."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple


class TrackedRun(NamedTuple):
    """What a tracker is told of the run that it follows."""

    workdir: Path
    """Its folder, absolute. metrics.jsonl there has every row up to `step`."""
    config: dict[str, Any]
    step: int
    """From which it goes on; 0 at the beginning. Rows of later steps that were written before come again."""
    note: Callable[[str], None]
    """Shows the user a line."""
    warn: Callable[[str], None]
    """The same, as a warning."""

    @property
    def group(self) -> str:
        """What it shares with the runs beside it: the name of the folder above."""
        return self.workdir.parent.name

    @property
    def name(self) -> str:
        """Of its folder, with that of the one above: digits_dtp/seed_0."""
        return f"{self.group}/{self.workdir.name}" if self.group else self.workdir.name

    @property
    def tags(self) -> tuple[str, ...]:
        """Rule, network and data set."""
        return tuple(self.config[name] for name in ("rule", "network", "dataset"))


class Tracker:
    """Follows a run. These methods do nothing: a tracker overrides what it has a use for.

    They are called by one thread of one process, and what they are given is theirs. A method that raises
    anything ends the tracker, not the run.
    """

    def start(self, run: TrackedRun) -> None:
        """The run begins, or goes on; the first call."""

    def write(self, row: Mapping[str, Any]) -> None:
        """A row, the line of metrics.jsonl: "step", "split", and what was measured. Steps never fall."""

    def picture(self, file: Path, step: int) -> None:
        """A picture has been drawn, a PNG file in figures/; of the run after this step."""

    def flush(self) -> None:
        """A checkpoint has been saved: what there is should be safe now."""

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """The run ends; the last call. `summary`: of summary.json; None where it has not finished."""


class TrackerError(Exception):
    """Why a tracker cannot go on, in words for the user."""


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a row, as SPLIT/KEY: the names of TensorBoard and all others."""
    return {
        f"{row['split']}/{key}": float(value)
        for key, value in row.items()
        if key not in ("step", "epoch")
        and isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def name_of(picture: Path) -> str:
    """What pictures of a kind are called: figures/feedback of feedback_0001000.png."""
    return f"figures/{picture.stem.rpartition('_')[0] or picture.stem}"
