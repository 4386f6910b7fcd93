"""CIFAR's binary archives, packed (`cifar-10-binary.tar.gz`) or not (`cifar-10-batches-bin/`).

Each batch file is a sequence of records: one label, of CIFAR-100 the coarse and then the fine
one, as a byte each, then the image by channel, row and column, 3,072 bytes. The batches in order
give the original order. The archive is read member by member in memory: nothing is extracted, so
no path in it can lead anywhere.
"""

import gzip
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax.broken import Bounded
from dtp_jax.data.spec import (
    Contents,
    DatasetSpec,
    Progress,
    Split,
    checked_count,
    checked_split,
    corrupt,
    label_checksum,
    reading,
)

_PIXELS = 3 * 32 * 32  # bytes
_BLOCK = 1 << 20  # bytes
_MOST_MEMBERS = 100  # of an archive; the official ones have 8
_MOST_TEXT = 1 << 20  # bytes of a file of names


class Layout(NamedTuple):
    """The names in one of the archives."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: tuple[str, ...]  # of a record, by the names that TFDS has for them
    names: tuple[str, ...]  # files with the names of the classes, for each of `labels`
    telling: str  # a file that tells the unpacked archive under whatever name
    pickles: tuple[str, ...]  # the other official form: a folder and its archive
    telling_pickle: str

    @property
    def batches(self) -> dict[str, tuple[str, ...]]:
        """The batch files of each part."""
        return {"train": self.train, "test": self.test}

    @property
    def record(self) -> int:
        """Bytes per record."""
        return len(self.labels) + _PIXELS


LAYOUTS = {
    "cifar10": Layout(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        labels=("label",),
        names=("batches.meta.txt",),
        telling="data_batch_1.bin",
        pickles=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        telling_pickle="data_batch_1",
    ),
    "cifar100": Layout(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        labels=("coarse_label", "label"),
        names=("coarse_label_names.txt", "fine_label_names.txt"),
        telling="fine_label_names.txt",
        pickles=("cifar-100-python", "cifar-100-python.tar.gz"),
        telling_pickle="train",
    ),
}


def find_archive(folder: Path, spec: DatasetSpec) -> Path | None:
    """The archive in `folder`."""
    layout = LAYOUTS.get(spec.stored_as)
    return folder / layout.archive if layout and (folder / layout.archive).is_file() else None


def find_folder(folder: Path, spec: DatasetSpec) -> Path | None:
    """The unpacked archive: a subfolder of `folder`, or `folder` itself."""
    if layout := LAYOUTS.get(spec.stored_as):
        for path in (folder / layout.folder, folder):
            telling = layout.train[0] if path.name == layout.folder else layout.telling
            if (path / telling).is_file():
                return path
    return None


def find_pickles(folder: Path, spec: DatasetSpec) -> Path | None:
    """The pickled batches of `spec` in `folder`, or `folder` itself: they are never read."""
    if layout := LAYOUTS.get(spec.stored_as):
        for name in layout.pickles:
            if (folder / name).exists():
                return folder / name
        names = (layout.telling_pickle, f"{layout.telling_pickle}.pkl")
        if folder.name in layout.pickles and any((folder / name).is_file() for name in names):
            return folder
    return None


def files(path: Path) -> list[Path]:
    """The files of the unpacked archive in the folder `path`."""
    names = [name for layout in LAYOUTS.values() for name in layout.train + layout.test]
    names += [name for layout in LAYOUTS.values() for name in layout.names]
    return [path / name for name in names if (path / name).is_file()]


def count_archive(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of examples: those of `spec`, for counting needs the whole archive unpacked."""
    with _opened(path, spec) as (_, archive):
        archive.next()
    return spec.train_examples, spec.test_examples


def checksums_of_folder(path: Path, spec: DatasetSpec, wanted: Collection[str]) -> dict[str, int]:
    """The CRC-32 of `wanted` labels; of a folder that `count_folder` has looked at."""
    parts = {key: key.removesuffix("_labels") for key in wanted if key.endswith("_labels")}
    return {key: label_checksum(_labels(path, spec, part)) for key, part in parts.items()}


def train_labels(path: Path, spec: DatasetSpec) -> np.ndarray:
    """The labels [N] of the training examples of a folder; reads no image."""
    return _labels(path, spec, "train")


def _labels(path: Path, spec: DatasetSpec, part: str) -> np.ndarray:
    layout = LAYOUTS[spec.stored_as]
    column = layout.labels.index("label")
    with reading(spec, path):
        rows = [
            np.memmap(path / name, np.uint8, "r").reshape(-1, layout.record)
            for name in layout.batches[part]
        ]
        return np.concatenate([r[:, column] for r in rows])


def count_folder(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the sizes of the files."""
    counts = []
    for names in LAYOUTS[spec.stored_as].batches.values():
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise corrupt(spec, path, f"{', '.join(missing)} is missing")
        sizes = {name: (path / name).stat().st_size for name in names}
        counts.append(sum(_records(spec, path / name, size) for name, size in sizes.items()))
    parts = zip(LAYOUTS[spec.stored_as].batches, counts, strict=True)
    return tuple(checked_count(spec, part, count, path) for part, count in parts)


def read_archive(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Split, Split]:
    """Reads (train, test) from the packed archive."""
    contents = _contents(path, spec)
    return contents.train, contents.test


def read_contents(folder: Path, spec: DatasetSpec) -> Contents:
    """Reads all that the packed archive in `folder` holds."""
    return _contents(folder / LAYOUTS[spec.stored_as].archive, spec)


def _contents(path: Path, spec: DatasetSpec) -> Contents:
    layout = LAYOUTS[spec.stored_as]
    members = _read_members(path, spec, {*layout.train, *layout.test, *layout.names})
    train, test = _splits(spec, path, members)
    texts = (members.get(name, b"").decode(errors="replace") for name in layout.names)
    label_names = dict(zip(layout.labels, (text.split() for text in texts), strict=True))
    coarse = {}
    if "coarse_label" in layout.labels:
        column = layout.labels.index("coarse_label")
        for part, names in layout.batches.items():
            coarse[part] = _rows(layout, names, members)[:, column].copy()
    return Contents(train, test, label_names, coarse)


def read_folder(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Split, Split]:
    """Reads (train, test) from the unpacked archive."""
    count_folder(path, spec)
    layout = LAYOUTS[spec.stored_as]
    with reading(spec, path):
        members = {name: (path / name).read_bytes() for name in layout.train + layout.test}
    return _splits(spec, path, members)


def _read_members(path: Path, spec: DatasetSpec, wanted: set[str]) -> dict[str, bytes]:
    """The contents of the regular files of a `.tar.gz` whose last name is in `wanted`."""
    members: dict[str, bytes] = {}
    layout = LAYOUTS[spec.stored_as]
    most = {name: _MOST_TEXT for name in layout.names}
    with _opened(path, spec) as (unzipped, archive):
        for number, member in enumerate(archive):
            name = member.name.rsplit("/", 1)[-1]
            if number == _MOST_MEMBERS:
                raise corrupt(spec, path, f"it has more than {_MOST_MEMBERS} members")
            if member.isfile() and name in wanted:
                if member.size > most.get(name, spec.most_examples * layout.record):
                    raise corrupt(spec, path, f"{name} promises {member.size:,} bytes")
                members[name] = archive.extractfile(member).read()
        while unzipped.read(_BLOCK):  # to the very end, where gzip compares the checksum
            pass
    return members


@contextmanager
def _opened(path: Path, spec: DatasetSpec) -> Iterator[tuple[Bounded, tarfile.TarFile]]:
    """The unpacked bytes of a `.tar.gz`, and the archive that they are."""
    most = 2 * spec.most_examples * LAYOUTS[spec.stored_as].record
    with reading(spec, path), gzip.open(path) as unzipped:
        bounded = Bounded(unzipped, most)
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            yield bounded, archive


def _splits(spec: DatasetSpec, path: Path, members: dict[str, bytes]) -> tuple[Split, Split]:
    layout = LAYOUTS[spec.stored_as]
    column, parts = layout.labels.index("label"), []
    for part, names in layout.batches.items():
        missing = [name for name in names if name not in members]
        if missing:
            raise corrupt(spec, path, f"{', '.join(missing)} is missing")
        for name in names:
            _records(spec, f"{path}/{name}", len(members[name]))
        rows = _rows(layout, names, members)
        images = rows[:, len(layout.labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(images)
        parts.append(checked_split(spec, part, images, rows[:, column], str(path)))
    return parts[0], parts[1]


def _rows(layout: Layout, names: tuple[str, ...], members: dict[str, bytes]) -> np.ndarray:
    """The records of the files `names`: uint8 [N, bytes per record]."""
    data = np.frombuffer(b"".join(members[name] for name in names), np.uint8)
    return data.reshape(-1, layout.record)


def _records(spec: DatasetSpec, origin: object, size: int) -> int:
    record = LAYOUTS[spec.stored_as].record
    count, rest = divmod(size, record)
    if rest or not count:
        raise corrupt(spec, origin, f"its {size} bytes are no multiple of {record} (one record)")
    return count
