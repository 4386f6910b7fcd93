"""The folder of a run: config, metrics, checkpoints, summary. Everything that a run leaves behind."""

import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from dtp_jax.parallel import processes
from dtp_jax.run.config import BOOKKEEPING

CHECKSUMS = "checksums.json"
"""In the folder of every checkpoint: orbax itself does not notice every damage."""
NEW, UNFINISHED, FINISHED = "new", "unfinished", "finished"


class WorkdirError(ValueError):
    """The folder cannot be written to, or belongs to something else. One line, for the user."""


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
        found = _read_object(self.config_file)
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
            first = (_read_object(self.config_file) or {}).get("provenance")
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
        return _read_object(self.summary_file)

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
                json.dumps({k: _finite(v) for k, v in row.items()}) + "\n" for row in rows
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

    def checkpoints(self, keep: int) -> "Checkpoints":
        """The run's checkpoints."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.path.absolute() / "checkpoints", keep)
        return self._checkpoints


class Checkpoints:
    """Checkpoints of the whole state, through orbax: the newest ones, and the best by validation."""

    def __init__(self, path: Path, keep: int):
        import orbax.checkpoint as ocp  # lazily: it costs a good part of a second

        self.path, self._keep, self._args = path, keep, ocp.args
        # Synchronous: the next chunk of steps is given the buffers of this state to overwrite.
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def save(
        self, step: int, state: Any, progress: Mapping[str, Any], best_step: int | None = None
    ) -> None:
        """Writes a checkpoint. A killed save leaves none, or one without checksums: a damaged one.

        Args:
          progress: what JSON can hold. best_step: a checkpoint to keep beside the newest ones.
        """
        args = self._args
        self._manager.save(
            step,
            force=True,
            args=args.Composite(
                state=args.StandardSave(state), progress=args.JsonSave(dict(progress))
            ),
        )
        if processes.is_first():
            write_json(self.path / str(step) / CHECKSUMS, checksums(self.path / str(step)))
        processes.barrier("checksums")
        for old in self.steps()[self._keep :]:
            if old != best_step:
                self._manager.delete(old)

    def steps(self) -> list[int]:
        """Steps of the checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(state, progress) of a checkpoint.

        Args:
          like: pytree of the state's shapes and dtypes.

        Raises:
          Exception: of many kinds, if it is damaged (see `damage`) or holds another state.
        """
        args = self._args
        restored = self._manager.restore(
            step, args=args.Composite(state=args.StandardRestore(like), progress=args.JsonRestore())
        )
        return restored.state, restored.progress

    def restore_newest(
        self, like: Any, warn: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that is not damaged; damaged ones are named to `warn` and set aside.

        Returns:
          (state, progress), or None where there is none.

        Raises:
          WorkdirError: its files are as they were saved, and cannot be read nevertheless.
        """
        for step in self.steps():
            damage = self.damage(step)
            # All processes pass it over, or none: reading is a matter of all of them.
            if processes.any_says(int(damage is not None)) is None:
                return self._restore_good(step, like)
            place = self._set_aside(step)
            warn(
                f"checkpoint {step} cannot be used and is passed over: "
                f"{damage or 'another process found it damaged'}; it is now {place}"
            )
        return None

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of a checkpoint, or None."""
        folder = self.path / str(step)
        saved, found = _read_object(folder / CHECKSUMS) or {CHECKSUMS: None}, checksums(folder)
        for file in sorted(saved.keys() | found.keys()):
            if file not in found or found[file] != saved.get(file):
                return f"{file} is {'not what was saved' if file in found else 'missing'}"
        return None

    def _restore_good(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        try:
            return self.restore(step, like)
        except jax.errors.JaxRuntimeError:  # another process is gone, or memory is used up
            raise
        except Exception as error:  # of any kind: orbax has many
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WorkdirError(
                f"checkpoint {self.path / str(step)} is as it was saved, but this program cannot read it "
                f"({type(error).__name__}: {reason}); allowed: the version that wrote it, or another --workdir"
            ) from error

    def _set_aside(self, step: int) -> Path:
        """Renames a checkpoint so that it is none any more; it is not deleted, should it be needed after all."""
        place = self.path / f"damaged-{step}"
        if processes.is_first():
            shutil.rmtree(place, ignore_errors=True)
            (self.path / str(step)).rename(place)
        processes.barrier("set aside")
        self._manager.reload()
        return place


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below a folder, by its relative path; but of the file of checksums."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: zlib.crc32(path.read_bytes())
        for name, path in sorted(files.items())
        if name != CHECKSUMS
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: a reader finds the old or the new content."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({k: _finite(v) for k, v in content.items()}, indent=2) + "\n")
    temporary.replace(path)


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
