"""Weights out of a run and into one."""

import shutil

import numpy as np

from tests.reliability.fault import ANYTHING, NOTHING, fault
from tests.reliability.place import Ended, Place

TRAIN = "dtp train --config=tiny.py --config.max_steps=5 --workdir=first"


def exported(place: Place) -> None:
    """weights.npz, of a run."""
    from safetensors.numpy import load_file

    assert place.run(TRAIN).code == 0
    assert place.run("dtp export first weights.safetensors").code == 0
    np.savez(place.path("weights.npz"), **load_file(place.path("weights.safetensors")))


def imported(place: Place, file: str) -> Ended:
    """Into a new workdir."""
    return place.run(f"dtp export --to-workdir run {file} --config=tiny.py")


@fault(code=0, words="run", left=ANYTHING)
def no_damage(place: Place) -> Ended:
    """None: weights are taken out of a run and start another one, which trains"""
    exported(place)
    ended = imported(place, "weights.safetensors")
    assert place.run("dtp train --workdir=run").code == 0
    return ended


@fault(code=0, words="to train: ", left=ANYTHING)
def of_a_compiled_module(place: Place) -> Ended:
    """The weights are a state dict of PyTorch, of a module that torch.compile has wrapped"""
    exported(place)
    state = {}
    with np.load(place.path("weights.npz")) as arrays:
        for name, array in arrays.items():
            side, block, kind = name.split("/")
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2 and side == "forward":
                array = array.T
            layer = "conv" if block.startswith("conv") else "linear"
            kind = {"kernel": "weight"}.get(kind, kind)
            state[f"_orig_mod.{side}_net.{block}.{layer}.{kind}"] = array
    np.savez(place.path("state_dict.npz"), **state)
    return imported(place, "state_dict.npz")


@fault(code=3, words="weights", left=NOTHING)
def npz_flipped_byte_of_weights(place: Place) -> Ended:
    """A byte of the weights (.npz) is changed"""
    exported(place)
    file = place.path("weights.npz")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return imported(place, "weights.npz")


@fault(code=3, words="weights", left=NOTHING)
def safetensors_cut_off(place: Place) -> Ended:
    """The weights (.safetensors) are cut off"""
    exported(place)
    file = place.path("weights.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    return imported(place, "weights.safetensors")


@fault(code=3, words="weights", left=NOTHING)
def weights_not_finite(place: Place) -> Ended:
    """A weight is not a number"""
    exported(place)
    with np.load(place.path("weights.npz")) as arrays:
        found = {name: array.copy() for name, array in arrays.items()}
    next(iter(found.values())).flat[0] = np.nan
    np.savez(place.path("weights.npz"), **found)
    return imported(place, "weights.npz")


@fault(code=3, words="weights", left=NOTHING)
def weights_of_another_network(place: Place) -> Ended:
    """The weights are those of another network"""
    exported(place)
    return place.run(
        "dtp export --to-workdir run weights.safetensors --config=tiny.py --config.channels=4,16"
    )


@fault(code=3, words="nowhere.npz does not exist", left=NOTHING)
def weights_missing(place: Place) -> Ended:
    """The file of the weights does not exist"""
    return imported(place, "nowhere.npz")


@fault(code=2, words="none of the weights that `dtp export` has written into it", left=ANYTHING)
def imported_weights_removed(place: Place) -> Ended:
    """The checkpoints of a workdir are removed, into which weights were written: no random ones take their place"""
    exported(place)
    assert imported(place, "weights.safetensors").code == 0
    shutil.rmtree(place.path("run/checkpoints"))
    return place.run("dtp train --workdir=run")
