"""Signals, and the terminal that sends them."""

import signal
import time

from tests.reliability.fault import ANYTHING, FINISHED, NOTHING, SAVED, fault
from tests.reliability.place import LONG, STEPS, Ended, Place, Running, steps_of


def training(place: Place, command: str, **options: bool) -> Running:
    """A run that has saved."""
    running = place.start(command, **options)
    running.wait_for_checkpoint()
    return running


@fault(code=129, words="", left=SAVED)
def terminal_closed(place: Place) -> Ended:
    """The terminal is closed while the run trains"""
    running = training(place, f"dtp train {LONG}", terminal=True)
    running.close_terminal()
    return running.end()


@fault(code=129, words="saved in", left=SAVED)
def hangup(place: Place) -> Ended:
    """SIGHUP while the run trains"""
    running = training(place, f"dtp train {LONG}")
    running.signal(signal.SIGHUP)
    return running.end()


@fault(code=0, words="", left=FINISHED)
def nohup(place: Place) -> Ended:
    """SIGHUP is ignored (nohup), and the terminal is closed while the run trains"""
    command = "nohup dtp train --config=tiny.py --config.epochs=20 --workdir=run"
    running = place.start(command, terminal=True)
    running.wait_for_steps(1)
    running.close_terminal()
    return running.end()


@fault(code=130, words="saved in", left=SAVED)
def ctrl_c(place: Place) -> Ended:
    """ctrl-C while the run trains"""
    running = training(place, f"dtp train {LONG}")
    running.ctrl_c()
    return running.end()


@fault(code=130, words="", left=SAVED)
def ctrl_c_of_a_pipe(place: Place) -> Ended:
    """ctrl-C to a pipe: it reaches `tee` too, and the screen has no reader any more"""
    running = training(place, f"dtp train {LONG} | tee log")
    running.ctrl_c()
    return running.end()


@fault(code=130, words="once more to stop at once", left=ANYTHING)
def ctrl_c_twice(place: Place) -> Ended:
    """ctrl-C twice, a second apart, in the middle of a long work: the process ends at once"""
    running = place.start(f"env -u JAX_COMPILATION_CACHE_DIR dtp train {LONG}")
    running.wait_for_words("compiling the training step")
    running.ctrl_c()
    running.wait_for_words("once more to stop at once")
    time.sleep(1)
    running.ctrl_c()
    return running.end()


@fault(code=130, words="stopped before the first step", left=NOTHING)
def ctrl_c_at_the_start(place: Place) -> Ended:
    """ctrl-C right after the start"""
    running = place.start("dtp train --config=tiny.py --workdir=run")
    running.wait_for_words("starting JAX")
    running.ctrl_c()
    return running.end()


@fault(code=130, words="stopp", left=ANYTHING)
def ctrl_c_before_the_first_step(place: Place) -> Ended:
    """ctrl-C while the training step is compiled: whatever is left, the next start trains"""
    command = "env -u JAX_COMPILATION_CACHE_DIR dtp train --config=tiny.py --workdir=run"
    running = place.start(command)
    running.wait_for_words("compiling the training step")
    running.ctrl_c()
    ended = running.end()
    assert place.run("dtp train --config=tiny.py --workdir=run").code == 0
    assert steps_of(place.path("run")) == list(range(1, STEPS + 1))
    return ended


@fault(code=143, words="saved in", left=SAVED)
def terminated(place: Place) -> Ended:
    """SIGTERM while the run trains"""
    running = training(place, f"dtp train {LONG}")
    running.signal(signal.SIGTERM)
    return running.end()


@fault(code=143, words="saved in", left=SAVED)
def terminated_by_timeout(place: Place) -> Ended:
    """`timeout` sends SIGTERM to the process and to its group: that is one signal"""
    running = training(place, f"timeout --preserve-status -v 3600 dtp train {LONG}")
    running.signal(signal.SIGTERM)
    return running.end()


@fault(code=0, words="workdir +run", left=FINISHED)
def killed_before_the_first_checkpoint(place: Place) -> Ended:
    """kill -9 before the first checkpoint: the next start begins anew, every step is in the metrics once"""
    command = "dtp train --config=tiny.py --config.epochs=12 --config.checkpoint_every=10000 --workdir=run"
    running = place.start(command)
    running.wait_for_steps(5)
    running.kill()
    return place.run("dtp train --workdir=run")


@fault(code=0, words="workdir +run", left=FINISHED)
def killed_after_a_checkpoint(place: Place) -> Ended:
    """kill -9 after a checkpoint: the next start goes on from there"""
    command = (
        "dtp train --config=tiny.py --config.epochs=12 --config.checkpoint_every=20 --workdir=run"
    )
    training(place, command).kill()
    ended = place.run("dtp train --workdir=run")
    assert "going on from step" in ended.screen, ended
    return ended
