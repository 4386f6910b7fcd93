"""Decoded images kept on disk, so that JPEG and PNG files are decoded once per machine.

An entry is a folder of `.npy` files and a `meta.json` with their checksums, named by a
fingerprint of the source files (path, sizes, modification times), of the decoder and of this
format. It is written piece by piece beside its place and renamed, and read through memory maps:
neither ever holds a data set in memory. Every byte of every file is checked before one is
believed. A cache that cannot be written is done without, and so is one that is damaged and cannot
be removed; one that is damaged is rebuilt. All of it leaves a line in the log.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from dtp_jax import broken, fields
from dtp_jax.data.spec import Blocks, Split

_FORMAT = 2  # to be raised whenever the meaning of an entry changes
_PARTS = ("train", "test")
_BLOCK = 1 << 24  # bytes
_PREFIX = 10  # bytes of a `.npy` file; the last two say how many the rest of the header has
_STALE = 24 * 3600  # seconds after which another run's unfinished entry is rubbish

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$DTP_JAX_CACHE`, else `$XDG_CACHE_HOME/dtp_jax`, else `~/.cache/dtp_jax`.

    Raises OSError where that is no place on this machine: the user's home may be unknown.
    """
    chosen = os.environ.get("DTP_JAX_CACHE")
    try:
        if chosen:
            return fields.local_path("$DTP_JAX_CACHE", chosen)
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return fields.local_path("the cache of decoded images", base) / "dtp_jax"
    except ValueError as error:
        raise OSError(str(error)) from error


def entry_name(dataset: str, path: Path, files: Iterable[Path]) -> str:
    """The name of the entry for `dataset` decoded from `files`, which lie at or below `path`.

    Raises OSError where one of them cannot be looked at.
    """
    place = os.path.realpath(path)  # of a link to itself, `Path.resolve` makes a RuntimeError
    stamps = sorted((os.path.realpath(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    identity = json.dumps([_FORMAT, _decoder(), place, stamps])
    return f"{dataset}-{_digest(place, 8)}-{_digest(identity, 16)}"


def load(
    name: str, shape: tuple[int, ...] | None = None, counts: tuple[int, int] | None = None
) -> tuple[Split, Split] | None:
    """The (train, test) of an entry, memory-mapped; None where there is no intact one.

    The checksums are compared by reading the files once, about a second per GB. A damaged entry
    is removed, if that can be; one that cannot be read at the moment stays.

    Args:
      shape: of an image. counts: of the examples of train and test. What is known of the source.
    """
    if not exists(name):
        return None
    folder = cache_folder() / name
    try:
        with broken.reading(ValueError):
            return _intact(folder, shape, counts)
    except ValueError as problem:
        if _may_pass(problem.__cause__):
            logger.warning(
                "the cache entry %s cannot be read now (%s): decoding without it", folder, problem
            )
            return None
        _remove(folder)
        left = ", and cannot be removed" if exists(name) else ""
        logger.warning(
            "the cache entry %s is damaged%s (%s): decoding again", folder, left, problem
        )
    return None


def _may_pass(cause: BaseException | None) -> bool:
    """Whether it says nothing of the entry itself: memory, open files, a share that is away, rights."""
    is_about_it = isinstance(cause, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
    return isinstance(cause, (OSError, MemoryError)) and not is_about_it


def exists(name: str) -> bool:
    """Whether there is an entry, intact or not."""
    try:
        return os.path.lexists(cache_folder() / name)
    except OSError:
        return False


def store(name: str, read: Callable[[], tuple[Blocks, Blocks]]) -> bool:
    """Writes an entry and removes older ones of the same source.

    `read` gives the pieces of (train, test); it is called when the files of the entry are open,
    and no more than one piece is held at a time. Returns whether the entry is there; never raises
    OSError.
    """
    root, temporary = None, None
    try:
        root = cache_folder()
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        temporary = root / f".incomplete-{secrets.token_hex(8)}"
        temporary.mkdir()  # with the rights that the user's umask gives: others may share the cache
        _write(temporary, read)
        temporary.rename(root / name)
        for entry in root.glob(f"{name.rpartition('-')[0]}-*"):
            if entry.name != name:
                shutil.rmtree(entry, ignore_errors=True)
    except OSError as error:
        if root is None or not (root / name).is_dir():  # which another run may just have put there
            logger.info("decoded images are not cached: %s", broken.first_line(error))
            return False
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


class _ArrayFile:
    """A `.npy` file that is written piece by piece."""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self.checksum = 0  # of the data and then of the header, which is known last
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
        header = self._write_header()  # of the same size: numpy leaves room for a longer first axis
        self.checksum = zlib.crc32(header, self.checksum)
        self.file.close()

    def _write_header(self) -> bytes:
        descr, content = np.lib.format.dtype_to_descr(self.dtype), io.BytesIO()
        header = {"descr": descr, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(content, header)
        self.file.write(content.getvalue())
        return content.getvalue()


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
    (folder / "meta.json").write_bytes(_meta(checksums))


def _meta(checksums: dict[str, int]) -> bytes:
    """All that `meta.json` holds. It is compared as it stands, so that it needs no checksum."""
    return json.dumps(checksums).encode()


def _intact(
    folder: Path, shape: tuple[int, ...] | None, counts: tuple[int, int] | None
) -> tuple[Split, Split]:
    """The entry, if every byte is the one that was written, and it is what the source holds."""
    keys = [key for part in _PARTS for key in _keys(part)]
    meta = _meta({key: _checksum(folder / f"{key}.npy") for key in keys})
    with (folder / "meta.json").open("rb") as file:
        if file.read(len(meta) + 1) != meta:
            raise ValueError("its files do not have their checksums")
    maps = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in keys}
    splits = tuple(Split(*(maps[key] for key in _keys(part))) for part in _PARTS)
    for split, count in zip(splits, counts or (None, None), strict=True):
        images, labels = split
        wrong = (
            (images.dtype, labels.dtype, labels.ndim) != (np.uint8, np.int32, 1)
            or len(images) != len(labels)
            or (shape is not None and images.shape[1:] != shape)
            or (count is not None and len(labels) != count)
        )
        if wrong:
            raise ValueError(f"images {images.shape}, labels {labels.shape}: not what was decoded")
    return splits


def _checksum(path: Path) -> int:
    """The CRC-32 of the data of a `.npy` file and then of its header."""
    with path.open("rb") as file:  # not through a map, whose pages would count as ours
        start = file.read(_PREFIX)
        header = start + file.read(int.from_bytes(start[-2:], "little"))
        checksum = 0
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return zlib.crc32(header, checksum)


def _remove(folder: Path) -> None:
    """Removes an entry, whatever it is, as far as that is allowed."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.unlink()


def _keys(part: str) -> tuple[str, str]:
    return f"{part}_images", f"{part}_labels"


def _remove_stale(root: Path) -> None:
    for leftover in root.glob(".incomplete-*"):
        with contextlib.suppress(OSError):  # another run removes it at this moment
            if time.time() - leftover.stat().st_mtime > _STALE:
                shutil.rmtree(leftover, ignore_errors=True)


def _decoder() -> str:
    try:
        return f"pillow {version('pillow')}"
    except PackageNotFoundError:
        return "pillow"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
