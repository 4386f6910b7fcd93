"""CIFAR-10's binary archive, packed (`cifar-10-binary.tar.gz`) or not (`cifar-10-batches-bin/`).

Each batch file is a sequence of records of 1 + 3,072 bytes: the label, then the image by channel,
row and column. The batches in order give the original order. The archive is read member by
member in memory: nothing is extracted, so no path in it can lead anywhere.
"""

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np

from dtp_jax.data.spec import DatasetSpec, Progress, Split, checked_split, corrupt

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
LABEL_NAMES = "batches.meta.txt"
_BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORD = 1 + 3 * 32 * 32  # bytes
_BLOCK = 1 << 20  # bytes


def find_archive(folder: Path, spec: DatasetSpec) -> Path | None:
    """The archive in `folder`."""
    path = folder / ARCHIVE
    return path if spec.stored_as == "cifar10" and path.is_file() else None


def find_folder(folder: Path, spec: DatasetSpec) -> Path | None:
    """The unpacked archive: a subfolder of `folder`, or `folder` itself."""
    if spec.stored_as == "cifar10":
        for path in (folder / FOLDER, folder):
            if (path / _BATCHES["train"][0]).is_file():
                return path
    return None


def count_archive(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of examples: those of `spec`, for counting needs the whole archive unpacked."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            archive.next()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise corrupt(spec, path, error) from error
    return spec.train_examples, spec.test_examples


def count_folder(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the sizes of the files."""
    counts = []
    for names in _BATCHES.values():
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise corrupt(spec, path, f"{', '.join(missing)} is missing")
        sizes = {name: (path / name).stat().st_size for name in names}
        counts.append(sum(_records(spec, path / name, size) for name, size in sizes.items()))
    return counts[0], counts[1]


def read_archive(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Split, Split]:
    """Reads (train, test) from the packed archive."""
    wanted = {name for names in _BATCHES.values() for name in names}
    return _splits(spec, path, read_members(path, spec, wanted))


def read_folder(
    path: Path, spec: DatasetSpec, progress: Progress | None = None
) -> tuple[Split, Split]:
    """Reads (train, test) from the unpacked archive."""
    count_folder(path, spec)
    try:
        members = {n: (path / n).read_bytes() for names in _BATCHES.values() for n in names}
    except OSError as error:
        raise corrupt(spec, path, error) from error
    return _splits(spec, path, members)


def read_members(path: Path, spec: DatasetSpec, wanted: set[str]) -> dict[str, bytes]:
    """The contents of the regular files of a `.tar.gz` whose last name is in `wanted`."""
    members: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unzipped:
            with tarfile.open(fileobj=unzipped, mode="r:") as archive:
                for member in archive:
                    name = member.name.rsplit("/", 1)[-1]
                    if member.isfile() and name in wanted:
                        members[name] = archive.extractfile(member).read()
            while unzipped.read(_BLOCK):  # to the very end, where gzip compares the checksum
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise corrupt(spec, path, error) from error
    return members


def _splits(spec: DatasetSpec, path: Path, members: dict[str, bytes]) -> tuple[Split, Split]:
    parts = []
    for part, names in _BATCHES.items():
        missing = [name for name in names if name not in members]
        if missing:
            raise corrupt(spec, path, f"{', '.join(missing)} is missing")
        for name in names:
            _records(spec, f"{path}/{name}", len(members[name]))
        data = np.frombuffer(b"".join(members[name] for name in names), np.uint8)
        records = data.reshape(-1, _RECORD)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(images)
        parts.append(checked_split(spec, part, images, records[:, 0], str(path)))
    return parts[0], parts[1]


def _records(spec: DatasetSpec, origin: object, size: int) -> int:
    count, rest = divmod(size, _RECORD)
    if rest or not count:
        raise corrupt(spec, origin, f"its {size} bytes are no multiple of {_RECORD} (one record)")
    return count
