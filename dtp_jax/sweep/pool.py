"""Several workers on this machine: processes that share a study, and one that watches them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dtp_jax.run import signals
from dtp_jax.run.failures import EXIT_CRASHED
from dtp_jax.run.gpus import GPUS, visible_gpus
from dtp_jax.run.screen import Screen
from dtp_jax.sweep.results import RUNNING, Row, best
from dtp_jax.sweep.study import Study, is_finished
from dtp_jax.sweep.tell import Teller, percent
from dtp_jax.sweep.trial import Ended

LOOK_SECONDS = 0.5
"""Between looks at the workers and the study."""
MOST_KILLED = 5
"""So often a worker that was killed has a successor: what kills one may kill all, as too little memory does."""
MEMORY = "XLA_PYTHON_CLIENT_PREALLOCATE"


class Worker(NamedTuple):
    """A process."""

    number: int
    process: subprocess.Popen
    log: Path
    begin: int
    """Where its words begin in the log, in bytes: others before it wrote there, too."""


def prepare(count: int) -> dict[str, str]:
    """To be called before JAX starts. Returns the environment as it was, for workers.

    Args:
      count: of workers. Where there are several, this process leaves accelerators to them.
    """
    before = dict(os.environ)
    if count > 1:
        import jax

        jax.config.update("jax_platforms", "cpu")
    return before


def work(
    study: Study,
    trials: int,
    count: int,
    start: Callable[[int], Worker],
    teller: Teller,
    screen: Screen,
) -> Ended:
    """Starts workers, tells of the trials as they end, waits for all. Code 0: all results are there.

    Args:
      start: starts the worker with this number.
    """
    workers = [start(number) for number in range(count)]

    def abandon() -> None:
        screen.abandon()
        _kill(workers)

    words = f"{count} workers; their logs are {workers[0].log.parent}/worker_*.log"
    try:
        with signals.StopSignals(screen.note, abandon) as heard, screen.task(words) as show:

            def look() -> int | None:
                found = teller.tell(study.trials())
                if show is not None:
                    show(_state(found, trials), sum(one.is_finished for one in found), trials)
                return heard()

            _watch(workers, look, start, screen)
            number = heard()
    finally:
        _kill(workers)  # none is left but where this process fails itself
    found = study.trials()
    teller.tell(found)
    if number is not None:
        return Ended(128 + number)
    if sum(is_finished(one) for one in found if one.number < trials) >= trials:
        return Ended(0)
    failed = next((one for one in workers if one.process.returncode), workers[0])
    return Ended(_code(failed), _last_words(failed))


def _watch(
    workers: list[Worker],
    look: Callable[[], int | None],
    start: Callable[[int], Worker],
    screen: Screen,
) -> None:
    """Returns when all workers have ended. One that was killed has a successor, a few times.

    Args:
      look: tells of the trials; returns the number of a signal, which is passed on to the workers, once.
    """
    stopping, killed = False, 0
    while True:
        number = look()
        if number is not None and not stopping:
            _send(workers, number)
            stopping = True
        for place, one in enumerate(workers):
            if stopping or (one.process.poll() or 0) >= 0 or killed >= MOST_KILLED:
                continue
            killed += 1
            screen.warn(
                f"worker {one.number} was ended by {_signal(one)}; another one takes its place"
            )
            workers[place] = start(one.number)
        if all(one.process.poll() is not None for one in workers):
            return
        time.sleep(LOOK_SECONDS)


def _signal(one: Worker) -> str:
    """The name of the signal that ended it."""
    return signal.Signals(-one.process.returncode).name


def _state(found: Sequence[Row], trials: int) -> str:
    """What the workers are doing, in a line."""
    top = best(found)
    at = ", ".join(f"{one.number}" for one in found if one.state == RUNNING)
    parts = [f"{sum(one.is_finished for one in found)} of {trials} trials"]
    parts += [f"best {percent(top.value)}"] if top else []
    parts += [f"at work on {at}"] if at else []
    return ", ".join(parts)


def start(
    folder: Path, given: Sequence[str], count: int, environment: Mapping[str, str], number: int
) -> Worker:
    """A worker in a session of its own: signals of the terminal go to this process, which passes them on.

    Args:
      given: the arguments of this process. count: of all workers. environment: of the worker.
    """
    log = folder / f"worker_{number}.log"
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH", "")]))
    arguments = [one for one in _without(given, "--workers")]
    with log.open("a", encoding="utf-8") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "dtp_jax", "sweep", *arguments, f"--worker={number}"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**environment, "PYTHONPATH": path, **_device(number, count, environment)},
            start_new_session=True,
        )
    return Worker(number, process, log, begin)


def _without(given: Sequence[str], flag: str) -> Iterator[str]:
    """Arguments but for this flag and its value."""
    skip = False
    for one in given:
        if skip:
            skip = False
        elif one == flag:
            skip = True
        elif not one.startswith(f"{flag}="):
            yield one


def _device(number: int, count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment says of GPUs: one for each, as far as they go."""
    is_cpu = environment.get("JAX_PLATFORMS", "").startswith("cpu")
    gpus = [] if is_cpu else visible_gpus(environment)
    found = {GPUS: gpus[number % len(gpus)]} if gpus else {}
    if gpus and count > len(gpus) and MEMORY not in environment:
        found[MEMORY] = "false"  # else the first one takes three quarters of the memory
    return found


def _send(workers: Sequence[Worker], number: int) -> None:
    for one in workers:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(number)


def _kill(workers: Sequence[Worker]) -> None:
    for one in workers:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def _code(one: Worker) -> int:
    """Its exit code; of one that was killed, or has left trials and said nothing, that of a crash."""
    code = one.process.returncode or 0
    return code if code > 0 else EXIT_CRASHED


def _last_words(one: Worker) -> str:
    """Why a worker ended, as its log says."""
    code = one.process.returncode or 0
    with contextlib.suppress(OSError):
        written = one.log.read_bytes()[one.begin :]
        lines = written.decode("utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        if said and code > 0:
            return said.removeprefix("error: ")
    how = f"was ended by {_signal(one)}" if code < 0 else f"ended with {code}"
    return f"worker {one.number} {how}; {one.log} says more; the same command goes on from here"


def end_with_parent() -> None:
    """Stops this worker, as SIGTERM does, once the process that started it is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
