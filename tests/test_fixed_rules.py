"""Rules whose feedback is random or given in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    degrees_between,
    make_batch,
    make_learner,
    make_parameters,
    normal,
    slow,
    softmax_in_numpy,
)

from dtp_jax import ops, rules
from dtp_jax.blocks import forward_all
from dtp_jax.learning import learner
from dtp_jax.rules.analytic import solve_feedback
from dtp_jax.rules.rule import hidden


def local_gradients(network, rule, forward, feedback, images, labels):
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    targets = rule.targets(network, forward, feedback, activations, top)
    return learner.local_gradients(network, rule, forward, activations, targets)[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_alignment_with_the_forward_weights_is_backprop(name):
    network = NETWORKS[name]()
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 3)
    symmetric = {n: {**omega, "kernel": forward[n]["kernel"]} for n, omega in feedback.items()}
    local = jax.jit(partial(local_gradients, network, rules.feedback_alignment(beta=1.0)))
    found = local(forward, symmetric, images, labels)
    gradient = jax.jit(partial(learner.global_gradient, network, rules.backprop()))
    assert_close(found, gradient(forward, images, labels))


def test_feedback_alignment_keeps_the_slopes_of_the_forward_pass():
    """e_{n-1} = omega^T (f'(a_n) e_n), written out for dense blocks."""
    network = NETWORKS["mlp"](activation="tanh")
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 3)
    activations = forward_all(network, forward, images)
    rule = rules.feedback_alignment(beta=0.4)
    targets = rule.targets(
        network, forward, feedback, activations, rule.output_target(activations.h[-1], labels)
    )
    h = [np.asarray(a) for a in activations.h]
    top, middle = (feedback[b.name]["kernel"] for b in (network[2], network[1]))
    e = 0.4 * (softmax_in_numpy(h[3]) - np.eye(5)[np.asarray(labels)])
    e = e @ np.asarray(top).T
    assert_close(targets[1], h[2] - e)
    e = (e * (1 - h[2] ** 2)) @ np.asarray(middle).T
    assert_close(targets[0], h[1] - e)


def test_asymmetric_kernels_have_their_own_derivative():
    x, a, b = (
        jnp.asarray(normal(i, s)) for i, s in enumerate([(2, 6, 6, 3), (3, 3, 3, 4), (3, 3, 3, 4)])
    )
    pair = ops.Asymmetric(a, b)
    y, pull = jax.vjp(lambda x: ops.conv(x, pair, padding=1), x)
    assert_close(y, ops.conv(x, a, padding=1))
    assert_close(pull(y)[0], ops.conv_transpose(y, b, input_shape=x.shape[1:], padding=1))


def test_direct_feedback_alignment_in_numpy():
    network = NETWORKS["lenet"]()
    rule = rules.direct_feedback_alignment(beta=0.4)
    forward, _ = make_parameters(network)
    feedback = rule.init_feedback(network, jax.random.key(0))
    images, labels = make_batch(network, 3)
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    targets = rule.targets(network, forward, feedback, activations, top)
    error = softmax_in_numpy(np.asarray(activations.h[-1])) - np.eye(5)[np.asarray(labels)]
    for i in hidden(network):
        h, b = np.asarray(activations.h[i + 1]), np.asarray(feedback[network[i].name]["kernel"])
        assert_close(targets[i], h - 0.4 * (error @ b).reshape(h.shape), rtol=1e-7)
        assert np.abs(b).max() <= 1 / np.sqrt(b.shape[1]) < 1.1 * np.abs(b).max()


@pytest.mark.parametrize("name", ["fw_dtp", "feedback_alignment", "direct_feedback_alignment"])
def test_fixed_feedback_stays_as_it_was(name):
    network = NETWORKS["lenet"]()
    made = make_learner(network, rules.RULES[name](beta=0.7))
    state = learner.init(made, jax.random.key(1))
    images, labels = make_batch(network, 3)
    after, metrics = jax.jit(lambda s: learner.train_step(made, s, images, labels))(state)
    assert_close(after.feedback, state.feedback, rtol=0, atol=0)
    assert metrics.feedback_loss == {} and list(metrics.forward_loss) == sorted(state.forward)
    assert (after.forward["fc1"]["kernel"] != state.forward["fc1"]["kernel"]).any()


def test_fw_dtp_uses_the_targets_of_dtp():
    network = NETWORKS["vgg"]()
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 3)
    found, expected = (
        local_gradients(network, rule, forward, feedback, images, labels)
        for rule in (rules.fw_dtp(beta=0.7), rules.ldrl(noise=(0.1, 0.1), beta=0.7))
    )
    assert_close(found, expected)


@pytest.mark.parametrize("activation", ["elu", slow("tanh")])
@pytest.mark.parametrize("name", NETWORKS)
def test_analytic_feedback_minimises_the_jacobian_matching_loss(name, activation):
    """The gradient of ||J_G - J_F^T||^2 at the pool indices of the clean pass is zero there."""
    network = NETWORKS[name](activation=activation)
    forward, feedback = make_parameters(network)
    activations = jax.jit(partial(forward_all, network))(forward, make_batch(network, 2)[0])
    for i in range(1, len(network)):
        block, theta = network[i], forward[network[i].name]
        x, y, residual = activations.h[i], activations.h[i + 1], activations.residuals[i]
        size = x[0].size
        j_f = jax.jit(jax.jacobian(lambda x, f=block.forward, p=theta: f(p, x)[0].sum(0)))(x)
        j_f = jnp.moveaxis(j_f, y.ndim - 1, 0).reshape(2, -1, size)  # (batch, out, in)

        @jax.jit
        def mismatch(omega, block=block, y=y, residual=residual, j_f=j_f, size=size):
            j_g = jax.jacobian(lambda y: block.feedback(omega, y, residual).sum(0))(y)
            j_g = jnp.moveaxis(j_g, block_rank(block), 0).reshape(2, size, -1)
            return jnp.sum((j_g - j_f.swapaxes(1, 2)) ** 2)

        solve = jax.jit(partial(solve_feedback, network, i=i))
        found = solve(forward, feedback[block.name], activations=activations)
        value, gradient = jax.jit(jax.value_and_grad(mismatch))(found)
        np.testing.assert_allclose(gradient["kernel"], 0, atol=1e-10 * (1 + value))
        assert mismatch({**found, "kernel": theta["kernel"] * 1.01}) > value


def block_rank(block):
    """Axis of the batch in the Jacobian of a feedback map's sum over the batch."""
    return len(block.input_shape)


def test_analytic_gains_of_a_linear_block_are_one():
    network = NETWORKS["mlp"]()
    forward, feedback = make_parameters(network)
    activations = forward_all(network, forward, make_batch(network, 2)[0])
    last = len(network) - 1
    name = network[last].name
    found = solve_feedback(network, forward, feedback[name], last, activations)
    assert_close(found["kernel"], forward[name]["kernel"])
    assert_close(found["bias"], feedback[name]["bias"])


def test_analytic_steps_point_where_backprop_does():
    """Within a few degrees at a small beta, in every block, from random weights."""
    network = NETWORKS["vgg"]()
    made = make_learner(network, rules.analytic(beta=1e-3))
    state = learner.init(made, jax.random.key(0))
    images, labels = make_batch(network, 8)
    state = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state)
    _, record = jax.jit(lambda s: learner.step(made, s, images, labels))(state)
    exact = learner.global_gradient(network, rules.backprop(), state.forward, images, labels)
    for name, limit in zip(state.forward, (15, 10, 0.05), strict=True):
        found = record.forward_gradient[name]["kernel"]
        assert degrees_between(found / 1e-3, exact[name]["kernel"]) < limit
