"""The folder of a run: config, metrics, checkpoints, summary. Everything that a run leaves behind."""

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dtp_jax.config import BOOKKEEPING

NEW, UNFINISHED, FINISHED = "new", "unfinished", "finished"


class Workdir:
    """Paths and files of one run. Nothing is written before `create`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self._checkpoints = None

    def status(self, config: Mapping[str, Any], total_steps: int) -> str:
        """NEW, UNFINISHED or FINISHED (for this many steps). Writes nothing.

        Raises:
          ValueError: the folder cannot be written to, or belongs to another config.
        """
        self._check_writable()
        if not self.config_file.exists():
            return NEW
        try:
            found = json.loads(self.config_file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"--workdir is {str(self.path)!r}: its config.json cannot be read ({error}); "
                             "allowed: a new folder, or one of a run of this config") from error
        wanted = json.loads(json.dumps(config))
        for name, value in wanted.items():
            if name not in BOOKKEEPING and found.get(name, value) != value:
                raise ValueError(
                    f"--workdir is {str(self.path)!r}, which belongs to another config: its {name} is "
                    f"{found[name]!r}, here it is {value!r}; allowed: a new folder, or the same config")
        summary = self.read_summary()
        return FINISHED if summary and summary["steps"] >= total_steps else UNFINISHED

    def _check_writable(self) -> None:
        folder = self.path.absolute()
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            what = "is not a folder" if not folder.is_dir() else "cannot be written to"
            raise ValueError(f"--workdir is {str(self.path)!r}: {folder} {what}; allowed: a writable folder")

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder and writes config.json.

        Raises:
          ValueError: the file system refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config_file, config)
        except OSError as error:
            raise ValueError(f"--workdir is {str(self.path)!r}: {error}; allowed: a writable folder") from error

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json, or None where there is none that can be read."""
        try:
            return json.loads(self.summary_file.read_text())
        except (OSError, ValueError):
            return None

    def truncate_metrics(self, step: int) -> None:
        """Drops the lines after `step` (and a half-written last one): they will come again."""
        if not self.metrics_file.exists():
            return
        kept = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue
        temporary = self.metrics_file.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.metrics_file)

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to metrics.jsonl; numbers that are not finite become null."""
        with self.metrics_file.open("a") as file:
            file.writelines(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n" for row in rows)

    def checkpoints(self, keep: int) -> "Checkpoints":
        """The run's checkpoints."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.path.absolute() / "checkpoints", keep)
        return self._checkpoints


class Checkpoints:
    """Checkpoints of the whole state, through orbax: the newest ones, and the best by validation accuracy."""

    def __init__(self, path: Path, keep: int):
        import orbax.checkpoint as ocp  # lazily: it costs a good part of a second
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

        self._ocp = ocp
        best = policy.BestN(get_metric_fn=lambda metrics: metrics["val_accuracy"], n=1,
                            keep_checkpoints_without_metrics=False)
        # Synchronous: the next chunk of steps is given the buffers of this state to overwrite.
        self._manager = ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False,
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), best])))
        self.path = path

    def save(self, step: int, state: Any, progress: Mapping[str, Any], val_accuracy: float | None) -> None:
        """Writes a checkpoint, replacing one of the same step; atomic: a killed save leaves none behind."""
        if step in self._manager.all_steps():
            self._manager.delete(step)
        args = self._ocp.args
        self._manager.save(step, force=True, metrics=None if val_accuracy is None else {"val_accuracy": val_accuracy},
                           args=args.Composite(state=args.StandardSave(state),
                                               progress=args.JsonSave({**progress, "checksum": checksum(state)})))

    def steps(self) -> list[int]:
        """Steps of the checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(state, progress) of a checkpoint.

        Args:
          like: pytree of the state's shapes and dtypes.

        Raises:
          Exception: of many kinds, if it is damaged.
        """
        args = self._ocp.args
        found = self._manager.restore(step, args=args.Composite(
            state=args.StandardRestore(like), progress=args.JsonRestore()))
        if checksum(found.state) != found.progress["checksum"]:
            raise ValueError("its arrays are not those that were saved")
        return found.state, found.progress

    def restore_newest(self, like: Any, warn) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read; damaged ones are named to `warn` and removed.

        Returns:
          (state, progress), or None where there is none.
        """
        for step in self.steps():
            try:
                return self.restore(step, like)
            except Exception as error:  # whatever a damaged file provokes in the reader
                warn(f"checkpoint {self.path / str(step)} is damaged and is passed over: {str(error).splitlines()[0]}")
                self._manager.delete(step)
        return None


def checksum(state: Any) -> int:
    """CRC-32 of all arrays of a pytree."""
    value = 0
    for leaf in jax.tree.leaves(state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        value = zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).tobytes(), value)
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: a reader finds the old or the new content."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({k: _finite(v) for k, v in content.items()}, indent=2) + "\n")
    temporary.replace(path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
