"""DTP, TP and DRL against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    config_fields,
    make_batch,
    make_learner,
    make_parameters,
    make_state,
    normal,
    slow,
    softmax_in_numpy,
)

from dtp_jax import rules
from dtp_jax.blocks import chain, dense_block, forward_all
from dtp_jax.learning import learner
from dtp_jax.rules.rule import hidden
from dtp_jax.run.build import build_rule


def orthogonal_chain(width=5, depth=3):
    """A linear network whose blocks are rotations without bias, and feedback maps that invert them."""
    network = chain(
        (width,), [dense_block(f"fc{i}", features=width, bias=False) for i in range(depth)]
    )
    kernels = [jnp.asarray(np.linalg.qr(normal(i, (width, width)))[0]) for i in range(depth)]
    forward = {b.name: {"kernel": k} for b, k in zip(network, kernels, strict=True)}
    return network, forward, {name: forward[name] for name in list(forward)[1:]}


@pytest.mark.parametrize("name", rules.RULES)
def test_parameters_are_drawn_in_single_precision(name):
    """Whatever a session has switched on, as here: all rules begin with the same numbers."""
    network = NETWORKS["vgg"]()
    rule = build_rule(config_fields(rule=name, noise=(0.1,)))
    for init in (rule.init_forward, rule.init_feedback):
        drawn = jax.eval_shape(partial(init, network), jax.random.key(0))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(drawn)} <= {"float32"}


def test_an_exact_inverse_makes_the_targets_of_tp_exact():
    """F_n(t_{n-1}) = t_n for every block, however far the output target is."""
    network, forward, feedback = orthogonal_chain()
    activations = forward_all(network, forward, jnp.asarray(normal(7, (4, 5))))
    top = jnp.asarray(normal(8, (4, 5)))
    targets = rules.tp(noise=(0.1, 0.1), beta=0.7).targets(
        network, forward, feedback, activations, top
    )
    for i in (1, 2):
        reached, _ = network[i].forward(forward[network[i].name], targets[i - 1])
        assert_close(reached, targets[i])


def test_an_exact_inverse_has_no_reconstruction_loss():
    network, forward, feedback = orthogonal_chain()
    activations = forward_all(network, forward, jnp.asarray(normal(7, (4, 5))))
    loss = rules.dtp(noise=(0.3, 0.3), beta=0.7).feedback_training.loss
    exact = loss(network, forward, feedback["fc1"], 1, activations, jnp.asarray(normal(9, (4, 5))))
    assert abs(exact) < 1e-25
    # Half of the inverse leaves half of what went in.
    half = jax.tree.map(lambda k: k / 2, feedback["fc1"])
    e = normal(9, (4, 5))
    x = np.asarray(activations.h[1]) + 0.3 * e
    assert_close(
        loss(network, forward, half, 1, activations, jnp.asarray(e)),
        np.float64(((x / 2) ** 2).sum() / 4),
    )


def test_dtp_corrects_what_tp_does_not():
    """At t_L = h_L the difference correction leaves every activation in place."""
    network = NETWORKS["vgg"]()
    forward, feedback = make_parameters(network)
    activations = forward_all(network, forward, make_batch(network, 3)[0])
    arguments = (network, forward, feedback, activations, activations.h[-1])
    own = rules.dtp(noise=(0.1, 0.1), beta=0.7).targets(*arguments)
    assert_close(own, activations.h[1:])
    plain = rules.tp(noise=(0.1, 0.1), beta=0.7).targets(*arguments)
    assert not np.allclose(plain[0], activations.h[1])


def drl_case(name="lenet", batch=3):
    network = NETWORKS[name](activation="tanh")
    rule = rules.drl(noise=(0.1,) * (len(network) - 1), beta=0.5)
    forward, _ = make_parameters(network)
    feedback = jax.tree.map(
        lambda a: a.astype(jnp.float64), rule.init_feedback(network, jax.random.key(3))
    )
    images, labels = make_batch(network, batch)
    return network, rule, forward, feedback, images, labels


def test_drl_targets_and_losses_in_numpy():
    network, rule, forward, feedback, images, labels = drl_case()
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    outputs = np.asarray(activations.h[-1])
    error = softmax_in_numpy(outputs) - np.eye(5)[np.asarray(labels)]
    assert_close(top, outputs - 0.5 * error / 3)
    targets = rule.targets(network, forward, feedback, activations, top)
    for i in hidden(network):
        block, h = network[i], np.asarray(activations.h[i + 1])
        q = np.asarray(feedback[block.name]["kernel"])
        expected = h + ((np.asarray(top) - outputs) @ q).reshape(h.shape)
        assert_close(targets[i], expected)
        square = (h - expected) ** 2
        wanted = square.mean() if h.ndim == 4 else square.sum(axis=1).mean()
        assert_close(rule.local_loss(block, activations.h[i + 1], targets[i]), np.float64(wanted))


def test_drl_learns_the_pseudo_inverse_of_a_linear_network():
    """With noise of covariance one the loss is ||Q J - 1||^2: its minimum is Q = J^+."""
    network = chain(
        (6,), [dense_block("a", features=6, bias=False), dense_block("b", features=3, bias=False)]
    )
    forward = {"a": {"kernel": jnp.eye(6)}, "b": {"kernel": jnp.asarray(normal(0, (6, 3)))}}
    activations = forward_all(network, forward, jnp.zeros((6, 6)))
    xi = jnp.eye(6) * np.sqrt(6)  # mean of xi xi^T over the batch: the identity
    loss = rules.drl(noise=(0.25,), beta=1.0).feedback_training.loss
    best = {"kernel": jnp.linalg.pinv(forward["b"]["kernel"])}
    gradient = jax.grad(loss, argnums=2)(network, forward, best, 0, activations, xi)
    np.testing.assert_allclose(gradient["kernel"], 0, atol=1e-14)
    # What is left is the part of the space that the logits do not see: 3 of 6 dimensions.
    assert_close(loss(network, forward, best, 0, activations, xi), jnp.float64(0.5))


def test_drl_takes_its_targets_from_the_feedback_before_this_batch():
    network, rule, forward, feedback, images, labels = drl_case()
    made = make_learner(network, rule, iterations=2)
    state = make_state(make_learner(network, rules.backprop())).replace(
        forward=forward,
        feedback=feedback,
        feedback_opt_state=learner.init_optimizers(made, forward, feedback)[1],
    )
    after, record = jax.jit(lambda s: learner.step(made, s, images, labels))(state)
    top = rule.output_target(record.activations.h[-1], labels)
    targets = rule.targets(network, forward, feedback, record.activations, top)
    assert_close(record.targets, targets)
    for name in feedback:
        assert (after.feedback[name]["kernel"] != feedback[name]["kernel"]).any()


@pytest.mark.parametrize("stale", [slow("none"), slow("kept"), "zeroed"])
def test_stale_gradients_in_a_loop_of_steps(stale):
    """The original's order of optimizer steps, written as a loop over all maps at once."""
    network, rule, forward, feedback, images, labels = drl_case()
    made = make_learner(network, rule, iterations=2)._replace(
        stale_gradients=stale, feedback_iterations=(2, 3, 1)
    )
    state = make_state(make_learner(network, rules.backprop())).replace(
        step=jnp.int32(4),
        forward=forward,
        feedback=feedback,
        feedback_opt_state=learner.init_optimizers(made, forward, feedback)[1],
    )
    noise = {
        network[i].name: jnp.asarray(normal(i, (k, 1, 3, *network[i].output_shape)))
        for i, k in zip(hidden(network), (2, 3, 1), strict=True)
    }
    activations = forward_all(network, forward, images)
    got, opt_state, _ = jax.jit(
        lambda s: learner.train_feedback(made, s, activations, noise=noise)
    )(state)

    omega = dict(feedback)
    buffers = {name: jax.tree.map(jnp.zeros_like, q) for name, q in feedback.items()}
    zero = {name: jax.tree.map(jnp.zeros_like, q) for name, q in feedback.items()}
    gradients = zero if stale == "zeroed" else {}
    for i, draws in zip(hidden(network), noise.values(), strict=True):
        for xi in draws[:, 0]:
            name = network[i].name
            fresh = jax.grad(rule.feedback_training.loss, argnums=2)(
                network, forward, omega[name], i, activations, xi
            )
            gradients = {**gradients, name: fresh} if stale != "none" else {name: fresh}
            for n, g in gradients.items():
                buffers[n] = jax.tree.map(lambda b, d: 0.9 * b + d, buffers[n], g)
                omega[n] = jax.tree.map(lambda q, b: q - 0.01 * b, omega[n], buffers[n])
    assert_close(got, omega)
