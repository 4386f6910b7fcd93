"""The official archives of ImageNet 32x32 (Chrabaszcz, Loshchilov, Hutter: arXiv 1707.08819).

`Imagenet32_train_npz.zip` holds `train_data_batch_1.npz` to `train_data_batch_10.npz` and
`Imagenet32_val_npz.zip` holds `val_data.npz`; either may be unpacked. Each `.npz` file has `data`
uint8 [N, 3072], by channel, row and column, `labels` [N] from 1 to 1000, and the mean image. The
batches in order give the original order; the official validation set is the test set here.

The pixels are read as a stream, for one batch alone has 390 MB.
"""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from dtp_jax.broken import Bounded, array_header, member_array, member_header
from dtp_jax.data.spec import (
    Blocks,
    DatasetSpec,
    Progress,
    Split,
    checked_count,
    checked_split,
    corrupt,
    reading,
)

ARCHIVES = {"train": "Imagenet32_train_npz.zip", "test": "Imagenet32_val_npz.zip"}
_BATCHES = {
    "train": tuple(f"train_data_batch_{i}.npz" for i in range(1, 11)),
    "test": ("val_data.npz",),
}
_OFFICIAL_SIZES = {"train": 3_580_435_279, "test": 139_697_668}  # bytes, in TFDS's registry
_BLOCK = 4_096  # images


def find(folder: Path, spec: DatasetSpec) -> Path | None:
    """`folder`, if it holds the training images, packed or not."""
    return folder if spec.stored_as == "imagenet32" and _place(folder, "train") else None


def files(folder: Path) -> list[Path]:
    """All files that `read` reads."""
    places = {part: _place(folder, part) for part in _BATCHES}
    found = []
    for part, place in places.items():
        if place is not None:
            found += [place / name for name in _BATCHES[part]] if place.is_dir() else [place]
    return [path for path in found if path.is_file()]


def count(folder: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the headers of the arrays.

    Those of the official archives are known: their headers lie deep in compressed data.
    """
    known = {"train": spec.train_examples, "test": spec.test_examples}
    counts = []
    for part in _BATCHES:
        place = _required_place(folder, spec, part)
        if place.is_file() and place.stat().st_size == _OFFICIAL_SIZES[part]:
            counts.append(known[part])
        else:
            counts.append(checked_count(spec, part, sum(_sizes(place, spec, part)), place))
    return counts[0], counts[1]


def read(
    folder: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Blocks, Blocks]:
    """Reads (train, test) in pieces, in the original order."""
    return tuple(_blocks(_required_place(folder, spec, p), spec, p, progress) for p in _BATCHES)


def train_labels(folder: Path, spec: DatasetSpec) -> np.ndarray:
    """The labels [N] of the training examples, 0 to 999; reads no image."""
    place = _required_place(folder, spec, "train")
    labels = []
    for name in _BATCHES["train"]:
        with _opened(place, spec, name) as archive:
            labels.append(_labels(archive, spec))
    return np.concatenate(labels)


def _place(folder: Path, part: str) -> Path | None:
    """The folder of the `.npz` files of a part, or the archive that holds them."""
    archive = folder / ARCHIVES[part]
    for place in (folder, archive.with_suffix("")):
        if any((place / name).is_file() for name in _BATCHES[part]):
            return place
    return archive if archive.is_file() else None


def _required_place(folder: Path, spec: DatasetSpec, part: str) -> Path:
    if (place := _place(folder, part)) is None:
        raise corrupt(spec, folder, f"{ARCHIVES[part]} is missing, and so is what it holds")
    return place


def _sizes(place: Path, spec: DatasetSpec, part: str) -> list[int]:
    """The number of images in each batch."""
    sizes = []
    for name in _BATCHES[part]:
        with _opened(place, spec, name) as archive:
            images, labels = (
                member_header(archive, f"{key}.npy").shape for key in ("data", "labels")
            )
            if images[1:] != (int(np.prod(spec.image_shape)),) or labels != images[:1]:
                raise ValueError(f"data is {list(images)} and labels {list(labels)}")
            sizes.append(images[0])
    return sizes


def _blocks(
    place: Path, spec: DatasetSpec, part: str, progress: Progress | None
) -> Iterator[Split]:
    sizes = _sizes(place, spec, part)
    done = 0
    for name in _BATCHES[part]:
        with _opened(place, spec, name) as archive:
            labels, first = _labels(archive, spec), 0
            for images in _images(archive, spec):
                block = labels[first : first + len(images)]
                first += len(images)
                done += len(images)
                if progress:
                    progress(f"reading {spec.stored_as}", done, sum(sizes))
                yield checked_split(spec, part, images, block, f"{place}/{name}")


def _labels(archive: zipfile.ZipFile, spec: DatasetSpec) -> np.ndarray:
    labels = member_array(archive, "labels.npy", spec.most_bytes)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, expected integers")
    return labels.astype(np.int64) - 1


def _images(archive: zipfile.ZipFile, spec: DatasetSpec) -> Iterator[np.ndarray]:
    """The images [n, H, W, C] of a batch, block by block."""
    height, width, channels = spec.image_shape
    size = height * width * channels
    with archive.open("data.npy") as file:
        shape, by_columns, dtype, _ = array_header(file, "data.npy")
        if dtype != np.uint8 or by_columns:
            raise ValueError(f"data is {dtype}{' by columns' * by_columns}, expected uint8")
        for first in range(0, shape[0], _BLOCK):
            count = min(_BLOCK, shape[0] - first)
            data = file.read(count * size)
            pixels = np.frombuffer(data, np.uint8).reshape(count, channels, height, width)
            if first + count == shape[0]:
                file.read(1)  # there the checksum is compared
            yield np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


@contextmanager
def _opened(place: Path, spec: DatasetSpec, name: str) -> Iterator[zipfile.ZipFile]:
    """The `.npz` file `name` of a folder or an archive; what cannot be read becomes DataError."""
    with reading(spec, f"{place}/{name}"), ExitStack() as stack:
        if place.is_dir():
            file = place / name
        else:
            outer = stack.enter_context(zipfile.ZipFile(place))
            inside = [m for m in outer.namelist() if m.rsplit("/", 1)[-1] == name]
            if not inside:
                raise FileNotFoundError(f"{name} is missing")
            member = stack.enter_context(outer.open(inside[0]))
            file = Bounded(member, 2 * spec.most_bytes)
        yield stack.enter_context(zipfile.ZipFile(file))
