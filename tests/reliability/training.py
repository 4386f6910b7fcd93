"""Numbers that go wrong, and memory that is used up."""

from tests.reliability.fault import ANYTHING, FINISHED, fault
from tests.reliability.place import Ended, Place

TRAIN = "dtp train --config=tiny.py --workdir=run"


@fault(code=4, words="loss|parameter", left=ANYTHING)
def explodes(place: Place) -> Ended:
    """A rate so large that the loss is not finite after some steps"""
    return place.run(f"{TRAIN} --config.forward_lr=1e6")


@fault(code=4, words="loss|parameter|weight", left=ANYTHING)
def last_step_explodes(place: Place) -> Ended:
    """The very last step leaves weights that are not finite"""
    ended = place.run(
        f"{TRAIN} --config.forward_lr=1e30 --config.weight_decay=1e30 --config.max_steps=1"
    )
    assert not place.path("run/summary.json").exists()
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def guard_skips(place: Place) -> Ended:
    """guard=skip: batches that make the weights explode are left out, and counted"""
    ended = place.run(f"{TRAIN} --config.guard=skip --config.forward_lr=1")
    assert "skipped" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def guard_halves(place: Place) -> Ended:
    """guard=halve: the rate of a feedback map that diverges is halved, and the screen says so"""
    ended = place.run(f"{TRAIN} --config.guard=halve --config.feedback_lr=10")
    assert "is halved" in ended.screen, ended
    return ended


@fault(code=7, words="memory", left=ANYTHING)
def out_of_memory(place: Place) -> Ended:
    """The network needs more memory than there is (here: ulimit -d)"""
    return place.run(f"ulimit -d 4000000; {TRAIN} --config.channels=12000,12000")
