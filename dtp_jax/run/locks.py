"""Locks of the operating system, as far as it and the file system have them.

A lock goes with the process that holds it, however that ends. It is that of everybody who has inherited the open
file, too: a program that outlives the one which started it keeps what it works on.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def claimed(file: Path) -> Iterator[IO[str] | None]:
    """Yields the open file whose lock says that something is this process's own; None: another one has it.

    Where there are no locks everybody has it: what is done twice is better than what nobody does.
    """
    with file.open("a") as opened:
        yield None if try_lock(opened) is False else opened


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """A context that no other process is in; waits for it, where there are locks."""
    with file.open("a") as opened:
        with contextlib.suppress(OSError, AttributeError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def try_lock(opened: IO[str] | int, *, shared: bool = False) -> bool | None:
    """Takes the lock of an open file, without waiting.

    Args:
      shared: others may have it, as long as nobody has it alone.

    Returns:
      Whether this process has it now; None where there are no locks.
    """
    try:
        fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None
