"""Where results are: small files that are committed, and the folder in which they are computed.

RESULTS/<row>.json has what a row came to, RESULTS/<row>.csv its curves. Whoever has the JSON does not run the
row again. WORK/<row>/ has the search, the runs and their logs, and is of no use once the JSON is there.
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

from benchmarks.paper.rows import Group, Row
from benchmarks.provenance import processor
from dtp_jax.run.files import read_object, replace_text
from dtp_jax.run.locks import claimed
from dtp_jax.run.results import Table, divergence, read_metrics
from dtp_jax.sweep.trial import ABOUT_CHECKPOINTS

FINISHED, DIVERGED = "finished", "diverged"


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

    def folder(self, row: Row) -> Path:
        """Where it is computed."""
        return self.work / row.name

    def claim(self, row: Row) -> AbstractContextManager[IO[str] | None]:
        """Yields a file if this process has the row to itself until the end of the context; else None.

        A run that has inherited the open file, and outlives the process which started it, keeps its row.
        """
        self.folder(row).mkdir(parents=True, exist_ok=True)
        return claimed(self.folder(row) / "lock")


def seed_folders(group: Group, runs: Path) -> dict[int, Path]:
    """Seed -> its run folder, as `dtp train` has them: from the config's seed on; one alone has the folder of all."""
    first = (read_object(runs / "config.json") or {}).get("seed", 0)
    if group.seeds == 1:
        return {first: runs}
    return {seed: runs / f"seed_{seed}" for seed in range(first, first + group.seeds)}


def outcome_of(folder: Path) -> tuple[str, str] | None:
    """(how the run of a seed ended, why); None where it did not end, or for a reason that a larger machine has not."""
    if (folder / "summary.json").is_file():
        return FINISHED, ""
    why = divergence(folder / "metrics.jsonl")
    return None if why is None else (DIVERGED, ABOUT_CHECKPOINTS.sub("", why))


def write(
    places: Places,
    group: Group,
    row: Row,
    *,
    runs: Path,
    commands: Mapping[str, str],
    sweep: dict[str, Any] | None,
    chosen: Mapping[str, Any],
    note: str,
) -> dict[str, Any]:
    """Writes the files of a row whose runs have ended, and returns the content of its JSON.

    Args:
      runs: their folder.
      commands: "train", and "sweep" where there was a search.
      sweep: the content of sweep.json. chosen: fields that the search has set.
      note: what the user says of the machine.
    """
    folders = seed_folders(group, runs)
    seeds = [_of_seed(number, folder) for number, folder in folders.items()]
    origins = _origins(folders.values())
    config = read_object(runs / "config.json") or {}
    content = {
        "row": row.name,
        "config": row.config,
        "overrides": list(row.overrides),
        **{name: config.get(name) for name in ("rule", "network", "dataset", "epochs")},
        "chosen": dict(chosen),
        "search": _search(sweep, runs.parent / "sweep", commands),
        "seeds": seeds,
        **_means(seeds),
        "command": commands["train"],
        "commit": _commits(origins),
        "host": socket.gethostname(),
        "hardware": _hardware(origins),
        "note": note,
        "versions": _versions(origins),
        "date": _day(runs),
    }
    places.results.mkdir(parents=True, exist_ok=True)
    replace_text(places.results / f"{row.name}.csv", _curves(folders))
    # The JSON last: where it is, everything is.
    replace_text(places.file(row), json.dumps(content, indent=1) + "\n")
    return content


def _of_seed(number: int, folder: Path) -> dict[str, Any]:
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
    return found


def _origins(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Where the runs say that they came from: config.json at their first start, summary.json at their last."""
    found = []
    for folder in folders:
        last = folder / "summary.json"
        if not last.is_file():  # diverged, as it does at every start of all: up to the last
            last = folder.parent / "summary.json"
        of_both = (read_object(file) or {} for file in (folder / "config.json", last))
        found += [one["provenance"] for one in of_both if "provenance" in one]
    return found


def _commits(origins: Iterable[Mapping[str, Any]]) -> str | None:
    """Of the programs that trained: others may have been committed since."""
    return _each(one.get("commit") for one in origins) or None


def _versions(origins: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Of what they trained with."""
    versions = [one.get("versions", {}) for one in origins]
    names = dict.fromkeys(name for one in versions for name in one)
    return {name: _each(one.get(name) for one in versions) for name in names}


def _each(found: Iterable[str | None]) -> str:
    """What there is, each once."""
    return ", ".join(dict.fromkeys(filter(None, found)))


def _day(runs: Path) -> str:
    """The day on which the last seed ended, for which several are summed up; else today: they have just ended."""
    summary = read_object(runs / "summary.json") or {}
    when = summary.get("provenance", {}).get("date") if "seeds" in summary else None
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


def _search(
    sweep: dict[str, Any] | None, folder: Path, commands: Mapping[str, str]
) -> dict[str, Any] | None:
    """What is kept of sweep.json, and how long it took."""
    if sweep is None:
        return None
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
        "command": sweep.get("command", commands["sweep"]),
    }


def _seconds(file: Path) -> float:
    """Of all trials that say so."""
    with file.open(newline="") as lines:
        return round(sum(float(line["seconds"] or 0) for line in csv.DictReader(lines)), 1)


def _curves(folders: Mapping[int, Path]) -> str:
    """CSV: a line for every epoch of every seed, with accuracies and angles after it."""
    lines: list[dict[str, Any]] = []
    for number, folder in folders.items():
        metrics = read_metrics(folder / "metrics.jsonl")
        train, val = metrics.of("train"), metrics.of("val")
        columns = {
            "train_accuracy": train.by_epoch("accuracy"),
            "val_accuracy": val.by_epoch("accuracy"),
            **{name: train.by_epoch(name) for name in train if name.startswith("angle/")},
        }
        for epoch in sorted(set().union(*columns.values())):
            values = {n: float(f"{v[epoch]:.6g}") for n, v in columns.items() if epoch in v}
            lines.append({"seed": number, "epoch": epoch, **values})
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    table = csv.DictWriter(text, names or ["seed", "epoch"], lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return text.getvalue()


def _hardware(origins: Iterable[Mapping[str, Any]]) -> str:
    """What the runs say that they were computed on; of a CPU of this machine, which one it is."""
    here, found = socket.gethostname(), []
    for origin in origins:
        device, host = origin.get("device", "unknown"), origin.get("host", here)
        is_known = device.endswith("x cpu") and host == here
        found.append(processor() if is_known else device if host == here else f"{device} of {host}")
    return _each(found) or "unknown"
