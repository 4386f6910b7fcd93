"""What a run has left behind, read without touching it: state, metrics, summary."""

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dtp_jax.fields import local_path
from dtp_jax.learning import learner
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.parallel.mesh import placement
from dtp_jax.run import formats
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.checkpoints import PlainName, damage, require_known, unreadable
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config
from dtp_jax.run.workdir import DIVERGED, Workdir

OF_WEIGHTS = ("loss", "accuracy")
"""What every training step measures of the forward weights, beside the losses of its parts."""
LOCAL = "forward_loss/"
"""How the names of local losses begin: only a step that moves the forward weights has them."""
OF_PARTS = ("feedback_loss/", LOCAL)


class Table(dict[str, np.ndarray]):
    """The rows of metrics.jsonl as columns of one length: a name, as there, -> an array.

    Where a row has no such number, it is nan; `split` is text. `pandas.DataFrame(table)` takes it as it is.
    """

    @classmethod
    def of_rows(cls, rows: list[dict[str, Any]]) -> "Table":
        """From dicts of any keys."""
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        return cls(
            {
                name: np.array(values, str)
                if any(isinstance(value, str) for value in values)
                else np.array([math.nan if value is None else value for value in values])
                for name, values in columns.items()
            }
        )

    def of(self, split: str) -> "Table":
        """The rows of "train", "val" or "test", and the columns that have a number there."""
        if not self:
            return self
        rows = self["split"] == split
        chosen = {name: column[rows] for name, column in self.items()}
        return Table(
            {n: c for n, c in chosen.items() if c.dtype.kind not in "f" or not np.isnan(c).all()}
        )

    def by_epoch(self, name: str, first: int = 1) -> dict[int, float]:
        """A column by epoch (1, 2, ...); {} without one. What is not finite does not count.

        Of what every training step measures (loss, accuracy, feedback_loss/..., forward_loss/...) the mean over
        the training rows; of all else (angle/..., an accuracy of validation) the last number, that of the end of
        the epoch. Passes that train feedback maps alone do not count for loss and accuracy, for their weights
        stand still. They are known by their lack of local losses: of a rule that trains feedback maps and has
        no local losses at all (none of this package), loss and accuracy are means over all passes.

        Args:
          first: epoch; 0 for the passes before the first one, too.
        """
        if name not in self or "epoch" not in self:
            return {}
        epochs, values = self["epoch"], self[name]
        known = (epochs >= first) & np.isfinite(values) & np.isfinite(epochs)
        training = self["split"] == "train" if "split" in self else np.full(len(values), True)
        is_mean = (name in OF_WEIGHTS or name.startswith(OF_PARTS)) and bool(training.any())
        if is_mean:
            known &= training
        if name in OF_WEIGHTS:
            known &= self._moves()
        own = {int(e): values[known & (epochs == e)] for e in np.unique(epochs[known])}
        return {e: float(found.mean() if is_mean else found[-1]) for e, found in own.items()}

    def _moves(self) -> np.ndarray:
        """Of every row, whether its step has moved the forward weights; all True where none is known to."""
        local = [np.isfinite(column) for name, column in self.items() if name.startswith(LOCAL)]
        moves = np.any(local, axis=0) if local else np.array(False)
        return moves | ~moves.any()

    def minutes(self, batch_size: int) -> dict[int, float]:
        """Of training alone, up to the end of every epoch, from the images/s of every pass."""
        rows, names = self.of("epoch"), ("step", "epoch", "images_per_second")
        if not all(name in rows for name in names):
            return {}
        minutes, found, before = 0.0, {}, 0
        for step, epoch, speed in zip(*(rows[name].tolist() for name in names), strict=True):
            if not (math.isfinite(step) and math.isfinite(epoch) and speed > 0):
                continue
            minutes += (step - before) * batch_size / speed / 60
            before, found[int(epoch)] = step, minutes
        return found

    def __repr__(self) -> str:
        count = len(next(iter(self.values()), ()))
        return f"Table of {count} rows: {', '.join(self)}"


class FinishedRun(NamedTuple):
    """A run as it was left."""

    learner: Learner
    state: TrainState | None
    """Of the newest good checkpoint. `train_seeds` has None where a seed diverged before its first one."""
    metrics: Table
    summary: dict[str, Any] | None
    """None where the run has not finished."""
    experiment: Experiment


class NoCheckpoint(Exception):
    """A run has no checkpoint that can be read. One line, for the user."""


def load_run(workdir: str | Path, *, best: bool = False) -> FinishedRun:
    """Reads a run, which may be running.

    Args:
      workdir: its folder.
      best: the state of the best checkpoint by validation, instead of the newest one.

    Raises:
      ValueError: the folder holds no run, or one with a rule or network that nobody has registered; or it
        may not be read.
      NoCheckpoint: none can be read.
    """
    folder = Workdir(local_path("workdir", workdir))
    experiment = experiment_of(folder.path)
    _, state = checkpoint(folder.path, experiment, best=best)
    return _loaded(folder, experiment, state)


def load_begun(workdir: str | Path) -> FinishedRun:
    """`load_run`, also of a run that has no checkpoint, for it diverged before its first one: its state is None."""
    folder = Workdir(local_path("workdir", workdir))
    experiment, state = experiment_of(folder.path), None
    with contextlib.suppress(NoCheckpoint):
        _, state = checkpoint(folder.path, experiment, best=False)
    return _loaded(folder, experiment, state)


def _loaded(folder: Workdir, experiment: Experiment, state: TrainState | None) -> FinishedRun:
    made, _ = learner_of(experiment)
    try:
        metrics = read_metrics(folder.metrics_file)
    except OSError as error:
        raise ValueError(
            f"WORKDIR is {str(folder.path)!r}: its {folder.metrics_file.name} cannot be read: "
            f"{error.strerror}; allowed: a run that may be read"
        ) from error
    return FinishedRun(made, state, metrics, folder.read_summary(), experiment)


def read_metrics(file: Path) -> Table:
    """The numbers of metrics.jsonl, but for lines that are only half there."""
    rows = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # it is being written, or damaged
            continue
        split = row.get("split") if isinstance(row, dict) else None
        if isinstance(split, str) and split not in ("config", DIVERGED):
            rows.append({n: value for n, value in row.items() if n == "split" or _is_number(value)})
    return Table.of_rows(rows)


def divergence(file: Path) -> str | None:
    """Why the run whose metrics.jsonl this is has diverged, in a line; None where it has not."""
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    try:
        row = json.loads(lines[-1])
        message = row["message"] if row["split"] == DIVERGED else None
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return message if isinstance(message, str) else None


def _is_number(value: Any) -> bool:
    """Whether this is one that an array holds; null is for those that are not finite."""
    return value is None or (isinstance(value, (int, float)) and abs(value) < 2**63)


def require_enterable(path: Path) -> None:
    """Raises ValueError, one line, where a folder may not be entered. One that is not there passes."""
    try:
        os.lstat(Workdir(path).config_file)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(
            f"WORKDIR is {str(path)!r}: it cannot be entered: {error.strerror}; "
            "allowed: a folder that may be entered"
        ) from error


def experiment_of(path: Path) -> Experiment:
    """The validated config.json of a run, as the version meant it that wrote it.

    Raises:
      ValueError: one line; it is missing or cannot be read.
    """
    require_enterable(path)
    file = Workdir(path).config_file
    if not os.path.isfile(file):
        lacks = f"its {file.name} is missing" if os.path.exists(path) else "it does not exist"
        raise ValueError(f"WORKDIR is {str(path)!r}: {lacks}; allowed: the folder of a run")
    loaded = load_config(str(file))
    if loaded.config.get("seeds", 1) != 1:
        raise ValueError(
            f"WORKDIR is {str(path)!r}: it holds several seeds; allowed: one of its folders seed_<n>"
        )
    return validate(loaded.config)._replace(extensions=loaded.extended)


def learner_of(experiment: Experiment) -> tuple[Learner, TrainState]:
    """The learner, and the shapes of its state, on one device: neither depends on the length of an epoch."""
    made = build_learner(experiment, steps_per_epoch=1)
    key, here = jax.random.key(experiment.config["seed"]), placement(None)
    like = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here),
        jax.eval_shape(lambda key: learner.init(made, key), key),
    )
    return made, like


def checkpoint(
    path: Path,
    experiment: Experiment,
    *,
    best: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint that can be read, or of the best one by validation.

    Not through `Workdir.checkpoints`, which tidies up behind a run that it takes for dead.

    Args:
      warn: told of damaged checkpoints that are passed over.

    Raises:
      ValueError: nothing was validated yet, so that none is the best; or a newer version wrote one.
      NoCheckpoint: none can be read.
    """
    try:
        require_known(path / "checkpoints")
    except formats.FormatError as error:
        raise ValueError(f"WORKDIR is {str(path)!r}: its {error}") from error
    like, damaged = learner_of(experiment)[1], []
    folders = (path / "checkpoints").glob("[0-9]*")
    for newest in sorted(
        (int(f.name) for f in folders if f.name.isascii() and f.name.isdigit()), reverse=True
    ):
        step = newest
        try:
            state, progress = _restore(path / "checkpoints" / str(step), like)
            if best:
                step = progress["best_step"]
                if step is None:
                    raise ValueError(
                        f"WORKDIR is {str(path)!r}: nothing was validated yet; allowed: no --best"
                    )
                state, _ = _restore(path / "checkpoints" / str(step), like)
        except NoCheckpoint as error:
            damaged.append(f"checkpoint {step} cannot be used: {error}")
            continue
        for what in damaged:
            warn(what)
        return step, state
    raise NoCheckpoint("; ".join([f"{path} holds no good checkpoint", *damaged[:1]]))


def _restore(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """(state, progress) of a checkpoint, which is only read."""
    import orbax.checkpoint as ocp  # lazily: it costs a good part of a second

    name = PlainName(folder.absolute())
    try:
        problem = damage(folder)
    except OSError as error:  # the run goes on, and has removed it
        raise NoCheckpoint(str(error)) from error
    if problem is not None:
        raise NoCheckpoint(problem)
    try:
        with ocp.StandardCheckpointer() as reader:
            state = reader.restore(name.path / "state", like)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return state, reader.restore(name.path / "progress")
    except Exception as error:  # of any kind: orbax has many
        raise NoCheckpoint(unreadable(folder, error)) from error
