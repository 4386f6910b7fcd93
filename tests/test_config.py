"""Configs: those of the repository are right and valid, and become the learner that they name."""

import builtins
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY, assert_close, config_fields, config_module

from dtp_jax.run.arguments import parse
from dtp_jax.run.assemble import plan, read
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import BOOKKEEPING, FIELDS, validate
from dtp_jax.run.extension import Extension
from dtp_jax.run.loading import load_config
from dtp_jax.run.screen import Screen
from dtp_jax.run.workdir import Workdir

NAMES = sorted(
    path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "__init__"
)
FIXED = [name for name in NAMES if not inspect.signature(config_module(name).get_config).parameters]


# The repository's configs.


def test_the_promised_configs_are_there():
    assert {
        "digits_dtp",
        "digits_backprop",
        "cifar10_dtp",
        "cifar10_legacy_dtp",
        "cifar10_lenet_dtp",
        "cifar10_backprop",
    } <= set(FIXED)


@pytest.mark.parametrize("name", FIXED)
def test_config_is_valid(name):
    """As ml_collections gives it; every field in its type; tuples over the trained blocks."""
    experiment = validate(config_module(name).get_config())
    assert set(experiment.config) == set(FIELDS)
    trained = len(experiment.network) - 1
    if experiment.config["rule"] != "backprop":
        for field in ("noise", "feedback_iterations", "feedback_lr"):
            assert len(experiment.config[field]) == trained
    assert experiment.network[0].input_shape == experiment.data.image_shape
    assert experiment.network[-1].output_shape == (experiment.data.classes,)
    assert experiment.rule.name == experiment.config["rule"]


@pytest.mark.parametrize("name", NAMES)
def test_config_says_what_it_is_in_one_line(name):
    first = (config_module(name).__doc__ or "").split("\n")[0]
    assert 10 < len(first) <= 120


def test_default_has_exactly_the_fields_that_are_checked():
    assert set(config_fields("default")) == set(FIELDS)
    assert set(BOOKKEEPING) < set(FIELDS)


def test_a_config_that_was_saved_is_the_same_experiment(tmp_path):
    """--config=config.json reads what a run wrote: tuples come back from JSON's lists."""
    validated = validate(config_fields()).config
    file = tmp_path / "config.json"
    file.write_text(json.dumps(validated))
    again = load_config(str(file)).config
    assert validate(again).config == validated


PAPER = dict(
    batch_size=128,
    epochs=90,
    beta=0.7,
    forward_lr=0.05,
    momentum=0.9,
    schedule="cosine",
    eta_min=1e-5,
    feedback_momentum=0.9,
    feedback_samples=1,
    activation="elu",
    bias=True,
    channels=(),
    hidden=(),
    augment=True,
    val_split=0.1,
    dataset="cifar10",
)
VGG = dict(
    PAPER,
    rule="ldrl",
    network="simple_vgg",
    weight_decay=1e-4,
    noise=(0.4, 0.4, 0.2, 0.2, 0.08),
    feedback_iterations=(20, 30, 35, 55, 20),
    feedback_lr=(1e-4, 3.5e-4, 8e-3, 8e-3, 0.18),
)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cifar10_dtp", VGG),
        ("cifar10_legacy_dtp", dict(VGG, dataset="cifar10_3xstd", val_split=0.0, forward_lr=0.08)),
        (
            "cifar10_lenet_dtp",
            dict(
                PAPER,
                rule="ldrl",
                network="lenet",
                weight_decay=1e-4,
                batch_size=256,
                beta=0.4655,
                forward_lr=0.03618,
                feedback_iterations=(41, 51, 24),
                noise=(0.41640228838517584, 0.3826146261623929, 0.1395382069358601),
                feedback_lr=(0.0007188427494432325, 0.00012510321884615596, 0.03541466958291287),
            ),
        ),
        ("cifar10_backprop", dict(PAPER, rule="backprop", network="simple_vgg", weight_decay=0.0)),
    ],
)
def test_published_experiment(name, published):
    """Every number of the paper; the cosine's minimum is at epoch 85 of 90."""
    found = validate(config_fields(name)).config
    assert {field: found[field] for field in published} == published
    rate = rate_by_step(
        config_fields(name, momentum=0.0, weight_decay=0.0), steps_per_epoch=1, steps=91
    )
    expected = 1e-5 + (found["forward_lr"] - 1e-5) * (1 + np.cos(np.pi * np.arange(91) / 85)) / 2
    assert_close(rate, expected)


# From a config to a learner.


def rate_by_step(fields, steps_per_epoch, steps):
    """The forward learning rate at each step, read off the updates for a gradient of one."""
    return rates_of(build_learner(validate(fields), steps_per_epoch).forward_optimizer, steps)


def rates_of(optimizer, steps):
    """Read off the updates for a gradient of one."""
    one = jnp.ones(())

    def step(state, _):
        update, state = optimizer.update(one, state, one)
        return state, -update

    return jax.lax.scan(step, optimizer.init(one), length=steps)[1]


@pytest.mark.parametrize(
    ("changes", "t_max"), [({"epochs": 10}, 9), ({"epochs": 10, "t_max": 4}, 4), ({"epochs": 1}, 1)]
)
def test_cosine_of_a_config(changes, t_max):
    """t_max = 0 stands for round(epochs * 85 / 90)."""
    fields = config_fields(**changes, momentum=0.0, weight_decay=0.0, forward_lr=0.1, eta_min=0.01)
    epoch = np.arange(20) // 2
    expected = 0.01 + 0.09 * (1 + np.cos(np.pi * epoch / t_max)) / 2
    assert_close(rate_by_step(fields, steps_per_epoch=2, steps=20), expected)


def test_an_extension_of_a_run_that_alternates_begins_at_its_forward_step():
    """Two passes of two steps an epoch: the eighth step of all is the fourth of the forward weights."""
    options = dict(momentum=0.0, weight_decay=0.0, forward_lr=0.1, eta_min=0.01, alternate=True)
    experiment = validate(config_fields(epochs=6, **options))
    longer = experiment._replace(extensions=(Extension(8, 2, 6, 4),))
    found = rates_of(build_learner(longer, steps_per_epoch=2).forward_optimizer, 12)
    first, then = (0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(6) / m)) / 2 for m in (2, 4))
    expected = [*first[:2], then[2], then[3], 0.01, 0.01]
    assert_close(found, np.repeat(expected, 2))


def test_overfitting_is_training_on_few_images_as_they_are():
    found = validate(config_fields(overfit_batches=2, batch_size=8, augment=True)).config
    assert (found["train_images"], found["augment"]) == (16, False)
    assert validate(found).config == found  # as a run that goes on reads it
    with pytest.raises(ValueError, match=r"config.augment is True; allowed: False with"):
        validate(config_fields(overfit_batches=2, augment=True), overridden=("augment",))
    with pytest.raises(ValueError, match=r"config.train_images is 9; allowed: 0 with"):
        validate(config_fields(overfit_batches=2, batch_size=8, train_images=9))


def test_step_schedule_of_a_config():
    options = dict(momentum=0.0, weight_decay=0.0, forward_lr=0.1, step_epochs=3, gamma=0.5)
    fields = config_fields(schedule="step", **options)
    expected = 0.1 * 0.5 ** (np.arange(20) // 2 // 3)
    assert_close(rate_by_step(fields, steps_per_epoch=2, steps=20), expected)


def test_constant_schedule_of_a_config():
    fields = config_fields(schedule="constant", momentum=0.0, weight_decay=0.0, forward_lr=0.1)
    assert_close(rate_by_step(fields, steps_per_epoch=2, steps=6), np.full(6, 0.1))


def test_learner_of_a_config():
    """Momentum and weight decay of theta; per-block rates, momentum and iterations of the feedback
    maps, which have neither weight decay nor schedule."""
    fields = config_fields(
        forward_lr=0.1,
        momentum=0.5,
        weight_decay=0.3,
        schedule="constant",
        feedback_lr=(0.2, 0.4),
        feedback_momentum=0.25,
        feedback_iterations=(3, 4),
        feedback_samples=5,
    )
    experiment = validate(fields)
    learner = build_learner(experiment, steps_per_epoch=1)
    assert learner.feedback_iterations == (3, 4) and learner.feedback_samples == 5
    assert learner.network is experiment.network and learner.rule is experiment.rule

    def two_updates(optimizer):
        state = optimizer.init(jnp.float64(2.0))
        first, state = optimizer.update(jnp.float64(1.0), state, jnp.float64(2.0))
        second, _ = optimizer.update(jnp.float64(1.0), state, jnp.float64(2.0))
        return [float(first), float(second)]

    np.testing.assert_allclose(two_updates(learner.forward_optimizer), [-0.16, -0.24], rtol=1e-6)
    for optimizer, rate in zip(learner.feedback_optimizers, (0.2, 0.4), strict=True):
        np.testing.assert_allclose(two_updates(optimizer), [-rate, -1.25 * rate], rtol=1e-6)


def test_backprop_has_no_feedback_training():
    learner = build_learner(validate(config_fields(rule="backprop")), steps_per_epoch=1)
    assert learner.feedback_optimizers == () and learner.feedback_iterations == ()


def test_the_config_reaches_the_rule():
    """beta moves the output target by beta (onehot - softmax), here by beta / 2."""
    rule = validate(config_fields(beta=0.25)).rule
    target = rule.output_target(jnp.zeros((1, 2)), jnp.array([0]))
    assert_close(target, jnp.array([[0.125, -0.125]]))


def test_the_config_reaches_the_network():
    network = validate(config_fields(channels=(3, 5), activation="relu", bias=False)).network
    assert [block.output_shape[-1] for block in network] == [3, 5, 10]
    theta = jax.eval_shape(network[0].init, jax.random.key(0))
    assert set(theta) == {"kernel"}
    y, _ = network[0].forward({"kernel": -jnp.ones((3, 3, 1, 3))}, jnp.ones((1, 8, 8, 1)))
    assert not y.any()  # ReLU of what is negative
    fields = config_fields(
        network="mlp", channels=(), hidden=(6, 7), noise=(0.1,), feedback_lr=(0.1,)
    )
    assert [block.output_shape for block in validate(fields).network] == [(6,), (7,), (10,)]


# Values that are taken.


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (0.3, (0.3, 0.3)),
        ((0.3,), (0.3, 0.3)),
        ([0.3, 0.1], (0.3, 0.1)),
        ((1, 0.5), (1.0, 0.5)),
        (1, (1.0, 1.0)),
    ],
)
def test_per_block_values(given, taken):
    """One for all, or one for each trained block; whole numbers are numbers."""
    found = validate(config_fields(noise=given)).config["noise"]
    assert found == taken and all(type(value) is float for value in found)


def test_whole_numbers_pass_for_numbers():
    found = validate(config_fields(beta=1, weight_decay=0, val_split=0)).config
    assert all(type(found[name]) is float for name in ("beta", "weight_decay", "val_split"))


def test_validation_reads_nothing(monkeypatch):
    fields = config_fields("cifar10_dtp")

    def refuse(*args, **kwargs):
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr(builtins, "open", refuse)
    assert validate(fields).data.name == "cifar10"


@pytest.mark.parametrize("normalize_lr", [False, True])
def test_every_block_has_its_own_rate(normalize_lr):
    """In forward order, divided by beta on request; of a gradient of one, a step is the rate."""
    wanted = (0.1, 0.2, 0.4)
    options = dict(schedule="constant", momentum=0.0, weight_decay=0.0, beta=0.5)
    fields = config_fields(
        network="mlp", channels=(), hidden=(3, 4), noise=0.1, feedback_iterations=2, feedback_lr=0.1
    )
    rates = {"block_forward_lr": wanted, "normalize_lr": normalize_lr}
    experiment = validate(fields | options | rates)
    optimizer = build_learner(experiment, 1).forward_optimizer
    ones = {block.name: jnp.ones(()) for block in experiment.network}
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    found = [-float(updates[block.name]) for block in experiment.network]
    assert found == pytest.approx([rate / (0.5 if normalize_lr else 1) for rate in wanted])


def test_train_images_are_the_first(tmp_path):
    """Of the training part, in the order of the data set; who is held out does not depend on it."""
    fields = config_fields("digits_dtp")
    whole, few = (
        read(plan(fields | {"train_images": count}, Workdir(tmp_path / str(count))), Screen())
        for count in (0, 70)
    )
    np.testing.assert_array_equal(few.train_indices, whole.train_indices[:70])
    np.testing.assert_array_equal(few.val.images, whole.val.images)


def test_what_follows_from_overfitting_follows_anew(tmp_path):
    """A config.json has what it stood for there."""
    (tmp_path / "config.json").write_text(
        json.dumps(validate(config_fields(overfit_batches=2, batch_size=8)).config)
    )
    for changes, images, augment in (
        ({}, 16, False),
        ({"batch_size": 4}, 8, False),
        ({"overfit_batches": 3}, 24, False),
        ({"overfit_batches": 0, "augment": True}, 0, True),
        ({"overfit_batches": 0, "augment": False}, 0, False),
    ):
        flags = [f"--config.{name}={value}" for name, value in changes.items()]
        found = parse(["dtp train", f"--config={tmp_path / 'config.json'}", *flags])
        config = validate(found.config, found.overridden).config
        assert (config["train_images"], config["augment"]) == (images, augment), changes
    with pytest.raises(
        ValueError, match="overfit_batches is 0; allowed: with --config.augment=True"
    ):
        parse(["dtp train", f"--config={tmp_path / 'config.json'}", "--config.overfit_batches=0"])
