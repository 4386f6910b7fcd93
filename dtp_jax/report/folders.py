"""Which runs the given folders hold, and which of them are seeds of one config."""

import contextlib
import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dtp_jax.fields import local_path
from dtp_jax.plots.labels import short_labels
from dtp_jax.report.reading import Reading, read, shown
from dtp_jax.run.config import NOT_COMPARED
from dtp_jax.run.files import read_object
from dtp_jax.run.layout import counted
from dtp_jax.run.results import require_enterable

SWEEP = "sweep.json"
"""What a sweep has found, in its folder."""
BEST_TRIALS = 3
"""Of a sweep stand side by side."""
SEED = re.compile(r"seed_(\d+)")


class Group(NamedTuple):
    """The runs of one config, by seed."""

    label: str
    """Its name in tables and pictures; no two groups have the same."""
    runs: list[Reading]
    note: str = ""
    """What `compare` says of runs that did not finish."""
    full_label: str = ""
    """Before what all labels have in common was taken off."""

    @property
    def config(self) -> dict:
        """The config, of which the seeds differ; {} where none can be read."""
        return next((run.config for run in self.runs if run.config), {})

    @property
    def finished(self) -> list[Reading]:
        """The runs with a summary."""
        return [run for run in self.runs if run.summary is not None]

    @property
    def counted(self) -> list[Reading]:
        """The runs that means are of: those that have finished, or all where none has."""
        return self.finished or self.runs


class Found(NamedTuple):
    """All runs of a report."""

    groups: list[Group]
    common: str
    """What their names began with, before it was taken off."""
    folder: Path | None
    """Of the one run or comparison that was named; None where several were."""
    passed_over: list[str]
    """Folders that look like runs but hold nothing that can be read, each in a line."""
    sweeps: Sequence[Path] = ()
    """Folders of sweeps, whose best trials are among the groups."""


def seeds_of(groups: Sequence[Group]) -> str:
    """How many seeds means are of, in words: 3 seeds; or 2 finished of 3 seeds of mine and 1 seed of other."""
    found: dict[str, list[str]] = {}
    for group in groups:
        count, of = len(group.counted), len(group.runs)
        what = counted(of, "seed" if group.finished else "unfinished seed")
        what = what if count == of else f"{count} finished of {what}"
        found.setdefault(what, []).append(group.label)
    parts = [f"{count} of {_listed(labels)}" for count, labels in found.items()]
    return _listed(parts) if len(found) > 1 else "".join(found)


def _listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def find(given: Sequence[str]) -> Found:
    """The runs in these folders: of a run, of a comparison (<label>/seed_<n>), of one config of it, of a sweep.

    Runs named one by one are seeds of one config where nothing but the seed and bookkeeping sets them
    apart. A folder counts once, by however many names.

    Raises:
      ValueError: one line; a folder holds no run, or may not be entered.
    """
    groups, single, passed_over, swept = [], [], [], []
    places: dict[str, Path] = {}
    for text in given:
        path = local_path("WORKDIR", text)
        places.setdefault(os.path.realpath(path), path)
    for path in places.values():
        require_enterable(path)
        of_one = os.path.exists(path / "config.json") and not _seeds(path)
        if of_one or os.path.exists(path / "metrics.jsonl"):
            single.append(read(path))
            continue
        order = trials_of(path)
        if order is not None:
            swept.append(path)
        here, problems = _comparison(path) if order is None else _trials(path, order)
        if not here:
            raise ValueError(problems[0] if problems else _nothing(path))
        groups += here
        passed_over += problems
    groups += _by_config(single)
    folder = next(iter(places.values())) if len(places) == 1 else None
    groups = _with_own_labels(groups)
    labels = [group.label for group in groups]
    common, labels = ("", labels) if swept else short_labels(labels)
    groups = [
        group._replace(label=label, full_label=group.label)
        for group, label in zip(groups, labels, strict=True)
    ]
    return Found(groups, common, folder, passed_over, swept)


def _nothing(path: Path) -> str:
    problem = "it does not exist"
    if os.path.lexists(path):
        problem = "it holds no run" if path.is_dir() else "it is no folder"
    return (
        f"WORKDIR is {str(path)!r}: {problem}; allowed: the folder of a run, which holds config.json, "
        "of a comparison, which holds <config>/seed_<n>, or of a sweep that is done"
    )


def trials_of(folder: Path) -> list[int] | None:
    """The numbers of the trials of the sweep in a folder, the best first; None where there is no sweep."""
    found = read_object(folder / SWEEP)
    order = found.get("order") if found else None
    if not isinstance(order, list) or not all(
        type(number) is int and number >= 0 for number in order
    ):
        return None
    return order


def _trials(path: Path, order: Sequence[int]) -> tuple[list[Group], list[str]]:
    """(groups, problems) of the best trials of a sweep."""
    groups, problems = [], []
    for number in order:
        if len(groups) == BEST_TRIALS:
            break
        try:
            run = read(path / f"trial_{number}")
        except ValueError as error:
            problems.append(shown(str(error)))
            continue
        if run.summary is None:
            run = run._replace(status="a trial: its end is the sweep's, and it is never tested")
        groups.append(Group(f"trial {number}", [run]))
    return groups, problems


def _comparison(path: Path) -> tuple[list[Group], list[str]]:
    """(groups, problems) of the folder of a comparison, in its own order; or of one of its configs."""
    try:
        folders = (
            [path, *(f for f in sorted(path.iterdir()) if f.is_dir())] if path.is_dir() else []
        )
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}; allowed: a folder that may be read"
        return [], [f"WORKDIR is {str(path)!r}: {problem}"]
    notes, groups, problems = _failures(path / "comparison.csv"), [], []
    for folder in folders:
        runs = []
        for seed in sorted(_seeds(folder), key=lambda f: int(SEED.fullmatch(f.name)[1])):
            try:
                runs.append(read(seed))
            except ValueError as error:
                problems.append(shown(str(error)))
        if runs:
            label = folder.absolute().name
            groups.append(Group(shown(label), runs, shown(notes.get(label, ""))))
    order = list(map(shown, notes))
    groups.sort(key=lambda group: order.index(group.label) if group.label in order else len(order))
    return groups, problems


def _seeds(folder: Path) -> list[Path]:
    """The folders seed_<n> in a folder."""
    with contextlib.suppress(OSError):
        return [f for f in folder.iterdir() if SEED.fullmatch(f.name) and f.is_dir()]
    return []


def _failures(file: Path) -> dict[str, str]:
    """Config -> what comparison.csv says of the runs that did not finish, in its order."""
    with contextlib.suppress(OSError, ValueError, csv.Error):
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as lines:
                rows = csv.DictReader(lines)
                return {row.get("config") or "": row.get("failures") or "" for row in rows}
    return {}


def _by_config(runs: list[Reading]) -> list[Group]:
    """Seeds of one config together; the same seed twice makes two groups."""
    groups: dict[str, list[Reading]] = {}
    for run in runs:
        fields = {n: v for n, v in run.config.items() if n not in (*NOT_COMPARED, "seed")}
        key = json.dumps(fields, sort_keys=True, default=str) if fields else str(run.path)
        while run.seed in (other.seed for other in groups.get(key, ())):
            key += "+"
        groups.setdefault(key, []).append(run)
    return [Group(_name(found[0].path), sorted(found, key=_by_seed)) for found in groups.values()]


def _by_seed(run: Reading) -> int:
    return -1 if run.seed is None else run.seed


def _name(path: Path) -> str:
    """What a run is called: its folder, or the one above where that is but a seed."""
    path = path.absolute()
    return shown(path.parent.name if SEED.fullmatch(path.name) else path.name) or "run"


def _with_own_labels(groups: list[Group]) -> list[Group]:
    """The groups, numbered where two have one label."""
    named: list[Group] = []
    for group in groups:
        label, number = group.label, 2
        while label in (other.label for other in named):
            label, number = f"{group.label} ({number})", number + 1
        named.append(group._replace(label=label))
    return named
