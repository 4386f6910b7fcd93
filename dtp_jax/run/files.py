"""Small files of JSON, written all at once, and what is said when a disk refuses."""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


class WorkdirError(ValueError):
    """The folder cannot be written to, or belongs to something else. One line, for the user."""


class DiskError(Exception):
    """The disk of a run refuses while it trains. One line, for the user."""


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none that can be read."""
    try:
        if not path.is_file():  # what is no file may never end
            return None
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: a reader finds the old or the new content, also after a power cut."""
    text = json.dumps({k: finite(v) for k, v in content.items()}, indent=2) + "\n"
    replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Gives a file another content, all at once."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of another one at the end, if nothing was raised.

    Processes that do so at the same time do not see each other: the file is that of one of them.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The value; None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A context whose OSError becomes a DiskError that names the folder."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{folder} cannot be written to: {error.strerror or error}") from error
