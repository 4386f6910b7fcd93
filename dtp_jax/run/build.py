"""What a config names: the network, the rule, the learner."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from optax import GradientTransformation, ScalarOrSchedule

from dtp_jax import fields
from dtp_jax.blocks import Network
from dtp_jax.data import DatasetSpec
from dtp_jax.learning import optim
from dtp_jax.learning.learner import Learner
from dtp_jax.networks import NETWORKS
from dtp_jax.parallel.mesh import Mesh
from dtp_jax.rules import RULES, Rule
from dtp_jax.run.extension import Extension, first_t_max

Config = Mapping[str, Any]


class Experiment(NamedTuple):
    """A validated config, with what it names."""

    config: dict[str, Any]
    """Every field; tuples over blocks in full length."""
    data: DatasetSpec
    network: Network
    rule: Rule
    extensions: tuple[Extension, ...] = ()
    """Of a run that was given more epochs later."""


def build_network(config: Config, data: DatasetSpec) -> Network:
    """The config's network for this data set's images and classes."""
    factory = NETWORKS[config["network"]]
    takes = inspect.signature(factory).parameters
    for name in ("channels", "hidden", "batch_norm", "split_stages"):
        if config[name] and name not in takes:
            neutral = type(config[name])()
            raise fields.error(
                f"config.{name}",
                config[name],
                f"{neutral} for the network {config['network']}, which has none",
            )
    # Widths () are the network's own. Activation and bias are no option of every network.
    brought = tuple(NETWORKS.fields.get(config["network"], ()))
    options = {
        name: config[name]
        for name in (
            "channels",
            "hidden",
            "activation",
            "bias",
            "batch_norm",
            "split_stages",
            *brought,
        )
        if name in takes and config[name] != ()
    }
    try:
        return factory(data.image_shape, data.classes, **options)
    except ValueError as error:
        raise ValueError(f"config.network is {config['network']!r}: {error}") from error


def build_rule(config: Config) -> Rule:
    """The config's rule: its factory is given the fields that it has arguments for.

    Raises:
      ValueError: one line; it has an argument that is no field of the config.
    """
    name = config["rule"]
    factory = RULES[name]
    takes = inspect.signature(factory).parameters
    for argument, described in takes.items():
        if argument not in config and described.default is described.empty:
            raise ValueError(
                f"config.rule is {name!r}, which takes {argument!r}, a name that no field has; "
                f"allowed: rules.register({name}, fields={{{argument!r}: DEFAULT}})"
            )
    return factory(**{argument: config[argument] for argument in takes if argument in config})


def build_learner(
    experiment: Experiment, steps_per_epoch: int, mesh: Mesh | None = None
) -> Learner:
    """Network, rule and optimizers.

    Args:
      steps_per_epoch: for the schedule, which changes once per epoch.
      mesh: the devices, where there are several.
    """
    config, feedback = experiment.config, {}
    if experiment.rule.feedback_training is not None:
        feedback = {
            "feedback_optimizers": tuple(
                _feedback_optimizer(config, lr) for lr in config["feedback_lr"]
            ),
            **{
                name: config[name]
                for name in ("feedback_iterations", "feedback_samples", "stale_gradients")
            },
        }
    return Learner(
        network=experiment.network,
        rule=experiment.rule,
        forward_optimizer=_forward_optimizer(experiment, steps_per_epoch),
        precision=config["precision"],
        guard=config["guard"],
        init_symmetric=config["init_symmetric"],
        ahead_mb=config["ahead_mb"],
        mesh=mesh,
        **feedback,
    )


def _forward_optimizer(experiment: Experiment, steps_per_epoch: int) -> GradientTransformation:
    """One optimizer for all blocks, or one for each where their rates or epsilons differ."""
    config = experiment.config
    names = [block.name for block in experiment.network]
    settings = list(zip(forward_rates(experiment), config["forward_eps"], strict=True))

    def build(rate: float, eps: float) -> GradientTransformation:
        rate = _schedule(experiment, rate, steps_per_epoch)
        if config["forward_optimizer"] == "adam":
            return optim.adam(rate, eps=eps, weight_decay=config["weight_decay"])
        return optim.sgd(rate, momentum=config["momentum"], weight_decay=config["weight_decay"])

    if len(set(settings)) == 1:
        return build(*settings[0])
    return optim.per_block({name: build(*s) for name, s in zip(names, settings, strict=True)})


def forward_rates(experiment: Experiment) -> list[float]:
    """One for each block, before the schedule."""
    config = experiment.config
    rates = config["block_forward_lr"] or (config["forward_lr"],) * len(experiment.network)
    return [rate / config["beta"] if config["normalize_lr"] else rate for rate in rates]


def _schedule(experiment: Experiment, rate: float, steps_per_epoch: int) -> ScalarOrSchedule:
    """The rate over the forward steps, of which every epoch has `steps_per_epoch`."""
    config, extensions = experiment.config, experiment.extensions
    if config["schedule"] == "constant":
        return rate
    if config["schedule"] == "step":
        options = {name: config[name] for name in ("step_epochs", "gamma")}
        return optim.step_per_epoch(rate, steps_per_epoch=steps_per_epoch, **options)
    options = {"steps_per_epoch": steps_per_epoch, "eta_min": config["eta_min"]}
    epochs = extensions[0].from_epochs if extensions else config["epochs"]
    schedule = optim.cosine_per_epoch(rate, t_max=first_t_max(config, epochs), **options)
    for one in extensions:
        added = optim.cosine_per_epoch(rate, t_max=one.t_max, rises=False, **options)
        # No run gets beyond the last step that can be counted.
        at_step = min(one.from_epochs * steps_per_epoch, fields.MOST)
        schedule = optim.switched(schedule, added, at_step)
    return schedule


def schedule_of(experiment: Experiment) -> tuple[tuple[int, int], ...]:
    """What sets the learning rates of a run apart from others of its config: two that agree here have the same.

    Returns:
      (the epoch from which on it holds, epochs to the cosine's minimum), ...; () where epochs set no rate.
    """
    config, extensions = experiment.config, experiment.extensions
    if config["schedule"] != "cosine":
        return ()
    epochs = extensions[0].from_epochs if extensions else config["epochs"]
    found = [(0, first_t_max(config, epochs))]
    for n, one in enumerate(extensions):
        if n == 0 or one.t_max != found[-1][1]:  # once extended, a rate keeps to its minimum
            found.append((one.from_epochs, one.t_max))
    return tuple(found)


def learning_rates(experiment: Experiment, epoch: int) -> dict[str, float]:
    """All learning rates of an epoch (1, 2, ...) as metrics.jsonl names them.

    `forward_lr` where all blocks have the same, else `forward_lr/<block>`; `feedback_lr/<block>`.
    """
    config, training = experiment.config, experiment.rule.feedback_training
    rates = {}
    for block, rate in zip(experiment.network, forward_rates(experiment), strict=True):
        schedule = _schedule(experiment, rate, 1)
        now = schedule(np.int32(epoch - 1)) if callable(schedule) else schedule
        rates[f"forward_lr/{block.name}"] = float(now)
    if len(set(rates.values())) == 1:
        rates = {"forward_lr": next(iter(rates.values()))}
    if training is not None:
        names = [experiment.network[i].name for i in training.blocks(experiment.network)]
        rates |= {
            f"feedback_lr/{n}": lr for n, lr in zip(names, config["feedback_lr"], strict=True)
        }
    return rates


def _feedback_optimizer(config: Config, lr: float) -> GradientTransformation:
    decay = config["feedback_weight_decay"]
    if config["feedback_optimizer"] == "adam":
        return optim.adam(lr, eps=config["feedback_eps"], weight_decay=decay)
    return optim.sgd(lr, momentum=config["feedback_momentum"], weight_decay=decay)
