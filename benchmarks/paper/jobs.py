"""Runs what is missing: of every row a search, then the seeds with the values that it found.

A job is a command of `dtp` in a process of its own, which goes on where it was stopped. Several processes share
the list, on one machine or on several that have the folders in common.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.paper import store
from benchmarks.paper.rows import Group, Row
from benchmarks.paper.store import Places
from dtp_jax.run.failures import EXIT_DIVERGED, INTERRUPTED
from dtp_jax.run.files import read_object
from dtp_jax.run.layout import counted
from dtp_jax.sweep.dimensions import as_text

SEARCH = Path(__file__).with_name("search.py")
WAIT_SECONDS = 2.0
"""Between looks at rows that another process has."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Say = Callable[[str], None]
Task = tuple[Group, Row]


class Ended(NamedTuple):
    """How the list was left."""

    code: int
    """0, that of a signal, or 1 where rows failed for a reason that is no result."""
    left: int
    """Rows that are not done."""


class Interrupted(Exception):
    """A signal has ended a job, which is saved."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Failed(Exception):
    """A command failed for a reason that says nothing of its row: data, disk, a mistake. One line."""


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

    with _signals() as heard:
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
                except Failed as problem:
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
        commands, chosen, sweep = {}, _values_of(row, places), None
        if group.trials:
            commands["sweep"] = sweep_words(group, row, places)
            sweep = _swept(group, row, places, commands["sweep"], lock, say, heard)
            chosen = (sweep.get("best") or {}).get("fields", {})
            if is_over():
                return True
        commands["train"] = train_words(group, row, places, chosen)
        what = counted(group.seeds, "seed")
        code = _run(commands["train"], row, what, lock, places, say, heard)
        runs = places.folder(row) / "seeds"
        outcomes = [store.outcome_of(one) for one in store.seed_folders(group, runs).values()]
        # Where it was refused, what lies there is of another config.
        if code not in (0, EXIT_DIVERGED) or None in outcomes:
            raise Failed(_problem(code, row, places))
        content = store.write(
            places,
            group,
            row,
            runs=runs,
            commands={name: shlex.join(["dtp", *words]) for name, words in commands.items()},
            sweep=sweep,
            chosen=chosen,
            note=note,
        )
        say(f"{row.name}: {in_words(content)}")
        return True


def sweep_words(group: Group, row: Row, places: Places) -> list[str]:
    """Arguments of `dtp` for the search of a row."""
    return [
        "sweep",
        f"--config={_relative(SEARCH)}:{row.config}",
        *row.overrides,
        f"--config.epochs={group.trial_epochs}",
        f"--trials={group.trials}",
        "--from-config",
        f"--workdir={places.folder(row) / 'sweep'}",
    ]


def train_words(group: Group, row: Row, places: Places, chosen: dict) -> list[str]:
    """Arguments of `dtp` for the seeds of a row, with the values that were chosen."""
    return [
        "train",
        f"--config={row.config}",
        *row.overrides,
        *(f"--config.{name}={as_text(value)}" for name, value in chosen.items()),
        f"--config.seeds={group.seeds}",
        f"--workdir={places.folder(row) / 'seeds'}",
    ]


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
    folder = places.folder(row)
    if not folder.is_dir():
        return "not run"
    with places.claim(row) as lock:
        state = "running" if lock is None else "stopped"
    finished = sum(
        (one / "summary.json").is_file()
        for one in store.seed_folders(group, folder / "seeds").values()
    )
    if (folder / "seeds").is_dir() or not group.trials:
        return f"{state}: {finished} of {counted(group.seeds, 'seed')}"
    begun = len(list((folder / "sweep").glob("trial_*")))
    return f"{state}: {begun} of {group.trials} trials begun"


def _values_of(row: Row, places: Places) -> dict:
    """What a search has chosen for another row."""
    if not row.values_of:
        return {}
    found = places.result_of(row.values_of)
    if found is None:
        raise Failed(f"has the values of {row.values_of}, which is not run yet")
    return found["chosen"]


def _swept(
    group: Group,
    row: Row,
    places: Places,
    words: Sequence[str],
    lock: IO,
    say: Say,
    heard: list[int],
) -> dict:
    """The content of the search's sweep.json, once it has all trials.

    `dtp sweep` is asked for one that is done, too, which takes seconds: it knows of which config and space it is.
    """
    file = places.folder(row) / "sweep" / "sweep.json"
    what = f"a search of {counted(group.trials, 'trial')}"
    code = _run(words, row, what, lock, places, say, heard)
    found, budget = read_object(file), (group.trials, group.trial_epochs)
    if code or found is None:
        raise Failed(_problem(code, row, places))
    if (len(found["order"]), found["epochs"]) != budget:
        other = f"{len(found['order'])} trials of {found['epochs']} epochs"
        raise Failed(f"{file.parent} has {other}; the list says {budget[0]} of {budget[1]}")
    return found


def _run(
    words: Sequence[str],
    row: Row,
    what: str,
    lock: IO,
    places: Places,
    say: Say,
    heard: list[int],
) -> int:
    """The exit code of a command of `dtp`, whose output goes to the row's log. A signal reaches it as SIGTERM."""
    say(f"{row.name}: {what}")
    start, log = time.monotonic(), _log(row, places)
    with log.open("a") as out:
        out.write(f"$ {shlex.join(['dtp', *words])}\n")
        out.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "dtp_jax", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.fileno(),),  # the row is its own as long as it lives
            start_new_session=True,  # a terminal's ctrl-C comes once, from here
        )
        told = False
        while process.poll() is None:
            if heard and not told:
                process.terminate()
                told = True
            time.sleep(0.1)
    if heard or process.returncode >= INTERRUPTED:
        raise Interrupted(heard[0] if heard else process.returncode - INTERRUPTED)
    if process.returncode < 0:
        raise Failed(f"its process was killed by signal {-process.returncode}; see {log}")
    say(f"{row.name}: {what} took {(time.monotonic() - start) / 60:.1f} minutes")
    return process.returncode


def _wait(heard: list[int]) -> None:
    """Some time, or until a signal, while other processes have all rows that are left."""
    end = time.monotonic() + WAIT_SECONDS
    while not heard and time.monotonic() < end:
        time.sleep(0.1)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The numbers of the signals that have come; one that was ignored before stays so."""
    heard: list[int] = []
    before = {n: signal.getsignal(n) for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log(row: Row, places: Places) -> Path:
    return places.folder(row) / "log.txt"


def _problem(code: int, row: Row, places: Places) -> str:
    """Why a command is no result, in a line."""
    log = _log(row, places)
    text = log.read_text("utf-8", errors="replace").rpartition("\n$ dtp ")[2]  # of the last command
    lines = [line for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    return f"exit code {code}: {said.removeprefix('error: ')} ({log})"


def _relative(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith(os.pardir) else relative
