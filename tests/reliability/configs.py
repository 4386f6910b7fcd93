"""Configs and command lines."""

from tests.reliability.fault import FINISHED, NOTHING, fault
from tests.reliability.place import Ended, Place

TRAIN = "dtp train --config=tiny.py --workdir=run"


@fault(code=0, words="workdir +run", left=FINISHED)
def twice_the_same_flag(place: Place) -> Ended:
    """A field is given twice: the last one holds"""
    ended = place.run(f"{TRAIN} --config.channels=3,3 --config.channels=4,8")
    assert "--config.channels=4,8" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def endless_epochs_but_one_step(place: Place) -> Ended:
    """Two billion epochs, of which one step is taken"""
    return place.run(
        f"{TRAIN} --config.schedule=constant --config.epochs=2000000000 --config.max_steps=1"
    )


@fault(code=2, words=r"config.epochs is 2000000000; allowed", left=NOTHING)
def endless_epochs(place: Place) -> Ended:
    """Two billion epochs: more steps than JAX counts"""
    return place.run(f"{TRAIN} --config.schedule=constant --config.epochs=2000000000")


@fault(code=2, words=r"config.epochs is 100000000000; allowed", left=NOTHING)
def epochs_beyond_32_bits(place: Place) -> Ended:
    """1e11 epochs, of which one step is to be taken: the number itself does not fit 32 bits"""
    return place.run(f"{TRAIN} --config.epochs=100000000000 --config.max_steps=1")


@fault(code=2, words=r"config.t_max is 2147483648; allowed", left=NOTHING)
def t_max_beyond_32_bits(place: Place) -> Ended:
    """A number that does not fit 32 bits"""
    return place.run(f"{TRAIN} --config.t_max=2147483648")


@fault(code=2, words=r"config.channels is .*; allowed", left=NOTHING)
def a_billion_channels(place: Place) -> Ended:
    """A network that no memory holds"""
    return place.run(f"{TRAIN} --config.channels=1000000000")


@fault(code=2, words=r"config.forward_lr is .*; allowed", left=NOTHING)
def rate_beyond_float32(place: Place) -> Ended:
    """A rate that is 0 in float32"""
    return place.run(f"{TRAIN} --config.forward_lr=1e-300")


@fault(code=2, words=r"config.noise is .*nan.*; allowed", left=NOTHING)
def not_a_number(place: Place) -> Ended:
    """A field that is not a number"""
    return place.run(f"{TRAIN} --config.noise=nan")


@fault(code=2, words=r"did you mean .*forward_lr", left=NOTHING)
def misspelt_field(place: Place) -> Ended:
    """A misspelt field"""
    return place.run(f"{TRAIN} --config.foward_lr=0.1")


@fault(code=2, words="did you mean --config.epochs=3", left=NOTHING)
def forgotten_prefix(place: Place) -> Ended:
    """A field without `config.`"""
    return place.run(f"{TRAIN} --epochs=3")


@fault(code=2, words="allowed", left=NOTHING)
def empty_workdir(place: Place) -> Ended:
    """A flag without its value"""
    return place.run("dtp train --config=tiny.py --workdir=")


@fault(code=2, words="allowed", left=NOTHING)
def config_that_fails(place: Place) -> Ended:
    """A config file with an error in it"""
    place.path("broken.py").write_text("def get_config():\n    return 1 / 0\n")
    return place.run("dtp train --config=broken.py --workdir=run")


@fault(code=2, words="allowed", left=NOTHING)
def config_missing(place: Place) -> Ended:
    """A config file that does not exist"""
    return place.run("dtp train --config=nowhere.py --workdir=run")


@fault(code=2, words="cuda", left=NOTHING)
def no_such_device(place: Place) -> Ended:
    """JAX_PLATFORMS asks for a GPU, and there is none"""
    return place.run(f"JAX_PLATFORMS=cuda {TRAIN}")


@fault(code=2, words="config.data_parallel is 64.*; allowed", left=NOTHING)
def more_devices_than_there_are(place: Place) -> Ended:
    """More devices than there are"""
    return place.run(f"{TRAIN} --config.data_parallel=64 --config.batch_size=64")


@fault(code=2, words="config.train_images is 5000; allowed: 0 to 1257", left=NOTHING)
def more_images_than_there_are(place: Place) -> Ended:
    """More training images are asked for than the data set has"""
    return place.run("dtp train --config=tiny.py --config.train_images=5000 --workdir=run")
