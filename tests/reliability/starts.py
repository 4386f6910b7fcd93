"""Two starts in one workdir: one runs, the other is refused, and no line is there twice."""

import signal
import time

from tests.reliability.fault import readable
from tests.reliability.place import LONG, Ended, Place, a_place, checkpoints_of, steps_of

COUNT = 10
LONGEST = 5.0
"""Seconds between the first and the second start: while the first one starts, and while it trains."""


def tried(count: int, seed: int) -> tuple[str, int]:
    """Starts in so many timings; returns what to write, and how many were not as expected."""
    lines = ["| second start | refused | its last line | kill -9, then |", "| -- | -- | -- | -- |"]
    bad = 0
    for number in range(count):
        delay = LONGEST * number / max(count - 1, 1)
        with a_place() as place:
            try:
                refused, last_line, on = _once(place, delay)
            except AssertionError as error:
                refused, last_line, on, bad = "WRONG", str(error)[-2000:], "", bad + 1
        print(f"  second start after {delay:.1f} s: {refused}, {last_line}; {on}", flush=True)
        lines.append(f"| after {delay:.1f} s | {refused} | `{last_line}` | {on} |")
    head = f"{count} timings. `{LONG}`"
    return f"{head}\n\n" + "\n".join(lines), bad


def _once(place: Place, delay: float) -> tuple[str, str, str]:
    """Which one is refused, what it says, and how the run goes on when its owner is killed."""
    command = f"dtp train {LONG}"
    first = place.start(command)
    time.sleep(delay)
    second = place.start(command)
    while first.process.poll() is None and second.process.poll() is None:
        time.sleep(0.02)
    loser, winner = (second, first) if first.process.poll() is None else (first, second)
    refused = loser.end()
    assert refused.code == 2 and "--workdir is" in refused.last_line, refused
    winner.wait_for_checkpoint()
    winner.wait_for_steps(60)
    winner.kill()
    winner.end()
    _each_once(place, winner.end())
    third = place.start("dtp train --workdir=run")
    third.wait_for_words("going on from step")
    third.signal(signal.SIGTERM)
    ended = third.end()
    assert ended.code == 143, ended
    _each_once(place, ended)
    who = "the second" if loser is second else "the first"
    return (
        who,
        readable(refused.last_line, place),
        f"on to step {checkpoints_of(place.path('run'))[-1]}",
    )


def _each_once(place: Place, ended: Ended) -> None:
    steps = steps_of(place.path("run"))
    assert steps == list(range(1, len(steps) + 1)), (steps, ended)
