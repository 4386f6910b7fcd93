"""What the programs here share: their options, their tables and the file for their result."""

import argparse
import json
import os
from collections.abc import Collection, Sequence
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


def _file(text: str) -> Path:
    """The path of a file that can be written, found out before anything is measured."""
    try:
        path = local_path("--json", text)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise error("--json", text, "a file in a folder that can be written to")
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem
    return path


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
