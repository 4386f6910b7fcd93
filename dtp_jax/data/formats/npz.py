"""Data sets in one `.npz` file: arrays of pixels, or of concatenated JPEG or PNG files.

Two layouts, told apart by the name of the file:

* `<dataset>.npz`: `x_train y_train x_test y_test`, as Keras stores them;
* `<dataset>_jpeg_train_test.npz`: `train_bytes` uint8 [total], `train_offsets` int [N + 1],
  `train_labels` int [N], and the same with `test_`; image i is the encoded file
  `bytes[offsets[i]:offsets[i + 1]]`.

Both hold the original order. Object arrays are refused: nothing is ever unpickled.
"""

import itertools
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from dtp_jax.broken import crc_of_rest, member_array, member_header
from dtp_jax.data.formats.decode import CHUNK, decoded
from dtp_jax.data.spec import (
    Blocks,
    DatasetSpec,
    Progress,
    Split,
    checked_count,
    checked_split,
    corrupt,
    label_checksum,
    reading,
)


def find_pixels(folder: Path, spec: DatasetSpec) -> Path | None:
    """The Keras-layout file of `spec` in `folder`."""
    path = folder / f"{spec.stored_as}.npz"
    return path if path.is_file() else None


def find_encoded(folder: Path, spec: DatasetSpec) -> Path | None:
    """The file of encoded images of `spec` in `folder`."""
    path = folder / f"{spec.stored_as}_jpeg_train_test.npz"
    return path if path.is_file() else None


def count_pixels(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, read from the headers of the arrays alone."""
    shapes = _shapes(path, spec, ("x_train", "y_train", "x_test", "y_test"))
    for part in ("train", "test"):
        images, labels = shapes[f"x_{part}"], shapes[f"y_{part}"]
        height, width, channels = spec.image_shape
        allowed = [spec.image_shape] + ([(height, width)] if channels == 1 else [])
        if images[1:] not in allowed:
            expected = f"[N, {height}, {width}, {channels}]"
            raise corrupt(spec, path, f"x_{part} is {list(images)}, expected {expected}")
        if images[0] != labels[0]:
            raise corrupt(spec, path, f"{part}: {images[0]} images but {labels[0]} labels")
    counts = {part: shapes[f"x_{part}"][0] for part in ("train", "test")}
    return tuple(checked_count(spec, part, count, path) for part, count in counts.items())


def count_encoded(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """As `count_pixels`, for encoded images."""
    keys = [f"{part}_{key}" for part in ("train", "test") for key in ("bytes", "offsets", "labels")]
    shapes = _shapes(path, spec, keys)
    for part in ("train", "test"):
        offsets, labels = shapes[f"{part}_offsets"], shapes[f"{part}_labels"]
        if len(offsets) != 1 or len(labels) != 1 or offsets[0] != labels[0] + 1:
            problem = f"{part}_offsets {list(offsets)} is not one longer than {part}_labels"
            raise corrupt(spec, path, f"{problem} {list(labels)}")
    counts = {part: shapes[f"{part}_labels"][0] for part in ("train", "test")}
    return tuple(checked_count(spec, part, count, path) for part, count in counts.items())


def checksums_of_pixels(path: Path, spec: DatasetSpec, wanted: Collection[str]) -> dict[str, int]:
    """The CRC-32 of `wanted` arrays; those of images are stored in the file."""
    found = {}
    for key in wanted:
        part, _, kind = key.partition("_")
        if kind == "labels":
            found[key] = label_checksum(*_arrays(path, spec, [f"y_{part}"]))
        elif kind == "images":
            with reading(spec, path), zipfile.ZipFile(path) as archive:
                member = f"x_{part}.npy"
                header, whole = member_header(archive, member), archive.getinfo(member).CRC
            if header.dtype == np.uint8 and not header.by_columns:
                found[key] = crc_of_rest(header.content, whole, header.nbytes)
    return found


def checksums_of_encoded(path: Path, spec: DatasetSpec, wanted: Collection[str]) -> dict[str, int]:
    """As `checksums_of_pixels`; those of images are not known before they are decoded."""
    keys = [key for key in wanted if key.endswith("_labels")]
    return dict(zip(keys, map(label_checksum, _arrays(path, spec, keys)), strict=True))


def train_labels_of_pixels(path: Path, spec: DatasetSpec) -> np.ndarray:
    """The labels [N] of the training examples; reads no image."""
    return _arrays(path, spec, ["y_train"])[0].ravel()


def train_labels_of_encoded(path: Path, spec: DatasetSpec) -> np.ndarray:
    """As `train_labels_of_pixels`."""
    return _arrays(path, spec, ["train_labels"])[0]


def read_pixels(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Split, Split]:
    """Reads (train, test) from a Keras-layout file."""
    parts = []
    for part in ("train", "test"):
        images, labels = _arrays(path, spec, [f"x_{part}", f"y_{part}"])
        parts.append(checked_split(spec, part, images, labels, str(path)))
    return parts[0], parts[1]


def read_encoded(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Blocks, Blocks]:
    """Reads and decodes (train, test) from a file of encoded images.

    Both are read, and with that checked by the checksums of the zip file, before any is decoded.
    """
    parts = ("train", "test")
    stored = {part: _encoded(path, spec, part) for part in parts}
    return tuple(
        decoded(_chunks(*arrays), len(arrays[2]), spec, part, str(path), progress)
        for part, arrays in stored.items()
    )


def _chunks(
    data: bytes, bounds: list[int], labels: np.ndarray
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """The encoded images, which lie between `bounds` in `data`, and the labels, by the chunk."""
    for first in range(0, len(labels), CHUNK):
        inside = itertools.pairwise(bounds[first : first + CHUNK + 1])
        files = [data[start:stop] for start, stop in inside]
        yield files, labels[first : first + CHUNK]


def _encoded(path: Path, spec: DatasetSpec, part: str) -> tuple[bytes, list[int], np.ndarray]:
    """The encoded images of a part one after the other, their bounds, and its labels."""
    keys = [f"{part}_bytes", f"{part}_offsets", f"{part}_labels"]
    data, offsets, labels = _arrays(path, spec, keys)
    if data.dtype != np.uint8 or data.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer):
        problem = f"{keys[0]} is {data.dtype} {list(data.shape)} and {keys[1]} {offsets.dtype}"
        raise corrupt(spec, path, f"{problem}, expected uint8 [total] and integers")
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != len(data) or sorted(set(bounds)) != bounds:
        raise corrupt(spec, path, f"{keys[1]} does not rise from 0 to {len(data)}")
    return data.tobytes(), bounds, labels


def _arrays(path: Path, spec: DatasetSpec, keys: list[str]) -> list[np.ndarray]:
    with reading(spec, path), zipfile.ZipFile(path) as archive:
        return [member_array(archive, f"{key}.npy", spec.most_bytes) for key in keys]


def _shapes(path: Path, spec: DatasetSpec, keys: list[str] | tuple[str, ...]) -> dict:
    """The shapes of the arrays `keys`, from their headers; checks that their bytes are there."""
    with reading(spec, path), zipfile.ZipFile(path) as archive:
        missing = [key for key in keys if f"{key}.npy" not in archive.namelist()]
        if missing:
            raise corrupt(spec, path, f"it holds no {', '.join(missing)}")
        shapes = {key: member_header(archive, f"{key}.npy").shape for key in keys}
    for key, shape in shapes.items():
        if not shape:
            problem = f"{key} is a number without axes: not the size its header promises"
            raise corrupt(spec, path, problem)
    return shapes
