"""MNIST's idx files (`train-images-idx3-ubyte[.gz]` and its three companions), original order.

Fashion-MNIST's files have the same names, so they are told apart by the folder: one whose name
(or its parent's, as in `FashionMNIST/raw`) contains "fashion" holds Fashion-MNIST, any other
holds MNIST.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from dtp_jax.data.spec import Contents, DatasetSpec, Progress, Split, checked_split, corrupt

_STEMS = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def find(folder: Path, spec: DatasetSpec) -> Path | None:
    """`folder`, if it holds the training images of `spec`."""
    if spec.stored_as not in ("mnist", "fashion_mnist"):
        return None
    if _says_fashion(folder) != (spec.stored_as == "fashion_mnist"):
        return None
    return folder if _existing(folder, f"train-{_IMAGES}") else None


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
        counts.append(images[0])
    return counts[0], counts[1]


def read(folder: Path, spec: DatasetSpec, progress: Progress | None = None) -> tuple[Split, Split]:
    """Reads (train, test) from the four files in `folder`."""
    parts = []
    for part, stem in _STEMS.items():
        images = _array(_path(folder, spec, f"{stem}-{_IMAGES}"), spec, axes=3)
        labels = _array(_path(folder, spec, f"{stem}-{_LABELS}"), spec, axes=1)
        parts.append(checked_split(spec, part, images, labels, str(folder)))
    return parts[0], parts[1]


def read_contents(folder: Path, spec: DatasetSpec) -> Contents:
    """Reads the four files in `folder`, whatever its name; they do not name the classes."""
    return Contents(*read(folder, spec), label_names={}, coarse_labels={})


def _says_fashion(folder: Path) -> bool:
    """What the name of the folder says, or, where it is silent ("raw"), that of its parent."""
    resolved = folder.resolve()
    for name in (resolved.name.lower(), resolved.parent.name.lower()):
        if "mnist" in name or "fashion" in name:
            return "fashion" in name
    return False


def _existing(folder: Path, name: str) -> Path | None:
    # Some unpackers write a dot for the last dash of the official name.
    for variant in (name, f"{name}.gz", name.replace("-idx", ".idx")):
        if (folder / variant).is_file():
            return folder / variant
    return None


def _path(folder: Path, spec: DatasetSpec, name: str) -> Path:
    if (path := _existing(folder, name)) is None:
        raise corrupt(spec, folder, f"{name}[.gz] is missing")
    return path


def _array(path: Path, spec: DatasetSpec, axes: int) -> np.ndarray:
    shape, data = _shape(path, spec, axes), _bytes(path, spec)
    start = _header_size(axes)
    if len(data) - start != math.prod(shape):
        problem = f"its header promises {math.prod(shape):,} bytes, it holds {len(data) - start:,}"
        raise corrupt(spec, path, problem)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _shape(path: Path, spec: DatasetSpec, axes: int) -> tuple[int, ...]:
    """The shape in an idx header: 0, 0, 8 (uint8), number of axes, each length (big-endian)."""
    header = _bytes(path, spec, _header_size(axes))
    if len(header) < _header_size(axes) or header[:4] != bytes((0, 0, 8, axes)):
        raise corrupt(spec, path, f"it does not begin like an idx{axes} file of uint8")
    return struct.unpack(f">{axes}I", header[4:])


def _header_size(axes: int) -> int:
    return 4 + 4 * axes  # bytes


def _bytes(path: Path, spec: DatasetSpec, limit: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt(spec, path, error) from error
