"""What a notebook or a script of its own calls: train, evaluate."""

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console

from dtp_jax.data import DatasetSpec, Split
from dtp_jax.data.batches import resident_evaluation
from dtp_jax.fields import local_folder
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.parallel.mesh import make_mesh
from dtp_jax.run import backend, formats, loading, loop, program, signals
from dtp_jax.run.assemble import plan
from dtp_jax.run.extension import from_json
from dtp_jax.run.provenance import Request
from dtp_jax.run.results import FinishedRun, load_run
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.workdir import FINISHED, Workdir, default_workdir

EVALUATORS = lru_cache(maxsize=16)(program.evaluator)
"""An evaluation is compiled once for each network and data set."""


def train(
    config: str | Path | Mapping[str, Any],
    workdir: str | Path | None = None,
    *,
    quiet: bool = False,
    **overrides: Any,
) -> FinishedRun:
    """Trains as `launch.py` does, with checkpoints; called again with the same folder, it goes on.

        run = dtp_jax.train("digits_dtp", epochs=3)
        run.summary["test_accuracy"], run.metrics.of("val")["accuracy"]

    Args:
      config: a name, a file, the config.json of a run, or a config itself.
      workdir: folder of the run; runs/<config>/<time> by default.
      quiet: nothing is shown but warnings.
      overrides: fields of the config.

    Returns:
      Learner, state, metrics and summary.

    Raises:
      ValueError: one line; config or folder are not valid, or another run trains in the folder.
      DataError: the data is missing or corrupt. DiskError: the disk refuses.
      guard.Diverged: a loss is not finite. loop.Interrupted: ctrl-C; the run is saved and can go on.
    """
    backend.check_flags()
    backend.prepare()
    extended = ()
    if isinstance(config, Mapping) or hasattr(config, "to_dict"):
        fields, name, shown = dict(config), "notebook", "a config of a program"
        formats.require_known(fields, "the config ")
        extended = from_json(fields)
    else:
        loaded = loading.load_config(str(config))
        loading.add_brought(
            loaded.config, {k: overrides[k] for k in ("rule", "network") if k in overrides}
        )
        fields, name, shown, extended = loaded.config.to_dict(), *loaded[1:]
    folder = Workdir(local_folder("workdir", workdir)) if workdir else default_workdir(name)
    made = plan(fields | overrides, folder, overridden=tuple(overrides), extended=extended)
    if made.status != FINISHED:
        fields = made.experiment.config
        backend.require_devices()
        mesh = make_mesh(fields["data_parallel"], fields["layer_parallel"])
        told = [f"{name}={value!r}" for name, value in overrides.items()]
        screen = BriefScreen(Console(quiet=True)) if quiet else Screen()
        extensions = made.experiment.extensions
        with folder.owned():
            path = str(folder.path)
            command = f"dtp_jax.train({', '.join([repr(shown), f'workdir={path!r}', *told])})"
            screen.start(
                made.experiment,
                shown,
                told,
                made.source.description,
                folder.path,
                mesh,
                extended=str(extensions[-1]) if extensions else "",
            )
            is_main = threading.current_thread() is threading.main_thread()
            stopping = signals.StopSignals(screen.note, screen.abandon) if is_main else loop.NEVER
            loop.run(made, Request(shown, told, command), screen, stopping, mesh)
    return load_run(folder.path)


def evaluate(
    learner: Learner,
    state: TrainState,
    split: Split,
    spec: DatasetSpec,
    *,
    batch_size: int = 500,
) -> program.Evaluation:
    """Loss and accuracies of the forward network on all examples of a split.

    Args:
      split: uint8 images and labels, as `dtp_jax.data.load_splits` gives them.
      spec: their data set.
      batch_size: images at a time; changes no number beyond rounding.

    Returns:
      `loss`, the mean cross-entropy in nats; `accuracy` and `top5_accuracy`, 0 to 1.
    """
    measure = EVALUATORS(learner.network, spec, learner.mesh, learner.precision)
    blocks = resident_evaluation(split, batch_size=batch_size, mesh=learner.mesh)
    return measure(state.forward, blocks, state.statistics)
