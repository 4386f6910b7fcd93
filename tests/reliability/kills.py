"""kill -9 at random moments: what goes on afterwards ends with the bits of a run that was never killed."""

import logging
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import launching

from tests.reliability.place import Place, Running, a_place, checkpoints_of, steps_of
from tests.reliability.processes import both

COUNT = 30
OPTIONS = "--config=tiny.py --config.epochs=4 --config.checkpoint_every=7"
ONE = f"dtp train {OPTIONS} --workdir={{}}"
TWO = f"dtp train {OPTIONS} --config.data_parallel=4 --workdir={{}}"
PATIENCE = 120.0
"""Seconds for the other process to notice."""


class Killed(NamedTuple):
    """A run that was killed, perhaps several times."""

    processes: int
    moments: tuple[str, ...]
    """Of each kill."""
    wrong: str
    """In what it is not the run that was never killed; empty where it is."""


def tried(count: int, seed: int) -> tuple[str, int]:
    """Kills; returns what to write, and how many runs were not as expected."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    begin = time.monotonic()
    on_two = count // 3
    runs = _killed(1, count - on_two, seed) + _killed(2, on_two, seed)
    return text(runs, seed, time.monotonic() - begin), sum(bool(run.wrong) for run in runs)


def text(runs: list[Killed], seed: int, seconds: float) -> str:
    """What goes into the page."""
    lines = ["| run | processes | killed | same bits |", "| -- | -- | -- | -- |"]
    for number, run in enumerate(runs, 1):
        moments = "; ".join(run.moments)
        same = "no" if run.wrong else "yes"
        lines.append(f"| {number} | {run.processes} | {moments} | {same} |")
    count = sum(len(run.moments) for run in runs)
    on_two = sum(len(run.moments) for run in runs if run.processes == 2)
    head = (
        f"{count} kills, {on_two} of them in runs of two processes; seed {seed}, {seconds:.0f} s."
    )
    return f"{head} `{OPTIONS}`\n\n" + "\n".join(lines)


def _killed(processes: int, count: int, seed: int) -> list[Killed]:
    """Runs of so many processes that are killed so many times in all."""
    if not count:
        return []
    with a_place() as place:
        begin = time.monotonic()
        _started(place, processes, "reference")
        codes = [running.end().code for running in place.started]
        assert not any(codes), (codes, [running.seen() for running in place.started])
        length = time.monotonic() - begin
        left, lock, runs = [count], threading.Lock(), []

        def take() -> bool:
            with lock:
                left[0] -= 1
                return left[0] >= 0

        def several(worker: int) -> None:
            chance = random.Random(f"{seed}, {processes}, {worker}")
            while left[0] > 0:
                run = _one(place, processes, f"run-{worker}-{len(runs)}", length, chance, take)
                with lock:
                    runs.append(run)
                state = run.wrong or "the same bits"
                print(
                    f"  {processes} process(es), killed {'; '.join(run.moments)}: {state}",
                    flush=True,
                )

        workers = 2 if processes == 1 else 1
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(several, range(workers)))
        return [run for run in runs if run.moments]


def _one(
    place: Place, processes: int, name: str, length: float, chance: random.Random, take
) -> Killed:
    """A run, killed until it is through or there are kills enough, and compared."""
    moments, workdir = [], place.path(name)
    for _ in range(chance.randint(1, 3)):
        if not take():
            break
        running = _started(place, processes, name)
        before = len(steps_of(workdir))
        if chance.random() < 2 / 3:  # rather while it trains than while it starts
            _wait(running, lambda before=before: len(steps_of(workdir)) != before)
            time.sleep(chance.random() * length / 3)
        else:
            time.sleep(chance.random() * length)
        victims = chance.choice([[0], [1], [0, 1]]) if processes == 2 else [0]
        late = all(one.process.poll() is not None for one in running)
        for index in victims:
            os.kill(running[index].process.pid, signal.SIGKILL)
        for one in running:
            one.end(PATIENCE)
        who = f"process {victims[0]}" if len(victims) == 1 else "both"
        at = (
            f"after step {len(steps_of(workdir))}" if steps_of(workdir) else "before the first step"
        )
        saved = checkpoints_of(workdir)[-1:] or ["none"]
        if late:
            at = "when it was through"
        moments.append(f"{who + ' ' if processes == 2 else ''}{at}, checkpoint {saved[0]}")
    ends = [running.end() for running in _started(place, processes, name)]
    wrong = (
        "" if not any(end.code for end in ends) else f"exit codes {[e.code for e in ends]}: {ends}"
    )
    try:
        wrong or launching.assert_same_run(workdir, place.path("reference"))
    except AssertionError as error:
        wrong = f"another run: {str(error)[:500]}"
    return Killed(processes, tuple(moments), wrong)


def _started(place: Place, processes: int, name: str) -> list[Running]:
    if processes == 1:
        return [place.start(ONE.format(name))]
    return both(place, TWO.format(name))


def _wait(running: list[Running], condition) -> None:
    """Returns when the condition holds, or all have ended."""
    give_up = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < give_up:
        if all(one.process.poll() is not None for one in running):
            return
        time.sleep(0.01)
