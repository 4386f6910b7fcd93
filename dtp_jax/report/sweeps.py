"""What a sweep has found, from the files that it leaves: sweep.json, sweep.csv, sweep.png."""

import base64
import csv
from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.report import words
from dtp_jax.report.folders import SWEEP, trials_of
from dtp_jax.report.reading import shown
from dtp_jax.report.tables import Table
from dtp_jax.run.files import read_object
from dtp_jax.run.layout import duration

MOST_ROWS = 20
"""Of the table; sweep.csv has all."""
MOST_BYTES = 20_000_000
"""Of a picture that goes into a page."""
PNG = b"\x89PNG\r\n\x1a\n"
PLAIN = ("number", "state", "value", "best", "epoch", "seconds", "reason")
"""Columns of sweep.csv beside the parameters."""


class Sweep(NamedTuple):
    """A sweep as a report shows it."""

    title: str
    table: Table
    command: str
    """What trains the best over all epochs of its config; "" where no trial is complete."""
    picture: str
    """Of all trials, as a data URI; "" where there is none."""


def sweep(folder: Path) -> Sweep:
    """What the files of a sweep say. Nothing of them is trusted to be whole."""
    found = shown(read_object(folder / SWEEP) or {})
    best = found.get("best") if isinstance(found.get("best"), dict) else {}
    title = f"sweep of {found.get('config', shown(folder.absolute().name))}"
    return Sweep(title, _table(folder, title), str(best.get("command", "")), _picture(folder))


def _table(folder: Path, title: str) -> Table:
    """The best trials, one in a row."""
    lines = {line.get("number"): line for line in _lines(folder / "sweep.csv")}
    numbers = [str(number) for number in trials_of(folder) or () if str(number) in lines]
    names = list(dict.fromkeys(n for line in lines.values() for n in line if n not in PLAIN))
    rows = [
        [
            number,
            _number(lines[number].get("value"), lambda value: f"{100 * value:.2f}"),
            lines[number].get("state", words.NONE),
            lines[number].get("epoch", words.NONE),
            _number(lines[number].get("seconds"), duration),
            *(_number(lines[number].get(name), lambda value: f"{value:.3g}") for name in names),
        ]
        for number in numbers[:MOST_ROWS]
    ]
    left_out = f" These are the best {MOST_ROWS} of {len(numbers)}." if numbers[MOST_ROWS:] else ""
    note = (
        "Accuracy on validation images after the last epoch of a trial, which of a pruned one is an earlier "
        f"one. Test images were never looked at.{left_out} Below are the runs of the best trials."
    )
    headings = ["trial", "validation, %", "state", "epochs", "time", *names]
    return Table(
        f"Trials of the {title}", headings, "lrlr", rows, note, ("time", "epochs", *names[::-1])
    )


def _lines(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            rows = [
                {name: value for name, value in row.items() if name and isinstance(value, str)}
                for row in csv.DictReader(lines)
            ]
    except (OSError, csv.Error):
        return []
    return shown(rows)


def _number(text: Any, said: Any) -> str:
    """A number of the file in words, a text as it is."""
    try:
        return said(float(text))
    except (TypeError, ValueError, OverflowError):
        return text or words.NONE


def _picture(folder: Path) -> str:
    file = folder / "sweep.png"
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return ""
        content = file.read_bytes()
    except OSError:
        return ""
    is_png = content.startswith(PNG)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if is_png else ""
