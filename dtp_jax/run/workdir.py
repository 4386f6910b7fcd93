"""The folder of a run: config, metrics, checkpoints, summary. Everything that a run leaves behind."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dtp_jax.parallel import processes
from dtp_jax.run.checkpoints import CHECKSUMS, Checkpoints
from dtp_jax.run.config import BOOKKEEPING
from dtp_jax.run.files import WorkdirError, finite, read_object, write_json

NEW, UNFINISHED, FINISHED = "new", "unfinished", "finished"


class Workdir:
    """Paths and files of one run. Nothing is written before `create`.

    Of several processes, only the first one writes; checkpoints are written by all.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self._checkpoints = None
        self._noted: dict[str, Any] | None = None
        """The config that metrics.jsonl has noted last."""

    def read_config(self) -> dict[str, Any] | None:
        """The content of config.json, or None where there is none.

        Raises:
          WorkdirError: it cannot be read.
        """
        try:
            if not self.config_file.exists():
                return None
        except OSError as error:
            raise self._error(error.strerror, "a writable folder") from error
        found = read_object(self.config_file)
        if found is None:
            raise self._error(
                f"its {self.config_file.name} cannot be read",
                "a new folder, or one of a run of this config",
            )
        return found

    def status(self, config: Mapping[str, Any], total_steps: int) -> str:
        """NEW, UNFINISHED or FINISHED (for this many steps). Leaves nothing behind.

        Args:
          config: all fields. More epochs than before are no other config: see `run/extension.py`.

        Raises:
          WorkdirError: the folder cannot be written to, or belongs to another config.
        """
        found = self.read_config()
        if found is None:
            try:
                self._check_new()
            except OSError as error:
                raise self._error(error.strerror, "a writable folder") from error
            return NEW
        for name, wanted in json.loads(json.dumps(config)).items():
            saved = found.get(name, wanted)
            more = name == "epochs" and isinstance(saved, int) and wanted >= saved
            if name not in BOOKKEEPING and saved != wanted and not more:
                raise self._error(
                    f"it belongs to another config: its {name} is {saved!r}, here it is {wanted!r}",
                    "a new folder, or the same config",
                )
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise self._error("it cannot be written to", "a writable folder")
        summary = self.read_summary()
        return FINISHED if summary and summary.get("steps", 0) >= total_steps else UNFINISHED

    def _check_new(self) -> None:
        """Tries on the spot whether the folder can be made: no rule tells it for every file system."""
        if (self.path / "checkpoints").exists():
            raise self._error(
                f"it holds checkpoints, but no {self.config_file.name} that says of what",
                "a new folder, or one of a run of this config",
            )
        there = self.path.absolute()
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryDirectory(prefix=".dtp_jax-", dir=there) as trial:
            (Path(trial) / self.path.absolute().relative_to(there)).mkdir(
                parents=True, exist_ok=True
            )

    def _error(self, problem: str, allowed: str) -> WorkdirError:
        return WorkdirError(f"--workdir is {str(self.path)!r}: {problem}; allowed: {allowed}")

    def create(
        self,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        extended: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Makes the folder and writes config.json: the config, and where the run came from.

        Of a run that goes on, the origin stays that of its first start.

        Raises:
          WorkdirError: the file system refuses.
        """
        if processes.is_first():
            first = (read_object(self.config_file) or {}).get("provenance")
            origin = {"provenance": first or provenance} if first or provenance else {}
            more = {"extended": list(extended)} if extended else {}
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                write_json(self.config_file, {**config, **more, **origin})
            except OSError as error:
                raise self._error(str(error), "a writable folder") from error
        processes.barrier("workdir")

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json, or None where there is none that can be read."""
        return read_object(self.summary_file)

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines that come again when a run goes on from `step`.

        These are the later ones, a half-written last one, and the test line of a run that was ended
        before its summary.
        """
        if not processes.is_first() or not self.metrics_file.exists():
            return
        finished = (self.read_summary() or {}).get("steps") == step
        kept, self._noted = [], None
        for line in self.metrics_file.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
                if (
                    row["step"] < step
                    or row["step"] == step
                    and (finished or row["split"] != "test")
                ):
                    kept.append(line + "\n")
                    self._noted = row["config"] if row["split"] == "config" else self._noted
            except (ValueError, KeyError, TypeError):
                continue
        temporary = self.metrics_file.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.metrics_file)

    def note_config(self, step: int, epoch: int, config: Mapping[str, Any]) -> None:
        """Adds the config to metrics.jsonl, from which step on it holds; nothing where it stands there."""
        config = json.loads(json.dumps(config))
        if config != self._noted:
            row = {"step": step, "epoch": epoch, "split": "config", "config": config}
            self.append_metrics([row])
            self._noted = config

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to metrics.jsonl; numbers that are not finite become null."""
        if not processes.is_first():
            return
        with self.metrics_file.open("a") as file:
            file.writelines(
                json.dumps({k: finite(v) for k, v in row.items()}) + "\n" for row in rows
            )

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        if processes.is_first():
            write_json(self.summary_file, summary)

    def newest_checkpoint(self) -> str:
        """The folder of the newest checkpoint, or that there is none, in words."""
        files = (self.path / "checkpoints").glob(f"*/{CHECKSUMS}")  # the last file of a checkpoint
        steps = [file.parent.name for file in files if file.parent.name.isdigit()]
        return str(self.path / "checkpoints" / max(steps, key=int)) if steps else "the beginning"

    def checkpoints(self, keep: int) -> Checkpoints:
        """The run's checkpoints."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.path.absolute() / "checkpoints", keep)
        return self._checkpoints
