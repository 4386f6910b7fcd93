"""The training loop: one run from its config to its summary, with checkpoints in between."""

import dataclasses
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import jax
import numpy as np

from dtp_jax.data import Source, Splits, feed, load_splits
from dtp_jax.learning import learner, metrics
from dtp_jax.learning.learner import BOTH, Metrics, TrainState
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, placement, replicated
from dtp_jax.run import guard, program
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.passes import Pass, passes, total_steps
from dtp_jax.run.screen import Screen
from dtp_jax.run.workdir import Workdir

StopSignal = Callable[[], int | None]
"""Says whether to stop: the number of a signal, or None."""
NEVER = nullcontext(lambda: None)

CHUNK_SECONDS = 1.5
MOST_STEPS_PER_CHUNK = 500


class Interrupted(Exception):
    """The run was asked to stop, and saved its state. `signal` is the signal's number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


@dataclasses.dataclass
class Progress:
    """What a run remembers beside its state; part of every checkpoint."""

    step: int = 0
    train_seconds: float = 0.0
    """Time in training chunks: no compilation, no evaluation."""
    wall_seconds: float = 0.0
    """Time of this run's process or processes, start-up included."""
    epoch_loss: float = 0.0
    epoch_accuracy: float = 0.0
    """Sums over the steps of the running epoch."""
    best_step: int | None = None
    best_val_accuracy: float | None = None


def run(
    experiment: Experiment,
    source: Source,
    workdir: Workdir,
    screen: Screen,
    stop_signals: AbstractContextManager[StopSignal] = NEVER,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Trains, or goes on training, and evaluates.

    Args:
      stop_signals: entered when the data has been read, and asked after every chunk; a signal's number
        ends the run with Interrupted.
      mesh: the devices, where there are several.

    Returns:
      The content of summary.json.

    Raises:
      DataError: the data is corrupt. Nothing has been written then.
      WorkdirError, guard.Diverged, Interrupted: see there.
    """
    started = time.monotonic()
    config = experiment.config
    with screen.task(f"reading {config['dataset']}") as progress:
        splits = load_splits(
            source,
            config["val_split"],
            config["seed"],
            progress,
            val_per_class=config["val_per_class"],
        )
    if config["train_images"]:
        splits = splits._replace(train_indices=splits.train_indices[: config["train_images"]])
    workdir.create(config)
    with stop_signals as stop_signal:
        return Run(experiment, splits, workdir, screen, stop_signal, started, mesh).run()


class Run:
    """The state of a run in this process."""

    def __init__(
        self,
        experiment: Experiment,
        splits: Splits,
        workdir: Workdir,
        screen: Screen,
        stop_signal: StopSignal,
        started: float,
        mesh: Mesh | None = None,
    ):
        self.config, self.network, self.data = (
            experiment.config,
            experiment.network,
            experiment.data,
        )
        self.workdir, self.screen, self.stop_signal, self.started = (
            workdir,
            screen,
            stop_signal,
            started,
        )
        self.batch_size = self.config["batch_size"]
        self.steps_per_epoch = len(splits.train_indices) // self.batch_size
        self.passes = passes(self.config)
        self.total_steps = total_steps(self.config, len(splits.train_indices))
        self.mesh = mesh
        self.feed = feed(
            self.data,
            splits,
            place=self.config["images_on"],
            batch_size=self.batch_size,
            eval_batch_size=self.config["eval_batch_size"],
            most_steps=min(self.steps_per_epoch, MOST_STEPS_PER_CHUNK),
            seed=self.config["seed"],
            mesh=self.mesh,
        )
        self.learner = build_learner(experiment, self.steps_per_epoch, self.mesh)
        self.evaluate = program.evaluator(
            self.network, self.data, self.mesh, self.config["precision"]
        )
        self.checkpoints = workdir.checkpoints(self.config["keep_checkpoints"])
        self.progress = Progress()
        self.state = self._restore_or_init()
        self.wall_before = self.progress.wall_seconds
        self.seconds_per_step: dict[tuple[str, ...], float] = {}
        """Of the last chunk, by what it trained."""

    def _restore_or_init(self) -> TrainState:
        seed, sharding = self.config["seed"], replicated(self.mesh)
        init = jax.jit(
            lambda: learner.init(self.learner, jax.random.key(seed)), out_shardings=sharding
        )
        like = self._like(jax.eval_shape(init))
        found = self.checkpoints.restore_newest(like, self.screen.warn)
        if found is not None:
            fields = {field.name for field in dataclasses.fields(Progress)}
            self.progress = Progress(**{k: v for k, v in found[1].items() if k in fields})
            self.screen.note(f"going on from step {self.progress.step} of {self.total_steps}")
        self.workdir.rewind_metrics(self.progress.step)
        return found[0] if found else init()

    def _like(self, state: TrainState) -> TrainState:
        """The shapes of a state, placed where this run has it, whatever mesh it was saved from."""
        sharding = placement(self.mesh)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), state
        )

    def run(self) -> dict[str, Any]:
        """Trains to the last step, evaluates, writes the summary."""
        with self.screen.tensorboard(
            self.workdir.path / "tensorboard", self.progress.step
        ) as self.board:
            if self.progress.step < self.total_steps:
                chunks = self._compile()
                with self.screen.training(self.config["epochs"], self.steps_per_epoch) as self.bar:
                    while self.progress.step < self.total_steps:
                        number = self.progress.step // self.steps_per_epoch
                        self._train_some(chunks[self.passes[number].trains], number)
                self.feed.train.close()
            return self._finish()

    def _compile(self) -> dict[tuple[str, ...], Any]:
        """The compiled chunk for each way of training that is still to come."""
        chunks = {}
        with self.screen.task("compiling the training step"):
            for trains in {one.trains for one in self._passes_left()}:
                chunk = program.train_chunk(
                    self.learner._replace(trains=trains),
                    self.data,
                    augmented=self.config["augment"],
                )
                chunks[trains] = chunk.lower(
                    self.state, *self.feed.train.like, np.int32(1)
                ).compile()
        return chunks

    def _passes_left(self) -> tuple[Pass, ...]:
        first, last = self.progress.step // self.steps_per_epoch, self.total_steps - 1
        return self.passes[first : last // self.steps_per_epoch + 1]

    def _train_some(self, chunk, number: int) -> None:
        """One chunk of steps of the pass with this number, then whatever is due after it."""
        epoch, trains = self.passes[number]
        first = self.progress.step
        count = processes.first_says(self._steps_of_next_chunk(trains))
        position = first % self.steps_per_epoch
        if position == 0:
            self.progress.epoch_loss = self.progress.epoch_accuracy = 0.0
        start = time.perf_counter()
        given = self.feed.train.read(number, position, count)
        self.state, found = chunk(self.state, *given, np.int32(count))
        found = jax.tree.map(lambda entries: entries[:count], jax.device_get(found))
        seconds = time.perf_counter() - start
        self.seconds_per_step[trains] = seconds / count
        self.progress.train_seconds += seconds
        self.progress.step += count
        guard.check_losses(found, first, self.config, self.learner, self._last_good())
        self.progress.epoch_loss += float(found.loss.sum(dtype=np.float64))
        self.progress.epoch_accuracy += float(found.accuracy.sum(dtype=np.float64))
        ended = (
            self.progress.step % self.steps_per_epoch == 0 or self.progress.step == self.total_steps
        )
        self._log(found, first, epoch, with_angles=ended and self.config["diagnostics"])
        steps_seen = position + count
        self.bar.update(
            epoch,
            steps_seen,
            rate=self.batch_size * count / seconds,
            loss=self.progress.epoch_loss / steps_seen,
            accuracy=self.progress.epoch_accuracy / steps_seen,
            left=(self.total_steps - self.progress.step) * seconds / count,
            feedback_loss={name: float(losses[-1]) for name, losses in found.feedback_loss.items()},
            only="" if trains == BOTH else trains[0],
        )
        self._after_chunk(epoch, ended, "forward" in trains)

    def _steps_of_next_chunk(self, trains: tuple[str, ...]) -> int:
        step, every = self.progress.step, self.config["checkpoint_every"] or self.steps_per_epoch
        by_time = (
            1
            if trains not in self.seconds_per_step
            else max(1, int(CHUNK_SECONDS / self.seconds_per_step[trains]))
        )
        return min(
            by_time,
            self.feed.train.most_steps,
            self.steps_per_epoch - step % self.steps_per_epoch,
            every - step % every,
            self.total_steps - step,
        )

    def _after_chunk(self, epoch: int, ended: bool, moved: bool) -> None:
        """Validation, checkpoint and stopping, as far as they are due.

        Args:
          ended: the pass or the run has.
          moved: the forward weights have, so that there is something to validate.
        """
        step, every, improved = self.progress.step, self.config["checkpoint_every"], False
        if ended:
            found = (
                self._evaluate("val", epoch) if "val" in self.feed.evaluation and moved else None
            )
            best = self.progress.best_val_accuracy
            improved = found is not None and (best is None or found.accuracy >= best)
            if improved:
                self.progress.best_step, self.progress.best_val_accuracy = step, found.accuracy
            self.bar.end_epoch(epoch, found)
        signal = processes.any_says(self.stop_signal())
        due = step % every == 0 if every else ended
        if due or improved or signal is not None or step == self.total_steps:
            self._save()
        if signal is not None:
            raise Interrupted(
                f"stopped after step {step} of {self.total_steps}; saved in "
                f"{self.workdir.path / 'checkpoints' / str(step)}; to go on: the same command with "
                f"--workdir={self.workdir.path}",
                signal,
            )

    def _save(self) -> None:
        guard.check_parameters(self.state, self.config, self.learner, self._last_good())
        self.progress.wall_seconds = self.wall_before + time.monotonic() - self.started
        self.checkpoints.save(
            self.progress.step,
            self.state,
            dataclasses.asdict(self.progress),
            self.progress.best_step,
        )
        self.board.flush()

    def _last_good(self) -> str:
        kept = self.checkpoints.steps()
        return (
            f"the last good checkpoint is {self.workdir.path / 'checkpoints' / str(kept[0])}"
            if kept
            else "no checkpoint yet"
        )

    def _log(self, found: Metrics, first: int, epoch: int, with_angles: bool) -> None:
        count, every, rows = len(found.loss), self.config["log_every"], []
        for k in range(count):
            step = first + k + 1
            if step % every == 0 or k == count - 1 and with_angles:
                row = {
                    "step": step,
                    "epoch": epoch,
                    "split": "train",
                    "loss": float(found.loss[k]),
                    "accuracy": float(found.accuracy[k]),
                }
                for kind, losses in (
                    ("feedback_loss", found.feedback_loss),
                    ("forward_loss", found.forward_loss),
                ):
                    row |= {f"{kind}/{name}": float(values[k]) for name, values in losses.items()}
                rows.append(row)
        if with_angles:
            for name, value in metrics.weight_alignment(
                self.state.forward, self.state.feedback
            ).items():
                rows[-1] |= {f"distance/{name}": float(value[0]), f"angle/{name}": float(value[1])}
        self._write(rows)

    def _evaluate(self, split: str, epoch: int) -> program.Evaluation:
        found = self._evaluation(self.state, split)
        self._write(
            [{"step": self.progress.step, "epoch": epoch, "split": split, **found._asdict()}]
        )
        return found

    def _evaluation(self, state: TrainState, split: str) -> program.Evaluation:
        return self.evaluate(state.forward, self.feed.evaluation[split], state.statistics)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.workdir.append_metrics(rows)
        for row in rows:
            self.board.write(row)

    def _finish(self) -> dict[str, Any]:
        """Test accuracy of the final weights and of the best validation checkpoint; the summary."""
        last = self.passes[(self.progress.step - 1) // self.steps_per_epoch]
        test = self._evaluate("test", last.epoch)
        val = None
        if "val" in self.feed.evaluation:
            val = self._evaluation(self.state, "val").accuracy
        config = self.config
        summary = {
            **{name: config[name] for name in ("rule", "network", "dataset", "seed", "epochs")},
            "steps": self.progress.step,
            "val_accuracy": val,
            "test_accuracy": test.accuracy,
            "test_top5_accuracy": test.top5_accuracy,
            **self._best_checkpoint(),
            "wall_seconds": self.wall_before + time.monotonic() - self.started,
            "images_per_second": self.progress.step
            * self.batch_size
            / max(self.progress.train_seconds, 1e-9),
            "device": f"{self.mesh.size if self.mesh else 1} x {jax.devices()[0].device_kind}",
            "versions": versions(),
        }
        self.workdir.write_summary(summary)
        return summary

    def _best_checkpoint(self) -> dict[str, Any]:
        step = self.progress.best_step
        if step is None or step not in self.checkpoints.steps():
            return {}
        damage = self.checkpoints.damage(step)
        if processes.any_says(int(damage is not None)):
            self.screen.warn(f"the best checkpoint (step {step}) is damaged: {damage}")
            return {}
        best = self.checkpoints.restore(step, self._like(jax.eval_shape(lambda: self.state)))[0]
        return {
            "best_val_step": step,
            "best_val_accuracy": self.progress.best_val_accuracy,
            "test_accuracy_of_best_val": self._evaluation(best, "test").accuracy,
        }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("dtp_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
