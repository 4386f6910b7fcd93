"""The claim of the method: feedback maps learn to carry backprop's gradients (Ernoult et al. 2022).

A small convolutional network with fixed forward weights, one batch of random images, as in figures 4.2 and
4.3. Without pooling, where the fixed point of L-DRL is another one, and without biases, as the paper has it.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from helpers import double, make_batch, slow

from dtp_jax.blocks import chain, conv_block, dense_block, forward_all
from dtp_jax.learning import learner, metrics, optim
from dtp_jax.rules import ldrl

NETWORK = chain(
    (9, 9, 2),
    [
        conv_block("conv_0", channels=6, window=3, stride=2, bias=False),
        conv_block("conv_1", channels=8, window=3, bias=False),
        dense_block("fc1", features=12, activation="elu", bias=False),
        dense_block("fc2", features=5, bias=False),
    ],
)
ITERATIONS = 300
LEARNER = learner.Learner(
    NETWORK,
    ldrl(noise=0.1, beta=0.7),
    optim.sgd(0.1, momentum=0.9),
    tuple(optim.sgd(rate, momentum=0.9) for rate in (0.01, 0.08, 0.2)),
    ITERATIONS,
    trains=learner.FEEDBACK_ONLY,
)
HIDDEN = [block.name for block in NETWORK[:-1]]
"""The last block is trained by the output error itself: 0 degrees for every rule."""


class Seen(NamedTuple):
    """Degrees."""

    weights: np.ndarray
    """Of every feedback kernel and its forward one, (iterations, maps)."""
    updates: dict[str, dict[str, float]]
    """Of the update of every kernel and backprop's gradient: by feedback, by block."""


@jax.jit
def train(state, images, labels):
    """Angles over the feedback training of one batch, and those of updates by feedback."""

    def angle_of_weights(i, iteration):
        name = NETWORK[i].name
        found = metrics.weight_alignment({name: state.forward[name]}, {name: iteration.omega})
        return found[name].angle

    activations = forward_all(NETWORK, state.forward, images)
    trained, _, angles = learner.train_feedback(
        LEARNER, state, activations, observe=angle_of_weights
    )
    maps = {"random": state.feedback, "trained": trained, "symmetric": state.forward}
    return angles, {
        name: metrics.update_alignment(
            NETWORK, LEARNER.rule, state.forward, feedback, images, labels
        )
        for name, feedback in maps.items()
    }


@pytest.fixture(scope="module", params=[0, slow(1), slow(2)])
def seen(request):
    seed = request.param
    state = double(jax.jit(lambda key: learner.init(LEARNER, key))(jax.random.key(seed)))
    angles, found = train(state, *make_batch(NETWORK, 32, seed))
    weights = np.stack([angles[block.name] for block in NETWORK[1:]], axis=1)
    updates = {
        feedback: {block: float(tree[block]["kernel"].angle) for block in tree}
        for feedback, tree in found.items()
    }
    return Seen(weights, updates)


def test_feedback_weights_come_to_point_along_forward_weights(seen):
    """From a right angle, and on the mean over the maps ever further, to below 15 degrees for each."""
    assert (abs(seen.weights[0] - 90) < 25).all()
    mean = seen.weights.mean(axis=1)
    assert (np.diff(mean[:: ITERATIONS // 6]) < 0).all()
    assert (seen.weights[-1] < 15).all()


def test_trained_feedback_gives_updates_along_the_gradients_of_backprop(seen):
    """Every hidden block below 20 degrees, where random feedback is beyond 60. (24 seeds: 4 to 15, 73 to 105.)"""
    for block in HIDDEN:
        assert seen.updates["trained"][block] < 20, block
        assert seen.updates["random"][block] > 60, block
    assert np.mean([seen.updates["random"][block] for block in HIDDEN]) > 75
    assert np.mean([seen.updates["trained"][block] for block in HIDDEN]) < 15


def test_symmetric_feedback_and_a_small_beta_give_the_direction_of_backprop(seen):
    """Exactly below a linear block. Further down ELU leaves a few degrees: G takes its slope at the output of
    a unit, F at its input."""
    angles = seen.updates["symmetric"]
    assert angles["fc1"] < 1e-6
    assert angles["conv_1"] < 1.5
    assert angles["conv_0"] < 5


def test_the_last_block_needs_no_feedback(seen):
    """Trained, random or symmetric: its update is backprop's."""
    assert all(angles["fc2"] < 1e-6 for angles in seen.updates.values())
