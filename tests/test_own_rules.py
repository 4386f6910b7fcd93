"""Rules and states of one's own: what a user may write, and what holds for it without a word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dtp_jax as dtp
from dtp_jax.blocks import MaxPool, conv_block, dense_block
from dtp_jax.learning import feedback, learner, maps
from dtp_jax.rules import FeedbackTraining
from dtp_jax.rules.rule import Normals


@pytest.mark.parametrize("guard", ["stop", "skip", "halve"])
def test_a_fresh_state_may_be_donated(guard):
    """As in the loop of the README: no two of its arrays are one buffer."""
    network = dtp.mlp((4,), 3, hidden=(5, 5))
    sgd = dtp.optim.sgd(0.1, momentum=0.9)
    made = dtp.Learner(
        network,
        dtp.ldrl(noise=0.1, beta=0.5),
        sgd,
        feedback_optimizers=sgd,
        feedback_iterations=1,
        guard=guard,
    )
    state = dtp.init(made, jax.random.key(0))
    step = jax.jit(dtp.train_step, static_argnums=0, donate_argnums=1)
    for _ in range(2):
        state, metrics = step(made, state, jnp.ones((2, 4)), jnp.zeros(2, jnp.int32))
    assert int(state.step) == 2 and np.isfinite(metrics.loss)


def of_large_images(training, rule=None):
    """What `train_feedback` says of the first iteration of conv_1, and the formula itself: on a CPU, the images
    are so large that a loss which allows it is computed in slices of the batch."""
    network = dtp.chain(
        (64, 64, 1),
        [
            conv_block("conv_0", channels=16, window=1),
            conv_block("conv_1", channels=2, window=3, padding=1, pool=MaxPool(2, 2)),
            dense_block("fc", features=3),
        ],
    )
    rule = (rule or dtp.dtp(noise=0.1, beta=0.5))._replace(feedback_training=training)
    sgd = dtp.optim.sgd(1e-6, momentum=0.0)
    made = dtp.Learner(network, rule, sgd, feedback_optimizers=sgd, feedback_iterations=1)
    state = dtp.init(made, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (40, 64, 64, 1))
    if jax.default_backend() == "cpu":
        assert feedback.cache_slices(network[1], 40) == 4
    activations = dtp.forward_all(network, state.forward, images)
    bits = maps.random_bits_of(made, state)["conv_1"]
    noise = feedback.drawing(training, network[1], 40, jnp.float32)(bits[0])
    noise = jax.tree.map(lambda a: a[0], noise)
    formula = training.loss(network, state.forward, state.feedback["conv_1"], 1, activations, noise)
    *_, losses = learner.train_feedback(made, state, activations)
    return losses["conv_1"][0], formula


def test_a_loss_of_ones_own_is_of_the_whole_batch():
    """It may be a sum over examples, or couple them: a batch is cut only where the rule says that it may be."""
    own = dtp.dtp(noise=0.1, beta=0.5).feedback_training

    def loss(network, forward, omega, i, activations, e):
        mean = own.loss(network, forward, omega, i, activations, e)
        return len(e) * mean  # the sum over examples

    found, formula = of_large_images(FeedbackTraining(own.draw_noise, loss))
    np.testing.assert_allclose(found, formula, rtol=1e-4)
    found, formula = of_large_images(own)
    np.testing.assert_allclose(found, formula, rtol=1e-4)


def test_what_a_batch_norm_sees_is_not_cut():
    norm = {"channels": 2, "window": 1, "batch_norm": True}
    plain = {"channels": 2, "window": 1}
    network = dtp.chain(
        (4, 4, 1),
        [
            conv_block("a", **plain),
            conv_block("b", **plain),
            conv_block("c", **norm),
            dense_block("fc", features=3),
        ],
    )
    for rule, expected in (
        (dtp.ldrl(noise=0.1, beta=0.5), [True, True, False, True]),
        (dtp.dtp(noise=0.1, beta=0.5), [True, True, False, True]),
        (dtp.drl(noise=0.1, beta=0.5), [False, False, False, True]),  # runs the rest of the network
    ):
        divides = rule.feedback_training.divides
        assert [divides(network, i) for i in range(4)] == expected, rule.name


def test_noise_of_which_some_maps_have_more():
    """Each of its arrays is a draw of its own."""
    noise = Normals(lambda block: ((3,), (3,)) if block.name == "fc3" else ((3,),))

    def loss(network, forward, omega, i, activations, draws):
        apart = jnp.abs(draws[0] - draws[-1]).mean()
        return apart + 0 * sum(leaf.sum() for leaf in jax.tree.leaves(omega))

    network = dtp.mlp((3,), 3, hidden=(3, 3))
    rule = dtp.dtp(noise=0.1, beta=0.5)._replace(feedback_training=FeedbackTraining(noise, loss))
    sgd = dtp.optim.sgd(0.1, momentum=0.0)
    made = dtp.Learner(network, rule, sgd, feedback_optimizers=sgd, feedback_iterations=1)
    state = dtp.init(made, jax.random.key(0))
    activations = dtp.forward_all(network, state.forward, jnp.ones((50, 3)))
    *_, losses = learner.train_feedback(made, state, activations)
    assert losses["fc2"][0] == 0 and 0.8 < losses["fc3"][0] < 1.5  # 2 / sqrt(pi)
