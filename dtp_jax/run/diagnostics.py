"""What a run looks at beside its training: on or off, every bit of the training state is the same.

Looks into the feedback training of single batches, and the groups of measures of `learning/diagnostics.py`
after every pass. Whatever goes wrong here is a line of warning, and the run goes on without it.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dtp_jax.data import Chunk, Split, Splits
from dtp_jax.fields import first_line
from dtp_jax.learning.diagnostics import GROUPS, Numbers
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import on_own_device, put
from dtp_jax.plots import style
from dtp_jax.plots.feedback import draw_feedback
from dtp_jax.run import program
from dtp_jax.run.build import Experiment
from dtp_jax.run.files import DiskError, WorkdirError, replacing
from dtp_jax.run.rows import Row, feedback_row, in_network_order, numbers_row, weight_rows
from dtp_jax.run.workdir import Workdir

FEW_STEPS = 5_000
"""Runs of fewer leave out by default what has to be compiled: it takes longer than it tells."""
Ways = Mapping[tuple[str, ...], Learner]
"""A learner for each way of training, by what it trains."""


def fixed_batch(splits: Splits, batch_size: int) -> Split:
    """The first images held out for validation, or trained on where there are none: what is measured on."""
    if splits.val is not None:
        rows, held = np.arange(len(splits.val.labels)), splits.val
    else:
        rows, held = splits.train_indices, splits.train
    rows = rows[:batch_size]
    return Split(np.asarray(held.images[rows]), np.asarray(held.labels[rows]))


def is_drawn(step: int, every: int, total_steps: int) -> bool:
    """Whether a look becomes a picture: the first, second, third, fifth, ninth, ..., and the last one.

    A picture takes a second, which is many steps on a GPU; the arrays of the others can be drawn later.
    """
    number = step // every
    return number & (number - 1) == 0 or step + every >= total_steps


class Diagnostics:
    """The looks and the groups of one run: which are due, their compiled programs, their rows."""

    def __init__(
        self,
        experiment: Experiment,
        learner: Learner,
        batch: Split,
        total_steps: int,
        workdir: Workdir,
        warn: Callable[[str], None],
        once: Callable[[Any, Callable[[], Any]], Any] = lambda key, make: make(),
    ):
        """Decides what will be measured; nothing is compiled.

        Args:
          batch: see `fixed_batch`; uint8, on the host.
          warn: is told, once each, what cannot be measured, and why.
          once: gives what is made under a key, and makes it only where it is not there; see `Shared`.
        """
        self._config, self._learner, self._data = experiment.config, learner, experiment.data
        self._batch, self._total_steps, self._workdir = batch, total_steps, workdir
        self._warn, self._said, self._once = warn, set(), once
        no_maps = "" if learner.trained else f"the rule {learner.rule.name} trains no feedback maps"
        wants_looks = self._wants("iterations", lambda: no_maps)
        self.every = self._config["diagnostics_every"] if wants_looks else 0
        """Steps between looks; 0 where there are none."""
        self._groups = {
            name: group
            for name, group in GROUPS.items()
            if name != "weights" and self._wants(name, lambda group=group: group.refuses(learner))
        }
        self._looks: dict[tuple[str, ...], Any] = {}
        self._measures: dict[str, Any] = {}
        self._given: tuple[Any, ...] = ()
        self.picture: Path | None = None
        """Of the last look, where it became one."""

    def _wants(self, name: str, refuses: Callable[[], str]) -> bool:
        """Whether a part is measured, by its flag, the length of the run and what there is to measure."""
        flag = self._config[f"diagnostics_{name}"]
        is_long = self._total_steps >= FEW_STEPS
        if not self._config["diagnostics"] or not (flag == "on" or flag == "auto" and is_long):
            return False
        try:
            reason = refuses()
        except Exception as error:  # of any kind: rules of users are asked
            reason = first_line(error)
            flag = "on"
        if reason and flag == "on":
            self._say(f"config.diagnostics_{name}", f"measures nothing: {reason}")
        return not reason

    def _say(self, about: str, text: str) -> None:
        """A warning, by one process and once about each thing."""
        if about not in self._said and processes.is_first():
            self._warn(f"{about} {text}")
        self._said.add(about)

    def _tried(self, what: str, job: Callable[..., Any], *given: Any) -> Any:
        """job(*given); None, and a warning, where it fails."""
        try:
            return job(*given)
        except (DiskError, WorkdirError):
            raise  # the run cannot go on
        except Exception as error:  # of any kind: measures, compilers, disks
            self._say(what, f"failed, and the run goes on without: {first_line(error)}")
            return None

    def to_compile(self, step: int, ways: Ways) -> bool:
        """Whether anything is still to be measured from this step on."""
        has_looks = any("feedback" in trains for trains in ways)
        return bool(self._groups) or (has_looks and self._next_look(step) < self._total_steps)

    def _next_look(self, step: int) -> int:
        """The first step from this one on before which there is a look."""
        return -(-step // self.every) * self.every if self.every else self._total_steps

    def compile(self, state: TrainState, like: Chunk, step: int, ways: Ways) -> None:
        """Compiles what will be asked for.

        Args:
          like: shapes of the chunks to come. ways: of training, to come.
        """
        if self._next_look(step) < self._total_steps:
            batch = jax.ShapeDtypeStruct(like.batches.shape[1:], np.int32)
            for trains, learner in ways.items():
                if "feedback" in trains:
                    given = (state, like.images, like.labels, batch)
                    job = program.look(learner, self._data, augmented=self._config["augment"])
                    what = "compiling config.diagnostics_iterations"
                    made = self._tried(what, self._compiled, ("look", trains), job, *given)
                    if made is not None:
                        self._looks[trains] = made
        if self._groups:
            state, self._given = on_own_device(state), put(None, tuple(self._batch))
        for name, group in self._groups.items():
            job = program.measured(self._learner, self._data, group.measure)
            what = f"compiling config.diagnostics_{name}"
            made = self._tried(what, self._compiled, ("measure", name), job, state, *self._given)
            if made is not None:
                self._measures[name] = made

    def _compiled(self, key: Any, program_: Any, *given: Any) -> Any:
        return self._once(key, lambda: program_.lower(*given).compile())

    def steps_to_look(self, step: int) -> int:
        """Steps from this one to the next look after it."""
        return self._next_look(step + 1) - step if self.every else self._total_steps

    def is_due(self, step: int, trains: tuple[str, ...]) -> bool:
        """Whether to look into the step to come."""
        return step == self._next_look(step) and trains in self._looks

    def look(
        self, state: TrainState, given: Chunk, *, step: int, epoch: int, trains: tuple[str, ...]
    ) -> list[Row]:
        """The row of a look into the step to come, for which it is due; its curves are in figures/.

        Args:
          state: before the step; not donated. given: the chunk that begins with it.
        """
        program_ = self._looks[trains]
        what, batch = "config.diagnostics_iterations", (*given[:2], given.batches[0])
        self.picture = None
        seen = self._tried(what, self._on_host, program_, state, *batch)
        if seen is None:
            del self._looks[trains]
            return []
        curves = {
            f"{kind}/{name}": np.asarray(values)
            for name, kinds in seen.items()
            for kind, values in kinds.items()
        }
        if processes.is_first():
            self._tried(f"a figure of {self._workdir.figures}", self._draw, curves, step)
        row = feedback_row(curves, step, epoch)
        self._say_of_odd_numbers("iterations", row)
        return [row]

    def _draw(self, curves: Mapping[str, np.ndarray], step: int) -> None:
        """The arrays of every look, and a picture of some."""
        file = self._workdir.figure_file(step)
        with replacing(file) as stream:
            np.savez(stream, **curves)
        if is_drawn(step, self.every, self._total_steps):
            title = f"feedback training of the batch at step {step}"
            style.save(draw_feedback(curves, title), file.with_suffix(".png"))
            self.picture = file.with_suffix(".png")

    def weights(self, state: TrainState) -> dict[str, float]:
        """What belongs in the last row of a pass: see `weight_rows`."""
        return self._tried("config.diagnostics", weight_rows, self._learner, state) or {}

    def measure(self, state: TrainState, *, step: int, epoch: int) -> list[Row]:
        """The row of all groups, if there are any."""
        numbers: Numbers = {}
        given = (on_own_device(state), *self._given) if self._measures else ()
        for name, program_ in list(self._measures.items()):
            found = self._tried(f"config.diagnostics_{name}", self._on_host, program_, *given)
            if found is None:
                del self._measures[name]
                continue
            self._say_of_odd_numbers(name, found)
            numbers |= found
        return [numbers_row(numbers, step, epoch)] if numbers else []

    def _on_host(self, program_: Any, *given: Any) -> Any:
        return in_network_order(jax.device_get(program_(*given)), self._learner.network)

    def _say_of_odd_numbers(self, name: str, numbers: Mapping[str, Any]) -> None:
        """A warning, once for every group: what is null in metrics.jsonl is not hidden."""
        odd = [key for key, value in numbers.items() if not _is_finite(value)]
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            text = f"has {odd[0]}{more} not finite: null in metrics.jsonl"
            self._say(f"config.diagnostics_{name}", text)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, (float, np.ndarray, np.generic)) or math.isfinite(value)
