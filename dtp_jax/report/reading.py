"""A run as its files tell of it. Nothing is written, and the run may be running."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dtp_jax.fields import first_line
from dtp_jax.run import formats
from dtp_jax.run.config import ORIGIN
from dtp_jax.run.ending import MINUTES, PATIENCE, has_ended
from dtp_jax.run.files import read_object
from dtp_jax.run.owner import OWNER, Owner
from dtp_jax.run.results import Table, divergence, read_metrics
from dtp_jax.run.workdir import Workdir

FINISHED = "finished"
T = TypeVar("T")


class Reading(NamedTuple):
    """What is known of a run. All text can be shown: see `shown`."""

    path: Path
    seed: int | None
    config: dict[str, Any]
    """Every field; {} where config.json cannot be read."""
    origin: dict[str, Any]
    """The provenance that config.json has; of its first start."""
    summary: dict[str, Any] | None
    """None where the run has not finished, has gone on since, or what it wrote is damaged."""
    metrics: Table
    status: str
    """In words; FINISHED where it has."""
    problems: tuple[str, ...]
    """What could not be read, each in a line."""


def read(path: Path) -> Reading:
    """What the folder of a run holds.

    Raises:
      ValueError: one line; nothing of it can be read.
    """
    folder, problems, config, metrics, diverged = Workdir(path), [], {}, Table(), None
    try:
        config = shown(formats.read(folder.config_file, whole=False))
    except formats.FormatError as error:
        problems.append(f"config.json {error}")
    try:
        metrics = shown_names(read_metrics(folder.metrics_file))
        diverged = divergence(folder.metrics_file)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror}")
    summary = shown(folder.read_summary())
    if summary is None and os.path.exists(folder.summary_file):
        problems.append("summary.json is damaged")
    if not config and not metrics and summary is None:
        raise ValueError(
            f"WORKDIR is {str(path)!r}: its {shown(problems[0])}"
            if problems
            else f"WORKDIR is {str(path)!r}: it holds nothing that can be read"
        )
    status = _status(path, config, summary, metrics, diverged)
    return Reading(
        path,
        _seed(path, config, summary),
        {name: value for name, value in config.items() if name not in ORIGIN},
        config.get("provenance") or {},
        summary if status == FINISHED else None,
        metrics,
        status,
        tuple(shown(problems)),
    )


def shown(value: Any) -> Any:
    """JSON in which every text can be shown: a sign stands for what a page or a terminal would obey.

    That is control characters, escapes, marks of direction, and halves of characters.
    """
    if isinstance(value, str):
        return "".join(
            c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}"
            for c in value
        )
    if isinstance(value, dict):
        return {shown(name): shown(entry) for name, entry in value.items()}
    return type(value)(map(shown, value)) if isinstance(value, (list, tuple)) else value


def shown_names(table: Table) -> Table:
    """A table whose columns have names that can be shown."""
    return Table({shown(name): column for name, column in table.items()})


def last_of(metrics: Table, name: str) -> float | None:
    """The last number of a column that is finite, or None."""
    found = metrics.get(name, np.empty(0))
    found = found[np.isfinite(found)] if found.dtype.kind in "fiub" else found[:0]
    return float(found[-1]) if len(found) else None


def _seed(path: Path, config: dict[str, Any], summary: dict[str, Any] | None) -> int | None:
    named = re.fullmatch(r"seed_(\d{1,9})", path.name)
    for source in (config, summary or {}, {"seed": int(named[1])} if named else {}):
        if type(source.get("seed")) is int:
            return source["seed"]
    return None


def _status(
    path: Path,
    config: dict[str, Any],
    summary: dict[str, Any] | None,
    metrics: Table,
    diverged: str | None,
) -> str:
    if diverged is not None:
        return shown(f"diverged: {diverged}")
    step, epoch = last_of(metrics, "step"), last_of(metrics, "epoch")
    if summary is not None and not _became_longer(config, summary, step, epoch):
        return FINISHED
    where = "before its first step"
    if step is not None:
        of = f" of {config['epochs']}" if "epochs" in config else ""
        where = f"at step {step:.0f}" + (f", epoch {epoch:.0f}{of}" if epoch is not None else "")
    owner = read_object(path / OWNER)
    if owner is not None:
        return shown(f"unfinished {where}: {Owner.of(owner)} trains it, or was killed")
    losses = metrics.of("train").get("loss", np.empty(0)) if metrics else np.empty(0)
    if len(losses) and not np.isfinite(losses[-1]):
        return f"diverged {where}: its last loss is not finite"
    return f"unfinished {where}: it was stopped, or it failed"


def _became_longer(
    config: dict[str, Any], summary: dict[str, Any], step: float | None, epoch: float | None
) -> bool:
    """Whether the run has gone on since it was summed up, or is to: with more epochs, or under limits that no
    longer end it there."""
    had, has = summary.get("epochs"), config.get("epochs")
    if not isinstance(has, int):
        return step is not None and step > summary["steps"]
    if (isinstance(had, int) and has > had) or (step is not None and step > summary["steps"]):
        return True
    if summary.get("ended_by"):
        return {PATIENCE, MINUTES} <= config.keys() and not has_ended(config, summary)
    limit = config.get("max_steps") or math.inf
    return epoch is not None and epoch < has and summary["steps"] < limit


def attempt(what: str, work: Callable[[], T], problems: list[str]) -> T | None:
    """work(); None, and a line more in `problems`, where it fails: the rest of a report stays.

    Whatever asks the rule or the network of a run goes through here.
    """
    try:
        return work()
    except Exception as error:  # of any kind: rules and networks of users, data, compilers, memory
        problems.append(f"{what}: {problem_line(error)}.")
        return None


def problem_line(error: BaseException) -> str:
    """What an error says, in a line that can be shown; of a key that is missing, that it is."""
    kind = "KeyError: " if isinstance(error, KeyError) and error.args else ""
    return shown(kind + first_line(error))
