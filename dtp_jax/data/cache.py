"""Decoded images kept on disk, so that JPEG and PNG files are decoded once per machine.

An entry is a folder of `.npy` files and a `meta.json` with their checksums, named by a
fingerprint of the source files (path, sizes, modification times), of the decoder and of this
format. It is written piece by piece beside its place and renamed, and read through memory maps:
neither ever holds a data set in memory. A cache that cannot be written is done without, one that
cannot be read is rebuilt; both leave a line in the log.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from dtp_jax.data.spec import Blocks, Split

_FORMAT = 1  # to be raised whenever the meaning of an entry changes
_PARTS = ("train", "test")
_BLOCK = 1 << 24  # bytes
_STALE = 24 * 3600  # seconds after which another run's unfinished entry is rubbish

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$DTP_JAX_CACHE`, else `$XDG_CACHE_HOME/dtp_jax`, else `~/.cache/dtp_jax`."""
    if chosen := os.environ.get("DTP_JAX_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dtp_jax"


def entry_name(dataset: str, path: Path, files: Iterable[Path]) -> str:
    """The name of the entry for `dataset` decoded from `files`, which lie at or below `path`."""
    place = str(path.resolve())
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files)]
    identity = json.dumps([_FORMAT, _decoder(), place, stamps])
    return f"{dataset}-{_digest(place, 8)}-{_digest(identity, 16)}"


def load(name: str) -> tuple[Split, Split] | None:
    """The (train, test) of an entry, memory-mapped; None where there is no intact one.

    The checksums are compared by reading the files once, about a second per GB.
    """
    folder = cache_folder() / name
    if not folder.exists():
        return None
    try:
        checksums = json.loads((folder / "meta.json").read_text())
        splits = [Split(*(_map(folder, key, checksums) for key in _keys(part))) for part in _PARTS]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        logger.warning("cache entry %s is damaged (%s): decoding again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return splits[0], splits[1]


def store(name: str, read: Callable[[], tuple[Blocks, Blocks]]) -> bool:
    """Writes an entry and removes older ones of the same source.

    `read` gives the pieces of (train, test); it is called when the files of the entry are open,
    and no more than one piece is held at a time. Returns whether the entry is there; never raises
    OSError.
    """
    root, temporary = cache_folder(), None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        temporary = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=root))
        _write(temporary, read)
        temporary.rename(root / name)
        for entry in root.glob(f"{name.rpartition('-')[0]}-*"):
            if entry.name != name:
                shutil.rmtree(entry, ignore_errors=True)
    except OSError as error:
        if not (root / name).is_dir():  # which another run may just have put there
            logger.info("decoded images are not cached in %s: %s", root, error)
            return False
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


class _ArrayFile:
    """A `.npy` file that is written piece by piece."""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self.checksum = 0
        self.shape: tuple[int, ...] = (0,)

    def append(self, array: np.ndarray) -> None:
        if not self.file.tell():
            self.dtype, self.shape = array.dtype, (0, *array.shape[1:])
            self._write_header()
        data = np.ascontiguousarray(array).data.cast("B")
        self.file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)
        self.shape = (self.shape[0] + len(array), *self.shape[1:])

    def close(self) -> None:
        self.file.seek(0)
        self._write_header()  # of the same size: numpy leaves room for a longer first axis
        self.file.close()

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, header)


def _write(folder: Path, read: Callable[[], tuple[Blocks, Blocks]]) -> None:
    files = {key: _ArrayFile(folder / f"{key}.npy") for part in _PARTS for key in _keys(part)}
    try:
        for part, blocks in zip(_PARTS, read(), strict=True):
            for block in blocks:
                for key, array in zip(_keys(part), block, strict=True):
                    files[key].append(array)
        for file in files.values():
            file.close()
    finally:
        for file in files.values():
            file.file.close()
    checksums = {key: file.checksum for key, file in files.items()}
    (folder / "meta.json").write_text(json.dumps(checksums))


def _map(folder: Path, key: str, checksums: dict[str, int]) -> np.ndarray:
    path = folder / f"{key}.npy"
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    checksum = 0
    with path.open("rb") as file:  # not through the map, whose pages would count as ours
        file.seek(array.offset)
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    if checksums[key] != checksum:
        raise ValueError(f"{key} does not have its checksum")
    return array


def _keys(part: str) -> tuple[str, str]:
    return f"{part}_images", f"{part}_labels"


def _remove_stale(root: Path) -> None:
    for leftover in root.glob(".incomplete-*"):
        if time.time() - leftover.stat().st_mtime > _STALE:
            shutil.rmtree(leftover, ignore_errors=True)


def _decoder() -> str:
    try:
        return f"pillow {version('pillow')}"
    except PackageNotFoundError:
        return "pillow"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
