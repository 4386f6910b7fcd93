"""What a notebook or a script of its own calls: train, evaluate."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console

from dtp_jax.data import DataError, DatasetSpec, Split, check_split
from dtp_jax.data.batches import resident_evaluation
from dtp_jax.fields import A_LEARNER, AT_LEAST_1, checked, error, local_folder
from dtp_jax.learning.checks import check_kind
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.parallel.mesh import make_mesh
from dtp_jax.run import backend, cli, formats, loading, loop, program, several, signals
from dtp_jax.run.arguments import Arguments
from dtp_jax.run.assemble import plan
from dtp_jax.run.extension import from_json
from dtp_jax.run.failures import EXIT_DATA, INTERRUPTED, outcome
from dtp_jax.run.provenance import Request
from dtp_jax.run.results import FinishedRun, load_begun, load_run
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
    """Trains as `dtp train` does, with checkpoints; called again with the same folder, it goes on.

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
    asked = _asked(config, workdir, overrides)
    made = plan(asked.config, asked.workdir, overridden=asked.overridden, extended=asked.extended)
    if made.experiment.config["seeds"] > 1:
        count = made.experiment.config["seeds"]
        raise error("seeds", count, "1; dtp_jax.train_seeds trains several")
    if made.status != FINISHED:
        fields = made.experiment.config
        backend.require_devices()
        mesh = make_mesh(fields["data_parallel"], fields["layer_parallel"])
        screen = BriefScreen(Console(quiet=True)) if quiet else Screen()
        extensions = made.experiment.extensions
        with asked.workdir.owned():
            screen.start(
                made.experiment,
                asked.request.config,
                asked.request.overrides,
                made.source.description,
                asked.workdir.path,
                mesh,
                extended=str(extensions[-1]) if extensions else "",
            )
            stopping = signals.stop_signals(screen.note, screen.abandon)
            loop.run(made, asked.request, screen, stopping, mesh)
    return load_run(asked.workdir.path)


def _asked(
    config: str | Path | Mapping[str, Any],
    workdir: str | Path | None,
    overrides: Mapping[str, Any],
) -> Arguments:
    """What a call asks for, as a command line does."""
    extended = ()
    if isinstance(config, Mapping) or hasattr(config, "to_dict"):
        fields, name, shown = dict(config), "notebook", "a config of a program"
        formats.require_known(fields, "the config ")
        extended = from_json(fields)
    else:
        loaded = loading.load_config(str(config))
        chosen = {k: overrides[k] for k in ("rule", "network") if k in overrides}
        loading.add_brought(loaded.config, chosen)
        fields, name, shown = loaded.config.to_dict(), loaded.name, loaded.shown
        extended = loaded.extended
    folder = Workdir(local_folder("workdir", workdir)) if workdir else default_workdir(name)
    told = [f"{name}={value!r}" for name, value in overrides.items()]
    called = "train_seeds" if "seeds" in overrides else "train"
    given = ", ".join([repr(shown), f"workdir={str(folder.path)!r}", *told])
    request = Request(shown, told, f"dtp_jax.{called}({given})")
    return Arguments(
        {**fields, **overrides}, request, tuple(overrides), folder, False, None, extended
    )


def train_seeds(
    config: str | Path | Mapping[str, Any],
    workdir: str | Path | None = None,
    *,
    seeds: int,
    quiet: bool = False,
    **overrides: Any,
) -> list[FinishedRun]:
    """Trains a config with the seeds `seed`, `seed` + 1, ..., as `dtp train --config.seeds=N` does.

        runs = dtp_jax.train_seeds("digits_dtp", seeds=3, epochs=3)
        [run.summary["test_accuracy"] for run in runs]

    Args:
      config, workdir, quiet, overrides: see `train`. Every seed has a folder seed_<n> in workdir.
      seeds: how many.

    Returns:
      A run for each seed. One that did not finish has no summary, and no state where it has no checkpoint;
      what was wrong has been shown.

    Raises:
      ValueError, DataError: see `train`; also where a seed did not begin, which the line names: the others
        are in their folders. loop.Interrupted: ctrl-C; the runs are saved and can go on.
    """
    backend.check_flags()
    backend.prepare()
    asked = _asked(config, workdir, {**overrides, "seeds": seeds})
    if seeds == 1:
        raise ValueError("seeds is 1; allowed: 2 or more; dtp_jax.train trains one")
    made = plan(asked.config, asked.workdir, overridden=asked.overridden, extended=asked.extended)
    planned = several.plan_seeds(made, asked)
    screen = BriefScreen(Console(quiet=True)) if quiet else Screen()
    outcomes = cli.train_seeds(made, planned, asked, screen, cli.mesh_of(made), live=screen)
    if outcomes[-1].code >= INTERRUPTED:
        raise loop.Interrupted(
            f"stopped; called again with workdir={str(made.workdir.path)!r}, it goes on",
            outcomes[-1].code - INTERRUPTED,
        )
    for one in outcomes:
        if not Workdir(one.workdir).config_file.exists():
            kind = DataError if one.code == EXIT_DATA else ValueError
            raise kind(f"seed {one.seed} did not begin: {outcome(one.code)}; why has been shown")
    return [load_begun(one.workdir) for one in outcomes]


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

    Raises:
      ValueError: one line; an argument is none, there are no examples, or they are not of this data set.
    """
    check_kind("learner", learner, Learner, A_LEARNER)
    check_kind("state", state, TrainState, "a TrainState, from dtp_jax.init(learner, key)")
    check_split("split", split, spec)
    batch_size = checked("batch_size", batch_size, AT_LEAST_1)
    if not len(split.labels):
        raise ValueError("split has no examples; allowed: one or more")
    measure = EVALUATORS(learner.network, spec, learner.mesh, learner.precision)
    blocks = resident_evaluation(split, batch_size=batch_size, mesh=learner.mesh)
    return measure(state.forward, blocks, state.statistics)
