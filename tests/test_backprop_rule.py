"""Backprop as a rule is jax.grad; its step is SGD as torch defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    cross_entropy_in_numpy,
    make_batch,
    make_learner,
    make_parameters,
    make_state,
    normal,
    sgd_in_numpy,
    slow,
)

from dtp_jax.blocks import forward_all
from dtp_jax.learning import learner
from dtp_jax.rules import backprop, backprop_targets
from dtp_jax.rules.rule import cross_entropy


def mean_cross_entropy(network, forward, images, labels):
    """Written out, apart from the project's own."""
    logits = forward_all(network, forward, images).h[-1]
    own = logits[jnp.arange(len(labels)), labels]
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), axis=1)) - own)


@pytest.mark.parametrize("beta", [slow(1.0), 0.3])
@pytest.mark.parametrize(
    ("name", "activation"),
    [("vgg", "elu"), ("lenet", "elu"), ("mlp", "elu"), ("mlp", "relu"), ("lenet", "tanh")],
)
def test_local_gradients_are_those_of_the_cross_entropy(name, activation, beta):
    """Exactly beta times: at beta = 1 the machinery of all rules computes backprop."""
    network, rule = NETWORKS[name](activation=activation), backprop_targets(beta=beta)
    forward, _ = make_parameters(network)
    images, labels = make_batch(network, 4)

    @jax.jit
    def run(forward):
        activations = forward_all(network, forward, images)
        targets = rule.targets(
            network, forward, {}, activations, rule.output_target(activations.h[-1], labels)
        )
        _, found = learner.local_gradients(network, rule, forward, activations, targets)
        expected = jax.grad(lambda f: mean_cross_entropy(network, f, images, labels))(forward)
        return found, jax.tree.map(lambda g: beta * g, expected)

    found, expected = run(forward)
    assert_close(found, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(
    "rule", [backprop(), backprop_targets(beta=1.0)], ids=lambda rule: rule.name
)
def test_three_steps_are_sgd_with_momentum_in_numpy(rule, weight_decay):
    network = NETWORKS["vgg"]()
    made = make_learner(network, rule, forward_lr=0.1, weight_decay=weight_decay)
    state = make_state(made)
    step = jax.jit(lambda s, x, y: learner.step(made, s, x, y))
    gradient = jax.jit(jax.grad(lambda f, x, y: mean_cross_entropy(network, f, x, y)))
    parameters, buffers = state.forward, None
    for k in range(3):
        images, labels = make_batch(network, 4, seed=k)
        state, record = step(state, images, labels)
        g = gradient(parameters, images, labels)
        assert_close(record.forward_gradient, g)
        parameters, buffers = sgd_in_numpy(g, parameters, 0.1, 0.9, weight_decay, buffers)
        assert_close(state.forward, parameters)
    assert state.step == 3 and state.feedback == {} and record.observations == {}


def test_backprop_takes_one_gradient_and_computes_no_targets():
    network = NETWORKS["mlp"]()
    made = make_learner(network, backprop())
    images, labels = make_batch(network, 3)
    state, metrics = jax.jit(lambda s: learner.train_step(made, s, images, labels))(
        make_state(made)
    )
    _, record = learner.step(made, state, images, labels)
    assert record.targets == () and record.forward_loss == {}
    assert metrics.feedback_loss == {} and metrics.forward_loss == {}
    assert backprop().global_loss is not None and backprop_targets(beta=1.0).global_loss is None


def test_cross_entropy_against_numpy():
    logits, labels = 4 * normal(0, (6, 5)), np.array([0, 1, 2, 3, 4, 4])
    assert_close(
        cross_entropy(jnp.asarray(logits), jnp.asarray(labels)),
        cross_entropy_in_numpy(logits, labels),
    )


def test_cross_entropy_of_huge_logits():
    """No overflow: the difference of two logits, where the others are far below."""
    logits = jnp.array([[1e4, -1e4, 0.0], [-3e38, 0.0, 3.0]], jnp.float32)
    found = cross_entropy(logits, jnp.array([1, 2]))
    np.testing.assert_allclose(found, [2e4, np.log1p(np.exp(-3.0))], rtol=1e-6)
