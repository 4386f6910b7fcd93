"""A start at symmetric weights: equal kernels, no biases, and two networks from then on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Recorded, config_fields, make_batch

import dtp_jax as dtp
from dtp_jax import networks
from dtp_jax.learning import learner, metrics
from dtp_jax.rules import RULES
from dtp_jax.run.build import build_rule
from dtp_jax.run.config import validate

RESNET = networks.resnet18((8, 8, 3), 10, channels=(3, 4), batch_norm=True)
MIRRORED = {"ldrl", "dtp", "tp", "fw_dtp", "feedback_alignment", "analytic"}


def started(network, rule=None):
    rule = rule or dtp.ldrl(noise=0.1, beta=0.5)
    optimizer = dtp.optim.sgd(0.1, momentum=0.9)
    made = dtp.Learner(network, rule, optimizer, optimizer, 1, init_symmetric=True)
    return made, dtp.init(made, jax.random.key(0))


def leaves(params):
    return {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


@pytest.mark.parametrize(
    "network", [networks.simple_vgg((8, 8, 3), 10, channels=(3, 4)), RESNET], ids=["vgg", "resnet"]
)
def test_kernels_are_equal_and_biases_zero(network):
    """Kernels and all else of theta but the biases are those of an ordinary start."""
    made, state = started(network)
    ordinary = dtp.init(made.replace(init_symmetric=False), jax.random.key(0))
    forward, feedback = leaves(state.forward), leaves(state.feedback)
    for name, value in forward.items():
        expected = 0 if name.endswith("bias") else leaves(ordinary.forward)[name]
        np.testing.assert_array_equal(value, np.broadcast_to(expected, value.shape))
    for name, value in feedback.items():
        expected = 0 if name.endswith("bias") else forward[name]
        np.testing.assert_array_equal(value, np.broadcast_to(expected, value.shape))
    assert any(name.endswith("kernel") for name in feedback)
    assert jax.tree.structure(state) == jax.tree.structure(ordinary)


def test_they_mirror_as_the_originals_do():
    """Both recorded networks are tied there: what holds between their kernels holds between ours."""
    recorded = Recorded("symmetric_init")
    for name in ("conv_1/conv", "conv_2/conv"):
        assert np.array_equal(recorded[f"fwd/{name}/weight"], recorded[f"fb/{name}/weight"])
    np.testing.assert_array_equal(
        recorded["fwd/fc/linear/weight"].T, recorded["fb/fc/linear/weight"]
    )
    aligned = metrics.weight_alignment(
        *(
            getattr(started(networks.mlp((4,), 3, hidden=(5,)))[1], n)
            for n in ("forward", "feedback")
        )
    )
    for found in aligned.values():  # of angles float32 has a hundredth of a degree
        expected = recorded["b0/out/align_before/fc/linear"]
        np.testing.assert_allclose([found.distance, found.angle], expected, atol=0.05)


def test_forward_and_feedback_weights_part_when_they_are_trained():
    """One buffer for both could not be donated, and would be trained as one."""
    made, state = started(networks.simple_vgg((8, 8, 3), 10, channels=(3, 4)))
    before = leaves(state.feedback)["conv_1/kernel"]
    images, labels = make_batch(made.network, 4)
    step = jax.jit(lambda s, x, y: learner.train_step(made, s, x, y), donate_argnums=0)
    after, _ = step(state, images.astype(jnp.float32), labels)
    theta, omega = leaves(after.forward)["conv_1/kernel"], leaves(after.feedback)["conv_1/kernel"]
    assert not np.array_equal(omega, before) and not np.array_equal(theta, before)
    assert not np.array_equal(theta, omega)


@pytest.mark.parametrize("name", list(RULES))
def test_rules_without_mirrored_maps_refuse(name):
    fields = config_fields(rule=name, init_symmetric=True)
    fields |= {"feedback_lr": (0.1,), "noise": (0.1,), "feedback_iterations": (2,)}
    if name in MIRRORED:
        assert validate(fields).config["init_symmetric"]
        return
    with pytest.raises(
        ValueError, match=rf"^config\.init_symmetric is True; allowed: False .*{name}"
    ):
        validate(fields)
    rule = build_rule(fields)
    with pytest.raises(ValueError, match=rf"^init_symmetric is True; allowed: False .*{name}"):
        dtp.Learner(
            networks.mlp((4,), 3, hidden=(5,)),
            rule,
            dtp.optim.sgd(0.1, momentum=0.9),
            **({"trains": ("forward",)} if rule.feedback_training else {}),
            init_symmetric=True,
        )
