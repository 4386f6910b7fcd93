"""From a config to a learner: every field is checked here, before anything is read or compiled."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dtp_jax import optim
from dtp_jax.blocks import Network
from dtp_jax.data import DATASETS, DatasetSpec
from dtp_jax.learner import Learner
from dtp_jax.networks import NETWORKS
from dtp_jax.ops import ACTIVATIONS
from dtp_jax.rules import RULES, Rule

Config = Mapping[str, Any]


class Field(NamedTuple):
    """Type of a config field, and which values it takes."""

    kind: type
    allowed: str
    accepts: Callable[[Any], bool] = lambda value: True
    is_tuple: bool = False
    """A tuple of such values; one value alone is taken for a tuple of length 1."""
    per_block: bool = False
    """The tuple runs over the trained feedback blocks."""


def _choice(names) -> Field:
    return Field(str, "one of " + ", ".join(names), lambda value: value in names)


_POSITIVE = lambda value: 0 < value < math.inf  # noqa: E731
_NOT_NEGATIVE = lambda value: 0 <= value < math.inf  # noqa: E731
_COUNT = Field(int, "a whole number, 0 or more", _NOT_NEGATIVE)
_AT_LEAST_1 = Field(int, "a whole number, 1 or more", _POSITIVE)
_RATE = Field(float, "a finite number above 0", _POSITIVE)
_FACTOR = Field(float, "a finite number, 0 or more", _NOT_NEGATIVE)
_BELOW_1 = Field(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
_WIDTHS = Field(int, "() or whole numbers, 1 or more", _POSITIVE, is_tuple=True)
_FLAG = Field(bool, "True or False")

FIELDS: dict[str, Field] = {
    "rule": _choice(RULES),
    "network": _choice(NETWORKS),
    "channels": _WIDTHS,
    "hidden": _WIDTHS,
    "activation": _choice([name for name in ACTIVATIONS if name != "linear"]),
    "bias": _FLAG,
    "dataset": _choice(DATASETS),
    "data_dir": Field(str, "a folder, or the empty string"),
    "val_split": _BELOW_1,
    "augment": _FLAG,
    "seed": Field(int, "a whole number from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31),
    "epochs": _AT_LEAST_1,
    "max_steps": _COUNT,
    "batch_size": _AT_LEAST_1,
    "beta": _RATE,
    "noise": Field(float, "finite numbers above 0", _POSITIVE, is_tuple=True, per_block=True),
    "feedback_iterations": Field(
        int, "whole numbers, 1 or more", _POSITIVE, is_tuple=True, per_block=True
    ),
    "feedback_lr": Field(float, "finite numbers above 0", _POSITIVE, is_tuple=True, per_block=True),
    "feedback_momentum": _BELOW_1,
    "feedback_samples": _AT_LEAST_1,
    "forward_lr": _RATE,
    "momentum": _BELOW_1,
    "weight_decay": _FACTOR,
    "schedule": _choice(("cosine", "constant")),
    "t_max": _COUNT,
    "eta_min": _FACTOR,
    "checkpoint_every": _COUNT,
    "keep_checkpoints": _AT_LEAST_1,
    "log_every": _AT_LEAST_1,
    "eval_batch_size": _AT_LEAST_1,
    "diagnostics": _FLAG,
}

BOOKKEEPING = (
    "data_dir",
    "max_steps",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "eval_batch_size",
    "diagnostics",
)
"""Fields that change no number of a run, so that a continued run may have others."""


class Experiment(NamedTuple):
    """A validated config, with what it names."""

    config: dict[str, Any]
    """Every field; tuples over blocks in full length."""
    data: DatasetSpec
    network: Network
    rule: Rule


def validate(config: Config) -> Experiment:
    """Checks every field and how they fit together. Reads no file and compiles nothing.

    Raises:
      ValueError: one line with the field, its value and what is allowed.
    """
    config = dict(config)
    for name in config:
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "allowed: " + ", ".join(FIELDS)
            raise ValueError(f"config.{name}: no such field; {hint}")
    for name, field in FIELDS.items():
        if name not in config:
            raise ValueError(f"config.{name}: missing; allowed: {field.allowed}")
        config[name] = _checked(name, config[name], field)
    data = DATASETS[config["dataset"]]
    network = build_network(config, data)
    if config["rule"] != "backprop":
        for name in (name for name, field in FIELDS.items() if field.per_block):
            config[name] = _full_length(name, config[name], network)
    check_sizes(config, data.train_examples)
    return Experiment(config, data, network, build_rule(config))


def _checked(name: str, value: Any, field: Field) -> Any:
    """The value in the field's type, or a ValueError. Whole numbers pass for floats; True is no number."""
    entries = tuple(value) if field.is_tuple and isinstance(value, (tuple, list)) else (value,)
    kinds = (int, float) if field.kind is float else (field.kind,)
    if any(type(entry) not in kinds or not field.accepts(entry) for entry in entries):
        raise _error(name, value, field.allowed)
    try:
        entries = tuple(field.kind(entry) for entry in entries)
    except OverflowError as error:  # a whole number beyond every float
        raise _error(name, value, field.allowed) from error
    return entries if field.is_tuple else entries[0]


def _error(name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"config.{name} is {value!r}; allowed: {allowed}")


def _full_length(name: str, value: tuple, network: Network) -> tuple:
    trained = [block.name for block in network[1:]]
    if len(value) not in (1, len(trained)):
        raise _error(
            name, value, f"1 value, or {len(trained)}: one for each of {', '.join(trained)}"
        )
    return value * len(trained) if len(value) == 1 else value


def check_sizes(config: Config, train_examples: int) -> None:
    """Raises ValueError where the training images left after the validation split fill no batch."""
    left = train_examples - round(config["val_split"] * train_examples)
    if config["batch_size"] > left:
        raise _error(
            "batch_size",
            config["batch_size"],
            f"1 to {left}, the training images of {config['dataset']} (val_split {config['val_split']})",
        )


def build_network(config: Config, data: DatasetSpec) -> Network:
    """The config's network for this data set's images and classes."""
    factory = NETWORKS[config["network"]]
    options = {name: config[name] for name in ("activation", "bias")}
    takes = inspect.signature(factory).parameters
    for name in ("channels", "hidden"):
        if config[name] and name not in takes:
            raise _error(
                name, config[name], f"() for the network {config['network']}, which has none"
            )
        if config[name]:
            options[name] = config[name]
    try:
        return factory(data.image_shape, data.classes, **options)
    except ValueError as error:
        raise ValueError(f"config.network is {config['network']!r}: {error}") from error


def build_rule(config: Config) -> Rule:
    """The config's rule: its factory is given the fields that it has arguments for."""
    factory = RULES[config["rule"]]
    return factory(**{name: config[name] for name in inspect.signature(factory).parameters})


def build_learner(experiment: Experiment, steps_per_epoch: int) -> Learner:
    """Network, rule and optimizers.

    Args:
      steps_per_epoch: for the schedule, which changes once per epoch.
    """
    config = experiment.config
    learning_rate = config["forward_lr"]
    if config["schedule"] == "cosine":
        t_max = config["t_max"] or max(1, round(config["epochs"] * 85 / 90))
        learning_rate = optim.cosine_per_epoch(
            learning_rate, steps_per_epoch=steps_per_epoch, t_max=t_max, eta_min=config["eta_min"]
        )
    trained = experiment.rule.feedback_training is not None
    return Learner(
        network=experiment.network,
        rule=experiment.rule,
        forward_optimizer=optim.sgd(
            learning_rate, momentum=config["momentum"], weight_decay=config["weight_decay"]
        ),
        feedback_optimizers=tuple(
            optim.sgd(lr, momentum=config["feedback_momentum"]) for lr in config["feedback_lr"]
        )
        if trained
        else (),
        feedback_iterations=config["feedback_iterations"] if trained else (),
        feedback_samples=config["feedback_samples"],
    )
