"""The folder of a figure: results of jobs, each in a file of its own, and who computes what at the moment."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from dtp_jax import broken
from dtp_jax.figures.protocol import Protocol
from dtp_jax.run.files import WorkdirError, read_object, replace_text, replacing
from dtp_jax.run.locks import claimed

PROTOCOL = "protocol.json"


class Store:
    """Finished jobs as <name>.npz (all arrays) and <name>.csv (what a spreadsheet takes), unfinished ones
    as <name>.part.npz. Every file is written whole: a job that is stopped has lost nothing else."""

    def __init__(self, folder: Path):
        self.folder, self.jobs = folder, folder / "jobs"
        self._sound: dict[str, tuple[int, ...]] = {}
        """What the files were, by job, when they could be read: none is read again as long as it is the same."""

    def open(self, protocol: Protocol) -> None:
        """Makes the folder, or checks that its jobs are those of this protocol.

        Raises:
          WorkdirError: one line; they are of another one, or the folder cannot be written to.
        """
        file, written = self.folder / PROTOCOL, protocol.written()
        found = read_object(file)
        if found is not None and found != written:
            raise WorkdirError(
                f"--workdir is {str(self.folder)!r}, whose jobs are of {_difference(found, written)}; "
                "allowed: the same, or another folder"
            )
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
            if found is None:
                replace_text(file, json.dumps(written, indent=2) + "\n")
        except OSError as error:
            raise WorkdirError(
                f"--workdir is {str(self.folder)!r}: {error.strerror}; allowed: a folder that can be "
                "written to"
            ) from error

    def has(self, name: str) -> bool:
        """Whether the job is finished: its file is there, and can be read."""
        try:
            found = self._file(name).stat()
        except OSError:
            return False
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._sound.get(name) != seen and self.load(name) is not None:
            self._sound[name] = seen
        return self._sound.get(name) == seen

    def is_damaged(self, name: str) -> bool:
        """Whether the job has a file that cannot be read."""
        return os.path.lexists(self._file(name)) and not self.has(name)

    def load(self, name: str, *, part: bool = False) -> dict[str, np.ndarray] | None:
        """The arrays of a job; None where it is not finished (not begun), or its file is damaged."""
        file = self._file(name, part)
        try:
            return broken.npz_arrays(file)
        except broken.UNREADABLE:
            return None

    def save(
        self, name: str, arrays: Mapping[str, Any], table: Iterable[Iterable[Any]] = ()
    ) -> None:
        """Writes the results of a finished job. `table`: the lines of its CSV, the first with the names."""
        text = io.StringIO()
        csv.writer(text).writerows(table)
        replace_text(self.jobs / f"{name}.csv", text.getvalue())
        self._write(self._file(name), arrays)
        self._file(name, part=True).unlink(missing_ok=True)

    def save_part(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes what there is of an unfinished job."""
        self._write(self._file(name, part=True), arrays)

    def claim(self, name: str) -> AbstractContextManager[IO[str] | None]:
        """Yields something if this process has the job to itself until the end of the context; else None."""
        return claimed(self.jobs / f"{name}.lock")

    def _file(self, name: str, part: bool = False) -> Path:
        return self.jobs / (f"{name}.part.npz" if part else f"{name}.npz")

    def _write(self, file: Path, arrays: Mapping[str, Any]) -> None:
        with replacing(file) as stream:
            np.savez(stream, **arrays)


def _difference(found: Any, wanted: Any, path: str = "") -> str:
    """Where two protocols differ first, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(k for k in wanted if k not in found)]:
            if found.get(key) != wanted.get(key):
                return _difference(found.get(key), wanted.get(key), f"{path} {key}".strip())
    return f"{path} {found!r}, not {wanted!r}"
