"""Small fake data sets on disk, in every form that `dtp_jax.data` reads."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from dtp_jax.data import DATASETS, Split
from dtp_jax.data.prepare import Recipe, encoded_png, prepare

TRAIN, TEST = 60, 25  # examples
RECIPES = {
    "cifar10": Recipe(
        "cifar10",
        "tensorflow_datasets.image_classification.cifar:Cifar10",
        "{part}_{index:05d}",
    ),
    "mnist": Recipe("mnist", "tensorflow_datasets.image_classification.mnist:MNIST"),
    "fashion_mnist": Recipe(
        "fashion_mnist", "tensorflow_datasets.image_classification.mnist:FashionMNIST"
    ),
}
CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR_NAMES += ["dog", "frog", "horse", "ship", "truck"]


def isolate(monkeypatch, tmp_path):
    """Hides the data, the cache and the proxies of whoever runs the tests."""
    for name in ("DTP_JAX_DATA", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


def fake(name, train=TRAIN, test=TEST):
    """Random (train, test) of the shape of the data set `name`; every label occurs."""
    shape = DATASETS[name].image_shape
    random = np.random.RandomState(len(name))
    parts = []
    for count in (train, test):
        images = random.randint(0, 256, (count, *shape)).astype(np.uint8)
        labels = random.permutation(np.arange(count) % 10).astype(np.int32)
        parts.append(Split(images, labels))
    return tuple(parts)


def write_npz(folder: Path, name, train, test, **changes):
    """The Keras layout: grey images without channel axis, CIFAR's labels as a column."""
    grey = train.images.shape[-1] == 1
    arrays = {}
    for part, split in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = split.images[..., 0] if grey else split.images
        labels = split.labels.astype(np.uint8)
        arrays[f"y_{part}"] = labels if grey else labels[:, None]
    return _savez(folder / f"{name}.npz", arrays | changes)


def write_encoded_npz(folder: Path, name, train, test, **changes):
    """The compact layout, with lossless files."""
    arrays = {}
    for part, split in (("train", train), ("test", test)):
        files = [encoded_png(image) for image in split.images]
        arrays[f"{part}_bytes"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0] + [len(file) for file in files])
        arrays[f"{part}_labels"] = split.labels.astype(np.uint8)
    return _savez(folder / f"{name}_jpeg_train_test.npz", arrays | changes)


def _savez(path: Path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def write_idx(folder: Path, _name, train, test, zipped=True):
    """MNIST's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, split in (("train", train), ("t10k", test)):
        arrays = {"images-idx3": split.images[..., 0], "labels-idx1": split.labels}
        for kind, array in arrays.items():
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            data = header + array.astype(np.uint8).tobytes()
            name = f"{stem}-{kind}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def cifar_batches(train, test):
    """The contents of the files of CIFAR-10's binary archive, by name."""

    def records(split):
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split.labels), -1)
        return np.concatenate([split.labels[:, None].astype(np.uint8), planes], axis=1)

    pieces = np.array_split(records(train), 5)
    batches = {f"data_batch_{i + 1}.bin": piece.tobytes() for i, piece in enumerate(pieces)}
    batches["test_batch.bin"] = records(test).tobytes()
    batches["batches.meta.txt"] = ("\n".join(CIFAR_NAMES) + "\n\n").encode()
    return batches


def write_cifar_folder(folder: Path, _name, train, test):
    """The unpacked binary archive."""
    path = folder / "cifar-10-batches-bin"
    path.mkdir(parents=True)
    for name, data in cifar_batches(train, test).items():
        (path / name).write_bytes(data)
    return path


def write_cifar_archive(folder: Path, _name, train, test):
    """The packed binary archive, with its members in another order than they are read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in reversed(cifar_batches(train, test).items()):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_tfds(folder: Path, name, train, test):
    """A TFDS directory in TFDS's own order."""
    names = CIFAR_NAMES if name == "cifar10" else []
    return prepare(RECIPES[name], {"train": train, "test": test}, names, folder)


def assert_same(actual, expected):
    """Compares two (train, test) pairs exactly."""
    for part, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        assert got.images.dtype == np.uint8 and got.labels.dtype == np.int32
        np.testing.assert_array_equal(got.images, wanted.images, err_msg=f"images of {part}")
        np.testing.assert_array_equal(got.labels, wanted.labels, err_msg=f"labels of {part}")
