"""The files of a sweep's results: a table, a picture, a page with both."""

import datetime
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dtp_jax.run.files import disk_errors, replace_text, write_json
from dtp_jax.sweep.picture import draw
from dtp_jax.sweep.results import Row, as_csv, best, command_of, fields_of_row, in_order, in_range
from dtp_jax.sweep.tell import counts, epochs, in_words, percent, table
from dtp_jax.sweep.trial import folder_of
from dtp_jax.version import __version__

NAME = "sweep"
MOST_ROWS = 20


def write_results(
    found: Sequence[Row], record: Mapping[str, Any], shares: Mapping[str, float], folder: Path
) -> list[str]:
    """Writes sweep.md, sweep.csv, sweep.png and sweep.json. Returns their names.

    Raises:
      DiskError: the disk refuses.
    """
    names = [f"{NAME}.{kind}" for kind in ("md", "csv", "png", "json")]
    with disk_errors(folder):
        replace_text(folder / names[1], as_csv(found, record))
        draw(found, record, shares, folder / names[2])
        write_json(folder / names[3], _for_programs(found, record, shares))
        replace_text(folder / names[0], _page(found, record, shares, folder, names[2]))
    return names


def _for_programs(
    found: Sequence[Row], record: Mapping[str, Any], shares: Mapping[str, float]
) -> dict[str, Any]:
    """What came out, for `dtp report` and scripts."""
    top = best(found)
    chosen = top and {
        "trial": top.number,
        "val_accuracy": top.value,
        "fields": fields_of_row(top, record),
        "command": command_of(top, record),
    }
    return {
        "config": record["config"],
        "epochs": record["epochs"],
        "pruner": record["pruner"],
        "states": dict(Counter(one.state for one in found)),
        "order": [one.number for one in in_order(found)],
        "importances": dict(shares),
        "best": chosen,
        "command": record["command"],
        "commit": record["commit"],
        "host": socket.gethostname(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _page(
    found: Sequence[Row],
    record: Mapping[str, Any],
    shares: Mapping[str, float],
    folder: Path,
    picture: str,
) -> str:
    headings, cells = table(in_order(found)[:MOST_ROWS], record)
    left_out = (
        f" These are the best {MOST_ROWS}; sweep.csv has all." if len(found) > MOST_ROWS else ""
    )
    ranges = [(name, in_range(one)) for name, one in record["space"].items()]
    lines = [
        f"# Sweep of {record['config']}",
        "",
        f"`{record['command']}`",
        "",
        *_best(found, record, folder),
        f"![Accuracy by trial, and by parameter]({picture})",
        "",
        *_table(headings, cells, left=("state",)),
        "",
        f"{counts(found)}.{left_out} Accuracies are those on validation images after the last epoch of a "
        "trial; test images were never looked at.",
        "",
        f"{in_words(found, shares).capitalize()}.",
        "",
        *_table(("parameter", "searched"), ranges, left=("parameter", "searched")),
        "",
        f"{_origin(record)}",
    ]
    return "\n".join(lines) + "\n"


def _best(found: Sequence[Row], record: Mapping[str, Any], folder: Path) -> list[str]:
    """Which trial it is, and what trains it."""
    top = best(found)
    if top is None:
        return ["No trial has come to its end yet.", ""]
    return [
        f"The best is trial {top.number}, in `{folder_of(folder, top.number)}`: {percent(top.value)} after "
        f"{epochs(record)}, {percent(top.best)} at its highest. This trains it over all epochs of the config:",
        "",
        "```bash",
        command_of(top, record),
        "```",
        "",
    ]


def _origin(record: Mapping[str, Any]) -> str:
    """Where and when."""
    at = f" at commit {record['commit']}" if record["commit"] else ""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return f"Begun{at}; written on {socket.gethostname()}, {now}, by dtp_jax {__version__}."


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str]
) -> list[str]:
    sides = ["---" if heading in left else "---:" for heading in headings]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (headings, sides, *rows))
    return ["| " + " | ".join(row) + " |" for row in escaped]
