"""The folder of a run: config, metrics, checkpoints, summary. Everything that a run leaves behind."""

import contextlib
import datetime
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dtp_jax.parallel import processes
from dtp_jax.run import ending, formats
from dtp_jax.run.checkpoints import CHECKSUMS, Checkpoints, require_known
from dtp_jax.run.config import BOOKKEEPING, fields_of
from dtp_jax.run.files import (
    WorkdirError,
    disk_errors,
    finite,
    read_object,
    replace_text,
    write_json,
)
from dtp_jax.run.owner import Ownership, TakenError

FILES = ("config.json", "metrics.jsonl", "summary.json")
NUMBERS = ("steps", "test_accuracy", "wall_seconds", "images_per_second")
TEXTS = ("rule", "network", "dataset", "device")
"""In a summary: whoever shows one counts on them, and on "val_accuracy", which may be null."""
SPREAD = ("forward_eps", "block_forward_lr")
"""Have a value for each block; those with one for each feedback map are `per_block` in the config's fields."""
NEW, UNFINISHED, FINISHED = "new", "unfinished", "finished"
DIVERGED = "diverged"
"""The "split" of the line that ends the metrics of such a run."""


class Workdir:
    """Paths and files of one run. Nothing is written before `create`.

    Of several processes, only the first one writes; checkpoints are written by all.
    """

    def __init__(self, path: str | os.PathLike, *, is_default: bool = False):
        """`is_default`: nobody has named the folder, so that another name is as good where it is taken."""
        self.path = Path(path)
        self._is_default = is_default
        self._ownership: Ownership | None = None
        self._seen: bytes | None = None
        """The content of config.json when the run was checked against it."""
        self._has_metrics = False
        self._checkpoints = None
        self._noted: dict[str, Any] | None = None
        """The config that metrics.jsonl has noted last."""

    @property
    def config_file(self) -> Path:
        """The config, and where the run came from."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """One line for everything that is measured."""
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """What came out; there is one when the run has finished."""
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        """What looks into the feedback training have seen."""
        return self.path / "figures"

    def figure_file(self, step: int) -> Path:
        """The arrays of the look before the step after this one; its picture lies beside. Makes the folder.

        Raises:
          DiskError: the run's folder is gone. WorkdirError: another run has taken it over. OSError.
        """
        self.require()
        self.figures.mkdir(exist_ok=True)
        return self.figures / f"feedback_{step:07d}.npz"

    def read_config(self) -> dict[str, Any] | None:
        """The content of config.json as its version meant it, or None where there is none.

        Raises:
          WorkdirError: it cannot be read, or a newer version wrote it.
        """
        try:
            self._check_kinds()
            self._seen = self._config_bytes()
        except OSError as error:
            raise self._error(error.strerror, "a writable folder") from error
        if self._seen is None:
            return None
        try:
            return formats.read(self.config_file, whole=False)
        except formats.FormatError as error:
            damaged = error.allowed == formats.A_CONFIG_FILE
            raise self._error(
                f"its {self.config_file.name} {error.problem}",
                "a new folder, or one of a run of this config" if damaged else error.allowed,
            ) from error

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
        found, known = json.loads(json.dumps(found)), fields_of(config)
        # The first difference is told: one of these says more than the rates that go with it.
        first = ("rule", "network", "dataset")
        for name, wanted in sorted(
            json.loads(json.dumps(config)).items(), key=lambda item: item[0] not in first
        ):
            if name not in found:
                raise self._error(
                    f"its {self.config_file.name} lacks {name}",
                    "a new folder, or one of a run of this config",
                )
            saved = found[name]
            if name == "seeds" and (saved == 1) != (wanted == 1):
                holds = "one run" if saved == 1 else "the seeds of several"
                raise self._error(
                    f"it holds {holds}, and config.seeds is {wanted}",
                    "a new folder" if saved == 1 else "2 or more, or a folder seed_<n> in it",
                )
            stands_for_all = name in SPREAD or (name in known and known[name].per_block)
            if stands_for_all and isinstance(saved, list) and len(saved) == 1:
                saved = saved * len(wanted)
            more = name == "epochs" and isinstance(saved, int) and wanted >= saved
            if name not in BOOKKEEPING and saved != wanted and not more:
                raise self._error(
                    f"it belongs to another config: its {name} is {saved!r}, here it is {wanted!r}",
                    "a new folder, or the same config",
                )
        try:
            require_known(self.path / "checkpoints")
        except formats.FormatError as error:
            raise self._error(f"its {error.problem}", error.allowed) from error
        summary = self.read_summary()
        if summary and (summary["steps"] >= total_steps or ending.has_ended(config, summary)):
            return FINISHED
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise self._error("it cannot be written to", "a writable folder")
        return UNFINISHED

    def _check_kinds(self) -> None:
        """Raises WorkdirError where something else has the place of a file or folder of the run."""
        for name in (*FILES, "checkpoints"):
            path, expected = self.path / name, "folder" if name == "checkpoints" else "file"
            is_right = path.is_dir() if expected == "folder" else path.is_file()
            if os.path.lexists(path) and not is_right:
                raise self._error(
                    f"its {name} is no {expected}", "a new folder, or this one without it"
                )

    def _check_new(self) -> None:
        """Tries on the spot whether the folder can be made: no rule tells it for every file system."""
        for name in (*FILES, "checkpoints"):
            if os.path.lexists(self.path / name):
                raise self._error(
                    f"it holds {name}, but no {self.config_file.name} that says of what",
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

    @contextlib.contextmanager
    def owned(self, *, take_over: bool = False) -> Iterator[None]:
        """A context in which nobody else trains in the folder, which is made where it is not there.

        Of several processes, the first one owns it for all. Where nothing comes of the run, the folder
        goes again.

        Args:
          take_over: see `Ownership`.

        Raises:
          WorkdirError: in all processes: another run owns it, or the file system refuses.
        """
        refusal, made = None, []
        if processes.is_first():
            try:
                made = self._make()
                self._ownership = Ownership(self.path, take_over=take_over)
                if self._config_bytes() != self._seen:
                    raise TakenError(
                        str(
                            self._error(
                                "another run has just been started in it", "the same command again"
                            )
                        )
                    )
            except WorkdirError as error:
                refusal = error
            except OSError as error:
                refusal = self._error(error.strerror or str(error), "a writable folder")
        try:
            if processes.any_says(int(refusal is not None)) is not None:
                raise refusal or self._error("the first process cannot have it", "what it says")
            yield
        finally:
            if self._ownership is not None:
                self._ownership.release()
                self._ownership = None
            with contextlib.suppress(OSError):  # they are not empty
                for folder in made:
                    folder.rmdir()

    def _make(self) -> list[Path]:
        """Makes the folder. Returns what there was not before, the innermost first."""
        if self._is_default:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            named = self.path
            for number in itertools.count(2):
                try:
                    self.path.mkdir()
                    return [self.path]
                except FileExistsError:  # started in the same second
                    self.path = named.with_name(f"{named.name}-{number}")
        places = (self.path, *self.path.parents)
        made = list(itertools.takewhile(lambda place: not place.exists(), places))
        self.path.mkdir(parents=True, exist_ok=True)
        return made

    def _config_bytes(self) -> bytes | None:
        """The content of config.json, None where there is none."""
        try:
            return self.config_file.read_bytes()
        except FileNotFoundError:
            return None

    def require(self) -> None:
        """To be called before something is written.

        Raises:
          DiskError: the folder is gone. WorkdirError: another run has taken it over.
        """
        if self._ownership is not None:
            self._ownership.require()

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
                numbered = {**config, "format": formats.FORMAT}
                write_json(self.config_file, {**numbered, **more, **origin})
            except OSError as error:
                raise self._error(error.strerror or str(error), "a writable folder") from error
        processes.barrier("workdir")

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json, or None where there is none that says what came out."""
        found = read_object(self.summary_file) or {}
        accuracies = [value for name, value in found.items() if name.startswith(("val_", "test_"))]
        extended, versions = found.get("extended", []), found.get("versions", {})
        is_sound = (
            all(_is_number(found.get(name)) for name in NUMBERS)
            and all(isinstance(found.get(name), str) for name in TEXTS)
            and all(value is None or _is_number(value) for value in accuracies)
            and isinstance(extended, list)
            and all(map(_is_extension, extended))
            and isinstance(versions, dict)
        )
        return found if is_sound and "val_accuracy" in found else None

    def has_metrics(self) -> bool:
        """Whether anything is in metrics.jsonl."""
        return self.metrics_file.exists() and self.metrics_file.stat().st_size > 0

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines that come again when a run goes on from `step`.

        These are the later ones, a half-written last one, the test line of a run that was ended
        before its summary, and a look into the step to come; figures of such looks go with their lines.
        """
        if not processes.is_first():
            return
        self._rewind_figures(step)
        if not self.metrics_file.exists():
            return
        self.require()
        finished = (self.read_summary() or {}).get("steps") == step
        kept, self._noted = [], None
        with disk_errors(self.metrics_file):
            before = self.metrics_file.read_text(errors="replace")
            for line in before.splitlines():
                try:
                    row = json.loads(line)
                    if (
                        row["step"] < step
                        or row["step"] == step
                        and (finished or row["split"] != "test")
                        and row["split"] not in ("feedback", DIVERGED)
                    ):
                        kept.append(line + "\n")
                        self._noted = row["config"] if row["split"] == "config" else self._noted
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
            if "".join(kept) != before:
                replace_text(self.metrics_file, "".join(kept))

    def _rewind_figures(self, step: int) -> None:
        """Removes what looks from this step on have left."""
        for file in self.figures.glob("feedback_*.*"):
            number = file.stem.removeprefix("feedback_")
            if number.isascii() and number.isdigit() and int(number) >= step:
                with contextlib.suppress(OSError):  # it is written over
                    file.unlink()

    def config_rows(self, step: int, epoch: int, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The line of metrics.jsonl for the config, from which step on it holds; none where it has it."""
        config = json.loads(json.dumps(config))
        if config == self._noted:
            return []
        self._noted = config
        return [{"step": step, "epoch": epoch, "split": "config", "config": config}]

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to metrics.jsonl; numbers that are not finite become null.

        Raises:
          DiskError: it cannot be written to. WorkdirError: another run has taken the folder over.
        """
        if not processes.is_first():
            return
        self.require()
        lines = [json.dumps({k: finite(v) for k, v in row.items()}) + "\n" for row in rows]
        # A file that was there and is gone is not begun anew: half of it would be missing.
        with (
            disk_errors(self.metrics_file),
            self.metrics_file.open("r+" if self._has_metrics else "a") as file,
        ):
            file.seek(0, os.SEEK_END)
            file.writelines(lines)
            self._has_metrics = True

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json; raises as `append_metrics` does."""
        if processes.is_first():
            self.require()
            with disk_errors(self.summary_file):
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


def default_workdir(name: str) -> Workdir:
    """A folder for a run that was given none: runs/<name>/<time>."""
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Workdir(Path("runs") / name / now, is_default=True)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _is_extension(value: Any) -> bool:
    return isinstance(value, dict) and {"at_step", "from_epochs", "to_epochs"} <= value.keys()
