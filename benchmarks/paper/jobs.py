"""Runs what is missing: of every row a search, then the seeds with the values that it found.

A job is a search, or the training of a seed: a command of `dtp` in a process of its own, which goes on where it
was stopped. What it comes to is kept as it ends (see `kept.py`). Several processes share the list, on one machine
or on several that have the folders in common.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper import commands, kept, store
from benchmarks.paper.commands import SEEDS, Failed, Interrupted, Over, Say
from benchmarks.paper.rows import Group, Row
from benchmarks.paper.store import Places
from dtp_jax.fields import first_line
from dtp_jax.run.failures import EXIT_DIVERGED, INTERRUPTED
from dtp_jax.run.files import read_object
from dtp_jax.run.layout import counted

WAIT_SECONDS = 2.0
"""Between looks at rows that another process has."""
Task = tuple[Group, Row]


class Ended(NamedTuple):
    """How the list was left."""

    code: int
    """0, that of a signal, or 1 where rows failed for a reason that is no result."""
    left: int
    """Rows that are not done."""


def compute(
    tasks: Sequence[Task],
    places: Places,
    *,
    is_over: Callable[[], bool],
    note: str,
    say: Say,
    is_done: Callable[[], None] = lambda: None,
) -> Ended:
    """Runs the rows that have no result, in their order, beside other processes that do the same.

    Args:
      is_over: asked before every job; from True on none is begun.
      note: what the results are to say of the machine.
      is_done: called after every row that has a result.

    Raises:
      Unreadable: see `Places.result_of`.
    """
    todo = [task for task in tasks if places.result(task[1]) is None]
    broken: list[Task] = []

    def left() -> int:
        return sum(places.result(row) is None for _, row in tasks)

    with commands.signals() as heard:
        while todo:
            taken = []
            for task in todo:
                if task[1].values_of in (row.name for _, row in taken):  # it is being searched
                    taken.append(task)
                    continue
                try:
                    if is_over():
                        return Ended(int(bool(broken)), left())
                    if not _try(task, places, is_over, note, say, heard):
                        taken.append(task)
                    elif places.result(task[1]) is not None:
                        is_done()
                except OSError as problem:  # nothing that comes could be written down
                    say(f"{task[1].name}: {first_line(problem)}")
                    return Ended(1, left())
                except Over:
                    say(f"{task[1].name}: the time is over; the same command goes on from here")
                    return Ended(int(bool(broken)), left())
                except (Failed, kept.Refused) as problem:
                    say(f"{task[1].name}: {problem}")
                    broken.append(task)
                except Interrupted as stopped:
                    say(f"{task[1].name}: stopped, and saved; the same command goes on from here")
                    return Ended(INTERRUPTED + stopped.number, left())
            if len(taken) == len(todo):
                _wait(heard)
                if heard:
                    return Ended(INTERRUPTED + heard[0], left())
            todo = taken
    return Ended(int(bool(broken)), left())


def _try(
    task: Task,
    places: Places,
    is_over: Callable[[], bool],
    note: str,
    say: Say,
    heard: list[int],
) -> bool:
    """Takes a row to its result, or to the end of the time. False where another process has it."""
    group, row = task
    with places.claim(row) as lock:
        if lock is None:
            return False
        if places.result(row) is not None:  # of another process, meanwhile
            return True
        run = partial(
            commands.run, row=row, lock=lock, places=places, say=say, heard=heard, is_over=is_over
        )
        chosen, found = _values_of(row, places), None
        if group.trials:
            found = _search(group, row, places, run)
            chosen = found["chosen"]
            if is_over():
                return True
        words = commands.train_words(group, row, places, chosen)
        content = store.write(
            places,
            row,
            command=shlex.join(["dtp", *words]),
            search=found,
            chosen=chosen,
            seeds=_seeds(group, row, places, words, note, run, is_over),
        )
        kept.forget(places, row)
        say(f"{row.name}: {in_words(content)}")
        return True


def in_words(content: dict) -> str:
    """What a row came to, in a line."""
    mean, spread = content["test_accuracy"], content["test_accuracy_std"]
    ends = [one["outcome"] for one in content["seeds"]]
    bad = [f"{ends.count(end)} {end}" for end in dict.fromkeys(ends) if end != store.FINISHED]
    accuracy = "no seed finished" if mean is None else f"{100 * mean:.2f} % test"
    accuracy += "" if spread is None else f" ± {100 * spread:.2f}"
    return ", ".join([accuracy, *bad])


def state_of(task: Task, places: Places) -> str:
    """Whether a row is done, and if not, how far it is."""
    group, row = task
    found = places.result(row)
    if found is not None:
        return f"done: {in_words(found)}"
    folder, state = places.folder(row), "begun elsewhere"
    jobs = {file.stem for file in places.unfinished(row).glob("*.json")}
    if folder.is_dir():
        with places.claim(row) as lock:
            state = "running" if lock is None else "stopped"
    elif not jobs:
        return "not run"
    runs = folder / SEEDS
    if runs.is_dir() or jobs or not group.trials:
        seeds = {job for job in jobs if job != "search"} | _finished(runs)
        return f"{state}: {len(seeds)} of {counted(group.seeds, 'seed')}"
    begun = len(list((folder / "sweep").glob("trial_*")))
    return f"{state}: {begun} of {group.trials} trials begun"


def _finished(runs: Path) -> set[str]:
    """The seeds in a folder of runs that have finished, each as "seed_<n>"."""
    config = read_object(runs / "config.json") or {}
    if config.get("seeds") == 1:  # one alone has the folder of all
        return {f"seed_{config['seed']}"} if (runs / "summary.json").is_file() else set()
    return {file.parent.name for file in runs.glob("seed_*/summary.json")}


def _values_of(row: Row, places: Places) -> dict:
    """What a search has chosen for another row."""
    if not row.values_of:
        return {}
    found = places.result_of(row.values_of)
    if found is None:
        raise Failed(f"has the values of {row.values_of}, which is not run yet")
    return found["chosen"]


def _search(group: Group, row: Row, places: Places, run: Callable[..., int]) -> dict[str, Any]:
    """What the search of a row came to, see `store.of_search`: as it is kept, or once it has all trials.

    `dtp sweep` is asked for one that is done, too, which takes seconds: it knows of which config and space it is.
    """
    words, of = commands.sweep_words(group, row, places), kept.what_is_searched(group, row)
    found = kept.load(places, row, "search", of)
    if found is not None:
        return found
    file = places.folder(row) / "sweep" / "sweep.json"
    code = run(words, what=f"a search of {counted(group.trials, 'trial')}")
    sweep, budget = read_object(file), (group.trials, group.trial_epochs)
    # A search all of whose trials diverge has ended, too: the config's own values are taken.
    if sweep is None or code not in (0, EXIT_DIVERGED):
        raise Failed(commands.problem(code, row, places))
    if (len(sweep["order"]), sweep["epochs"]) != budget:
        other = f"{len(sweep['order'])} trials of {sweep['epochs']} epochs"
        raise Failed(f"{file.parent} has {other}; the list says {budget[0]} of {budget[1]}")
    found = store.of_search(sweep, file.parent, shlex.join(["dtp", *words]))
    kept.save(places, row, "search", of, found)
    return found


def _seeds(
    group: Group,
    row: Row,
    places: Places,
    words: Sequence[str],
    note: str,
    run: Callable[..., int],
    is_over: Callable[[], bool],
) -> list[dict[str, Any]]:
    """What the seeds of a row came to, see `store.of_seed`: as they are kept, or once they have ended.

    Raises:
      Over: between two commands; and what `run` raises.
    """
    first, of = kept.what_is_trained(words)
    wanted, runs = range(first, first + group.seeds), places.folder(row) / SEEDS
    folders = store.seed_folders(first, group.seeds, runs)
    _require_epochs([runs, *folders.values()], of["epochs"])
    found = kept.seeds_of(places, row, of)
    while left := [seed for seed in wanted if seed not in found]:
        # One command for all of them, unless it would train again what another machine has.
        is_whole = all(store.outcome_of(folders[seed]) for seed in wanted if seed in found)
        asked = left if is_whole else left[:1]
        # What lies in the folders of others may be of another config.
        runs_of_it = {seed: folders[seed] for seed in asked}
        keep = partial(kept.save_seeds, places, row, of, runs_of_it, note)
        if is_over():
            raise Over
        code = run(
            words if is_whole else commands.words_of(words, left[0], folders[left[0]]),
            what=counted(len(asked), "seed"),
            meanwhile=partial(keep, since=time.time()),
        )
        # Where it was refused, what lies there is of another config.
        if code in (0, EXIT_DIVERGED):
            keep()
        found = kept.seeds_of(places, row, of)
        if any(seed not in found for seed in asked):
            raise Failed(commands.problem(code, row, places))
    return [found[seed] for seed in wanted]


def _require_epochs(folders: Sequence[Path], epochs: int) -> None:
    """Raises Failed where the runs that are there have had other epochs.

    `dtp train` makes a run longer if it is asked to, with other rates than one that was as long from the start.
    """
    for folder in folders:
        config = read_object(folder / "config.json") or {}
        if config.get("epochs", epochs) != epochs:
            raise Failed(
                f"config.epochs is {epochs}, and {folder} has a run of {config['epochs']}; allowed: no such "
                "folder: the job is then run again"
            )


def _wait(heard: list[int]) -> None:
    """Some time, or until a signal, while other processes have all rows that are left."""
    end = time.monotonic() + WAIT_SECONDS
    while not heard and time.monotonic() < end:
        time.sleep(0.1)
