"""Gauss-Newton steps and null spaces, against pseudo-inverses and singular vectors in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, make_batch, make_parameters, normal

from dtp_jax import rules
from dtp_jax.blocks import basic_block, chain, dense_block, forward_all
from dtp_jax.learning import metrics

BATCH, CLASSES = 3, 5


@pytest.fixture(scope="module")
def above():
    """(network, forward, images, labels, activations, J_i) of a small LeNet."""
    network = NETWORKS["lenet"]()
    forward, _ = make_parameters(network)
    images, labels = make_batch(network, BATCH)

    @jax.jit
    def run(forward):
        activations = forward_all(network, forward, images)
        return activations, metrics.output_jacobians(network, forward, activations)

    return network, forward, images, labels, *run(forward)


def taken(network, rule, forward, feedback, images, labels):
    """(steps t_i - h_i of all blocks, J_i of all blocks), compiled at once."""

    @jax.jit
    def run(forward, feedback):
        activations, targets = metrics.small_step(network, rule, forward, feedback, images, labels)
        steps = [t - h for t, h in zip(targets, activations.h[1:], strict=True)]
        return steps, metrics.output_jacobians(network, forward, activations)

    return run(forward, feedback)


angle, step_to, share = map(
    jax.jit, (metrics.gauss_newton_angle, metrics.gauss_newton_step, metrics.null_space_share)
)


def flat(jacobian):
    return np.asarray(jacobian).reshape(BATCH, CLASSES, -1)


def test_output_jacobians(above):
    network, forward, _, _, activations, found = above
    for i, block in enumerate(network):
        assert found[i].shape == (BATCH, CLASSES, *block.output_shape)

        def logits(h, above=network[i + 1 :]):
            h = h[None]
            for b in above:
                h, _ = b.forward(forward[b.name], h)
            return h[0]

        wanted = jax.jit(jax.vmap(jax.jacobian(logits)))(activations.h[i + 1])
        np.testing.assert_allclose(found[i], wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_gauss_newton_step_is_a_pseudo_inverse(above, damping):
    """J^+ e, or (J^T J + damping)^-1 J^T e, the same by another matrix."""
    error = normal(1, (BATCH, CLASSES))
    for jacobian in above[-1]:
        found = step_to(jacobian, jnp.asarray(error), damping=damping)
        assert found.shape == (BATCH, *jacobian.shape[2:])
        for j, e, step in zip(flat(jacobian), error, np.asarray(found).reshape(BATCH, -1)):
            square = j.T @ j + damping * np.eye(j.shape[1])
            wanted = np.linalg.solve(square, j.T @ e) if damping else np.linalg.pinv(j) @ e
            np.testing.assert_allclose(step, wanted, rtol=0, atol=1e-9 * abs(wanted).max())


def test_gauss_newton_step_where_few_units_lead_to_many_logits():
    """Two units cannot reach five logits: the step is that of least squares."""
    j, e = normal(0, (1, CLASSES, 2)), normal(1, (1, CLASSES))
    found = step_to(jnp.asarray(j), jnp.asarray(e))
    np.testing.assert_allclose(found[0], np.linalg.lstsq(j[0], e[0], rcond=None)[0], rtol=1e-9)


def test_strong_damping_gives_the_direction_of_backprop(above):
    jacobian, error = above[-1][1], jnp.asarray(normal(1, (BATCH, CLASSES)))
    backprop = jnp.einsum("bc...,bc->b...", jacobian, error)
    damped = step_to(jacobian, error, damping=1e9)
    assert metrics.direction_angle(damped, backprop) < 1e-5
    assert angle(jacobian, backprop, error, damping=1e9) < 1e-5
    assert angle(jacobian, backprop, error) > 5


def test_gauss_newton_angle_counts_examples_by_their_error(above):
    """An example that is learned has a small error and counts little; one without a step, not at all."""
    jacobian = above[-1][2]
    error = jnp.asarray(normal(1, (BATCH, CLASSES))) * jnp.asarray([[1.0], [0.5], [1.0]])
    step = step_to(jacobian, error)
    assert angle(jacobian, step, error) < 1e-6
    assert angle(jacobian, -step, error) > 179.99
    signs = jnp.asarray([[1.0], [-1.0], [0.0]])  # 0 degrees, 180 degrees, no step
    sizes = np.linalg.norm(error, axis=1)
    np.testing.assert_allclose(
        angle(jacobian, signs * step, error),
        180 * sizes[1] / (sizes[0] + sizes[1]),
        rtol=1e-6,
    )
    assert np.isnan(angle(jacobian, 0 * step, error))


def linear_case(batch):
    """(network, forward, DRL's feedback at its minimum): its best matrices are pseudo-inverses."""
    widths = (7, 6, CLASSES)
    network = chain((8,), [dense_block(f"fc{i}", features=n) for i, n in enumerate(widths)])
    forward, _ = make_parameters(network)
    above = [np.eye(CLASSES)]
    for block in reversed(network[1:]):
        above.insert(0, np.asarray(forward[block.name]["kernel"]) @ above[0])
    feedback = {
        block.name: {"kernel": jnp.asarray(np.linalg.pinv(j)), "bias": jnp.zeros(len(j))}
        for block, j in zip(network[:-1], above)
    }
    return network, forward, feedback, *make_batch(network, batch)


def test_the_minimum_of_drl_in_a_linear_network_is_gauss_newton():
    network, forward, feedback, images, labels = linear_case(4)
    rule = rules.drl(noise=0.1, beta=0.3)
    steps, jacobians = taken(network, rule, forward, feedback, images, labels)
    for jacobian, step in zip(jacobians, steps):
        assert angle(jacobian, step, steps[-1]) < 1e-4
        assert share(jacobian, step) < 1e-6


def test_null_space_share_in_closed_form():
    """Of a sum of two orthogonal parts; the ratio of norms, over the batch."""
    rows = np.linalg.qr(normal(0, (6, 6)))[0]
    j = jnp.asarray(normal(1, (1, 2, 2)) @ rows[:2])  # sees the first two directions alone
    step = np.stack([3 * rows[0] + 4 * rows[3]])
    np.testing.assert_allclose(share(j, jnp.asarray(step)), 0.8, rtol=1e-9)
    both = np.stack([3 * rows[0], 4 * rows[5]])
    both_j = jnp.concatenate([j, j])
    np.testing.assert_allclose(share(both_j, jnp.asarray(both)), 0.8, rtol=1e-9)


def test_the_steps_of_backprop_and_gauss_newton_have_no_share_in_the_null_space(above):
    network, forward, images, labels, _, jacobians = above
    steps, _ = taken(network, rules.backprop_targets(beta=1.0), forward, {}, images, labels)
    for jacobian, step in zip(jacobians, steps):
        assert share(jacobian, step) < 1e-8
        assert share(jacobian, step_to(jacobian, steps[-1])) < 1e-8
    random = jnp.asarray(normal(3, steps[0].shape))
    j = flat(jacobians[0])
    parts = [r - np.linalg.pinv(m) @ m @ r for m, r in zip(j, random.reshape(BATCH, -1))]
    np.testing.assert_allclose(
        share(jacobians[0], random),
        np.linalg.norm(parts) / np.linalg.norm(random),
        rtol=1e-9,
    )


def test_null_space_share_of_a_step_is_that_of_the_update_of_weights():
    """As Meulemans et al. define it: the Jacobian of the logits with respect to the kernel, one example."""
    network, forward, feedback, images, labels = linear_case(1)
    feedback = jax.tree.map(lambda q: jnp.asarray(normal(4, q.shape)), feedback)
    rule = rules.drl(noise=0.1, beta=0.3)
    steps, jacobians = taken(network, rule, forward, feedback, images, labels)

    def logits(kernel):
        theta = {**forward, "fc0": {**forward["fc0"], "kernel": kernel}}
        return forward_all(network, theta, images).h[-1][0]

    j = np.asarray(jax.jit(jax.jacobian(logits))(forward["fc0"]["kernel"])).reshape(CLASSES, -1)
    null_space = np.linalg.svd(j)[2][CLASSES:]
    update = np.outer(images[0], steps[0]).ravel()
    wanted = np.linalg.norm(null_space @ update) / np.linalg.norm(update)
    assert 0.1 < wanted < 0.9
    np.testing.assert_allclose(share(jacobians[0], steps[0]), wanted, rtol=1e-6)


def test_batch_norm_above_is_refused():
    network = chain(
        (2, 2, 2), [basic_block(f"b{i}", channels=2, batch_norm=True) for i in range(2)]
    )
    with pytest.raises(ValueError, match=r"^network: block b1 has batch norm"):
        metrics.output_jacobians(network, {}, None)
