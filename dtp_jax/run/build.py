"""What a config names: the network, the rule, the learner."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from optax import GradientTransformation, ScalarOrSchedule

from dtp_jax import fields, ops
from dtp_jax.blocks import Activations, Network, check_network, forward_all, init_forward
from dtp_jax.data import DatasetSpec
from dtp_jax.learning import optim
from dtp_jax.learning.checks import check_activations, check_rule
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
    """The config's network for this data set's images and classes.

    Raises:
      ValueError: one line; it has no such option, its factory fails, or what that returns is no network for
        these images and classes.
    """
    factory = NETWORKS[config["network"]]
    brought = tuple(NETWORKS.fields.get(config["network"], ()))
    takes = _arguments(factory, brought)
    for name in ("channels", "hidden", "batch_norm", "split_stages"):
        if config[name] and name not in takes:
            neutral = type(config[name])()
            raise fields.error(
                f"config.{name}",
                config[name],
                f"{neutral} for the network {config['network']}, which has none",
            )
    # Widths () are the network's own. Activation and bias are no option of every network.
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
    with _blaming("network", config):
        network = check_network(factory(data.image_shape, data.classes, **options))
        _check_ends(network, data)
        if config["network"] in NETWORKS.origins:
            check_activations(network, _traced(network))
        return network


def _check_ends(network: Network, data: DatasetSpec) -> None:
    """Raises ValueError where a network is one for other images or classes: a loss would be NaN from then on."""
    images, classes = network[0].input_shape, network[-1].output_shape
    if images != data.image_shape:
        allowed = f"{data.image_shape}, an image of {data.name}"
        raise fields.error("network[0].input_shape", images, allowed)
    if classes != (data.classes,):
        allowed = f"({data.classes},), a number for each class of {data.name}"
        raise fields.error("network[-1].output_shape", classes, allowed)


def _traced(network: Network) -> Activations:
    """The shapes that blocks really put out: those of a user may say others, or fail."""

    def run() -> Activations:
        forward = init_forward(network, jax.random.key(0))
        return forward_all(network, forward, jnp.zeros((2, *network[0].input_shape), jnp.float32))

    with ops.compiled_for("gpu"):  # no device need be there; its form is traced soonest
        return jax.eval_shape(run)


def _arguments(factory: Callable[..., Any], brought: tuple[str, ...]) -> dict[str, bool]:
    """The arguments that a factory takes by name, and whether it must have each. One that takes any is given the
    fields that it has brought."""
    found = {}
    for name, argument in inspect.signature(factory).parameters.items():
        if argument.kind is argument.VAR_KEYWORD:
            found |= dict.fromkeys(brought, False)
        elif argument.kind is not argument.VAR_POSITIONAL:
            found[name] = argument.default is argument.empty
    return found


@contextlib.contextmanager
def _blaming(field: str, config: Config) -> Iterator[None]:
    """A context; what goes wrong in it is told in one line, of the entry that this field names: its code may be
    a user's, and raise anything."""
    try:
        yield
    except Exception as error:
        said = fields.first_line(error)
        if not isinstance(error, ValueError):
            said = f"it fails with {type(error).__name__}: {said}"
        raise ValueError(f"config.{field} is {config[field]!r}: {said}") from error


def build_rule(config: Config) -> Rule:
    """The config's rule: its factory is given the fields that it has arguments for.

    Raises:
      ValueError: one line; it has an argument that is no field of the config, fails, or returns no rule.
    """
    name = config["rule"]
    factory = RULES[name]
    takes = _arguments(factory, tuple(RULES.fields.get(name, ())))
    for argument, must_be_given in takes.items():
        if argument not in config and must_be_given:
            raise ValueError(
                f"config.rule is {name!r}, which takes {argument!r}, a name that no field has; "
                f"allowed: rules.register({name}, fields={{{argument!r}: DEFAULT}})"
            )
    with _blaming("rule", config):
        rule = factory(**{argument: config[argument] for argument in takes if argument in config})
        check_rule(rule)
        return rule


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
