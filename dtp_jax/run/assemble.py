"""A run put together: first what can be checked without reading anything, then everything it works with."""

import os
import zlib
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dtp_jax.data import (
    DataError,
    Feed,
    Source,
    Split,
    Splits,
    divide,
    feed,
    load,
    load_splits,
    locate,
    training_examples,
)
from dtp_jax.data.batches import resident
from dtp_jax.fields import error
from dtp_jax.learning.learner import Learner
from dtp_jax.parallel.mesh import Mesh
from dtp_jax.run import program, trackers
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.checkpoints import Checkpoints
from dtp_jax.run.config import check_sizes, validate
from dtp_jax.run.diagnostics import Diagnostics, fixed_batch
from dtp_jax.run.extension import Extension, continued
from dtp_jax.run.passes import Passes, passes, total_steps
from dtp_jax.run.screen import Screen
from dtp_jax.run.seeds import with_seed
from dtp_jax.run.unused import remarks
from dtp_jax.run.workdir import FINISHED, Workdir

MOST_STEPS_PER_CHUNK = 500
Made = TypeVar("Made")


class Plan(NamedTuple):
    """A run that can start: everything is checked, nothing is read or written."""

    experiment: Experiment
    source: Source
    workdir: Workdir
    status: str
    """`workdir.NEW`, UNFINISHED or FINISHED."""
    total_steps: int
    seed: str
    """In words, where it is not the config's."""
    unused: tuple[str, ...]
    """A line for each field that the user has set in vain."""


class Shared:
    """What runs that differ in their seeds alone have in common: made once, by the first that needs it."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` made when it was asked for first."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def put_split(self, split: Split, mesh: Mesh | None) -> Split:
        """`resident(split, mesh)`, once where all runs train or are tested on it."""
        for n, whole in enumerate(self._made.get("data", ())):
            if split is whole:
                return self.get(("resident", n), lambda: resident(split, mesh))
        return resident(split, mesh)


class Fingerprint(NamedTuple):
    """Tells other data. Every checkpoint has it."""

    labels: int
    """CRC-32 of those that are trained on, in their order."""
    images: int
    """CRC-32 of the first of them: a copy that was encoded again has the same labels."""


LOOKED_AT = 1000
"""So many images a fingerprint is of."""


class Parts(NamedTuple):
    """Everything that a run works with."""

    experiment: Experiment
    workdir: Workdir
    screen: Screen
    mesh: Mesh | None
    feed: Feed
    learner: Learner
    evaluate: Any
    """See `program.evaluator`."""
    checkpoints: Checkpoints
    passes: Passes
    steps_per_epoch: int
    total_steps: int
    diagnostics: Diagnostics
    shared: Shared
    fingerprint: Fingerprint


def plan(
    config: Mapping[str, Any],
    folder: Workdir,
    *,
    overridden: Collection[str] = (),
    extended: tuple[Extension, ...] = (),
) -> Plan:
    """Checks the config, finds the data, looks at the folder.

    Args:
      overridden: the fields that the user has set, which an error rather blames than others.
      extended: see `run/extension.py`, where the config is that of an extended run.

    Raises:
      ValueError: one line; the config is not valid, does not fit the data, or not the folder.
      DataError: the data is missing or corrupt.
    """
    config, said = with_seed(config, folder.read_config, overridden, os.environ)
    experiment = validate(config, overridden)
    saved = folder.read_config()
    origin = (saved or {}).get("provenance", {})
    trackers.require(experiment.config["trackers"], origin.get("registered_by"))
    source, missing = _located(experiment)
    left = _training_images(experiment.config, source, is_new=saved is None)
    check_sizes(experiment.config, left)
    steps_per_epoch = left // experiment.config["batch_size"]
    fields, extensions = continued(experiment.config, saved, steps_per_epoch, extended)
    experiment = experiment._replace(config=fields, extensions=extensions)
    total = total_steps(fields, left)
    status = folder.status(fields, total)
    if missing is not None and status != FINISHED:
        raise missing
    unused = (*remarks(experiment, overridden), *remark_on_place(experiment, source, overridden))
    return Plan(experiment, source, folder, status, total, said, unused)


def _located(experiment: Experiment) -> tuple[Source, DataError | None]:
    """Where the images of a run are. Where they are not: as many as are published, and what to say of that.

    A run that has finished needs none, and may be looked at on another machine.
    """
    config, spec = experiment.config, experiment.data
    try:
        return locate(config["dataset"], config["data_dir"]), None
    except DataError as problem:
        return Source(spec, None, None, spec.train_examples, spec.test_examples), problem


def read(plan: Plan, screen: Screen, shared: Shared | None = None) -> Splits:
    """The images of a run.

    Args:
      shared: of several runs, which then train on parts of the same array.

    Raises:
      DataError: they are corrupt.
    """
    config = plan.experiment.config
    chosen = {"val_split": config["val_split"], "val_per_class": config["val_per_class"]}
    is_there = shared is not None and "data" in shared
    task = nullcontext() if is_there else screen.task(f"reading {config['dataset']}")
    with screen.hearing(), task as progress:
        if shared is None:
            splits = load_splits(
                plan.source, seed=config["seed"], progress=progress, copied=None, **chosen
            )
        else:
            whole = shared.get("data", lambda: load(plan.source, progress))
            splits = divide(plan.source.spec, *whole, seed=config["seed"], copied=False, **chosen)
    count = len(splits.train_indices) + (0 if splits.val is None else len(splits.val.labels))
    if count != plan.source.train_examples:  # the steps of the run were planned with these
        raise DataError(
            f"{config['dataset']}: {plan.source.path} has {count} training images; "
            f"allowed: {plan.source.train_examples}, as in the official data"
        )
    if config["train_images"]:
        splits = splits._replace(train_indices=splits.train_indices[: config["train_images"]])
    return splits


def assemble(
    plan: Plan, splits: Splits, screen: Screen, mesh: Mesh | None, shared: Shared | None = None
) -> Parts:
    """Everything that a run works with. The images go to where they stay.

    Args:
      shared: of several runs.
    """
    experiment, config, shared = plan.experiment, plan.experiment.config, shared or Shared()
    steps_per_epoch = len(splits.train_indices) // config["batch_size"]
    learner = shared.get("learner", lambda: build_learner(experiment, steps_per_epoch, mesh))
    evaluation = (experiment.network, experiment.data, mesh, config["precision"])
    return Parts(
        experiment,
        plan.workdir,
        screen,
        mesh,
        feed(
            experiment.data,
            splits,
            place=config["images_on"],
            batch_size=config["batch_size"],
            eval_batch_size=config["eval_batch_size"],
            most_steps=min(steps_per_epoch, MOST_STEPS_PER_CHUNK),
            seed=config["seed"],
            mesh=mesh,
            put_split=shared.put_split,
        ),
        learner,
        shared.get("evaluation", lambda: program.evaluator(*evaluation)),
        plan.workdir.checkpoints(config["keep_checkpoints"]),
        passes(config),
        steps_per_epoch,
        plan.total_steps,
        Diagnostics(
            experiment,
            learner,
            fixed_batch(splits, config["batch_size"]),
            plan.total_steps,
            plan.workdir,
            screen.warn,
            shared.get,
        ),
        shared,
        fingerprint(splits),
    )


def fingerprint(splits: Splits) -> Fingerprint:
    """That of the images that are trained on."""
    labels, first = splits.train.labels[splits.train_indices], splits.train_indices[:LOOKED_AT]
    images = splits.train.images[np.sort(first)]
    return Fingerprint(*(zlib.crc32(np.ascontiguousarray(a).tobytes()) for a in (labels, images)))


def remark_on_place(
    experiment: Experiment, source: Source, overridden: Collection[str]
) -> tuple[str, ...]:
    """A line where config.data_dir is given, and the data is elsewhere since there is no such folder."""
    given = experiment.config["data_dir"]
    is_there = not given or os.path.exists(os.path.expanduser(given))
    if "data_dir" not in overridden or is_there or source.format is None:
        return ()
    return (
        f"config.data_dir is {given!r} and changes nothing: it is not there; the data is {source.description}",
    )


def _training_images(config: Mapping[str, Any], source: Source, *, is_new: bool) -> int:
    """How many images are trained on.

    Args:
      is_new: an older version has made runs of more images than there are, which go on.
    """
    left = training_examples(source, config["val_split"], val_per_class=config["val_per_class"])
    if config["val_split"] and left == source.train_examples:
        raise ValueError(
            f"config.val_split is {config['val_split']}; allowed: 0, or enough for one of the "
            f"{source.train_examples} training images"
        )
    if is_new and config["train_images"] > left:
        name = "overfit_batches" if config["overfit_batches"] else "train_images"
        most = left // config["batch_size"] if config["overfit_batches"] else left
        raise error(f"config.{name}", config[name], f"0 to {most}: {left} images are left")
    return min(left, config["train_images"] or left)
