"""From a config to a learner: every field is checked here, before anything is read or compiled."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from optax import GradientTransformation

from dtp_jax.blocks import Network
from dtp_jax.data import DATASETS, PLACES, DatasetSpec
from dtp_jax.learning import optim
from dtp_jax.learning.learner import BOTH, FEEDBACK_ONLY, FORWARD_ONLY, STALE_GRADIENTS, Learner
from dtp_jax.networks import NETWORKS
from dtp_jax.ops import ACTIVATIONS, PRECISIONS
from dtp_jax.parallel.mesh import Mesh
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
_OPTIMIZER = _choice(("sgd", "adam"))

FIELDS: dict[str, Field] = {
    "rule": _choice(RULES),
    "network": _choice(NETWORKS),
    "channels": _WIDTHS,
    "hidden": _WIDTHS,
    "activation": _choice([name for name in ACTIVATIONS if name != "linear"]),
    "bias": _FLAG,
    "batch_norm": _FLAG,
    "split_stages": _FLAG,
    "dataset": _choice(DATASETS),
    "data_dir": Field(str, "a folder, or the empty string"),
    "images_on": _choice(PLACES),
    "val_split": _BELOW_1,
    "val_per_class": _COUNT,
    "train_images": _COUNT,
    "augment": _FLAG,
    "flip": _FLAG,
    "seed": Field(int, "a whole number from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31),
    "epochs": _AT_LEAST_1,
    "max_steps": _COUNT,
    "batch_size": _AT_LEAST_1,
    "precision": _choice(PRECISIONS),
    "data_parallel": _AT_LEAST_1,
    "layer_parallel": _AT_LEAST_1,
    "beta": _RATE,
    "noise": Field(float, "finite numbers above 0", _POSITIVE, is_tuple=True, per_block=True),
    "feedback_iterations": Field(
        int, "whole numbers, 1 or more", _POSITIVE, is_tuple=True, per_block=True
    ),
    "feedback_lr": Field(float, "finite numbers above 0", _POSITIVE, is_tuple=True, per_block=True),
    "feedback_optimizer": _OPTIMIZER,
    "feedback_momentum": _BELOW_1,
    "feedback_weight_decay": _FACTOR,
    "feedback_eps": _RATE,
    "feedback_samples": _AT_LEAST_1,
    "feedback_activation": _choice(ACTIVATIONS),
    "stale_gradients": _choice(STALE_GRADIENTS),
    "pretrain_epochs": _COUNT,
    "feedback_pass": _FLAG,
    "alternate": _FLAG,
    "forward_optimizer": _OPTIMIZER,
    "forward_lr": _RATE,
    "block_forward_lr": Field(float, "() or finite numbers above 0", _POSITIVE, is_tuple=True),
    "normalize_lr": _FLAG,
    "forward_eps": Field(float, "finite numbers above 0", _POSITIVE, is_tuple=True),
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
    "images_on",
    "data_parallel",
    "layer_parallel",
    "max_steps",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "eval_batch_size",
    "diagnostics",
)
"""Fields that change no number of a run (the mesh: none beyond rounding), so that a continued run
may have others."""


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
    data = data._replace(flip=data.flip or config["flip"])
    network = build_network(config, data)
    _fill_tuples(config, network)
    left = data.train_examples - _held_out(config, data)
    check_sizes(config, min(left, config["train_images"] or left))
    return Experiment(config, data, network, build_rule(config))


def _fill_tuples(config: dict[str, Any], network: Network) -> None:
    """Brings tuples over blocks to their full length, and checks what only some rules have."""
    training = build_rule(config).feedback_training
    if training is not None:
        trained = [network[i].name for i in training.blocks(network)]
        for name in (name for name, field in FIELDS.items() if field.per_block):
            config[name] = _full_length(name, config[name], trained)
    elif any(config[name] for name in ("pretrain_epochs", "feedback_pass", "alternate")):
        name = next(n for n in ("pretrain_epochs", "feedback_pass", "alternate") if config[n])
        allowed = (
            f"{type(config[name])()} for the rule {config['rule']}, which trains no feedback maps"
        )
        raise _error(name, config[name], allowed)
    blocks = [block.name for block in network]
    if config["block_forward_lr"]:
        config["block_forward_lr"] = _full_length(
            "block_forward_lr", config["block_forward_lr"], blocks
        )
    config["forward_eps"] = _full_length("forward_eps", config["forward_eps"], blocks)


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


def _full_length(name: str, value: tuple, blocks: list[str]) -> tuple:
    if len(value) not in (1, len(blocks)):
        raise _error(name, value, f"1 value, or {len(blocks)}: one for each of {', '.join(blocks)}")
    return value * len(blocks) if len(value) == 1 else value


def _held_out(config: Config, data: DatasetSpec) -> int:
    """How many of the usual number of training images are for validation."""
    per_class, count = config["val_per_class"], data.train_examples
    if per_class * data.classes >= count:
        allowed = f"0 to {(count - 1) // data.classes}, for {data.name} has {count} training images"
        raise _error("val_per_class", per_class, f"{allowed} of {data.classes} classes")
    return per_class * data.classes or round(config["val_split"] * count)


def check_sizes(config: Config, left: int) -> None:
    """Raises ValueError where the training images left after the validation split fill no batch."""
    name = "val_per_class" if config["val_per_class"] else "val_split"
    if left <= 0:
        raise _error(name, config[name], f"less, for this {config['dataset']} has too few images")
    if config["batch_size"] > left:
        raise _error(
            "batch_size",
            config["batch_size"],
            f"1 to {left}, the training images of {config['dataset']} ({name} {config[name]})",
        )
    if config["batch_size"] % config["data_parallel"]:
        raise _error(
            "data_parallel",
            config["data_parallel"],
            f"divisors of the batch_size {config['batch_size']}",
        )


def build_network(config: Config, data: DatasetSpec) -> Network:
    """The config's network for this data set's images and classes."""
    factory = NETWORKS[config["network"]]
    takes = inspect.signature(factory).parameters
    for name in ("channels", "hidden", "batch_norm", "split_stages"):
        if config[name] and name not in takes:
            neutral = type(config[name])()
            raise _error(
                name, config[name], f"{neutral} for the network {config['network']}, which has none"
            )
    # Widths () are the network's own. Activation and bias are no option of every network.
    options = {
        name: config[name]
        for name in ("channels", "hidden", "activation", "bias", "batch_norm", "split_stages")
        if name in takes and config[name] != ()
    }
    try:
        return factory(data.image_shape, data.classes, **options)
    except ValueError as error:
        raise ValueError(f"config.network is {config['network']!r}: {error}") from error


def build_rule(config: Config) -> Rule:
    """The config's rule: its factory is given the fields that it has arguments for."""
    factory = RULES[config["rule"]]
    return factory(**{name: config[name] for name in inspect.signature(factory).parameters})


def build_learner(
    experiment: Experiment, steps_per_epoch: int, mesh: Mesh | None = None
) -> Learner:
    """Network, rule and optimizers.

    Args:
      steps_per_epoch: for the schedule, which changes once per epoch.
      mesh: the devices, where there are several.
    """
    config, training = experiment.config, experiment.rule.feedback_training
    return Learner(
        network=experiment.network,
        rule=experiment.rule,
        forward_optimizer=_forward_optimizer(experiment, steps_per_epoch),
        feedback_optimizers=tuple(_feedback_optimizer(config, lr) for lr in config["feedback_lr"])
        if training
        else (),
        feedback_iterations=config["feedback_iterations"] if training else (),
        feedback_samples=config["feedback_samples"],
        stale_gradients=config["stale_gradients"],
        precision=config["precision"],
        mesh=mesh,
    )


def _forward_optimizer(experiment: Experiment, steps_per_epoch: int) -> GradientTransformation:
    """One optimizer for all blocks, or one for each where their rates or epsilons differ."""
    config = experiment.config
    names = [block.name for block in experiment.network]
    rates = config["block_forward_lr"] or (config["forward_lr"],) * len(names)
    settings = [
        (rate / config["beta"] if config["normalize_lr"] else rate, eps)
        for rate, eps in zip(rates, config["forward_eps"], strict=True)
    ]

    def build(rate: float, eps: float) -> GradientTransformation:
        if config["schedule"] == "cosine":
            rate = optim.cosine_per_epoch(
                rate,
                steps_per_epoch=steps_per_epoch,
                t_max=config["t_max"] or max(1, round(config["epochs"] * 85 / 90)),
                eta_min=config["eta_min"],
            )
        if config["forward_optimizer"] == "adam":
            return optim.adam(rate, eps=eps, weight_decay=config["weight_decay"])
        return optim.sgd(rate, momentum=config["momentum"], weight_decay=config["weight_decay"])

    if len(set(settings)) == 1:
        return build(*settings[0])
    return optim.per_block({name: build(*s) for name, s in zip(names, settings, strict=True)})


def _feedback_optimizer(config: Config, lr: float) -> GradientTransformation:
    decay = config["feedback_weight_decay"]
    if config["feedback_optimizer"] == "adam":
        return optim.adam(lr, eps=config["feedback_eps"], weight_decay=decay)
    return optim.sgd(lr, momentum=config["feedback_momentum"], weight_decay=decay)


class Pass(NamedTuple):
    """One pass over the training images."""

    epoch: int
    """0 before the first epoch of forward training, then 1, 2, ..."""
    trains: tuple[str, ...]
    """See `Learner.trains`."""


def passes(config: Config) -> tuple[Pass, ...]:
    """All passes of a run, in order.

    Every epoch trains everything at once, or with `alternate` first the feedback maps and then the
    forward weights (s-DDTP). `pretrain_epochs` passes come before, and with `feedback_pass` one comes
    after every epoch, that train the feedback maps alone.
    """
    one = (FEEDBACK_ONLY, FORWARD_ONLY) if config["alternate"] else (BOTH,)
    if config["feedback_pass"]:
        one = (*one, FEEDBACK_ONLY)
    before = tuple(Pass(0, FEEDBACK_ONLY) for _ in range(config["pretrain_epochs"]))
    return before + tuple(Pass(e + 1, trains) for e in range(config["epochs"]) for trains in one)
