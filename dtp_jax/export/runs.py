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

from dtp_jax.export.weights import WeightsError, match, read, write
from dtp_jax.learning import learner
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.parallel.mesh import placement
from dtp_jax.run import cli
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loop import Progress
from dtp_jax.run.workdir import CHECKSUMS, Workdir, checksums, write_json
from dtp_jax.version import __version__

SIDES = ("forward", "feedback", "statistics")
RERUN = cli.CONFIGS / "rerun.py"


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
        raise ValueError(f"OUT is {str(file)!r}; allowed: a file that ends in .safetensors")
    experiment = validate(_config_of_run(path))
    step, state = _checkpoint(path, experiment, best, warn)
    metadata = {
        "format": "dtp_jax",
        "version": __version__,
        "step": str(step),
        "config": json.dumps(experiment.config),
    }
    count = write(file, jax.device_get(_trees(state)), metadata)
    return f"{file}: {count} arrays of {path}, step {step}"


def import_weights(
    path: Path, file: Path, *, config: str | None = None, overrides: tuple[str, ...] = ()
) -> str:
    """Makes a workdir whose first checkpoint, at step 0 and with fresh optimizers, has the file's weights.

    Args:
      config: as --config of launch.py; None takes the config that the file's metadata hold.
      overrides: "--config.FIELD=VALUE".

    Returns:
      What was done and how to go on, in two lines.

    Raises:
      ValueError: config, override or workdir are not valid.
      WeightsError: the file cannot be read, or does not fit the config.
    """
    weights = read(file)
    experiment = validate(_config_for(file, weights.metadata, config, overrides))
    folder = Workdir(path)
    if folder.config_file.exists():
        raise ValueError(f"WORKDIR is {str(path)!r}: it holds a run; allowed: a new folder")
    folder.status(experiment.config, 0)  # complains of folders that cannot be made
    learner_, like = _learner(experiment)
    try:
        found = match(experiment.network, _trees(like), weights)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    folder.create(experiment.config)
    folder.checkpoints(experiment.config["keep_checkpoints"]).save(
        0, _fresh_state(learner_, experiment.config["seed"], found), dataclasses.asdict(Progress())
    )
    return (
        f"{path}: starts from the {len(jax.tree.leaves(found))} arrays of {file}\n"
        f"to train: python launch.py --config=configs/rerun.py:{path}/config.json --workdir={path}"
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


def _learner(experiment: Experiment) -> tuple[Learner, TrainState]:
    """The learner, and the shapes of its state, on one device: neither depends on the length of an epoch."""
    learner_ = build_learner(experiment, steps_per_epoch=1)
    key = jax.random.key(experiment.config["seed"])
    here = placement(None)
    like = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here),
        jax.eval_shape(lambda key: learner.init(learner_, key), key),
    )
    return learner_, like


def _config_of_run(path: Path) -> dict[str, Any]:
    """config.json, with today's defaults for the fields that were not there yet."""
    file = Workdir(path).config_file
    try:
        return cli.load_config(f"{RERUN}:{file}").to_dict()
    except ValueError as error:
        what = "cannot be read" if file.exists() else "is missing"
        raise ValueError(
            f"WORKDIR is {str(path)!r}: its {file.name} {what}; allowed: the folder of a run"
        ) from error


def _config_for(
    file: Path, metadata: Mapping[str, str], config: str | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """The config of an import, with overrides."""
    try:
        saved = json.loads(metadata["config"]) if config is None else {}
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{file} holds no config; allowed: --config=FILE that says of which network"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", saved)
        given = config or f"{RERUN}:{folder}/config.json"
        return cli.parse(["export", f"--config={given}", *overrides]).config


def _checkpoint(
    path: Path, experiment: Experiment, best: bool, warn: Callable[[str], None]
) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint that can be read, or of the best one.

    Not through `Workdir.checkpoints`, which tidies up behind a run that it takes for dead.
    """
    like, damaged = _learner(experiment)[1], []
    folders = (path / "checkpoints").glob("[0-9]*")
    for newest in sorted((int(f.name) for f in folders if f.name.isdigit()), reverse=True):
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
        except WeightsError as error:
            damaged.append(f"checkpoint {step} cannot be used: {error}")
            continue
        for what in damaged:
            warn(what)
        return step, state
    raise WeightsError("; ".join([f"{path} holds no good checkpoint", *damaged[:1]]))


def _restore(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """(state, progress) of a checkpoint, which is only read."""
    import orbax.checkpoint as ocp  # lazily: it costs a good part of a second

    folder = folder.absolute()
    try:
        if json.loads((folder / CHECKSUMS).read_text()) != checksums(folder):
            raise ValueError("its files are not what was saved")
        with ocp.StandardCheckpointer() as reader:
            state = reader.restore(folder / "state", like)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return state, reader.restore(folder / "progress")
    except Exception as error:  # whatever a damaged file provokes in the reader
        raise WeightsError((str(error).splitlines() or [type(error).__name__])[0]) from error
