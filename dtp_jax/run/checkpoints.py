"""Checkpoints: the whole state of a run, through orbax, with checksums of our own."""

import contextlib
import logging
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dtp_jax.fields import first_line
from dtp_jax.parallel import processes
from dtp_jax.run import formats, provenance
from dtp_jax.run.files import DiskError, WorkdirError, disk_errors, read_object, write_json
from dtp_jax.version import __version__

CHECKSUMS = "checksums.json"
"""In the folder of every checkpoint: orbax itself does not notice every damage."""
FORMAT_FILE = "format.json"
"""There too: the format, and the version that wrote it; missing in the first format."""
PLAIN = re.compile(r"[\w/.,:;=+@%#~() -]+")
"""Paths that orbax and tensorstore take as they are: [ ], * and ? are patterns to them, \\ is refused."""
DETAILS = re.compile(r" \[(os_error_code|tensorstore_spec)")
"""How what an error of tensorstore adds to its words begins."""


class Checkpoints:
    """Checkpoints of the whole state, through orbax: the newest ones, and the best by validation."""

    def __init__(self, path: Path, keep: int):
        import orbax.checkpoint as ocp  # lazily: it costs a good part of a second

        self.path, self._keep, self._args = path, keep, ocp.args
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._name = PlainName(path)
        # Synchronous: the next chunk of steps is given the buffers of this state to overwrite.
        self._manager = ocp.CheckpointManager(
            self._name.path,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def save(
        self, step: int, state: Any, progress: Mapping[str, Any], best_step: int | None = None
    ) -> None:
        """Writes a checkpoint and reads it back, before any older one is given up.

        A killed save, and one that does not come back as it was, leave none, or one without checksums: a
        damaged one.

        Args:
          progress: what JSON can hold. best_step: a checkpoint to keep beside the newest ones.

        Raises:
          DiskError: it cannot be written, or does not come back as it was. The older ones are as before.
        """
        self._name.renew()
        with self._saving(step):
            self._write(step, state, progress)
            self._require_same(step, state)
            self._seal(step)
        for old in self.steps()[self._keep :]:
            if old != best_step:
                with self._saving(step):
                    self._manager.delete(old)

    def _write(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        args = self._args
        self._manager.save(
            step,
            force=True,
            args=args.Composite(
                state=args.StandardSave(state), progress=args.JsonSave(dict(progress))
            ),
        )
        if processes.is_first():
            write_json(self.path / str(step) / FORMAT_FILE, _written())

    def _seal(self, step: int) -> None:
        """Writes the checksums, which make it a good one."""
        processes.barrier("read back")
        if processes.is_first():
            write_json(self.path / str(step) / CHECKSUMS, checksums(self.path / str(step)))
        processes.barrier("checksums")

    def _require_same(self, step: int, state: Any) -> None:
        """Reads a checkpoint to the host; raises DiskError where it is not this state."""
        read, _ = self.restore(step, jax.tree.map(_on_host, state))
        for (path, saved), found in zip(
            jax.tree.leaves_with_path(state), jax.tree.leaves(read), strict=True
        ):
            if not np.array_equal(_numbers(saved), _numbers(found), equal_nan=True):
                raise DiskError(f"{jax.tree_util.keystr(path)} does not come back as it was saved")

    @contextlib.contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        """A context in which orbax prints no tracebacks, and whose errors are one line."""
        log = logging.getLogger("absl")
        level, hook = log.level, sys.unraisablehook
        log.setLevel(logging.CRITICAL)
        sys.unraisablehook = _without_late_news(
            hook
        )  # stays after an error: news may come even then
        try:
            yield
            sys.unraisablehook = hook
        except jax.errors.JaxRuntimeError:  # another process is gone, or memory is used up
            raise
        except Exception as error:  # of any kind: orbax has many
            raise DiskError(
                f"checkpoint {step} cannot be saved in {self.path}: {_reason(error)}"
            ) from error
        finally:
            log.setLevel(level)

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
        self._name.renew()
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
        """What is wrong with the files of a checkpoint, or None. Raises DiskError: they cannot be read."""
        with disk_errors(self.path / str(step)):
            return damage(self.path / str(step))

    def _restore_good(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        try:
            state, progress = self.restore(step, like)
        except jax.errors.JaxRuntimeError:  # another process is gone, or memory is used up
            raise
        except Exception as error:  # of any kind: orbax has many
            raise WorkdirError(
                f"checkpoint {unreadable(self.path / str(step), error)}, or another --workdir"
            ) from error
        if not isinstance(progress, dict) or progress.get("step", step) != step:
            raise WorkdirError(
                f"checkpoint {self.path / str(step)} is not that of step {step}; "
                "allowed: the run without this folder, or another --workdir"
            )
        return state, progress

    def _set_aside(self, step: int) -> Path:
        """Renames a checkpoint so that it is none any more; it is not deleted, should it be needed after all."""
        place = self.path / f"damaged-{step}"
        if processes.is_first():
            shutil.rmtree(place, ignore_errors=True)
            with disk_errors(self.path):
                (self.path / str(step)).rename(place)
        processes.barrier("set aside")
        self._manager.reload()
        return place


def _without_late_news(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    """A hook for errors that nobody can catch, but for those of tensorstore's threads that still have news of
    files for orbax, which has given them up and closed its loop."""

    def without(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(unraisable)

    return without


@cache
def _written() -> dict[str, Any]:
    """What a checkpoint says of its format."""
    return {
        "format": formats.FORMAT,
        "versions": {"dtp_jax": __version__},
        "commit": provenance.commit(),
    }


class PlainName:
    """A name for a folder that no library takes for a pattern: its own, or that of a link to it."""

    def __init__(self, folder: Path):
        self._folder = self.path = folder
        if PLAIN.fullmatch(str(folder)):
            return
        with disk_errors(folder):
            place = Path(tempfile.mkdtemp(prefix="dtp_jax-"))
        if not PLAIN.fullmatch(str(place)):
            raise WorkdirError(
                f"--workdir: {folder} cannot be the folder of checkpoints, and nor can $TMPDIR, "
                f"{place.parent}; allowed: a path without * ? [ ] {{ }} and \\ for one of them"
            )
        self.path = place / "link"
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        self.renew()

    def renew(self) -> None:
        """Makes the link again where somebody has tidied it up."""
        if self.path != self._folder and not self.path.is_symlink():
            with disk_errors(self.path):
                self.path.parent.mkdir(exist_ok=True)
                self.path.symlink_to(self._folder, target_is_directory=True)


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None. Files that others have put there do not count."""
    saved = read_object(folder / CHECKSUMS)
    if not saved:
        return f"{CHECKSUMS} is missing or says nothing"
    found = checksums(folder)
    for file, checksum in sorted(saved.items()):
        if found.get(file) != checksum:
            return f"{file} is {'not what was saved' if file in found else 'missing'}"
    return None


def unreadable(folder: Path, error: Exception) -> str:
    """Why a checkpoint that is as it was saved cannot be restored, and what can restore it."""
    written = read_object(folder / FORMAT_FILE) or {}
    return (
        f"{folder} is as it was saved, but this program cannot read it (dtp_jax {__version__}, "
        f"{type(error).__name__}: {_reason(error)}); allowed: {formats.writer_of(written)}, which wrote it"
    )


def require_known(checkpoints: Path) -> None:
    """Raises FormatError where a newer version wrote a checkpoint of this folder.

    One that is damaged is none: it is passed over in its turn.
    """
    for file in checkpoints.glob(f"[0-9]*/{FORMAT_FILE}"):
        try:
            formats.require_known(read_object(file) or {}, f"checkpoint {file.parent.name} ")
        except formats.FormatError:
            if damage(file.parent) is None:
                raise


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below a folder, by its relative path.

    The file of checksums is left out, and so are hidden files: orbax writes none, desktops do.
    """
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): zlib.crc32(path.read_bytes())
        for name, path in sorted(files.items())
        if str(name) != CHECKSUMS and not any(part.startswith(".") for part in name.parts)
    }


def _on_host(leaf: Any) -> Any:
    """What tells orbax to restore a leaf as numpy's; keys, which numpy does not know, as they are."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.empty(leaf.shape, leaf.dtype)


def _numbers(leaf: Any) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: of a long message of tensorstore, what the operating system says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = DETAILS.split(first_line(error))[0]
    return words.rpartition(": ")[2] if "os_error_code" in str(error) else words
