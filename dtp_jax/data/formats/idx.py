"""MNIST's idx files (`train-images-idx3-ubyte[.gz]` and its three companions), original order.

Fashion-MNIST's and KMNIST's files have the same names: which data set it is, the folder's name and
the checksums tell (`data/identity.py`).
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from dtp_jax.broken import crc_of_rest
from dtp_jax.data.spec import (
    Contents,
    DatasetSpec,
    Progress,
    Split,
    checked_count,
    checked_split,
    corrupt,
    reading,
)

_STEMS = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_AXES = {_IMAGES: 3, _LABELS: 1}
_BLOCK = 1 << 20  # bytes


STORED = ("mnist", "fashion_mnist")
"""Data sets that have been published in this form."""


def find(folder: Path, spec: DatasetSpec) -> Path | None:
    """`folder`, or its subfolder "raw" as torchvision has it, if the training images are there."""
    if spec.stored_as in STORED:
        for place in (folder, folder / "raw"):
            if _existing(place, f"train-{_IMAGES}"):
                return place
    return None


def files(folder: Path) -> list[Path]:
    """The files in `folder`, of which some may be missing."""
    names = [f"{stem}-{kind}" for stem in _STEMS.values() for kind in _AXES]
    return [path for name in names for path in _variants(folder, name) if path.is_file()]


def count(folder: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the headers of the files."""
    counts = []
    for part, stem in _STEMS.items():
        images = _shape(_path(folder, spec, f"{stem}-{_IMAGES}"), spec, axes=3)
        labels = _shape(_path(folder, spec, f"{stem}-{_LABELS}"), spec, axes=1)
        if images[1:] != spec.image_shape[:2] or images[0] != labels[0]:
            height, width, _ = spec.image_shape
            problem = (
                f"{part}: {images[0]} images of {images[1]}x{images[2]} and {labels[0]} labels, "
                f"expected as many images of {height}x{width} as labels"
            )
            raise corrupt(spec, folder, problem)
        counts.append(checked_count(spec, part, images[0], folder))
    return counts[0], counts[1]


def checksums(folder: Path, spec: DatasetSpec, wanted: Collection[str]) -> dict[str, int | str]:
    """The CRC-32 of `wanted` arrays, and the SHA-256 of packed labels.

    The CRC-32 of a packed file stands at its end, so that nothing need be unpacked.
    """
    found = {}
    for key in wanted:
        part, _, kind = key.partition("_")
        if kind in ("images", "labels"):
            kind = _IMAGES if kind == "images" else _LABELS
            found[key] = _checksum(_path(folder, spec, f"{_STEMS[part]}-{kind}"), spec, _AXES[kind])
        elif kind == "packed" and (packed := folder / f"{_STEMS[part]}-{_LABELS}.gz").is_file():
            with reading(spec, packed), packed.open("rb") as file:
                found[key] = hashlib.sha256(file.read(_BLOCK)).hexdigest()
    return found


def train_labels(folder: Path, spec: DatasetSpec) -> np.ndarray:
    """The labels [N] of the training examples; reads no image."""
    return _array(_path(folder, spec, f"{_STEMS['train']}-{_LABELS}"), spec, _AXES[_LABELS])


def read(folder: Path, spec: DatasetSpec, progress: Progress | None = None) -> tuple[Split, Split]:
    """Reads (train, test) from the four files in `folder`."""
    count(folder, spec)
    parts = []
    for part, stem in _STEMS.items():
        images = _array(_path(folder, spec, f"{stem}-{_IMAGES}"), spec, axes=3)
        labels = _array(_path(folder, spec, f"{stem}-{_LABELS}"), spec, axes=1)
        parts.append(checked_split(spec, part, images, labels, str(folder)))
    return parts[0], parts[1]


def read_contents(folder: Path, spec: DatasetSpec) -> Contents:
    """Reads the four files in `folder`, whatever its name; they do not name the classes."""
    return Contents(*read(folder, spec), label_names={}, coarse_labels={})


def _variants(folder: Path, name: str) -> list[Path]:
    # Some unpackers write a dot for the last dash of the official name.
    dotted = name.replace("-idx", ".idx")
    return [folder / variant for variant in (name, f"{name}.gz", dotted, f"{dotted}.gz")]


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for path in _variants(folder, name) if path.is_file()), None)


def _path(folder: Path, spec: DatasetSpec, name: str) -> Path:
    if (path := _existing(folder, name)) is None:
        raise corrupt(spec, folder, f"{name}[.gz] is missing")
    return path


def _array(path: Path, spec: DatasetSpec, axes: int) -> np.ndarray:
    """The array of a file whose shape `count` has found possible; reads no more than that."""
    shape, start = _shape(path, spec, axes), _header_size(axes)
    data = _bytes(path, spec, start + math.prod(shape) + 1)
    size = len(data) - start
    if size != math.prod(shape):
        holds = f"{size:,}" if size < math.prod(shape) else "more"
        problem = f"its header promises {math.prod(shape):,} bytes, it holds {holds}"
        raise corrupt(spec, path, problem)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _shape(path: Path, spec: DatasetSpec, axes: int) -> tuple[int, ...]:
    """The shape in an idx header: 0, 0, 8 (uint8), number of axes, each length (big-endian)."""
    return _parsed(_bytes(path, spec, _header_size(axes)), path, spec, axes)


def _parsed(header: bytes, path: Path, spec: DatasetSpec, axes: int) -> tuple[int, ...]:
    if len(header) < _header_size(axes) or header[:4] != bytes((0, 0, 8, axes)):
        raise corrupt(spec, path, f"it does not begin like an idx{axes} file of uint8")
    return struct.unpack(f">{axes}I", header[4:])


def _checksum(path: Path, spec: DatasetSpec, axes: int) -> int:
    """The CRC-32 of the array in a file that `count` has looked at."""
    header = _bytes(path, spec, _header_size(axes))
    size = math.prod(_parsed(header, path, spec, axes))
    with reading(spec, path), path.open("rb") as file:
        if path.suffix == ".gz":
            file.seek(-8, 2)
            whole, length = struct.unpack("<2I", file.read(8))
            if length == len(header) + size:
                return crc_of_rest(header, whole, size)
            return zlib.crc32(_array(path, spec, axes))  # packed in several pieces
        file.seek(len(header))
        checksum = 0
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
        return checksum


def _header_size(axes: int) -> int:
    return 4 + 4 * axes  # bytes


def _bytes(path: Path, spec: DatasetSpec, limit: int) -> bytes:
    opened = gzip.open if path.suffix == ".gz" else open
    with reading(spec, path), opened(path, "rb") as file:
        return file.read(limit)
