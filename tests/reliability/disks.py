"""Disks that are full, or fail."""

import contextlib

from tests.reliability.fault import ANYTHING, FINISHED, fault
from tests.reliability.place import LONG, Ended, Place, checkpoints_of, steps_of

MANY = f"{LONG} --config.keep_checkpoints=100000"


def filled(place: Place, name: str) -> None:
    """Fills a disk to its last byte."""
    with contextlib.suppress(OSError), place.path(f"{name}/ballast").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def goes_on(place: Place) -> None:
    """With room again, the run goes on from the last good checkpoint."""
    last = checkpoints_of(place.path("run"))[-1]
    ended = place.run(f"dtp train --workdir=run --config.max_steps={last + 5}")
    assert ended.code == 0 and f"going on from step {last}" in ended.screen, ended
    assert steps_of(place.path("run")) == list(range(1, last + 6))


@fault(code=6, words="No space left on device", left=ANYTHING)
def full_while_training(place: Place) -> Ended:
    """The disk fills up while the run trains; with room again it goes on from the last good checkpoint"""
    place.mount("run", "8m")
    running = place.start(f"dtp train {LONG}")
    running.wait_for_checkpoint()
    filled(place, "run")
    ended = running.end()
    place.path("run/ballast").unlink()
    goes_on(place)
    return ended


@fault(code=6, words="No space left on device", left=ANYTHING)
def full_of_checkpoints(place: Place) -> Ended:
    """The run itself fills the disk with checkpoints"""
    place.mount("run", "3m")
    return place.run(f"dtp train {MANY}")


@fault(code=2, words="No space left on device; allowed: a writable folder", left=ANYTHING)
def full_at_the_start(place: Place) -> Ended:
    """The disk is full before the run starts"""
    place.mount("run", "1m")
    filled(place, "run")
    return place.run("dtp train --config=tiny.py --workdir=run")


@fault(code=6, words="File too large", left=ANYTHING)
def file_size_limit(place: Place) -> Ended:
    """Files may not be larger than 16 kB (ulimit -f): metrics.jsonl becomes too large"""
    return place.run(f"ulimit -f 16; dtp train {LONG}", JAX_ENABLE_COMPILATION_CACHE="false")


@fault(code=0, words="workdir +run", left=FINISHED)
def tensorboard_full(place: Place) -> Ended:
    """The disk of TensorBoard's files alone is full: one warning, and the run goes on without them"""
    place.mount("run/tensorboard", "16k")
    ended = place.run("dtp train --config=tiny.py --workdir=run")
    assert ended.screen.count("the tracker tensorboard fails") == 1, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_full(place: Place) -> Ended:
    """The disk of the cache of compiled programs is full"""
    place.mount("cache", "64k")
    filled(place, "cache")
    command = "env -u JAX_COMPILATION_CACHE_DIR dtp train --config=tiny.py --workdir=run"
    return place.run(command)


@fault(code=0, words="workdir +run", left=FINISHED)
def temporary_folder_missing(place: Place) -> Ended:
    """The folder for temporary files does not exist"""
    return place.run("TMPDIR=/nonexistent dtp train --config=tiny.py --workdir=run")
