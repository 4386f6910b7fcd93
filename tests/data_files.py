"""Small fake data sets on disk, in every form that `dtp_jax.data` reads."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from dtp_jax.data import DATASETS, Split
from dtp_jax.data.download import REMOTES
from dtp_jax.data.formats.cifar_binary import LAYOUTS
from dtp_jax.data.prepare import encoded_png, prepare
from dtp_jax.data.spec import Contents

TRAIN, TEST = 60, 25  # examples
RECIPES = {name: remote.recipe for name, remote in REMOTES.items()}
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
    """Random (train, test) of the shape of the data set `name`; of ten labels each occurs."""
    shape, classes = DATASETS[name].image_shape, DATASETS[name].classes
    random = np.random.RandomState(len(name))
    parts = []
    for count in (train, test):
        images = random.randint(0, 256, (count, *shape)).astype(np.uint8)
        labels = random.permutation(np.arange(count) % 10 * (classes // 10)).astype(np.int32)
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


def coarse(labels):
    """Made-up coarse labels, 0 to 19."""
    return labels // 5


def cifar_batches(train, test, name="cifar10"):
    """The contents of the files of CIFAR's binary archives, by name."""

    def records(split):
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split.labels), -1)
        fine = split.labels[:, None]
        labels = [fine] if name == "cifar10" else [coarse(fine), fine]
        return np.concatenate([*labels, planes], axis=1).astype(np.uint8)

    if name == "cifar100":
        return {
            "train.bin": records(train).tobytes(),
            "test.bin": records(test).tobytes(),
            "fine_label_names.txt": _lines(f"fine_{i}" for i in range(100)),
            "coarse_label_names.txt": _lines(f"coarse_{i}" for i in range(20)),
        }
    pieces = np.array_split(records(train), 5)
    batches = {f"data_batch_{i + 1}.bin": piece.tobytes() for i, piece in enumerate(pieces)}
    batches["test_batch.bin"] = records(test).tobytes()
    batches["batches.meta.txt"] = _lines(CIFAR_NAMES)
    return batches


def _lines(names):
    return ("\n".join(names) + "\n\n").encode()


def write_cifar_folder(folder: Path, name, train, test):
    """The unpacked binary archive."""
    path = folder / LAYOUTS[name].folder
    path.mkdir(parents=True)
    for file, data in cifar_batches(train, test, name).items():
        (path / file).write_bytes(data)
    return path


def write_cifar_archive(folder: Path, name, train, test):
    """The packed binary archive, with its members in another order than they are read."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = LAYOUTS[name]
    path = folder / layout.archive
    with tarfile.open(path, "w:gz") as archive:
        for file, data in reversed(cifar_batches(train, test, name).items()):
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_tfds(folder: Path, name, train, test):
    """A TFDS directory in TFDS's own order."""
    names = {"label": CIFAR_NAMES} if name == "cifar10" else {}
    extra = {}
    if name == "cifar100":
        extra = {"train": coarse(train.labels), "test": coarse(test.labels)}
    return prepare(RECIPES[name], Contents(train, test, names, extra), folder)


def write_tfds_imagenet(folder: Path, train, test):
    """What TFDS's own builder of `imagenet_resized/32x32` prepares, in its order."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder

    with registered.skip_registration():

        class Imagenet(imagenet_resized_dataset_builder.Builder):
            def _split_generators(self, dl_manager):
                return {"train": self._examples(train), "validation": self._examples(test)}

            def _examples(self, split):
                for index, (image, label) in enumerate(zip(*split, strict=True)):
                    example = {"image": encoded_png(image), "label": int(label)}
                    yield f"batch{index}", example

            _log_download_bytes = _log_download_done = lambda self: None

    Imagenet.name, Imagenet.__module__ = "imagenet_resized", Imagenet.__base__.__module__
    builder = Imagenet(data_dir=str(folder), config="32x32", file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def imagenet_batches(train, test):
    """The arrays of the official files of ImageNet 32x32, by the names of the files."""

    def arrays(split):
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split.labels), -1)
        return {"data": planes, "labels": split.labels + 1, "mean": planes.mean(axis=0)}

    pieces = np.array_split(np.arange(len(train.labels)), 10)
    batches = {
        f"train_data_batch_{i + 1}.npz": arrays(Split(train.images[piece], train.labels[piece]))
        for i, piece in enumerate(pieces)
    }
    return batches | {"val_data.npz": arrays(test)}


def write_imagenet(folder: Path, train, test, *, packed=False, savez=np.savez, **changes):
    """The official files, each part in its archive if `packed`; `changes` of the first batch."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in imagenet_batches(train, test).items():
        part = "train" if name.startswith("train") else "val"
        arrays |= changes if name == "train_data_batch_1.npz" else {}
        content = io.BytesIO()
        savez(content, **{key: array for key, array in arrays.items() if array is not None})
        place = folder / f"Imagenet32_{part}_npz"
        if packed:
            with zipfile.ZipFile(place.with_suffix(".zip"), "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(name, content.getvalue())
        else:
            place.mkdir(exist_ok=True)
            (place / name).write_bytes(content.getvalue())
    return folder


CIFAR_FORMS = {
    "tfds array_record": write_tfds,
    "npz": write_npz,
    "jpeg npz": write_encoded_npz,
    "CIFAR binary files": write_cifar_folder,
    "CIFAR binary archive": write_cifar_archive,
}
MNIST_FORMS = {
    "tfds array_record": write_tfds,
    "npz": write_npz,
    "jpeg npz": write_encoded_npz,
    "idx files": write_idx,
}


def written(folder, name, form):
    """Writes the fake data set `name` in the form with this label; returns it and the path."""
    data = fake(name)
    write = (CIFAR_FORMS if "cifar" in name else MNIST_FORMS)[form]
    return data, write(folder, name, *data)


def assert_same(actual, expected):
    """Compares two (train, test) pairs exactly."""
    for part, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        assert got.images.dtype == np.uint8 and got.labels.dtype == np.int32
        np.testing.assert_array_equal(got.images, wanted.images, err_msg=f"images of {part}")
        np.testing.assert_array_equal(got.labels, wanted.labels, err_msg=f"labels of {part}")
