"""The folder of a figure: results of jobs, each in a file of its own, and who computes what at the moment."""

import contextlib
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
from dtp_jax.run.config import BOOKKEEPING
from dtp_jax.run.files import WorkdirError, read_object, replace_text, replacing
from dtp_jax.run.formats import BEFORE
from dtp_jax.run.locks import alone, claimed
from dtp_jax.run.provenance import now

PROTOCOL = "protocol.json"
ORIGIN = "origin"
"""The array of a job that says in JSON where it comes from."""


class Store:
    """Finished jobs as <name>.npz (all arrays) and <name>.csv (what a spreadsheet takes), unfinished ones
    as <name>.part.npz. Every file is written whole: a job that is stopped has lost nothing else."""

    def __init__(self, folder: Path, origin: Mapping[str, Any] | None = None):
        """Args:
        origin: commit, host and so on, of what will be computed here; each job keeps it, with its date.
        """
        self.folder, self.jobs = folder, folder / "jobs"
        self._origin = origin
        self._sound: dict[str, tuple[int, ...]] = {}
        """What the files were, by job, when they could be read: none is read again as long as it is the same."""

    def open(self, protocol: Protocol) -> None:
        """Makes the folder, or checks that its jobs of these rules and networks are of this protocol.

        Jobs of others may lie there, and more may come.

        Raises:
          WorkdirError: one line; they are of another one, or the folder cannot be written to.
        """
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
            with alone(self.jobs / "protocol.lock"):
                found = self.check(protocol)
                written = protocol.written()
                written["configs"] = {**found.get("configs", {}), **written["configs"]}
                if written != found:
                    replace_text(self.folder / PROTOCOL, json.dumps(written, indent=2) + "\n")
        except OSError as error:
            raise WorkdirError(
                f"--workdir is {str(self.folder)!r}: {error.strerror}; allowed: a folder that can be "
                "written to"
            ) from error

    def check(self, protocol: Protocol) -> dict[str, Any]:
        """Reads protocol.json; {} where there is none.

        Raises:
          WorkdirError: one line; jobs that lie there were computed with other settings than these.
        """
        found, wanted = read_object(self.folder / PROTOCOL) or {}, protocol.written()
        kept = found.get("configs")
        if not isinstance(kept, dict) or not all(isinstance(one, dict) for one in kept.values()):
            if any(self.jobs.glob("*.npz")):
                raise WorkdirError(
                    f"--workdir is {str(self.folder)!r}, whose {PROTOCOL} cannot be read, so that nobody "
                    "knows of what its jobs are; allowed: another folder"
                )
            return {}
        pairs = [pair for pair in wanted["configs"] if pair in kept]
        before = {"figure": found.get("figure", protocol.figure)}
        before |= {pair: {**_BEFORE, **kept[pair]} for pair in pairs}
        these = {"figure": protocol.figure} | {pair: wanted["configs"][pair] for pair in pairs}
        if before != these:
            raise WorkdirError(
                f"--workdir is {str(self.folder)!r}, whose jobs are of {_difference(before, these)}; "
                "allowed: the same, or another folder"
            )
        return found

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
        origin = (
            {} if self._origin is None else {ORIGIN: json.dumps({**self._origin, "date": now()})}
        )
        self._write(self._file(name), {**arrays, **origin})
        self._file(name, part=True).unlink(missing_ok=True)

    def origin(self, name: str) -> dict[str, Any] | None:
        """Where a finished job comes from; None where it does not say so."""
        found = self.load(name) or {}
        with contextlib.suppress(ValueError):
            return json.loads(str(found[ORIGIN])) if ORIGIN in found else None
        return None

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


_BEFORE = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in BEFORE.items()
    if name not in BOOKKEEPING
}
"""What a field that protocol.json lacks was computed with, as JSON has it: it came later."""


def _difference(found: Any, wanted: Any, path: str = "") -> str:
    """Where two protocols differ first, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(k for k in wanted if k not in found)]:
            if found.get(key) != wanted.get(key):
                return _difference(found.get(key), wanted.get(key), f"{path} {key}".strip())
    return f"{path} {found!r}, not {wanted!r}"
