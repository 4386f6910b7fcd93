"""Jobs that are done, of rows that are not: small files to be committed, with which another machine goes on.

RESULTS/unfinished/<row>/search.json is what a search has chosen, seed_<n>.json what the run of a seed came to.
Each says what it is of, and is refused once the list says otherwise. They go when their row has its result.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.paper import search, store
from benchmarks.paper.rows import Group, Row
from benchmarks.paper.store import Places
from dtp_jax.fields import error
from dtp_jax.run.arguments import parse
from dtp_jax.run.config import DRAWN, NOT_COMPARED
from dtp_jax.run.files import read_object, replace_text
from dtp_jax.run.formats import BEFORE


class Refused(Exception):
    """A file is not of what is to be run, or cannot be read; or a row is not valid. One line, for the user."""


def what_is_searched(group: Group, row: Row) -> dict[str, Any]:
    """What the search of a row depends on. Raises Refused where its config is not valid."""
    epochs = f"--config.epochs={group.trial_epochs}"
    fields = _config([f"--config={row.config}", *row.overrides, epochs])
    with _in_a_line():
        space = {name: str(one) for name, one in search.space(row.config).items()}
    return {**fields, "trials": group.trials, "space": space}


def what_is_trained(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """(the first seed, what the run of each depends on beside its seed).

    Args:
      words: of `dtp train`.

    Raises:
      Refused: they are not valid.
    """
    fields = _config(words[1:])
    return fields.pop("seed"), fields


def _config(flags: Sequence[str]) -> dict[str, Any]:
    with _in_a_line():
        config = parse(["dtp", *flags]).config
        if config["seed"] == DRAWN:
            raise error("config.seed", DRAWN, "0 or more, for a row says of which seeds it is")
    return {name: value for name, value in config.items() if name not in NOT_COMPARED}


@contextmanager
def _in_a_line() -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        raise Refused(str(problem)) from problem


def save(
    places: Places, row: Row, job: str, of: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    """Keeps what a job came to.

    Args:
      job: "search" or "seed_<n>". of: what it depends on.
    """
    file = _file(places, row, job)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps({"of": of, **content}, indent=1) + "\n")


def load(places: Places, row: Row, job: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a job came to; None where it is not done.

    Raises:
      Refused: it depended on something else, or nobody can read it.
    """
    file = _file(places, row, job)
    if not file.exists():
        return None
    found, wanted = read_object(file) or {}, json.loads(json.dumps(of))
    was = found.pop("of", None)
    if not isinstance(was, dict):
        problem = "cannot be read"
    elif (was := _of_today(was, wanted)) == wanted:
        return found
    else:
        name = next(n for n in (*wanted, *was) if was.get(n) != wanted.get(n))
        problem = f"is of another config: its {name} is {was.get(name)!r}, here it is {wanted.get(name)!r}"
    raise Refused(f"{file} {problem}; allowed: no such file: the job is then run again")


def _of_today(was: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """With the fields that the config has got since, as they were before: see `run/formats.py`."""
    before = json.loads(json.dumps(BEFORE))
    return {**{name: before[name] for name in wanted if name in before}, **was}


def save_seeds(
    places: Places,
    row: Row,
    of: Mapping[str, Any],
    runs: Mapping[int, Path],
    note: str,
    *,
    since: float | None = None,
) -> bool:
    """Keeps the seeds that have ended. Returns whether there are any that were not kept before.

    Args:
      runs: seed -> its folder.
      since: of seeds that finished after this time alone, in seconds since 1970. One from before may be of
        another config, as long as `dtp train` has not accepted it; one that diverged may be tried again.
    """
    more = False
    for seed, folder in runs.items():
        summary = folder / "summary.json"
        is_new = since is None or summary.is_file() and summary.stat().st_mtime >= since
        if is_new and not _file(places, row, f"seed_{seed}").exists() and store.outcome_of(folder):
            save(places, row, f"seed_{seed}", of, store.of_seed(seed, folder, note))
            more = True
    return more


def seeds_of(places: Places, row: Row, of: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Seed -> what is kept of it, in their order. Raises Refused as `load` does."""
    jobs = (file.stem for file in places.unfinished(row).glob("seed_*.json"))
    seeds = sorted(int(job[5:]) for job in jobs if job[5:].isdecimal())
    return {seed: load(places, row, f"seed_{seed}", of) or {} for seed in seeds}


def forget(places: Places, row: Row) -> None:
    """Takes away what is kept of a row that has its result."""
    shutil.rmtree(places.unfinished(row), ignore_errors=True)


def _file(places: Places, row: Row, job: str) -> Path:
    return places.unfinished(row) / f"{job}.json"
