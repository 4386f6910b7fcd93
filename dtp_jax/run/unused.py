"""Fields that change nothing in a run of a config, and why: whoever sets one is told."""

import inspect
from collections.abc import Collection
from typing import Any

from dtp_jax.networks import NETWORKS
from dtp_jax.rules import RULES
from dtp_jax.run.build import Experiment
from dtp_jax.run.config import fields_of

OF_RULES = ("beta", "noise", "feedback_activation")
OF_NETWORKS = ("activation", "bias")
"""Fields of which a rule, or a network, has its argument or does without. Others are refused where
they are of no use: see `build_network`."""
OF_OPTIMIZERS = {
    "forward_eps": ("forward_optimizer", "adam"),
    "momentum": ("forward_optimizer", "sgd"),
    "feedback_eps": ("feedback_optimizer", "adam"),
    "feedback_momentum": ("feedback_optimizer", "sgd"),
}
"""Which optimizer has it: the field that names one, and its name."""
OF_SCHEDULES = {"t_max": "cosine", "eta_min": "cosine", "step_epochs": "step", "gamma": "step"}
"""Which schedule has it."""
OF_FEEDBACK_TRAINING = (
    *("feedback_samples", "feedback_optimizer", "feedback_momentum", "feedback_weight_decay"),
    *("feedback_eps", "stale_gradients"),
)
"""Beside those that have a value for each map."""


def remarks(experiment: Experiment, overridden: Collection[str]) -> tuple[str, ...]:
    """A line for each of the fields that the user has set in vain."""
    config = experiment.config
    found = {name: why_unused(name, experiment) for name in overridden if name in config}
    return tuple(
        f"config.{name} is {config[name]!r} and changes nothing: {why}"
        for name, why in found.items()
        if why
    )


def why_unused(name: str, experiment: Experiment) -> str:
    """Why this field changes nothing in runs of this config; "" where it does."""
    config, data = experiment.config, experiment.data
    rule, network = config["rule"], config["network"]
    is_of_maps = name in OF_FEEDBACK_TRAINING or fields_of(config)[name].per_block
    if is_of_maps and experiment.rule.feedback_training is None:
        return f"the rule {rule} trains no feedback maps"
    divides_rates = name == "beta" and config["normalize_lr"]
    if name in OF_RULES and not _takes(RULES[rule], name) and not divides_rates:
        return f"the rule {rule} has no {name}"
    if name in OF_NETWORKS and not _takes(NETWORKS[network], name):
        return f"the network {network} has its own"
    if name == "forward_lr" and config["block_forward_lr"]:
        return "config.block_forward_lr stands in its place"
    if name in OF_OPTIMIZERS:
        field, kind = OF_OPTIMIZERS[name]
        if config[field] != kind:
            return f"config.{field} is {config[field]!r}, and it is of {kind}"
    if name in OF_SCHEDULES and config["schedule"] != OF_SCHEDULES[name]:
        return f"config.schedule is {config['schedule']!r}, and it is of {OF_SCHEDULES[name]}"
    if name == "val_split" and config["val_per_class"]:
        return "config.val_per_class stands in its place"
    if name == "augment" and config["augment"] and not (data.flip or data.crop_padding):
        return f"the data set {data.name} is not augmented"
    if name == "flip" and config["flip"] and not config["augment"]:
        return "config.augment is False"
    return ""


def _takes(factory: Any, name: str) -> bool:
    return name in inspect.signature(factory).parameters
