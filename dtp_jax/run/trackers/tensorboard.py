"""TensorBoard: what metrics.jsonl holds, under the same names; the config; pictures."""

import contextlib
import errno
import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dtp_jax.run.trackers.tracker import TrackedRun, Tracker, TrackerError, name_of, numbers_of

PNG = b"\x89PNG\r\n\x1a\n"
FLUSH_SECONDS = 120.0
"""Between two writes to the disk at most, so that who looks on sees something new."""


class Board(Tracker):
    """Event files in WORKDIR/tensorboard.

    The thread of the run writes them: so it hears of a disk that refuses. A thread of the library's would
    die of it, and what waits for it with it.
    """

    def start(self, run: TrackedRun) -> None:
        """Opens a new file; what older ones hold after `run.step` counts no more."""
        self._folder, self._step, self._records = run.workdir / "tensorboard", run.step, None
        self._flushed = time.monotonic()
        with self._on_disk():
            self._open()
        self._show_config(run.config)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every finite number of the row, under SPLIT/KEY, at its step."""
        from tensorboardX.summary import scalar

        for name, value in numbers_of(row).items():
            self._add(step=row["step"], summary=scalar(name, value))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def picture(self, file: Path, step: int) -> None:
        """The PNG as it is; nothing of a file that is none."""
        from tensorboardX.proto.summary_pb2 import Summary

        content = file.read_bytes()
        if not content.startswith(PNG):
            return
        width, height = struct.unpack(">II", content[16:24])  # of its header
        image = Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=content
        )
        self._add(step=step, summary=Summary(value=[{"tag": name_of(file), "image": image}]))

    def flush(self) -> None:
        """Puts into the file what there is: a killed run lacks little then."""
        self._flushed = time.monotonic()
        with self._on_disk():
            self._records.flush()
            if not self._path.exists():
                raise FileNotFoundError(errno.ENOENT, "it has been removed")

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Ends the file; the summary's numbers are in it."""
        self.flush()
        with self._on_disk():
            self._let_go()

    def _show_config(self, config: Mapping[str, Any]) -> None:
        """The config as a table among the texts, at the step from which on it holds."""
        from tensorboardX.summary import text

        lines = ["| field | value |", "| --- | --- |"]
        for name, value in config.items():
            cell = json.dumps(value).replace("|", "\\|")
            lines.append(f"| {name} | `{cell}` |")
        self._add(step=self._step, summary=text("config", "\n".join(lines)))

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

        with self._on_disk():
            event = Event(wall_time=time.time(), **content)
            self._records.write(event.SerializeToString())

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A context whose OSError is TrackerError, once what was opened is closed."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # it is refused what it still holds
                self._let_go()
            reason = error.strerror or error
            raise TrackerError(
                f"its files cannot be written to {self._folder} ({reason})"
            ) from error

    def _let_go(self) -> None:
        records, self._records = self._records, None
        if records is not None:
            records.close()
