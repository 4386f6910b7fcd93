"""Every bad config value is one clear line: the field, the value, what is allowed."""

import math

import pytest
from helpers import config_fields

from dtp_jax.rules import RULES
from dtp_jax.run.config import FIELDS, check_sizes, validate


def refused(fields, name, *words):
    """The error: one line that begins with the field and has all the words."""
    with pytest.raises(ValueError) as error:
        validate(fields)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"config.{name}")
    for word in words:
        assert word in line, line
    return line


BAD = [
    # wrong types
    ("epochs", "ten"),
    ("epochs", 1.5),
    ("epochs", None),
    ("batch_size", 32.0),
    ("beta", "0.7"),
    ("bias", 1),
    ("augment", "yes"),
    ("rule", 3),
    ("data_dir", None),
    ("dataset", ["digits"]),
    ("channels", "32"),
    ("channels", (32, "64")),
    ("channels", (32, 6.5)),
    ("noise", ("a",)),
    ("noise", ((0.1,), (0.2,))),
    ("beta", (0.7,)),
    ("epochs", [10]),
    ("noise", {"conv_1": 0.1}),
    # True is no number
    ("epochs", True),
    ("beta", True),
    ("seed", False),
    ("noise", (True, 0.1)),
    ("channels", (True, 32)),
    ("feedback_iterations", (True,)),
    # numbers that are none, or out of range
    *[
        (name, value)
        for name in ("beta", "forward_lr")
        for value in (0.0, -1.0, math.nan, math.inf, -math.inf)
    ],
    *[
        (name, value)
        for name in ("weight_decay", "eta_min")
        for value in (-1e-9, math.nan, math.inf)
    ],
    *[
        (name, value)
        for name in ("momentum", "feedback_momentum", "val_split")
        for value in (1.0, -0.1, math.nan, math.inf)
    ],
    *[
        (name, (0.1, value))
        for name in ("noise", "feedback_lr")
        for value in (-0.1, 0.0, math.nan, math.inf)
    ],
    ("noise", -0.1),
    ("beta", 10**400),
    ("feedback_lr", (10**400, 0.1)),
    *[
        (name, value)
        for name in (
            "epochs",
            "batch_size",
            "feedback_samples",
            "keep_checkpoints",
            "log_every",
            "eval_batch_size",
        )
        for value in (0, -1)
    ],
    *[
        (name, -1)
        for name in (
            "max_steps",
            "overfit_batches",
            "checkpoint_every",
            "t_max",
            "step_epochs",
            "gamma",
        )
    ],
    ("seed", -2),
    ("seed", 2**31),
    ("feedback_iterations", (0,)),
    ("feedback_iterations", (5, -1)),
    ("feedback_iterations", (5.0,)),
    ("channels", (32, 0)),
    ("channels", (32, -8)),
    # wrong lengths: two blocks are trained
    ("noise", (0.1, 0.2, 0.3)),
    ("feedback_iterations", ()),
    ("feedback_lr", (0.1,) * 4),
    # names that do not exist
    ("rule", "dtp2"),
    ("network", "resnet50"),
    ("dataset", "svhn"),
    ("activation", "gelu"),
    ("activation", "linear"),
    ("schedule", "exponential"),
    ("rule", ""),
    ("dataset", "digits\n"),
]


@pytest.mark.parametrize(
    ("name", "value"), BAD, ids=[f"{name}={value!r}"[:40] for name, value in BAD]
)
def test_bad_value(name, value):
    """The field, the value, what is allowed."""
    refused(config_fields(**{name: value}), name, repr(value), "allowed: ")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("rule", RULES),
        ("network", ("simple_vgg", "lenet", "mlp")),
        ("dataset", ("cifar10", "mnist", "digits")),
        ("activation", ("elu", "relu", "tanh")),
        ("schedule", ("cosine", "step", "constant")),
    ],
)
def test_unknown_names_come_with_the_known_ones(name, names):
    refused(config_fields(**{name: "unheard-of"}), name, *names)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nosie", "noise"),
        ("forward_learning_rate", "forward_lr"),
        ("batchsize", "batch_size"),
        ("Epochs", "epochs"),
    ],
)
def test_unknown_field_with_a_suggestion(written, meant):
    refused(config_fields(**{written: 1}), written, "no such field", meant)


def test_unknown_field_that_resembles_none():
    refused(config_fields(zzz=1), "zzz", "no such field", "allowed", *FIELDS)


@pytest.mark.parametrize("name", ["rule", "noise", "seed"])
def test_missing_field(name):
    fields = config_fields()
    del fields[name]
    refused(fields, name, "missing")


def test_wrong_length_names_the_trained_blocks():
    refused(config_fields(noise=(0.1, 0.2, 0.3)), "noise", "(0.1, 0.2, 0.3)", "2", "conv_1", "fc")


@pytest.mark.parametrize("rule", ["ldrl", "backprop"])
@pytest.mark.parametrize(
    ("dataset", "channels", "words"),
    [("mnist", (), ("conv_4", "1x1", "0x0")), ("digits", (8,) * 4, ("conv_3", "1x1", "0x0"))],
)
def test_network_that_pools_images_away(dataset, channels, words, rule):
    fields = config_fields("default", dataset=dataset, channels=channels, rule=rule)
    refused(fields, "network", "simple_vgg", "allowed", *words)


@pytest.mark.parametrize(("network", "name"), [("simple_vgg", "hidden"), ("mlp", "channels")])
def test_sizes_of_blocks_that_the_network_does_not_have(network, name):
    sizes = {"hidden": (), "channels": (), name: (8, 8)}
    refused(config_fields(network=network, **sizes), name, "(8, 8)", network)


@pytest.mark.parametrize(
    ("name", "dataset", "val_split", "most"),
    [
        ("digits_dtp", "digits", 0.125, 1257),
        ("digits_backprop", "digits", 0, 1437),
        ("cifar10_dtp", "cifar10", 0.1, 45_000),
        ("cifar10_dtp", "cifar10", 0.0, 50_000),
    ],
)
def test_batch_larger_than_the_training_images(name, dataset, val_split, most):
    fields = dict(dataset=dataset, val_split=val_split)
    assert validate(config_fields(name, **fields, batch_size=most)).config["batch_size"] == most
    refused(
        config_fields(name, **fields, batch_size=most + 1),
        "batch_size",
        str(most + 1),
        str(most),
        dataset,
    )


def test_batch_larger_than_the_images_that_were_found():
    """A data set may turn out smaller than its name says: the same error for the real number."""
    fields = validate(config_fields(batch_size=64, val_split=0.5)).config
    check_sizes(fields, 64)
    with pytest.raises(ValueError, match=r"^config.batch_size is 64; allowed: 1 to 63\b"):
        check_sizes(fields, 63)
