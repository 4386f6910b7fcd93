"""The commands of `dtp` that jobs are, and how one is run: in a process of its own, with its output in a log."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from benchmarks.paper.rows import Group, Row
from benchmarks.paper.store import Places
from dtp_jax.run.failures import INTERRUPTED
from dtp_jax.sweep.dimensions import as_text

SEARCH = Path(__file__).with_name("search.py")
SEEDS = "seeds"
"""The folder of a row's runs."""
KEEP_SECONDS = 10.0
"""Between looks at whether a seed has finished, while others of its command train on."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Say = Callable[[str], None]


class Interrupted(Exception):
    """A signal has ended a job, which is saved."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Over(Exception):
    """The time is over: a command was ended between two seeds, and is saved."""


class Failed(Exception):
    """A command failed for a reason that says nothing of its row: data, disk, a mistake. One line."""


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
        f"--workdir={places.folder(row) / SEEDS}",
    ]


def words_of(words: Sequence[str], seed: int, run: Path) -> list[str]:
    """`train_words`, of one seed alone, in its own folder."""
    return [*words[:-2], f"--config.seed={seed}", "--config.seeds=1", f"--workdir={run}"]


def run(
    words: Sequence[str],
    *,
    row: Row,
    what: str,
    lock: IO,
    places: Places,
    say: Say,
    heard: list[int],
    is_over: Callable[[], bool],
    meanwhile: Callable[[], bool] = lambda: False,
) -> int:
    """The exit code of a command of `dtp`, whose output goes to the row's log. A signal reaches it as SIGTERM.

    Args:
      is_over: asked once a job of it has ended. From True on the others are left.
      meanwhile: called now and then, and when it has ended. Returns whether a job has.

    Raises:
      Interrupted, Over, Failed.
    """
    say(f"{row.name}: {what}")
    start, log = time.monotonic(), log_of(row, places)
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
        told, over, looked = False, False, start
        while process.poll() is None:
            if heard and not told:
                process.terminate()
                told = True
            if time.monotonic() - looked > KEEP_SECONDS:
                looked = time.monotonic()
                with suppress(OSError):  # it trains on; the last look says it
                    if meanwhile() and is_over() and not over:
                        process.terminate()
                        over = True
            time.sleep(0.1)
    meanwhile()
    if over and not heard and process.returncode == INTERRUPTED + signal.SIGTERM:
        raise Over
    if heard or process.returncode >= INTERRUPTED:
        raise Interrupted(heard[0] if heard else process.returncode - INTERRUPTED)
    if process.returncode < 0:
        raise Failed(f"its process was killed by signal {-process.returncode}; see {log}")
    say(f"{row.name}: {what} took {(time.monotonic() - start) / 60:.1f} minutes")
    return process.returncode


@contextmanager
def signals() -> Iterator[list[int]]:
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


def log_of(row: Row, places: Places) -> Path:
    """Where the output of a row's commands goes."""
    return places.folder(row) / "log.txt"


def problem(code: int, row: Row, places: Places) -> str:
    """Why a command is no result, in a line."""
    log = log_of(row, places)
    text = log.read_text("utf-8", errors="replace").rpartition("\n$ dtp ")[2]  # of the last command
    lines = [line for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    return f"exit code {code}: {said.removeprefix('error: ')} ({log})"


def _relative(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith(os.pardir) else relative
