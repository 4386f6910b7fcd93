"""From a run to a file of weights, and from a file of weights to a run."""

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax import fields
from dtp_jax.export.weights import FORMAT, WeightsError, match, read, write
from dtp_jax.learning import learner
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.run import arguments, formats
from dtp_jax.run.config import validate
from dtp_jax.run.files import DiskError
from dtp_jax.run.loop import Progress
from dtp_jax.run.provenance import Request, provenance
from dtp_jax.run.results import NoCheckpoint, checkpoint, experiment_of, learner_of
from dtp_jax.run.seeds import drawn
from dtp_jax.run.workdir import Workdir
from dtp_jax.version import __version__

SIDES = ("forward", "feedback", "statistics")
EXPORT = ("dtp export", "--coordinator=none")
"""Before the arguments of a command line: in a step of several tasks each is on its own."""


def export_run(
    path: Path, file: Path, *, best: bool = False, warn: Callable[[str], None] = warnings.warn
) -> str:
    """Writes the parameters of a run's newest good checkpoint, or of its best one by validation.

    The run is left as it is, and may be running.

    Args:
      path: the workdir. file: a .safetensors file; its metadata hold the resolved config as JSON, this
        program's version and the step.
      warn: told of damaged checkpoints that are passed over.

    Returns:
      What was done, in a line.

    Raises:
      ValueError: the workdir is none, or the file has another suffix.
      WeightsError: no checkpoint can be read, or the file cannot be written.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"FILE is {str(file)!r}; allowed: a file that ends in .safetensors")
    experiment = experiment_of(path)
    try:
        step, state = checkpoint(path, experiment, best=best, warn=warn)
    except NoCheckpoint as error:
        raise WeightsError(str(error)) from error
    metadata = {
        **FORMAT,
        "version": __version__,
        "step": str(step),
        "config": json.dumps(
            {**(Workdir(path).read_config() or {}), **experiment.config, "format": formats.FORMAT}
        ),
    }
    count = write(file, jax.device_get(_trees(state)), metadata)
    return f"{file}: {count} arrays of {path}, step {step}"


def import_weights(
    path: Path, file: Path, *, config: str | None = None, overrides: tuple[str, ...] = ()
) -> str:
    """Makes a workdir whose first checkpoint, at step 0 and with fresh optimizers, has the file's weights.

    Args:
      config: as --config of dtp train; None takes the config that the file's metadata hold.
      overrides: "--config.FIELD=VALUE".

    Returns:
      What was done and how to go on, in two lines.

    Raises:
      ValueError: config, override or workdir are not valid.
      WeightsError: the file cannot be read, or does not fit the config.
    """
    weights = read(file)
    experiment = validate(drawn(_config_for(file, weights.metadata, config, overrides)))
    if experiment.config["seeds"] > 1:
        raise fields.error(
            "config.seeds", experiment.config["seeds"], "1: the weights are those of one run"
        )
    folder = Workdir(path)
    if folder.config_file.exists():
        raise ValueError(f"WORKDIR is {str(path)!r}: it holds a run; allowed: a new folder")
    folder.status(experiment.config, 0)  # complains of folders that cannot be made
    learner_, like = learner_of(experiment)
    try:
        found = match(experiment.network, _trees(like), weights)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    request = Request(config or str(file), overrides, f"dtp export --to-workdir {path} {file}")
    state = _fresh_state(learner_, experiment.config["seed"], found)
    try:
        with folder.owned():
            # Weights first: a folder with a config and none would begin with random ones.
            checkpoints = folder.checkpoints(experiment.config["keep_checkpoints"])
            checkpoints.save(0, state, dataclasses.asdict(Progress()))
            folder.create(experiment.config, provenance(request, experiment.config, None))
    except DiskError as error:
        raise WeightsError(str(error)) from error
    return (
        f"{path}: starts from the {len(jax.tree.leaves(found))} arrays of {file}\n"
        f"to train: dtp train --workdir={path}"
    )


def _trees(state: TrainState) -> dict[str, Any]:
    """What goes into a file: all that a trained network consists of."""
    return {side: getattr(state, side) for side in SIDES if hasattr(state, side)}


def _fresh_state(learner_: Learner, seed: int, found: dict[str, Any]) -> TrainState:
    """The state before the first step, with these weights."""
    state = jax.jit(lambda key: learner.init(learner_, key))(jax.random.key(seed))
    state = state.replace(**jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), found))
    forward, feedback = learner.init_optimizers(learner_, state.forward, state.feedback)
    return state.replace(forward_opt_state=forward, feedback_opt_state=feedback)


def _config_for(
    file: Path, metadata: Mapping[str, str], config: str | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """The config of an import, with overrides."""
    if config is not None:
        return arguments.parse([*EXPORT, f"--config={config}", *overrides]).config
    otherwise = "--config=FILE that says of which network"
    if "config" not in metadata:
        raise ValueError(f"{file} holds no config; allowed: {otherwise}")
    try:
        formats.parse(metadata["config"])
    except formats.FormatError as error:
        raise ValueError(f"{file}: its config {error}, or {otherwise}") from error
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "config.json"
        saved.write_text(metadata["config"], encoding="utf-8")
        return arguments.parse([*EXPORT, f"--config={saved}", *overrides]).config
