"""Checkpoints that somebody or something has changed."""

import shutil
from pathlib import Path

from tests.reliability.fault import FINISHED, fault
from tests.reliability.place import Ended, Place, checkpoints_of

HALF = "dtp train --config=tiny.py --config.checkpoint_every=13 --config.max_steps=39 --workdir=run"
ON = "dtp train --workdir=run --config.max_steps=0"


def half(place: Place) -> Path:
    """A run with checkpoints 13, 26 and 39; returns the last one's folder."""
    assert place.run(HALF).code == 0
    assert checkpoints_of(place.path("run")) == [13, 26, 39]
    return place.path("run/checkpoints/39")


def largest(folder: Path) -> Path:
    """The file with most of the arrays."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def passed_over(ended: Ended) -> Ended:
    """The last one was passed over for the one before."""
    assert "checkpoint 39 cannot be used and is passed over" in ended.screen, ended
    assert "going on from step 26" in ended.screen, ended
    return ended


def anew(ended: Ended) -> Ended:
    """Nothing was gone on from, and the screen says so."""
    assert "there is no checkpoint to go on from; the run begins anew" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def a_foreign_file(place: Place) -> Ended:
    """A file manager has put .DS_Store into a checkpoint: it is ignored"""
    folder = half(place)
    for place_of_file in (folder, folder / "state", folder.parent):
        (place_of_file / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    ended = place.run(ON)
    assert "going on from step 39" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def a_flipped_byte(place: Place) -> Ended:
    """A byte of the newest checkpoint is changed: it is set aside, the run goes on from the one before"""
    file = largest(half(place))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return passed_over(place.run(ON))


@fault(code=0, words="workdir +run", left=FINISHED)
def a_file_cut_off(place: Place) -> Ended:
    """A file of the newest checkpoint is cut off"""
    file = largest(half(place))
    file.write_bytes(file.read_bytes()[:10])
    return passed_over(place.run(ON))


@fault(code=0, words="workdir +run", left=FINISHED)
def a_file_missing(place: Place) -> Ended:
    """A file of the newest checkpoint is missing"""
    largest(half(place)).unlink()
    return passed_over(place.run(ON))


@fault(code=0, words="workdir +run", left=FINISHED)
def checksums_missing(place: Place) -> Ended:
    """The newest checkpoint has no checksums, as after kill -9 in the middle of saving"""
    (half(place) / "checksums.json").unlink()
    return passed_over(place.run(ON))


@fault(code=0, words="workdir +run", left=FINISHED)
def all_damaged(place: Place) -> Ended:
    """Every checkpoint is damaged: the run begins anew"""
    folder = half(place)
    for step in (13, 26, 39):
        largest(folder.with_name(str(step))).write_bytes(b"")
    ended = place.run(ON)
    assert "going on from step" not in ended.screen, ended
    return anew(ended)


@fault(code=0, words="workdir +run", left=FINISHED)
def checkpoints_removed(place: Place) -> Ended:
    """The folder of the checkpoints is removed: the run begins anew"""
    shutil.rmtree(half(place).parent)
    return anew(place.run(ON))
