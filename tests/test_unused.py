"""A field that is set and changes nothing is said, in a line; one that changes something never is."""

import pytest
from helpers import config_fields
from launching import TINY, launch

from dtp_jax.run.config import FIELDS, validate
from dtp_jax.run.loading import load_config
from dtp_jax.run.unused import OF_FEEDBACK_TRAINING, OF_NETWORKS, OF_RULES, remarks, why_unused

pytest_plugins = ["run_fixtures"]

ONE = {"noise": (0.1,), "feedback_lr": (0.1,), "feedback_iterations": (1,)}
"""Of each map, however many there are."""
CASES = [
    ({"rule": "backprop"}, "feedback_lr", "the rule backprop trains no feedback maps"),
    ({"rule": "fw_dtp"}, "feedback_iterations", "the rule fw_dtp trains no feedback maps"),
    ({"rule": "analytic"}, "feedback_optimizer", "the rule analytic trains no feedback maps"),
    ({"rule": "feedback_alignment"}, "stale_gradients", "trains no feedback maps"),
    ({"rule": "backprop"}, "beta", "the rule backprop has no beta"),
    ({"rule": "backprop", "normalize_lr": True}, "beta", ""),
    ({"rule": "ldrl"}, "beta", ""),
    ({"rule": "ldrl"}, "feedback_activation", "the rule ldrl has no feedback_activation"),
    ({"rule": "drl"}, "feedback_activation", ""),
    (
        {"network": "resnet18", "hidden": (), **ONE},
        "activation",
        "the network resnet18 has its own",
    ),
    ({"network": "resnet18", "hidden": (), **ONE}, "bias", "the network resnet18 has its own"),
    ({"network": "meulemans", **ONE}, "activation", "the network meulemans has its own"),
    ({"network": "meulemans", **ONE}, "bias", ""),
    ({"block_forward_lr": (0.1,)}, "forward_lr", "config.block_forward_lr stands in its place"),
    ({}, "forward_lr", ""),
    ({"forward_optimizer": "adam"}, "momentum", "config.forward_optimizer is 'adam'"),
    ({"forward_optimizer": "sgd"}, "momentum", ""),
    ({"forward_optimizer": "sgd"}, "forward_eps", "config.forward_optimizer is 'sgd'"),
    ({"feedback_optimizer": "adam"}, "feedback_momentum", "config.feedback_optimizer is 'adam'"),
    ({"feedback_optimizer": "adam"}, "feedback_eps", ""),
    ({"schedule": "constant"}, "t_max", "config.schedule is 'constant'"),
    ({"schedule": "step"}, "eta_min", "config.schedule is 'step'"),
    ({"schedule": "step"}, "gamma", ""),
    ({"schedule": "cosine"}, "step_epochs", "config.schedule is 'cosine'"),
    ({"flip": True, "augment": False}, "flip", "config.augment is False"),
    ({"flip": True, "augment": True}, "flip", ""),
    ({"dataset": "digits", "augment": True}, "augment", "the data set digits is not augmented"),
    ({"dataset": "digits", "augment": False}, "augment", ""),
    ({"dataset": "digits", "augment": True, "flip": True}, "augment", ""),
    ({"val_split": 0.3, "val_per_class": 10}, "val_split", "val_per_class stands in its place"),
    ({"val_split": 0.3}, "val_split", ""),
]


@pytest.mark.parametrize(("fields", "name", "words"), CASES)
def test_why(fields, name, words):
    experiment = validate(config_fields(**fields))
    why = why_unused(name, experiment)
    assert (words in why) and bool(why) == bool(words)
    said = remarks(experiment, (name, "seed"))
    expected = f"config.{name} is {experiment.config[name]!r} and changes nothing: {why}"
    assert said == ((expected,) if words else ())


def test_all_that_is_named_is_a_field():
    assert {*OF_RULES, *OF_NETWORKS, *OF_FEEDBACK_TRAINING} <= FIELDS.keys()


@pytest.mark.parametrize("given", ["cifar10_drl", "depth:ldrl_resnet18", "mnist_mlp:fw_dtp"])
def test_nobody_is_told_of_what_a_config_has(given):
    """The remarks are of what was set by hand."""
    assert remarks(validate(load_config(given).config), ()) == ()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_says_it_once(place, seeds):
    words = "config.momentum is 0.5 and changes nothing: config.forward_optimizer is 'adam'"
    adam = ("--config.forward_optimizer=adam", "--config.momentum=0.5", f"--config.seeds={seeds}")
    found = launch(*TINY, *adam, "--config.max_steps=1", "--workdir=w")
    assert found.code == 0 and found.err.count("warning: ") == found.err.count(words) == 1
    assert launch("--workdir=w", "--config.momentum=0.5").err == ""  # it is finished
