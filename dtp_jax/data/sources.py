"""Where a data set comes from: finding it fast, reading it once.

`locate` looks through the folders a user may have named and decodes nothing, so that a start-up
screen can say where the images will come from, or an error what is missing; `load` reads.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax.data import cache, download
from dtp_jax.data.formats import cifar_binary, digits, idx, imagenet_npz, npz, tfds_folder
from dtp_jax.data.spec import (
    DATASETS,
    Blocks,
    DataError,
    DatasetSpec,
    Progress,
    Split,
    corrupt,
)


class Format(NamedTuple):
    """One form in which data sets are stored."""

    label: str
    find: Callable[[Path, DatasetSpec], Path | None]  # in exactly this folder
    count: Callable[[Path, DatasetSpec], tuple[int, int]]  # fast; (train, test)
    read: Callable[[Path, DatasetSpec, Progress | None], tuple[Blocks, Blocks]]
    cached: bool  # whether reading takes so long that the result is kept
    files: Callable[[Path], list[Path]] = lambda path: (
        [path] if path.is_file() else list(path.iterdir())
    )
    train_labels: Callable[[Path, DatasetSpec], np.ndarray] | None = None  # without the images


def _whole(reader: Callable[..., tuple[Split, Split]]) -> Callable[..., tuple[Blocks, Blocks]]:
    def read(*args) -> tuple[Blocks, Blocks]:
        train, test = reader(*args)
        return [train], [test]

    return read


TFDS = Format(
    "tfds array_record",
    tfds_folder.find,
    tfds_folder.count,
    tfds_folder.read,
    cached=True,
    train_labels=tfds_folder.train_labels,
)
_KERAS_NPZ = Format("npz", npz.find_pixels, npz.count_pixels, _whole(npz.read_pixels), cached=False)
_JPEG_NPZ = Format("jpeg npz", npz.find_encoded, npz.count_encoded, npz.read_encoded, cached=True)
_IDX = Format("idx files", idx.find, idx.count, _whole(idx.read), cached=False)
_CIFAR_FOLDER = Format(
    "CIFAR binary files",
    cifar_binary.find_folder,
    cifar_binary.count_folder,
    _whole(cifar_binary.read_folder),
    cached=False,
)
_CIFAR_ARCHIVE = Format(
    "CIFAR binary archive",
    cifar_binary.find_archive,
    cifar_binary.count_archive,
    _whole(cifar_binary.read_archive),
    cached=True,
)
_IMAGENET_NPZ = Format(
    "ImageNet npz",
    imagenet_npz.find,
    imagenet_npz.count,
    imagenet_npz.read,
    cached=True,
    files=imagenet_npz.files,
    train_labels=imagenet_npz.train_labels,
)
_EMBEDDED = Format(
    "embedded in scikit-learn",
    lambda folder, spec: None,
    lambda path, spec: (spec.train_examples, spec.test_examples),
    _whole(digits.read_digits),
    cached=False,
)
FORMATS = (  # best first
    TFDS,
    _KERAS_NPZ,
    _JPEG_NPZ,
    _IDX,
    _CIFAR_FOLDER,
    _CIFAR_ARCHIVE,
    _IMAGENET_NPZ,
)


class Source(NamedTuple):
    """Where the examples of a data set will be read from."""

    spec: DatasetSpec
    format: Format | None  # None: not there yet, `load` downloads it
    path: Path | None  # the file or folder; of a download, the folder that will hold it
    train_examples: int  # before any validation split
    test_examples: int

    @property
    def description(self) -> str:
        """One line for the start-up screen: the form and the place."""
        if self.format is None:
            remote = download.REMOTES[self.spec.stored_as]
            return f"download of {remote.address} ({remote.size / 1e6:.0f} MB) to {self.path}"
        return f"{self.format.label}, {self.path}" if self.path else self.format.label


def locate(name: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Finds the data set `name` without decoding anything; takes 5 s at most.

    Looks in `data_dir`, `$DTP_JAX_DATA`, `$TFDS_DATA_DIR` and TFDS's default folder, and in the
    immediate subfolders of each. What is found nowhere will be downloaded by `load`, where that
    is possible and the host answers within 3 s.

    Raises ValueError for an unknown name; DataError where there is no data, or where what was
    found is seen to be corrupt.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset={name!r} is unknown: allowed are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    if spec.stored_as == "digits":
        return Source(spec, _EMBEDDED, None, spec.train_examples, spec.test_examples)
    places = _places(data_dir)
    for _, root in places:
        for form in FORMATS:
            for folder in _with_subfolders(root):
                if path := _find(form, folder, spec):
                    return Source(spec, form, path, *form.count(path, spec))
    remote = download.REMOTES.get(spec.stored_as)
    reason = download.why_unreachable(remote) if remote else None
    if remote and reason is None:
        return Source(spec, None, places[0][1], spec.train_examples, spec.test_examples)
    raise DataError(_missing(spec, data_dir, reason))


def load(source: Source, progress: Progress | None = None) -> tuple[Split, Split]:
    """Returns the decoded (train, test) of `source`, from the cache where they are there.

    Images are uint8 [N, H, W, C] and labels int32 [N], both in the original order; arrays from
    the cache are read-only maps of its files. A source that is not there yet is downloaded
    first. Raises DataError where the download breaks or the data is corrupt.
    """
    spec, form, path = source.spec, source.format, source.path
    if form is None:
        form, path = TFDS, download.fetch(spec, path, progress)
    if form.cached:
        try:
            entry = cache.entry_name(spec.stored_as, path, form.files(path))
        except OSError as error:
            raise corrupt(spec, path, error) from error
        if (cached := cache.load(entry)) is not None:
            return cached
        stored = cache.store(entry, lambda: form.read(path, spec, progress))
        if stored and (cached := cache.load(entry)) is not None:
            return cached
    counts = source.train_examples, source.test_examples
    blocks = form.read(path, spec, progress)
    return tuple(_joined(*part, spec, path) for part in zip(blocks, counts, strict=True))


def _joined(blocks: Blocks, count: int, spec: DatasetSpec, path: Path | None) -> Split:
    """One array of all pieces, which are written into their places as they come."""
    pieces: Iterator[Split] = iter(blocks)
    first, second = next(pieces), next(pieces, None)
    if second is None:
        return first
    whole = Split(np.empty((count, *spec.image_shape), np.uint8), np.empty(count, np.int32))
    done = 0
    for piece in itertools.chain((first, second), pieces):
        here = slice(done, done + len(piece.labels))
        if here.stop > count:
            break
        whole.images[here], whole.labels[here] = piece
        done = here.stop
    if done != count:
        raise corrupt(spec, path, f"it does not hold the {count} examples that it promises")
    return whole


def _places(data_dir: str | os.PathLike | None) -> list[tuple[str, Path]]:
    """The folders to search, each with the name under which the user knows it."""
    given = [
        ("--config.data_dir", data_dir),
        ("$DTP_JAX_DATA", os.environ.get("DTP_JAX_DATA")),
        ("$TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR")),
        ("TFDS's default folder", "~/tensorflow_datasets"),
    ]
    return [(label, Path(place).expanduser()) for label, place in given if place]


def _find(form: Format, folder: Path, spec: DatasetSpec) -> Path | None:
    try:
        return form.find(folder, spec)
    except OSError:  # a folder that may be listed but not entered
        return None


def _with_subfolders(root: Path) -> list[Path]:
    try:
        below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []
    return [root, *below]


def _missing(spec: DatasetSpec, data_dir: str | os.PathLike | None, reason: str | None) -> str:
    """The error for data that is nowhere: where it was looked for, how to provide it."""
    lines = [f"{spec.name}: no data found. Looked in (and one level below):"]
    for label, root in _places(data_dir):
        state = "" if root.is_dir() else ": does not exist"
        lines.append(f"  {root} ({label}){state}")
        for folder in _with_subfolders(root):
            for version in tfds_folder.versions(folder, spec):
                if why := tfds_folder.why_unreadable(version):
                    lines.append(f"    passed over {version}: {why}")
    unset = [name for name in ("DTP_JAX_DATA", "TFDS_DATA_DIR") if not os.environ.get(name)]
    if unset:
        lines.append(f"  not set: {', '.join('$' + name for name in unset)}")
    lines += [*_download_note(spec, reason), "Any of these in one of those folders will do:"]
    lines += [f"  {way}" for way in _ways(spec)]
    return "\n".join(lines)


def _download_note(spec: DatasetSpec, reason: str | None) -> list[str]:
    if spec.stored_as == "imagenet32":
        return ["It is not downloaded: image-net.org gives it to registered users only."]
    remote = download.REMOTES.get(spec.stored_as)
    return [f"Download of {remote.address} is not possible: {reason}."] if remote else []


def _ways(spec: DatasetSpec) -> list[str]:
    name = spec.stored_as
    if name == "imagenet32":
        archives = " and ".join(imagenet_npz.ARCHIVES.values())
        return [tfds_folder.expected(spec), f"{archives} of image-net.org, or what they hold"]
    ways = [
        tfds_folder.expected(spec),
        f"{name}.npz with x_train, y_train, x_test, y_test",
        f"{name}_jpeg_train_test.npz with encoded images",
    ]
    if layout := cifar_binary.LAYOUTS.get(name):
        ways.append(f"{layout.archive}, or its unpacked {layout.folder}/")
    else:
        folder = "a folder whose name contains 'fashion'" if "fashion" in name else "a folder"
        ways.append(f"{folder} with train-images-idx3-ubyte[.gz] and the other three idx files")
    return ways
