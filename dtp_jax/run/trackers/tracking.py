"""All trackers of a run: one that fails is left out, and the run goes on."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dtp_jax.fields import first_line
from dtp_jax.parallel import processes
from dtp_jax.run.files import DiskError
from dtp_jax.run.trackers.tracker import TrackedRun, Tracker, TrackerError


class Tracking:
    """A context, from the start of a run to its end.

    Of several processes, only the first one tracks. Every tracker has copies of its own, so that it cannot
    change what the run works with.
    """

    def __init__(
        self,
        factories: Mapping[str, Callable[[], Tracker]],
        run: TrackedRun,
    ):
        """`factories`: by name, those that the config asks for."""
        self._factories = dict(factories) if processes.is_first() else {}
        self._run, self._warn = run, run.warn
        self._trackers: dict[str, Tracker] = {}
        self._summary: Mapping[str, Any] | None = None

    def __enter__(self) -> "Tracking":
        for name, factory in self._factories.items():
            run = self._run._replace(config=copy.deepcopy(self._run.config))
            self._try(name, self._start, name, factory, run)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, DiskError):  # the same disk: why the run ends says it all
            self._warn = lambda text: None
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.end, copy.deepcopy(self._summary))

    def write(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.write, copy.deepcopy(row))

    def picture(self, file: Path, step: int) -> None:
        """A picture that has been drawn."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.picture, file, step)

    def flush(self) -> None:
        """After a checkpoint."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.flush)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """What the trackers are told in the end: the run has come to its own."""
        self._summary = summary

    def _start(self, name: str, factory: Callable[[], Tracker], run: TrackedRun) -> None:
        tracker = factory()
        tracker.start(run)
        self._trackers[name] = tracker

    def _try(self, name: str, method: Callable[..., None], *given: Any) -> None:
        """Calls a method; where it fails there is one warning, and the tracker is called no more."""
        try:
            method(*given)
        except (Exception, SystemExit) as error:  # of any kind: libraries, networks, users
            self._trackers.pop(name, None)
            is_said = isinstance(error, TrackerError)
            reason = (
                first_line(error) if is_said else f"{type(error).__name__}: {first_line(error)}"
            )
            self._warn(f"the tracker {name} fails, and the run goes on without it: {reason}")
