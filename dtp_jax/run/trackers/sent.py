"""What a service has been sent of a run: so a run that goes on is the same run there, with every step once."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dtp_jax.run.files import read_object
from dtp_jax.run.trackers.tracker import TrackedRun

LENGTH = 200
"""Bytes of the file, always: one write replaces them."""


class Sent:
    """The id of a run at a service, and the last step that it has whole; in WORKDIR/trackers/NAME.json."""

    def __init__(self, run: TrackedRun, name: str):
        """Reads the file, where there is one."""
        self._run, self._file = run, run.workdir / "trackers" / f"{name}.json"
        origin = (read_object(run.workdir / "config.json") or {}).get("provenance") or {}
        self._since = origin.get("date")
        """When the run began: another one that was in the folder is another one there too."""
        found = read_object(self._file) or {}
        known = isinstance(found.get("id"), str) and isinstance(found.get("step"), int)
        known = known and found.get("since") == self._since
        self.id: str = found["id"] if known else ""
        """"" where the service does not know the run yet."""
        self.step: int = found["step"] if known else -1
        """Up to this one, it has everything."""
        self._descriptor: int | None = None

    def begin(self, id: str) -> None:
        """The service knows the run by this id; by another one than before, it has nothing of it."""
        if id != self.id:
            self.id, self.step = id, -1
        self._file.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        self.complete(self.step)

    def complete(self, step: int) -> None:
        """The service has everything up to this step."""
        self.step = max(step, self.step)
        content = {"id": self.id, "step": self.step, "since": self._since}
        os.pwrite(self._descriptor, (json.dumps(content).ljust(LENGTH - 1) + "\n").encode(), 0)

    def has(self, step: int) -> bool:
        """Whether what comes for this step has been sent before: it is of a step that comes again."""
        return step < self.step or step == self.step > self._run.step

    def missed(self) -> Iterator[Mapping[str, Any]]:
        """The rows of metrics.jsonl up to where the run goes on that have not been sent."""
        file = Path(self._run.workdir, "metrics.jsonl")
        for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
            row = json.loads(line)
            if self.step < row["step"] <= self._run.step:
                yield row

    def close(self) -> None:
        """Ends with the run."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
