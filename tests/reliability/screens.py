"""What shows the run: pipes, terminals, logs."""

from tests.reliability.fault import FINISHED, fault
from tests.reliability.place import Ended, Place, steps_of

TRAIN = "dtp train --config=tiny.py --workdir=run"


@fault(code=0, words="dtp-jax", left=FINISHED)
def reader_gone(place: Place) -> Ended:
    """The reader of the pipe goes after the first line"""
    return place.run(f"{TRAIN} | head -n 1")


@fault(code=0, words="", left=FINISHED)
def full_log(place: Place) -> Ended:
    """The disk of the log is full"""
    return place.run(f"{TRAIN} > /dev/full")


@fault(code=0, words="", left=FINISHED)
def full_log_of_errors(place: Place) -> Ended:
    """The disk of the log is full, for errors too"""
    return place.run(f"{TRAIN} > /dev/full 2>&1")


@fault(code=0, words="", left=FINISHED)
def closed_streams(place: Place) -> Ended:
    """Standard input, output and error are closed"""
    return place.run(f"{TRAIN} <&- >&- 2>&-")


@fault(code=0, words="workdir +run", left=FINISHED)
def latin_1(place: Place) -> Ended:
    """The terminal is in Latin-1"""
    return place.run(f"PYTHONIOENCODING=latin-1 {TRAIN}")


@fault(code=0, words="workdir +caf", left=FINISHED, workdir="café")
def ascii_terminal(place: Place) -> Ended:
    """The terminal is in ASCII, and the name of the workdir is not"""
    return place.run("PYTHONIOENCODING=ascii dtp train --config=tiny.py --workdir=café")


@fault(code=0, words="", left=FINISHED)
def narrow_terminal(place: Place) -> Ended:
    """The terminal is one column wide"""
    running = place.start(f"stty cols 1; COLUMNS=1 {TRAIN}", terminal=True)
    ended = running.end()
    assert steps_of(place.path("run")), ended
    return ended


@fault(code=0, words="run", left=FINISHED)
def dumb_terminal(place: Place) -> Ended:
    """The terminal is unknown (TERM is not set)"""
    return place.start(f"env -u TERM {TRAIN}", terminal=True).end()
