"""Checkpoints: the whole state of a run, through orbax, with checksums of our own."""

import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from dtp_jax.parallel import processes
from dtp_jax.run.files import WorkdirError, read_object, write_json

CHECKSUMS = "checksums.json"
"""In the folder of every checkpoint: orbax itself does not notice every damage."""


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
        saved, found = read_object(folder / CHECKSUMS) or {CHECKSUMS: None}, checksums(folder)
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
