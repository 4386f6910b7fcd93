"""Files that may be broken: what reading one may raise, and how much of one is read at most.

Every reader of files that others have written goes through here. `reading` turns whatever a broken
file raises into the one line of its reader. The other functions look at what a header promises
before they believe it, so that a small file never takes much memory.
"""

import contextlib
import io
import json
import lzma
import math
import struct
import tarfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

UNREADABLE = (
    ArithmeticError,  # among them OverflowError
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # numpy's, for a shape that no memory holds; Python's, for a header too deep
    OSError,
    RuntimeError,  # among them RecursionError; zipfile's, for encrypted members
    SyntaxError,
    TypeError,
    ValueError,  # among them UnicodeDecodeError and JSONDecodeError
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    tokenize.TokenError,  # numpy's, for some malformed headers
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
)
"""All that the readers of the standard library, numpy and safetensors raise for broken files."""

MOST_JSON = 1 << 26
"""Bytes of a JSON file."""
MOST_HEADER = 10_000
"""Bytes of the header of an array; numpy's own bound."""
MOST_AT_ONCE = 1 << 26
"""Bytes that `Bounded` gives in one piece: tables of contents and headers are far smaller."""
SHOWN = 200
"""Characters of a line, of which a file may have a say."""
_BLOCK = 1 << 24  # bytes


def first_line(error: object) -> str:
    """The first line of what an error says, or its type where it says nothing; of bounded length."""
    match error:
        case KeyError():
            text = f"{error} is missing"
        case json.JSONDecodeError():
            text = f"no JSON: {error}"
        case _:
            text = str(error)
    line = next(iter(text.strip().splitlines()), "") or type(error).__name__
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


@contextlib.contextmanager
def reading(refusal: Callable[[str], Exception]) -> Iterator[None]:
    """Whatever a broken file raises inside becomes `refusal(first line)`. Warnings are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UNREADABLE as error:
        raise refusal(first_line(error)) from error


def json_of(path: Path) -> Any:
    """The content of a JSON file. Raises one of UNREADABLE."""
    with path.open("rb") as file:
        content = file.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise ValueError(f"{path.name} has more than {MOST_JSON:,} bytes")
    return json.loads(content)


class Bounded:
    """A file that gives at most `most` bytes in all, and a bounded number at once."""

    def __init__(self, file: IO[bytes], most: int):
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        """As of any file. Raises ValueError beyond the bounds."""
        if size > MOST_AT_ONCE or size < 0:
            size = MOST_AT_ONCE + 1
        data = self._file.read(size)
        if len(data) > MOST_AT_ONCE or self._file.tell() > self._most:
            raise ValueError(f"it holds more than the {self._most:,} bytes that it may have")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file, and no further than `most`."""
        if whence == 0 and offset > self._most:
            raise ValueError(f"it points beyond the {self._most:,} bytes that it may have")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def seekable(self) -> bool:
        """It is."""
        return True


class Header(NamedTuple):
    """What a `.npy` file promises."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    content: bytes
    """The header itself."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)


def array_header(file: IO[bytes], name: str) -> Header:
    """Reads the header of the `.npy` file just opened. Raises one of UNREADABLE."""
    content = file.read(12)
    readers = {
        b"\x93NUMPY\1\0": (np.lib.format.read_array_header_1_0, 10),
        b"\x93NUMPY\2\0": (np.lib.format.read_array_header_2_0, 12),
    }
    if content[:8] not in readers or len(content) < 12:
        raise ValueError(f"{name} does not begin like an array")
    reader, start = readers[content[:8]]
    length = int.from_bytes(content[8:start], "little")
    if length > MOST_HEADER:
        raise ValueError(f"{name} has a header of {length:,} bytes")
    content += file.read(start + length - len(content))
    shape, by_columns, dtype = reader(io.BytesIO(content[8:]))
    if any(length < 0 for length in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if dtype.hasobject:
        raise ValueError(
            f"{name} holds Python objects, which are never loaded (allow_pickle=False)"
        )
    return Header(shape, by_columns, dtype, content)


def member_header(archive: zipfile.ZipFile, member: str) -> Header:
    """The header of an array of an open `.npz` file. Raises one of UNREADABLE.

    Also where the size of the member is not the one that the header promises.
    """
    with archive.open(member) as file:
        header = array_header(file, member)
    if archive.getinfo(member).file_size != len(header.content) + header.nbytes:
        raise ValueError(
            f"{member} of shape {header.shape} does not have the size its header promises"
        )
    return header


def member_array(archive: zipfile.ZipFile, member: str, most: int) -> np.ndarray:
    """An array of an open `.npz` file, of `most` bytes at most; its checksum is compared.

    Raises one of UNREADABLE.
    """
    header = member_header(archive, member)
    if header.nbytes > most:
        raise ValueError(f"{member} promises {header.nbytes:,} bytes; allowed: {most:,}")
    flat = np.empty(header.nbytes, np.uint8)
    with archive.open(member) as file:
        file.read(len(header.content))
        for start in range(0, header.nbytes, _BLOCK):
            piece = flat[start : start + _BLOCK]
            data = file.read(len(piece))
            if len(data) != len(piece):
                raise EOFError(f"{member} ends early")
            piece[:] = np.frombuffer(data, np.uint8)
        file.read(1)  # there the checksum is compared
    if header.dtype.itemsize == 0:
        return np.empty(header.shape, header.dtype)
    array = flat.view(header.dtype)
    return array.reshape(header.shape, order="F" if header.by_columns else "C")


def npz_arrays(path: Path, most_per_byte: int = 64, always: int = 1 << 28) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file by name. Raises one of UNREADABLE.

    Together they may have `most_per_byte` times the bytes of the file, and `always` in any case:
    numbers that were trained can hardly be compressed.
    """
    most = max(always, most_per_byte * path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        members = dict.fromkeys(n for n in archive.namelist() if n.endswith(".npy"))
        total = sum(member_header(archive, member).nbytes for member in members)
        if total > most:
            raise ValueError(f"its arrays promise {total:,} bytes; allowed: {most:,}")
        return {
            member.removesuffix(".npy"): member_array(archive, member, most) for member in members
        }


def crc_of_rest(head: bytes, whole: int, size: int) -> int:
    """The CRC-32 of the last `size` bytes of something that begins with `head`.

    Args:
      whole: the CRC-32 of all of it, as archives store it: nothing need be read or unpacked.
    """
    # A CRC is affine: what the head adds to that of the rest, it adds to that of zeros too.
    zeros = bytes(size)
    return whole ^ zlib.crc32(zeros, zlib.crc32(head)) ^ zlib.crc32(zeros)
