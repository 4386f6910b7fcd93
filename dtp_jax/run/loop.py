"""The training loop: one run from its plan to its summary, with checkpoints in between."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np

from dtp_jax.data import Chunk, DataError, Splits
from dtp_jax.learning import learner
from dtp_jax.learning.learner import BOTH, Metrics, TrainState
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, placement, replicated
from dtp_jax.run import ending, guard, program
from dtp_jax.run.assemble import Parts, Plan, Shared, assemble, read
from dtp_jax.run.build import learning_rates
from dtp_jax.run.files import DiskError
from dtp_jax.run.progress import Progress
from dtp_jax.run.provenance import Request, provenance
from dtp_jax.run.rows import (
    Row,
    guard_row,
    last_angle,
    mean_update_angle,
    metrics_in_order,
    step_rows,
)
from dtp_jax.run.screen import Screen
from dtp_jax.run.summing_up import early_end, summary_of
from dtp_jax.run.trackers import TRACKERS, TrackedRun
from dtp_jax.run.trackers.tracking import Tracking
from dtp_jax.run.workdir import DIVERGED, NEW, WorkdirError

StopSignal = Callable[[], int | None]
"""Says whether to stop: the number of a signal, or None."""
NEVER = nullcontext(lambda: None)
Watch = Callable[[int, float], bool]
"""Is told the epoch and the accuracy of every validation; True ends the run there."""

CHUNK_SECONDS = 1.5


class Interrupted(Exception):
    """The run was asked to stop, and saved its state. `signal` is the signal's number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def run(
    plan: Plan,
    request: Request,
    screen: Screen,
    stop_signals: AbstractContextManager[StopSignal] = NEVER,
    mesh: Mesh | None = None,
    shared: Shared | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains, or goes on training, and evaluates.

    Args:
      request: what was asked for, for the records of the run.
      stop_signals: entered when the data has been read, and asked after every chunk; a signal's number
        ends the run with Interrupted.
      mesh: the devices, where there are several.
      shared: of several runs that differ in their seeds.
      watch: a run that is watched never looks at the test images, and leaves no summary.json.

    Returns:
      The content of summary.json; of a watched run, all of it but what it would say of the test images.

    Raises:
      DataError: the data is corrupt. Nothing has been written then.
      WorkdirError, DiskError, guard.Diverged, Interrupted: see there.
    """
    if plan.seed:
        screen.note(plan.seed)
    for line in plan.unused:
        screen.warn(line)
    splits = read(plan, screen, shared)
    with stop_signals as stop_signal:
        given = (plan, splits, request, screen, stop_signal, mesh)
        return prepare(*given, shared, watch).run()


def prepare(
    plan: Plan,
    splits: Splits,
    request: Request,
    screen: Screen,
    stop_signal: StopSignal,
    mesh: Mesh | None,
    shared: Shared | None,
    watch: Watch | None = None,
) -> "Run":
    """A run that is restored, or new, with its folder and its config.json. See `run` for all else."""
    started, config = time.monotonic(), plan.experiment.config
    origin = provenance(request, config, mesh)
    extended = [one._asdict() for one in plan.experiment.extensions]
    is_new = plan.status == NEW
    if is_new:
        plan.workdir.create(config, origin, extended)
    with screen.task("preparing the run"):
        parts = assemble(plan, splits, screen, mesh, shared)
        try:
            processes.require_same("the training images", json.dumps(parts.fingerprint))
        except ValueError as problem:
            raise DataError(str(problem)) from problem
        ready = Run(parts, origin, stop_signal, started, watch)
    if not is_new:  # now: a run that cannot be restored here stays as it was
        plan.workdir.create(config, origin, extended)
    return ready


class Run:
    """The state of a run in this process.

    `run` takes it to its end on its own. Seeds that are trained together (`run/together.py`) take the same
    steps through `opened`, `begin_pass`, `given`, `take_in` and `finish`.
    """

    def __init__(
        self,
        parts: Parts,
        origin: dict[str, Any],
        stop_signal: StopSignal,
        started: float,
        watch: Watch | None = None,
    ):
        self.parts, self.origin, self.stop_signal, self.started = (
            parts,
            origin,
            stop_signal,
            started,
        )
        self.config, self.screen, self.workdir = (
            parts.experiment.config,
            parts.screen,
            parts.workdir,
        )
        self.watch, self.is_left = watch, False
        self.progress = Progress()
        self.state = self._restore_or_init()
        self.wall_before = self.progress.wall_seconds
        self.saved_at = time.monotonic()
        self.ended_by = self._ended_by(self.wall_before)
        """The field of the config that ends the run here, if one does."""
        self.until = parts.total_steps
        """No chunk goes beyond this step."""
        self.seconds_per_step: dict[tuple[str, ...], float] = {}
        """Of the last chunk, by what it trained."""

    def _restore_or_init(self) -> TrainState:
        parts, key = self.parts, jax.random.key(self.config["seed"])
        init = parts.shared.get("init", self._initializer)
        like = self.like(jax.eval_shape(init, key))
        found = parts.checkpoints.restore_newest(like, self.screen.warn)
        if found is not None:
            self._require_fitting(found[1])
            fields = {field.name for field in dataclasses.fields(Progress)}
            self.progress = Progress(**{k: v for k, v in found[1].items() if k in fields})
            self.screen.note(f"going on from step {self.progress.step} of {parts.total_steps}")
        else:
            self._begin_anew()
        is_lost = self.progress.step and not self.workdir.has_metrics()
        if is_lost and processes.is_first():
            self.screen.warn(
                f"{self.workdir.metrics_file} is gone or empty: what was measured up to step "
                f"{self.progress.step} is lost"
            )
        self.workdir.rewind_metrics(self.progress.step)
        return found[0] if found else init(key)

    def _begin_anew(self) -> None:
        """Says so, where there was something before: all of it is computed again.

        Raises:
          WorkdirError: the weights were those of a file, and nobody can compute them again.
        """
        saved = self.workdir.read_config() or {}
        if saved.get("provenance", {}).get("command", "").startswith("dtp export "):
            raise WorkdirError(
                f"--workdir is {str(self.workdir.path)!r}: no checkpoint in it can be read, and so none of the "
                "weights that `dtp export` has written into it; allowed: its folder checkpoints as it was, or "
                "the file once more, to a new folder"
            )
        if self.workdir.has_metrics() and processes.is_first():
            self.screen.warn(
                f"{self.workdir.path}: there is no checkpoint to go on from; the run begins anew"
            )

    def _initializer(self) -> Callable[[jax.Array], TrainState]:
        init = partial(learner.init, self.parts.learner)
        return jax.jit(init, out_shardings=replicated(self.parts.mesh))

    def _require_fitting(self, found: dict[str, Any]) -> None:
        """Raises WorkdirError where a checkpoint is of other data, or beyond the end of this run."""
        most = len(self.parts.passes) * self.parts.steps_per_epoch
        is_other = any(
            found.get(name, here) != here for name, here in self.parts.fingerprint._asdict().items()
        )
        if is_other or found.get("step", 0) > most:
            problem = (
                "of other training images" if is_other else f"beyond the {most} steps of a run"
            )
            raise WorkdirError(
                f"--workdir is {str(self.workdir.path)!r}: its checkpoints are {problem}; "
                "allowed: the data and the epochs that it was trained with, or another folder"
            )

    def like(self, state: TrainState) -> TrainState:
        """The shapes of a state, placed where this run has it, whatever mesh it was saved from."""
        sharding = placement(self.parts.mesh)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), state
        )

    def run(self) -> dict[str, Any]:
        """Trains to the last step, evaluates, writes the summary."""
        with self.opened():
            if not self.is_over():
                self._train(self._compile())
            return self.finish()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """A context with trackers, and whose Diverged metrics.jsonl tells of too."""
        with self._tracking() as self.tracking:
            self._write(self.workdir.config_rows(self.progress.step, self._epoch(), self.config))
            try:
                yield
            except guard.Diverged as error:
                at = {"step": self.progress.step, "epoch": self._epoch()}
                row = {**at, "split": DIVERGED, "message": str(error)}
                with contextlib.suppress(DiskError, WorkdirError):  # what is told matters more
                    self._write([row])
                raise

    def _epoch(self) -> int:
        """That of the last step; 0 before the first."""
        step = self.progress.step
        passed = max(step - 1, 0) // self.parts.steps_per_epoch
        return self.parts.passes[passed].epoch if step else 0

    def _tracking(self) -> Tracking:
        """The trackers that the config names."""
        factories = {name: TRACKERS[name] for name in self.config["trackers"]}
        path, config, screen = self.workdir.path.absolute(), dict(self.config), self.screen
        run = TrackedRun(path, config, self.progress.step, screen.note, screen.warn)
        return Tracking(factories, run)

    def is_over(self) -> bool:
        """Whether no step is left to take."""
        is_ended = self.ended_by is not None or self.is_left
        return is_ended or self.progress.step >= self.parts.total_steps

    def _ended_by(self, seconds: float) -> str | None:
        waited = self.progress.epochs_without_gain
        return ending.ended_by(self.config, epochs_without_gain=waited, seconds=seconds)

    def _is_out_of_time(self) -> bool:
        return self._ended_by(self.wall_seconds()) == ending.MINUTES

    def wall_seconds(self) -> float:
        """Of all starts of the run."""
        return self.wall_before + time.monotonic() - self.started

    def _train(self, chunks: dict[tuple[str, ...], Any]) -> None:
        """All steps that are left."""
        parts = self.parts
        with self.screen.training(self.config["epochs"], parts.steps_per_epoch) as self.bar:
            while not self.is_over():
                self._train_some(chunks[parts.passes[self.number()].trains])
        parts.feed.train.close()

    def catch_up(self, step: int) -> None:
        """Takes the steps up to this one alone: one of several runs that was stopped before the others."""
        self.until, chunks = step, self._compile()
        while self.progress.step < step and not self.is_over():
            self._train_some(chunks[self.parts.passes[self.number()].trains])
        self.until = self.parts.total_steps

    def number(self) -> int:
        """Of the pass that the next step belongs to."""
        return self.progress.step // self.parts.steps_per_epoch

    def _compile(self) -> dict[tuple[str, ...], Any]:
        """The compiled chunk for each way of training that is still to come."""
        shared, ways = self.parts.shared, {("chunk", trains): trains for trains in self.ways_left()}
        is_there = all(key in shared for key in ways)
        with nullcontext() if is_there else self.screen.task("compiling the training step"):
            chunks = {
                trains: shared.get(key, partial(self._chunk, trains))
                for key, trains in ways.items()
            }
        self.compile_rest(max(map(program.memory_bytes, chunks.values())))
        return chunks

    def _chunk(self, trains: tuple[str, ...]) -> Any:
        parts = self.parts
        chunk = program.train_chunk(
            parts.learner._replace(trains=trains),
            parts.experiment.data,
            augmented=self.config["augment"],
        )
        return chunk.lower(self.state, *parts.feed.train.like, np.int32(1)).compile()

    def compile_rest(self, memory_bytes: int) -> None:
        """Compiles what is needed beside training.

        Args:
          memory_bytes: of a device, that training takes.
        """
        parts, step = self.parts, self.progress.step
        self.progress.memory_bytes = max(self.progress.memory_bytes, memory_bytes)
        made = partial(program.probe, parts.learner, parts.experiment.data)
        self.probe = parts.shared.get("probe", made)
        ways = {trains: parts.learner._replace(trains=trains) for trains in self.ways_left()}
        if not parts.diagnostics.to_compile(step, ways):
            return
        with self.screen.task("compiling the diagnostics"), self._timed("diagnostics_compile"):
            parts.diagnostics.compile(self.state, parts.feed.train.like, step, ways)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """A context whose seconds count as these of `Progress`."""
        start, name = time.perf_counter(), f"{what}_seconds"
        yield
        seconds = time.perf_counter() - start
        setattr(self.progress, name, getattr(self.progress, name) + seconds)

    def ways_left(self) -> set[tuple[str, ...]]:
        """What the passes to come train, each way once."""
        parts, last = self.parts, self.parts.total_steps - 1
        first = self.progress.step // parts.steps_per_epoch
        return parts.passes.ways(first, last // parts.steps_per_epoch)

    def _train_some(self, chunk: Any) -> None:
        """One chunk of steps, then whatever is due after it."""
        count = processes.first_says(self.steps_of_next_chunk())
        self.begin_pass()
        given = self.given(count)
        start = time.perf_counter()
        self.state, found = chunk(self.state, *given, np.int32(count))
        found = jax.tree.map(lambda entries: entries[:count], jax.device_get(found))
        self.take_in(given, found, time.perf_counter() - start)

    def begin_pass(self) -> None:
        """Sets the sums of a pass to zero, where one begins."""
        progress = self.progress
        if progress.step % self.parts.steps_per_epoch == 0:
            progress.epoch_loss = progress.epoch_accuracy = progress.epoch_seconds = 0.0
            progress.epoch_skipped = 0

    def given(self, count: int) -> Chunk:
        """What the next steps are taken on, after a look into the first one where it is due."""
        parts, progress, start = self.parts, self.progress, time.perf_counter()
        epoch, trains = parts.passes[self.number()]
        position = progress.step % parts.steps_per_epoch
        chunk = parts.feed.train.read(self.number(), position, count)
        self.reading_seconds = time.perf_counter() - start
        if parts.diagnostics.is_due(progress.step, trains):
            now = {"step": progress.step, "epoch": epoch, "trains": trains}
            with self._timed("diagnostics"):
                look = parts.diagnostics.look(self.state, chunk, **now)
            self._write(look)
            if parts.diagnostics.picture is not None:
                self.tracking.picture(parts.diagnostics.picture, progress.step)
        return chunk

    def take_in(self, given: Chunk, found: Metrics, seconds: float) -> None:
        """Keeps account of a chunk of steps, and does whatever is due after it.

        Args:
          given: see there. found: host arrays, one entry for each step. seconds: that they took,
            without `given`.

        Raises:
          Interrupted: a signal came; the state is saved. guard.Diverged, DiskError, WorkdirError.
        """
        parts, progress = self.parts, self.progress
        found = metrics_in_order(found, parts.learner.network)
        epoch, trains = parts.passes[self.number()]
        first, count, seconds = progress.step, len(found.loss), seconds + self.reading_seconds
        position = first % parts.steps_per_epoch
        progress.train_seconds += seconds
        progress.epoch_seconds += seconds
        self.seconds_per_step[trains] = seconds / count
        progress.step += count
        self._guard(found, first)
        counts = guard.counts(found)
        progress.epoch_loss += float(found.loss.sum(dtype=np.float64, where=counts))
        progress.epoch_accuracy += float(found.accuracy.sum(dtype=np.float64, where=counts))
        progress.epoch_skipped += int(np.sum(~counts))
        seen = position + count
        if self.config["max_minutes"] and processes.first_says(int(self._is_out_of_time())):
            self.ended_by = ending.MINUTES
        ended = seen == parts.steps_per_epoch or self.is_over()
        aligned = ended and self.config["diagnostics"]
        rows = step_rows(found, first, epoch, self.config["log_every"], last=aligned)
        measured = []
        if aligned:
            with self._timed("diagnostics"):
                rows[-1] |= parts.diagnostics.weights(self.state)
                measured = parts.diagnostics.measure(self.state, step=progress.step, epoch=epoch)
        summed = [self._epoch_row(epoch, seen) | guard_row(found, -1)] if ended else []
        self._write([*rows, *summed, *measured])
        # What is due is saved before anything is shown.
        check = partial(self._check_weights, found, given)
        validation, signal = self._after_chunk(epoch, ended, "forward" in trains, check)
        self.bar.update(
            epoch,
            seen,
            rate=self.config["batch_size"] * count / seconds,
            loss=progress.epoch_loss / max(seen - progress.epoch_skipped, 1),
            accuracy=progress.epoch_accuracy / max(seen - progress.epoch_skipped, 1),
            left=(parts.total_steps - progress.step) * seconds / count,
            feedback_loss={name: float(losses[-1]) for name, losses in found.feedback_loss.items()},
            only="" if trains == BOTH else trains[0],
        )
        if ended:
            angle = last_angle(rows[-1] if rows else {})
            updates = mean_update_angle(measured[0] if measured else {})
            self.bar.end_epoch(epoch, validation, angle, updates)
        if signal is not None:
            raise Interrupted(
                f"stopped after step {progress.step} of {parts.total_steps}; saved in "
                f"{self.workdir.path / 'checkpoints' / str(progress.step)}; to go on: the same command "
                f"with --workdir={self.workdir.path}",
                signal,
            )

    def _guard(self, found: Metrics, first: int) -> None:
        """Ends the run where there is no hope; says what the learner's guard has done."""
        options = self.config, self.parts.learner, self._last_good()
        if self.config["guard"] == "stop":
            return guard.check_losses(found, first, *options)
        for line in guard.check_recovery(found, first, self.parts.total_steps, *options):
            self.screen.warn(line)

    def _check_weights(self, found: Metrics, given: Chunk) -> None:
        """Raises Diverged where the next step would: a checkpoint of such weights is no good one.

        Args:
          found, given: metrics and images of the chunk of steps before.
        """
        options = self.config, self.parts.learner, self._last_good()
        guard.check_parameters(self.state, *options)
        batch = given.batches[len(found.loss) - 1]
        loss = float(self.probe(self.state.forward, given.images, given.labels, batch))
        guard.check_loss("the loss after it", loss, self.progress.step, *options, found=found)

    def _epoch_row(self, epoch: int, steps: int) -> Row:
        """Learning rates and speed of an epoch (of feedback training alone: 0, with the first rates)."""
        speed = self.config["batch_size"] * steps / max(self.progress.epoch_seconds, 1e-9)
        row = {"step": self.progress.step, "epoch": epoch, "split": "epoch"}
        rates = learning_rates(self.parts.experiment, max(epoch, 1))
        return {**row, **rates, "images_per_second": speed}

    def steps_of_next_chunk(self) -> int:
        """So many that nothing is due between them, and that they take CHUNK_SECONDS at most."""
        parts, step = self.parts, self.progress.step
        trains = parts.passes[self.number()].trains
        every = self.config["checkpoint_every"] or parts.steps_per_epoch
        by_time = (
            1
            if trains not in self.seconds_per_step
            else max(1, int(CHUNK_SECONDS / self.seconds_per_step[trains]))
        )
        return min(
            by_time,
            parts.feed.train.most_steps,
            parts.steps_per_epoch - step % parts.steps_per_epoch,
            every - step % every,
            parts.diagnostics.steps_to_look(step),
            self.until - step,
        )

    def _after_chunk(
        self, epoch: int, ended: bool, moved: bool, check: Callable[[], None]
    ) -> tuple[program.Evaluation | None, int | None]:
        """Validation and checkpoint, as far as they are due.

        Args:
          ended: the pass or the run has.
          moved: the forward weights have, so that there is something to validate.
          check: raises Diverged where the weights are not to be kept.

        Returns:
          What the validation has found, and the signal that any process got, both or None.
        """
        step, every, improved = self.progress.step, self.config["checkpoint_every"], False
        found = None
        if ended:
            has_val = "val" in self.parts.feed.evaluation
            found = self.evaluate("val", epoch) if has_val and moved else None
            best = self.progress.best_val_accuracy
            improved = found is not None and (best is None or found.accuracy >= best)
            if improved and (best is None or found.accuracy > best):
                self.progress.epochs_without_gain = 0
            elif found is not None and step % self.parts.steps_per_epoch == 0:
                self.progress.epochs_without_gain += 1
            self.ended_by = self.ended_by or self._ended_by(0.0)
            if improved:
                self.progress.best_step, self.progress.best_val_accuracy = step, found.accuracy
            if found is not None and self.watch is not None:
                self.is_left = self.watch(epoch, found.accuracy)
        signal = processes.any_says(self.stop_signal())
        due = self._is_time_to_save() or (step % every == 0 if every else ended)
        is_last = step == self.until  # of all, or of those that it takes alone
        if due or improved or signal is not None or is_last or self.is_over():
            check()
            self._save()
        return found, signal

    def _save(self) -> None:
        self.workdir.require()
        self.progress.wall_seconds = self.wall_seconds()
        self.parts.checkpoints.save(
            self.progress.step,
            self.state,
            dataclasses.asdict(self.progress) | self.parts.fingerprint._asdict(),
            self.progress.best_step,
        )
        self.saved_at = time.monotonic()
        self.tracking.flush()

    def _is_time_to_save(self) -> bool:
        """Whether the last checkpoint is older than the config allows; the first process's clock decides."""
        minutes = self.config["checkpoint_minutes"]
        if not minutes:
            return False
        return bool(processes.first_says(int(time.monotonic() - self.saved_at >= 60 * minutes)))

    def _last_good(self) -> str:
        kept = self.parts.checkpoints.steps()
        return (
            f"the last good checkpoint is {self.workdir.path / 'checkpoints' / str(kept[0])}"
            if kept
            else "no checkpoint yet"
        )

    def evaluate(self, split: str, epoch: int) -> program.Evaluation:
        found = self.evaluation(self.state, split)
        self._write(
            [{"step": self.progress.step, "epoch": epoch, "split": split, **found._asdict()}]
        )
        # Running statistics of the first steps say little: with them a loss may be large for a while.
        most = np.inf if self.state.statistics else guard.EXPLODED
        options = self.config, self.parts.learner, self._last_good()
        guard.check_loss(f"the {split} loss", found.loss, self.progress.step, *options, most=most)
        return found

    def evaluation(self, state: TrainState, split: str) -> program.Evaluation:
        blocks = self.parts.feed.evaluation[split]
        return self.parts.evaluate(state.forward, blocks, state.statistics)

    def _write(self, rows: list[Row]) -> None:
        self.workdir.append_metrics(rows)
        for row in rows:
            self.tracking.write(row)

    def finish(self) -> dict[str, Any]:
        """Evaluates, and writes the summary, unless the run is watched. Returns what it says."""
        if early_end(self):
            said = ending.in_words(self.config, self.ended_by)
            self.screen.note(f"ended after step {self.progress.step}: {said}")
        summary = summary_of(self)
        if self.watch is None:
            self.workdir.write_summary(summary)
        self.tracking.finish(summary)
        return summary
