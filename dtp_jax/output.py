"""Output that is never a reason to stop: what cannot be written is left out.

A terminal is closed, the reader of a pipe gone, the disk of a log full, an encoding without the letter:
the work goes on. Every write is tried, for a disk that was full may have room again.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

STAND_INS = {"…": "~", "°": " deg", "±": "+-", "\N{NO-BREAK SPACE}": " "}
"""For signs that an encoding lacks; other characters are spelt as Python spells them: caf\\xe9."""


class Output:
    """A stream of text that never raises.

    Of a file, pipe or terminal nothing is buffered here: Python would try once more to write what it
    holds when it ends, and make an error of that.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream has been closed
            encoding, errors = (
                getattr(self._stream, name, None) for name in ("encoding", "errors")
            )
            self._write(writable(text, encoding or "utf-8", errors or "strict"))
        return len(text)

    def flush(self) -> None:
        """Passes on what others have left in the stream's buffer."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether this is a terminal, and still there."""
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _write(self, text: str) -> None:
        raw = getattr(getattr(self._stream, "buffer", None), "raw", None)
        if type(self._stream) is not io.TextIOWrapper or not isinstance(raw, io.FileIO):
            self._stream.write(text)  # in memory, or a notebook's
            return
        self._stream.flush()
        left = text.encode(self._stream.encoding, self._stream.errors)
        while left:
            left = left[os.write(raw.fileno(), left) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady(stream: TextIO | None) -> Output:
    """The stream as one that never raises; None, as Python has it for a closed one, is written nowhere."""
    if isinstance(stream, Output):
        return stream
    return Output(open(os.devnull, "w", encoding="utf-8") if stream is None else stream)


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """A context, also a decorator, in which stdout and stderr never raise, whoever prints."""
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(steady, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def writable(text: str, encoding: str, errors: str = "strict") -> str:
    """The text as far as it can be encoded, with something readable in the place of the rest."""
    if _can(text, encoding, errors):
        return text
    signs = (c if _can(c, encoding, errors) else STAND_INS.get(c, c) for c in text)
    return "".join(signs).encode(encoding, "backslashreplace").decode(encoding)


def _can(text: str, encoding: str, errors: str) -> bool:
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


def _fill_descriptors() -> None:
    """Opens stdin, stdout and stderr where they are closed: the next file would take their place.

    What a library writes to stderr would be written into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
