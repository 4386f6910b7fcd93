"""What the programs here share: their options, their tables and the file for their result."""

import argparse
import json
import math
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dtp_jax import tools
from dtp_jax.fields import error, local_path


def parser_of(benchmark: str, doc: str, **options: Any) -> argparse.ArgumentParser:
    """Of `python -m benchmarks.<benchmark>`, whose docstring is its help."""
    return tools.parser_of(f"python -m benchmarks.{benchmark}", doc, **options)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json, for `write_json`."""
    parser.add_argument("--json", type=_file, help="file for the result")


def add_batches(parser: argparse.ArgumentParser, default: int) -> None:
    """The option --batches of what trains feedback maps alone."""
    words = f"that maps are trained on ({default})"
    parser.add_argument("--batches", type=count, default=default, help=words)


def _file(text: str) -> Path:
    """The path of a file that can be written, found out before anything is measured."""
    try:
        path = local_path("--json", text)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise error("--json", text, "a file in a folder that can be written to")
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem
    return path


def count(text: str) -> int:
    """The type of an option that is a number of things."""
    with suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"is {text!r}; allowed: a whole number, 1 or more")


def positive(text: str) -> float:
    """The type of an option that is a size."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"is {text!r}; allowed: a finite number above 0")


def counts(text: str) -> list[int]:
    """Several, each once, in their order: 32,128."""
    return list(dict.fromkeys(map(count, text.split(","))))


def positives(text: str) -> list[float]:
    """Several, each once, in their order: 0.1,0.01."""
    return list(dict.fromkeys(map(positive, text.split(","))))


def write_json(file: Path | None, result: dict[str, Any]) -> None:
    """Where a file was asked for."""
    if file:
        file.write_text(json.dumps(result, indent=2) + "\n")


def make_console() -> Console:
    """As wide as its lines."""
    return Console(soft_wrap=True, highlight=False)


def make_table(
    title: str, columns: Sequence[str], words: Collection[str] = (), **options: Any
) -> Table:
    """Columns of numbers stand on the right, those in `words` on the left."""
    table = Table(title=title, title_justify="left", **options)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table
