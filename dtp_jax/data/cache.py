"""Decoded images kept on disk, so that JPEG and PNG files are decoded once per machine.

An entry is a folder of `.npy` files and a `meta.json` with their checksums, named by a
fingerprint of the source files (path, sizes, modification times), of the decoder and of this
format. It is written beside its place and renamed. A cache that cannot be written is done
without, one that cannot be read is rebuilt; both leave a line in the log.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from dtp_jax.data.spec import Split

_FORMAT = 1  # to be raised whenever the meaning of an entry changes
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

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
    """The (train, test) of an entry, memory-mapped; None where there is no intact one."""
    folder = cache_folder() / name
    if not folder.exists():
        return None
    try:
        checksums = json.loads((folder / "meta.json").read_text())
        arrays = []
        for key in _ARRAYS:
            array = np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            if checksums[key] != _checksum(array):
                raise ValueError(f"{key} does not have its checksum")
            arrays.append(array)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        logger.warning("cache entry %s is damaged (%s): decoding again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return Split(*arrays[:2]), Split(*arrays[2:])


def store(name: str, train: Split, test: Split) -> None:
    """Writes an entry and removes older ones of the same source; never raises OSError."""
    root, temporary = cache_folder(), None
    arrays = dict(zip(_ARRAYS, (*train, *test), strict=True))
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=root))
        for key, array in arrays.items():
            np.save(temporary / f"{key}.npy", array, allow_pickle=False)
        checksums = {key: _checksum(array) for key, array in arrays.items()}
        (temporary / "meta.json").write_text(json.dumps(checksums))
        temporary.rename(root / name)
        for entry in root.glob(f"{name.rpartition('-')[0]}-*"):
            if entry.name != name:
                shutil.rmtree(entry, ignore_errors=True)
    except OSError as error:
        logger.info("decoded images are not cached in %s: %s", root, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _decoder() -> str:
    try:
        return f"pillow {version('pillow')}"
    except PackageNotFoundError:
        return "pillow"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B"))
