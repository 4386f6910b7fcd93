"""Where results are: small files that are committed, and the folder in which they are computed.

RESULTS/<row>.json has what a row came to, RESULTS/<row>.csv its curves. Whoever has the JSON does not run the
row again. Until then, RESULTS/unfinished/<row>/ has what is done of it: see `kept.py`. WORK/<row>/ has the
search, the runs and their logs, and is of no use once the JSON is there.
"""

import csv
import datetime
import io
import json
import os
import socket
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from benchmarks.paper.rows import Row
from benchmarks.provenance import processor
from dtp_jax.run.files import read_object, replace_text
from dtp_jax.run.locks import claimed
from dtp_jax.run.results import Table, divergence, read_metrics
from dtp_jax.sweep.trial import ABOUT_CHECKPOINTS

FINISHED, DIVERGED = "finished", "diverged"
BETWEEN = "; "
"""Machines that a row was run on; the words of one have commas."""


class Unreadable(Exception):
    """A result is there, and nobody can read it: it is neither run again nor left out. One line, for the user."""


class Places(NamedTuple):
    """The two folders."""

    results: Path
    work: Path

    def file(self, row: Row) -> Path:
        """What a row came to."""
        return self.results / f"{row.name}.json"

    def result(self, row: Row) -> dict[str, Any] | None:
        """Its content; see `result_of`."""
        return self.result_of(row.name)

    def result_of(self, name: str) -> dict[str, Any] | None:
        """What the row of this name came to; None where it has not been run to its end.

        Raises:
          Unreadable: as with the marks of a merge in it.
        """
        file = self.results / f"{name}.json"
        if not os.path.lexists(file):
            return None
        found = read_object(file)
        if found is None:
            raise Unreadable(
                f"{file} cannot be read; allowed: the JSON of a result, or no such file: its row is then run"
            )
        return found

    def unfinished(self, row: Row) -> Path:
        """What is done of a row that is not."""
        return self.results / "unfinished" / row.name

    def folder(self, row: Row) -> Path:
        """Where it is computed."""
        return self.work / row.name

    def claim(self, row: Row) -> AbstractContextManager[IO[str] | None]:
        """Yields a file if this process has the row to itself until the end of the context; else None.

        A run that has inherited the open file, and outlives the process which started it, keeps its row.
        """
        self.folder(row).mkdir(parents=True, exist_ok=True)
        return claimed(self.folder(row) / "lock")


def seed_folders(first: int, count: int, runs: Path) -> dict[int, Path]:
    """Seed -> its run folder, as `dtp train` has them: one alone has the folder of all."""
    if count == 1:
        return {first: runs}
    return {seed: runs / f"seed_{seed}" for seed in range(first, first + count)}


def outcome_of(folder: Path) -> tuple[str, str] | None:
    """(how the run of a seed ended, why); None where it did not end, or for a reason that a larger machine has not."""
    why = divergence(folder / "metrics.jsonl")
    if why is not None:
        return DIVERGED, ABOUT_CHECKPOINTS.sub("", why)
    return (FINISHED, "") if (folder / "summary.json").is_file() else None


def of_search(sweep: Mapping[str, Any], folder: Path, command: str) -> dict[str, Any]:
    """What is kept of a search, and how long it took.

    Args:
      sweep: the content of sweep.json. folder: of the search. command: where sweep.json does not say it.
    """
    best = sweep.get("best") or {}
    return {
        "trials": len(sweep["order"]),
        "epochs": sweep["epochs"],
        "pruner": sweep["pruner"],
        "states": sweep["states"],
        "best_trial": best.get("trial"),
        "val_accuracy": best.get("val_accuracy"),
        "importances": sweep["importances"],
        "seconds": _seconds(folder / "sweep.csv"),
        "command": sweep.get("command", command),
        "chosen": best.get("fields", {}),
    }


def of_seed(number: int, folder: Path, note: str) -> dict[str, Any]:
    """What is kept of the run of a seed, which has ended.

    Args:
      note: what the user says of the machine.
    """
    ended = outcome_of(folder)
    assert ended is not None, folder
    how, why = ended
    summary = read_object(folder / "summary.json") or {}
    metrics = read_metrics(folder / "metrics.jsonl")
    names = ("test_accuracy", "test_accuracy_of_best_val", "val_accuracy", "best_val_accuracy")
    found = {
        "seed": number,
        "outcome": how,
        **({"why": why} if why else {}),
        **{name: summary.get(name) for name in names},
        "seconds": _rounded(summary.get("wall_seconds"), 1),
        "images_per_second": _rounded(summary.get("images_per_second"), 1),
    }
    if how == FINISHED:
        found["angles"] = _last(metrics.of("train"), "angle/")
        update_angles = _last(metrics.of("diagnostics"), "update_angle/")
        found |= {"update_angles": update_angles} if update_angles else {}
    config = read_object(folder / "config.json") or {}
    return {
        "seed": found,
        "curve": _curve(metrics),
        "run": {name: config.get(name) for name in ("rule", "network", "dataset", "epochs")},
        "origins": _origins(folder),
        "host": socket.gethostname(),
        "note": note,
        "date": _day(summary),
    }


def write(
    places: Places,
    row: Row,
    *,
    command: str,
    search: Mapping[str, Any] | None,
    chosen: Mapping[str, Any],
    seeds: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Writes the files of a row whose jobs are done, and returns the content of its JSON.

    Args:
      command: with which all seeds are trained.
      search: see `of_search`. chosen: fields that it has set. seeds: see `of_seed`.
    """
    origins = [origin for one in seeds for origin in one["origins"]]
    ended = [one["seed"] for one in seeds]
    content = {
        "row": row.name,
        "config": row.config,
        "overrides": list(row.overrides),
        **seeds[0]["run"],
        "chosen": dict(chosen),
        "search": search and {name: value for name, value in search.items() if name != "chosen"},
        "seeds": ended,
        **_means(ended),
        "command": command,
        "commit": _each(one["commit"] for one in origins) or None,
        "host": _each(one["host"] for one in seeds),
        "hardware": _each((one["hardware"] for one in origins), BETWEEN) or "unknown",
        "note": _each(one["note"] for one in seeds),
        "versions": _versions(origins),
        "date": max(one["date"] for one in seeds),
    }
    places.results.mkdir(parents=True, exist_ok=True)
    replace_text(places.results / f"{row.name}.csv", _curves(seeds))
    # The JSON last: where it is, everything is.
    replace_text(places.file(row), json.dumps(content, indent=1) + "\n")
    return content


def _origins(folder: Path) -> list[dict[str, Any]]:
    """Where a run says that it came from: config.json at its first start, summary.json at its last."""
    last = folder / "summary.json"
    if not last.is_file():  # diverged, as it does at every start of all: up to the last
        last = folder.parent / "summary.json"
    of_both = (read_object(file) or {} for file in (folder / "config.json", last))
    return [
        {
            "commit": one.get("commit"),
            "hardware": _hardware(one),
            "versions": one.get("versions", {}),
        }
        for one in (each["provenance"] for each in of_both if "provenance" in each)
    ]


def _hardware(origin: Mapping[str, Any]) -> str:
    """What a run says that it was computed on; of a CPU of this machine, which one it is."""
    here, device = socket.gethostname(), origin.get("device", "unknown")
    host = origin.get("host", here)
    if host != here:
        return f"{device} of {host}"
    return processor() if device.endswith("x cpu") else device


def _versions(origins: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of what they trained with."""
    names = dict.fromkeys(name for one in origins for name in one["versions"])
    return {name: _each(one["versions"].get(name) for one in origins) for name in names}


def _each(found: Iterable[str | None], between: str = ", ") -> str:
    """What there is, each once."""
    return between.join(dict.fromkeys(filter(None, found)))


def _day(summary: Mapping[str, Any]) -> str:
    """The day on which a run ended; today, where it does not say."""
    when = summary.get("provenance", {}).get("date")
    return when[:10] if when else str(datetime.date.today())


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _last(table: Table, head: str) -> dict[str, float]:
    """The last number of every column of this kind, to a hundredth of a degree."""
    found = {}
    for name, column in table.items():
        if name.startswith(head) and np.isfinite(column).any():
            found[name.removeprefix(head)] = round(float(column[np.isfinite(column)][-1]), 2)
    return found


def _means(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Over the seeds that finished; the standard deviation is that of a sample."""
    found: dict[str, float | None] = {}
    for name in ("test_accuracy", "test_accuracy_of_best_val", "val_accuracy"):
        values = [one[name] for one in seeds if one[name] is not None]
        found[name] = statistics.fmean(values) if values else None
        found[f"{name}_std"] = statistics.stdev(values) if values[1:] else None
    return found


def _seconds(file: Path) -> float:
    """Of all trials that say so."""
    with file.open(newline="") as lines:
        return round(sum(float(line["seconds"] or 0) for line in csv.DictReader(lines)), 1)


def _curve(metrics: Table) -> list[dict[str, float]]:
    """Accuracies and angles after every epoch."""
    train, val = metrics.of("train"), metrics.of("val")
    columns = {
        "train_accuracy": train.by_epoch("accuracy"),
        "val_accuracy": val.by_epoch("accuracy"),
        **{name: train.by_epoch(name) for name in train if name.startswith("angle/")},
    }
    return [
        {
            "epoch": epoch,
            **{n: float(f"{v[epoch]:.6g}") for n, v in columns.items() if epoch in v},
        }
        for epoch in sorted(set().union(*columns.values()))
    ]


def _curves(seeds: Iterable[Mapping[str, Any]]) -> str:
    """CSV: a line for every epoch of every seed."""
    lines = [{"seed": one["seed"]["seed"], **line} for one in seeds for line in one["curve"]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    table = csv.DictWriter(text, names or ["seed", "epoch"], lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return text.getvalue()
