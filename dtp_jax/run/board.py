"""TensorBoard: what metrics.jsonl holds, under the same names."""

import contextlib
import errno
import json
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 120.0
"""Between two writes to the disk at most, so that who looks on sees something new."""


class NoBoard:
    """TensorBoard of the processes that write no files."""

    def config(self, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class Board:
    """TensorBoard, fed with the rows of metrics.jsonl.

    A disk that refuses its files is no reason to stop: there is one warning, and the run goes on without
    them. So that it is heard of, this thread writes them; a thread of the library's would die, and what
    waits for it with it.
    """

    def __init__(self, folder: Path, step: int, warn: Callable[[str], None]):
        """Opens a new file in `folder`; what older ones hold after `step` counts no more.

        Args:
          warn: is told once where the disk refuses.
        """
        self._folder, self._step, self._warn, self._records = folder, step, warn, None
        self._flushed = time.monotonic()
        with self._or_without():
            self._open()

    def config(self, config: Mapping[str, Any]) -> None:
        """The config as a table among the texts, at the step from which on it holds."""
        from tensorboardX.summary import text

        lines = ["| field | value |", "| --- | --- |"]
        for name, value in config.items():
            cell = json.dumps(value).replace("|", "\\|")
            lines.append(f"| {name} | `{cell}` |")
        self._add(step=self._step, summary=text("config", "\n".join(lines)))

    def write(self, row: Mapping[str, Any]) -> None:
        """Every finite number of the row, under SPLIT/KEY, at its step."""
        from tensorboardX.summary import scalar

        for key, value in row.items():
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if is_number and math.isfinite(value) and key not in ("step", "epoch"):
                self._add(step=row["step"], summary=scalar(f"{row['split']}/{key}", value))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts into the file what there is: a killed run lacks little then."""
        self._flushed = time.monotonic()
        with self._or_without():
            if self._records is not None:
                self._records.flush()
                if not self._path.exists():
                    raise FileNotFoundError(errno.ENOENT, "it has been removed")

    def fall_silent(self) -> None:
        """From here on, nothing is said of a disk that refuses."""
        self._warn = lambda text: None

    def close(self) -> None:
        """Ends the file."""
        self.flush()
        with self._or_without():
            self._let_go()

    def _open(self) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        has_older = any(self._folder.glob("*tfevents*"))
        # The step: writers of the same second would take the same file.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{self._step}"
        # Absolute: the library takes gs:NAME for a place in a cloud.
        self._path = self._folder.absolute() / name
        self._records = RecordWriter(str(self._path))
        self._add(file_version="brain.Event:2")
        if has_older:
            # TensorBoard drops what it has from this step on. Step 0 is before everything.
            first = self._step + 1 if self._step else 0
            self._add(step=first, session_log=SessionLog(status=SessionLog.START))

    def _add(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._records is not None:
            with self._or_without():
                event = Event(wall_time=time.time(), **content)
                self._records.write(event.SerializeToString())

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # it is refused what it still holds
                self._let_go()
            self._warn(
                f"TensorBoard's files cannot be written to {self._folder} "
                f"({error.strerror or error}); the run goes on without them"
            )

    def _let_go(self) -> None:
        records, self._records = self._records, None
        if records is not None:
            records.close()
