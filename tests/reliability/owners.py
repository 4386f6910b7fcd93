"""A workdir that another process has, or had."""

import signal
import time

from tests.reliability.fault import ANYTHING, FINISHED, SAVED, fault
from tests.reliability.place import LONG, Ended, Missing, Place, Running

OTHER_HOST = "unshare --uts sh -c 'hostname other; exec \"$@\"' sh"
SECONDS = 60
"""After this time without a sign of life the owner on another machine is taken for gone."""


def training(place: Place, before: str = "", **environment: str) -> Running:
    """A run that has saved."""
    running = place.start(f"{before} dtp train {LONG}".strip(), **environment)
    running.wait_for_checkpoint()
    return running


def killed(place: Place, before: str = "", **environment: str) -> None:
    """A run that has saved, and is gone without a word."""
    running = training(place, before, **environment)
    running.kill()
    running.end()


def on_another_host(place: Place, **environment: str) -> None:
    """A run of a machine of another name, killed a moment ago."""
    if place.run("unshare --uts true").code:
        raise Missing("needs a user who may give a process another name of its machine")
    killed(place, OTHER_HOST, **environment)


def some_more(running: Running) -> Ended:
    """Ends a run by SIGTERM once it has gone on."""
    running.wait_for_words("going on from step")
    running.signal(signal.SIGTERM)
    return running.end()


@fault(code=2, words="--workdir is 'run': .*process", left=SAVED)
def twice_at_once(place: Place) -> Ended:
    """Another process of this machine trains in the workdir"""
    first = training(place)
    ended = place.run("dtp train --workdir=run")
    first.signal(signal.SIGTERM)
    assert first.end().code == 143
    return ended


@fault(code=2, words="--workdir is '.*link': .*process", left=SAVED)
def twice_through_a_link(place: Place) -> Ended:
    """The same, through a symbolic link"""
    place.path("run").mkdir()
    place.path("link").symlink_to("run")
    first = training(place)
    ended = place.run("dtp train --workdir=link")
    first.signal(signal.SIGTERM)
    assert first.end().code == 143
    return ended


@fault(code=143, words="stopped after step", left=SAVED)
def owner_killed(place: Place) -> Ended:
    """The process that trained in the workdir was killed (kill -9): the next start goes on"""
    killed(place)
    return some_more(place.start("dtp train --workdir=run"))


@fault(code=2, words="other.*--take-over", left=ANYTHING)
def owner_on_another_host(place: Place) -> Ended:
    """A process of another machine had the workdir a moment ago"""
    on_another_host(place)
    return place.run("dtp train --workdir=run")


@fault(code=143, words="stopped after step", left=SAVED)
def owner_on_another_host_long_ago(place: Place) -> Ended:
    """The same, a minute later"""
    on_another_host(place)
    time.sleep(SECONDS + 5)
    return some_more(place.start("dtp train --workdir=run"))


@fault(code=143, words="stopped after step", left=SAVED)
def taken_over(place: Place) -> Ended:
    """The same, at once and with --take-over"""
    on_another_host(place)
    return some_more(place.start("dtp train --workdir=run --take-over"))


@fault(code=143, words="stopped after step", left=SAVED)
def requeued(place: Place) -> Ended:
    """The same, by the same job of Slurm, which was requeued"""
    on_another_host(place, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0")
    command = "SLURM_JOB_ID=7 SLURM_RESTART_COUNT=1 dtp train --workdir=run"
    return some_more(place.start(command))


@fault(code=0, words="workdir +run", left=FINISHED)
def looked_at_while_owned(place: Place) -> Ended:
    """A finished run is shown, whoever may have its workdir"""
    assert place.run("dtp train --config=tiny.py --workdir=run").code == 0
    return place.run("dtp train --workdir=run")
