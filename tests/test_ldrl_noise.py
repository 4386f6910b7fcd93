"""L-DRL's noise: N(0, 1), and keyed by step, block, iteration and sample alone."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, assert_close, everything, make_batch, make_learner, make_state

from dtp_jax.blocks import dense_block
from dtp_jax.learning import learner, maps
from dtp_jax.learning.feedback import keys_per_iteration, random_bits
from dtp_jax.rules import FeedbackTraining, ldrl


def test_noise_is_normal_and_independent():
    block = dense_block("fc", features=40)((40,))
    draw = jax.jit(
        lambda key: ldrl(noise=(1.0,), beta=1.0).feedback_training.draw_noise(
            key, block, 500, jnp.float64
        )
    )
    noise = draw(jax.random.key(0))
    chex.assert_shape(tuple(noise), (500, 40))
    e, u = (np.asarray(leaf).ravel() for leaf in noise)
    n = e.size
    for z in (e, u):
        assert z.dtype == np.float64
        moments = [np.mean(z**k) for k in (1, 2, 3, 4)]
        np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=5 * np.sqrt(96 / n))
    assert abs(np.mean(e * u)) < 5 / np.sqrt(n)


def probe(key, block, batch, dtype):
    """In place of noise: a number that tells which key was asked."""
    del block, batch
    return jax.random.uniform(key, (), dtype)


def probing(network):
    """A rule whose loss is the mean of the probes over samples, its gradient of their squares."""

    def loss(network, forward, omega, i, activations, draw):
        tangent = sum((w - jax.lax.stop_gradient(w)).sum() for w in jax.tree.leaves(omega))
        return draw + draw**2 * tangent

    rule = ldrl(noise=(0.1,) * (len(network) - 1), beta=0.5)
    return rule._replace(feedback_training=FeedbackTraining(probe, loss))


@cache
def probing_step(iterations, samples):
    """(learner, its compiled step)."""
    network = NETWORKS["mlp"]()
    made = make_learner(network, probing(network), samples=samples)._replace(
        feedback_iterations=iterations
    )
    return made, jax.jit(lambda state, x, y: learner.step(made, state, x, y, observe=everything)[1])


def power_sums(iterations, samples, *, step=0, seed=0, scale=1.0):
    """By block: (iterations, 2) sums over samples of the probes and of their squares."""
    made, run = probing_step(iterations, samples)
    state = make_state(made)
    state = state.replace(
        key=jax.random.key(seed),
        step=jnp.int32(step),
        forward=jax.tree.map(lambda w: scale * w, state.forward),
    )
    images, labels = make_batch(made.network, 2)
    return {
        name: np.stack([seen.loss, seen.gradient["bias"][:, 0]], axis=1) * samples
        for name, seen in run(state, scale * images, labels).observations.items()
    }


def test_draws_depend_on_nothing_but_key_step_block_iteration_and_sample():
    """More iterations, more samples, other images or parameters: the earlier draws stay."""
    one, two, three = (power_sums((4, 3), samples) for samples in (1, 2, 3))
    shorter = power_sums((2, 1), 1, scale=2.0)
    draws = []
    for name in one:
        assert_close(shorter[name], one[name][: len(shorter[name])], 1e-7)
        first = one[name][:, 0]
        second = two[name][:, 0] - first
        third = three[name][:, 0] - first - second
        # The sums of squares hold only if no draw changed when samples were added.
        assert_close(two[name][:, 1], first**2 + second**2, 1e-7)
        assert_close(three[name][:, 1], first**2 + second**2 + third**2, 1e-7)
        draws += [*first, *second, *third]
    draws += [
        *power_sums((4, 3), 1, step=1)["fc2"][:, 0],
        *power_sums((4, 3), 1, seed=1)["fc2"][:, 0],
    ]
    # Every step, block, iteration and sample draws anew.
    assert np.min(np.diff(np.sort(draws))) > 1e-6


@pytest.mark.parametrize(("iterations", "samples"), [(1, 1), (4, 2), (3, 5)])
def test_keys_do_not_depend_on_the_counts(iterations, samples):
    key = jax.random.key(5)
    all_keys = jax.random.key_data(keys_per_iteration(key, 6, 6))
    keys = jax.random.key_data(keys_per_iteration(key, iterations, samples))
    np.testing.assert_array_equal(keys, all_keys[:iterations, :samples])
    assert len({tuple(k) for k in np.asarray(all_keys).reshape(36, -1)}) == 36


def test_noise_and_augmentation_have_keys_of_their_own():
    """Augmentation draws from the key of the step folded with 0, the maps from it folded with 1, 2, ..."""
    made = make_learner(NETWORKS["mlp"](), ldrl(noise=(0.1, 0.1), beta=0.5), samples=2)
    state = make_state(made)
    training, block = made.rule.feedback_training, made.trained[0]
    step_key = jax.random.fold_in(state.key, state.step)

    def bits(n):
        keys = keys_per_iteration(jax.random.fold_in(step_key, n), 2, 2)
        return np.asarray(random_bits(training, keys, block))

    found = maps.random_bits_of(made, state)
    for n, own in enumerate(made.trained, start=1):
        np.testing.assert_array_equal(found[own.name], bits(n))
        assert not np.isin(found[own.name], bits(0)).any()
