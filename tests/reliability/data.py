"""Data that is missing, damaged, or not what its name says."""

import gzip
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import data_files
import numpy as np

from tests.reliability.fault import ANYTHING, FINISHED, NOTHING, fault
from tests.reliability.place import REPOSITORY, Ended, Missing, Place

MNIST = """
from dtp_jax.configs import mnist_mlp


def get_config():
    config = mnist_mlp.get_config("backprop")
    config.hidden = (8,)
    config.epochs, config.batch_size = 1, 10
    return config
"""
"""The config mnist.py."""
CIFAR10 = """
from dtp_jax.configs import cifar10_backprop


def get_config():
    config = cifar10_backprop.get_config()
    config.channels = (4, 8)
    config.epochs, config.batch_size = 1, 10
    return config
"""
"""The config cifar10.py."""
REAL = Path(os.environ.get("RELIABILITY_DATA", REPOSITORY.parent / "shared" / "data")) / "npz"
"""Real MNIST and Fashion-MNIST, for faults that made-up images cannot show."""


def mnist(place: Place, where: str = "data") -> Ended:
    """Trains on what is there."""
    place.path("mnist.py").write_text(MNIST)
    return place.run(f"dtp train --config=mnist.py --config.data_dir={where} --workdir=run")


def cifar10(place: Place, where: str = "data") -> Ended:
    """Trains on what is there."""
    place.path("cifar10.py").write_text(CIFAR10)
    return place.run(f"dtp train --config=cifar10.py --config.data_dir={where} --workdir=run")


def made_up(place: Place, write: Callable[..., Path], folder: str, name: str = "mnist") -> Path:
    """Random images in one of the forms."""
    return write(place.path("data") / folder, name, *data_files.fake(name))


def real(name: str) -> Path:
    """A file of real data."""
    if not (REAL / name).exists():
        raise Missing(f"needs a real {name}: RELIABILITY_DATA=FOLDER")
    return REAL / name


@fault(code=3, words="mnist", left=NOTHING)
def no_data(place: Place) -> Ended:
    """There is no data, and no way to download it"""
    return mnist(place, "nowhere")


@fault(code=0, words="workdir +run", left=FINISHED)
def fashion_beside_mnist(place: Place) -> Ended:
    """fmnist/ stands beside mnist/, with the same names of files: MNIST is read from mnist/"""
    made_up(place, data_files.write_idx, "fmnist")
    made_up(place, data_files.write_idx, "mnist")
    ended = mnist(place)
    assert "data/mnist" in ended.screen and "data/fmnist" not in ended.screen, ended
    return ended


@fault(code=3, words="", left=NOTHING)
def kmnist_for_mnist(place: Place) -> Ended:
    """The only idx files lie in KMNIST/raw"""
    made_up(place, data_files.write_idx, "KMNIST/raw")
    ended = mnist(place)
    assert "KMNIST" in ended.screen, ended
    return ended


@fault(code=3, words="holds fashion_mnist by its checksums", left=NOTHING)
def fashion_for_mnist(place: Place) -> Ended:
    """mnist.npz holds Fashion-MNIST"""
    place.path("data").mkdir()
    shutil.copy(real("fashion_mnist.npz"), place.path("data/mnist.npz"))
    return mnist(place)


@fault(code=0, words="workdir +run", left=FINISHED)
def unknown_labels(place: Place) -> Ended:
    """mnist.npz holds 85 made-up images: the start-up screen says that this is not the official data"""
    made_up(place, data_files.write_npz, "")
    ended = mnist(place)
    assert "not the official data: 60 + 25 images" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def torchvision_root(place: Place) -> Ended:
    """data_dir is a root of torchvision: MNIST/raw below it"""
    made_up(place, data_files.write_idx, "MNIST/raw")
    return mnist(place)


@fault(code=0, words="workdir +run", left=FINISHED)
def the_file_itself(place: Place) -> Ended:
    """data_dir is the file, not its folder"""
    made_up(place, data_files.write_npz, "")
    return mnist(place, "data/mnist.npz")


@fault(code=0, words="workdir +run", left=FINISHED)
def tfds_version_folder(place: Place) -> Ended:
    """data_dir is the folder of a version in a folder of TFDS"""
    path = made_up(place, data_files.write_tfds, "")
    return mnist(place, str(path.relative_to(place.folder)))


@fault(code=3, words="", left=NOTHING)
def pickled_cifar(place: Place) -> Ended:
    """The pickles of CIFAR-10's Python version: they are named, and never loaded"""
    folder = place.path("data/cifar-10-batches-py")
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"\x80\x02}q\x01.")
    ended = cifar10(place)
    assert "pickle" in ended.screen, ended
    return ended


@fault(code=3, words="corrupt|not what its name says", left=NOTHING)
def npz_flipped_byte(place: Place) -> Ended:
    """A byte of mnist.npz is changed"""
    path = made_up(place, data_files.write_npz, "")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    return mnist(place)


@fault(code=3, words="corrupt|not what its name says", left=NOTHING)
def npz_cut_off(place: Place) -> Ended:
    """mnist.npz is cut off, as after a download that broke"""
    path = made_up(place, data_files.write_npz, "")
    path.write_bytes(path.read_bytes()[:-1000])
    return mnist(place)


@fault(code=3, words="corrupt|not what its name says|pickle", left=NOTHING)
def npz_of_objects(place: Place) -> Ended:
    """mnist.npz holds Python objects: they are never loaded"""
    made_up(place, data_files.write_npz, "")
    train, test = data_files.fake("mnist")
    objects = np.array([{}] * len(train.labels), object)
    data_files.write_npz(place.path("data"), "mnist", train, test, x_train=objects)
    return mnist(place)


@fault(code=3, words="corrupt|not what its name says", left=NOTHING)
def idx_wrong_magic(place: Place) -> Ended:
    """The labels of the idx files are a file of images"""
    folder = made_up(place, data_files.write_idx, "mnist")
    shutil.copy(folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz")
    return mnist(place)


@fault(code=3, words="corrupt|not what its name says", left=NOTHING)
def gzip_bomb(place: Place) -> Ended:
    """A file of MNIST unpacks to 8 GB: it is refused with less than 2 GB of memory"""
    folder = made_up(place, data_files.write_idx, "mnist")
    file = folder / "train-images-idx3-ubyte.gz"
    header = gzip.decompress(file.read_bytes())[:16]
    # Members one after the other are one file: 64 MB of zeros, 128 times.
    zeros = gzip.compress(bytes(1 << 26), 9)
    file.write_bytes(gzip.compress(header) + zeros * 128)
    place.path("mnist.py").write_text(MNIST)
    limited = "ulimit -d 2000000;"
    ended = place.run(f"{limited} dtp train --config=mnist.py --config.data_dir=data --workdir=run")
    return ended


@fault(code=3, words="corrupt|not what its name says", left=NOTHING)
def zip_bomb(place: Place) -> Ended:
    """mnist.npz of 2 MB holds 2,000,000 images of 1.6 GB: it is refused with less than 1 GB of memory"""
    count = 2_000_000
    train, test = data_files.fake("mnist")
    many = {"x_train": None, "y_train": np.zeros(count, np.uint8)}
    path = data_files.write_npz(place.path("data"), "mnist", train, test, **many)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 28, 28)}
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(100):
            file.write(bytes(count * 28 * 28 // 100))
    place.path("mnist.py").write_text(MNIST)
    limited = "ulimit -d 1000000;"
    return place.run(f"{limited} dtp train --config=mnist.py --config.data_dir=data --workdir=run")


@fault(code=3, words="image", left=NOTHING)
def no_image(place: Place) -> Ended:
    """An image in the npz of JPEGs is no image"""
    return _encoded(place, b"not an image at all")


@fault(code=3, words="image", left=NOTHING)
def a_gif(place: Place) -> Ended:
    """An image in the npz of JPEGs is a GIF"""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "GIF")
    return _encoded(place, buffer.getvalue())


def _encoded(place: Place, first: bytes) -> Ended:
    train, test = data_files.fake("cifar10")
    files = [first, *(data_files.encoded_png(image) for image in train.images[1:])]
    changes = {
        "train_bytes": np.frombuffer(b"".join(files), np.uint8),
        "train_offsets": np.cumsum([0] + [len(file) for file in files]),
    }
    data_files.write_encoded_npz(place.path("data"), "cifar10", train, test, **changes)
    return cifar10(place)


def _cached(place: Place) -> Path:
    """Trains once from JPEGs; returns the entry of the cache."""
    made_up(place, data_files.write_encoded_npz, "", "cifar10")
    assert cifar10(place).code == 0
    shutil.rmtree(place.path("run"))
    (entry,) = (p for p in place.path("cache").iterdir() if p.name.startswith("cifar10-"))
    return entry


def _rebuilt(place: Place) -> Ended:
    ended = cifar10(place)
    assert ended.screen.count("is damaged") == 1, ended
    return ended


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_header(place: Place) -> Ended:
    """A byte of the header of an array in the cache is changed: one warning, it is decoded again"""
    file = _cached(place) / "train_labels.npy"
    data = bytearray(file.read_bytes())
    at = data.index(b"'shape': (60") + len(b"'shape': (")
    data[at : at + 2] = b"59"
    file.write_bytes(data)
    return _rebuilt(place)


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_content(place: Place) -> Ended:
    """A byte of an array in the cache is changed: one warning, it is decoded again"""
    file = _cached(place) / "train_images.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return _rebuilt(place)


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_meta(place: Place) -> Ended:
    """meta.json of the cache is damaged: one warning, it is decoded again"""
    (_cached(place) / "meta.json").write_text("[[[")
    return _rebuilt(place)


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_removed(place: Place) -> Ended:
    """A file of the cache is missing: one warning, it is decoded again"""
    (_cached(place) / "test_labels.npy").unlink()
    return _rebuilt(place)


@fault(code=2, words="allowed: a local path; mount remote storage", left=NOTHING)
def remote_data(place: Place) -> Ended:
    """data_dir is an address of remote storage"""
    return mnist(place, "gs://bucket/data")


@fault(code=2, words="its checkpoints are of other training images", left=ANYTHING)
def another_copy_of_the_images(place: Place) -> Ended:
    """A run goes on where the data is another copy: the same labels, and images that were encoded again"""
    train, test = data_files.fake("mnist")
    data_files.write_npz(place.path("data"), "mnist", train, test)
    assert mnist(place).code == 0
    again = train._replace(images=train.images // 2 * 2)
    data_files.write_npz(place.path("data"), "mnist", again, test)
    return place.run("dtp train --workdir=run --config.epochs=2")


@fault(code=0, words="workdir +run", left=FINISHED)
def no_such_data_dir(place: Place) -> Ended:
    """data_dir is misspelt, and the data is where $DTP_JAX_DATA says: a warning names both"""
    made_up(place, data_files.write_npz, "")
    place.path("mnist.py").write_text(MNIST)
    ended = place.run(
        "DTP_JAX_DATA=data dtp train --config=mnist.py --config.data_dir=dta --workdir=run"
    )
    assert "config.data_dir is 'dta' and changes nothing: it is not there" in ended.screen, ended
    return ended
