"""L-DRL's targets: their formulas, and where they are exact or backprop's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    cross_entropy_in_numpy,
    make_batch,
    make_parameters,
    normal,
    softmax_in_numpy,
)

from dtp_jax.blocks import MaxPool, chain, conv_block, dense_block, forward_all
from dtp_jax.learning import learner
from dtp_jax.rules import ldrl


def test_output_target_is_a_step_down_the_summed_cross_entropy():
    """t_L = h_L + beta (onehot - softmax(h_L)): no 1 / batch."""
    logits, labels, beta = 3 * normal(0, (4, 5)), np.array([0, 4, 2, 2]), 0.7
    rule = ldrl(noise=(), beta=beta)
    expected = logits + beta * (np.eye(5)[labels] - softmax_in_numpy(logits))
    assert_close(rule.output_target(jnp.asarray(logits), jnp.asarray(labels)), expected)
    h, small = 1e-6, np.zeros((4, 5))
    for place in np.ndindex(4, 5):  # and by differences of the loss itself
        d = h * (np.arange(20).reshape(4, 5) == np.ravel_multi_index(place, (4, 5)))
        up, down = (cross_entropy_in_numpy(logits + s * d, labels).sum() for s in (1, -1))
        small[place] = (up - down) / (2 * h)
    assert_close(expected, logits - beta * small, 1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_targets_follow_the_recursion(name):
    """t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n), both with the pool indices of the clean pass."""
    network = NETWORKS[name]()
    forward, feedback = make_parameters(network)
    images, _ = make_batch(network, 3)
    top = jnp.asarray(normal(8, (3, *network[-1].output_shape)))
    rule = ldrl(noise=(0.1,) * (len(network) - 1), beta=0.7)

    @jax.jit
    def run(forward, feedback, top):
        activations = forward_all(network, forward, images)
        found = rule.targets(network, forward, feedback, activations, top)
        expected = [top]
        for i in reversed(range(1, len(network))):

            def g(y, i=i):
                return network[i].feedback(feedback[network[i].name], y, activations.residuals[i])

            expected.insert(0, activations.h[i] + g(expected[0]) - g(activations.h[i + 1]))
        return found, tuple(expected)

    found, expected = run(forward, feedback, top)
    assert len(found) == len(network)
    assert_close(found, expected)


def test_an_exact_inverse_makes_the_targets_exact():
    """With G = F^-1, block n takes the target below it to its own target."""
    network = chain((4,), [dense_block(f"fc{n}", features=4) for n in range(3)])
    forward, feedback = make_parameters(network)
    for block in network[1:]:
        # G(y) = y V^T + c undoes F(x) = x W + b up to a constant, which the difference removes.
        feedback[block.name]["kernel"] = jnp.linalg.inv(forward[block.name]["kernel"]).T
    images, labels = make_batch(network, 3)
    activations = forward_all(network, forward, images)
    rule = ldrl(noise=(0.1, 0.1), beta=0.7)
    targets = rule.targets(
        network, forward, feedback, activations, rule.output_target(activations.h[-1], labels % 4)
    )
    for i, block in enumerate(network[1:], start=1):
        assert_close(block.forward(forward[block.name], targets[i - 1])[0], targets[i])
        assert not np.allclose(targets[i - 1], activations.h[i])


def symmetric(network, seed=0):
    """Bias-free parameters with omega_n = theta_n: in the common layout, the transposed maps."""
    forward, _ = make_parameters(network, seed)
    return forward, {block.name: forward[block.name] for block in network[1:]}


def scaled_gradients(network, beta, scale=1):
    """(L-DRL's forward gradients / beta, those of the mean cross-entropy by jax.grad)."""
    forward, feedback = symmetric(network)
    images, labels = make_batch(network, 4)
    images = scale * images
    rule = ldrl(noise=(0.1,) * (len(network) - 1), beta=beta)

    @jax.jit
    def run(forward, feedback):
        activations = forward_all(network, forward, images)
        targets = rule.targets(
            network, forward, feedback, activations, rule.output_target(activations.h[-1], labels)
        )
        _, local = learner.local_gradients(network, rule, forward, activations, targets)

        def mean_cross_entropy(forward):
            logits = forward_all(network, forward, images).h[-1]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

        return jax.tree.map(lambda g: g / beta, local), jax.grad(mean_cross_entropy)(forward)

    return run(forward, feedback)


@pytest.mark.parametrize("beta", [0.01, 0.7])
def test_symmetric_linear_network_learns_backprops_gradients(beta):
    """Convolutions, disjoint max-pooling and dense layers without activation: G's Jacobian is then
    F's transposed, and L-DRL's gradients are beta times backprop's, whatever beta."""
    conv = dict(
        channels=3, window=3, padding=1, activation="linear", pool=MaxPool(2, 2), bias=False
    )
    network = chain(
        (8, 12, 2),
        [
            conv_block("conv_0", **conv),
            conv_block("conv_1", **conv),
            dense_block("fc1", features=6, bias=False),
            dense_block("fc2", features=5, bias=False),
        ],
    )
    found, expected = scaled_gradients(network, beta)
    assert_close(found, expected)


@pytest.mark.parametrize(("scale", "lowest"), [(1, 0.1), (0.01, 1e-3)])
def test_symmetric_vgg_at_small_beta_goes_backprops_way(scale, lowest):
    """With ELU the upper layers' gradients become backprop's, and the lower one's as activations
    become small: G has its slope at ELU(a) where F has it at a."""
    found, expected = scaled_gradients(NETWORKS["vgg"](bias=False), beta=1e-5, scale=scale)
    for name, allowed in {"fc": 1e-4, "conv_1": 1e-4, "conv_0": lowest}.items():
        g, r = found[name]["kernel"], expected[name]["kernel"]
        assert np.linalg.norm(g - r) < allowed * np.linalg.norm(r)
