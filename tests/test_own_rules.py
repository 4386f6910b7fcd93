"""Rules and states of one's own: what a user may write, and what holds for it without a word."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from docs_blocks import blocks
from helpers import assert_close, config_fields, make_parameters, normal

import dtp_jax as dtp
from dtp_jax.blocks import Block, MaxPool, conv_block, dense_block
from dtp_jax.learning import feedback, learner, maps
from dtp_jax.rules import RULES, FeedbackTraining
from dtp_jax.rules.analytic import solve_feedback
from dtp_jax.rules.rule import Normals
from dtp_jax.run.build import build_rule


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


# Blocks of one's own.


@pytest.fixture
def documented():
    """The network of docs/add_a_network.md whose blocks have no bias and multiply with @."""
    names = {"dtp": dtp}
    with contextlib.redirect_stdout(None):
        exec(blocks("docs/add_a_network.md", "python")[-1].code, names)
    return names["network"]


def test_a_network_of_blocks_of_ones_own_trains_by_every_rule(documented):
    """Their kernels are found, and nothing is refused; only traced."""
    sgd = dtp.optim.sgd(0.1, momentum=0.9)
    images, labels = jnp.ones((3, 20), jnp.float32), jnp.zeros(3, jnp.int32)
    for name in RULES:
        rule = build_rule(config_fields(rule=name, noise=(0.1,)))
        trains = {} if rule.feedback_training is None else {
            "feedback_optimizers": sgd, "feedback_iterations": 1
        }  # fmt: skip
        made = dtp.Learner(documented, rule, sgd, **trains)
        step = partial(dtp.train_step, made)
        after, _ = jax.eval_shape(step, made.state_shapes, images, labels)
        assert jax.tree.map(jnp.shape, after.forward) == jax.tree.map(
            jnp.shape, made.state_shapes.forward
        )


def test_rules_that_replace_kernels_do_so_in_blocks_of_ones_own(documented):
    """Block b is tanh(x V) / 2 on the way up and tanh(y) V'^T on the way down, without a bias."""
    forward, feedback = make_parameters(documented)
    activations = dtp.forward_all(documented, forward, jnp.asarray(normal(0, (6, 20))))
    (h, y), theta = map(np.asarray, activations.h[1:3]), np.asarray(forward["b"]["kernel"])
    f, g = (1 - np.tanh(h @ theta) ** 2) / 2, 1 - np.tanh(y) ** 2  # slopes of both ways
    found = solve_feedback(documented, forward, feedback["b"], 1, activations)
    assert_close(found["kernel"], theta * (f * g).sum(0) / (g**2).sum(0))
    e = normal(1, activations.h[-1].shape)
    top = activations.h[-1] - jnp.asarray(e)
    targets = dtp.rules.feedback_alignment(beta=1).targets(
        documented, forward, feedback, activations, top
    )
    e = e @ np.asarray(feedback["fc"]["kernel"]).T
    assert_close(targets[1], y - e)
    assert_close(targets[0], h - (e * f) @ np.asarray(feedback["b"]["kernel"]).T)


NO_KERNEL = {
    "another name": ("weight", lambda x, w: x @ w),
    "another product": ("kernel", jnp.dot),
    "transposed": ("kernel", lambda x, w: x @ w.T),
    "no product": ("kernel", lambda x, w: x),
}


@pytest.mark.parametrize("kind", NO_KERNEL)
@pytest.mark.parametrize("features", [True, False])
def test_a_kernel_that_a_rule_cannot_replace_is_refused(kind, features):
    """Feedback alignment would be backprop under another name, analytic feedback be zero or as it was drawn."""
    name, product = NO_KERNEL[kind]

    def init(key):
        return {name: jnp.ones((4, 4))}

    split = {"features": lambda y, r: y, "decode": lambda p, a: a @ p[name].T} if features else {}
    block = Block(
        *("own", "of a test", (4,), (4,), init, init),
        *(lambda p, x: (product(x, p[name]), ()), lambda p, y, r: y @ p[name].T),
        **split,
    )
    network = [dtp.chain((4,), [dense_block("below", features=4)])[0], block]
    refusing = [dtp.rules.feedback_alignment(beta=1)]
    if features or name != "kernel":  # without features, the kernel is copied as it is
        refusing.append(dtp.analytic(beta=1))
    for rule in refusing:
        with pytest.raises(ValueError) as refused:
            dtp.Learner(network, rule, dtp.optim.sgd(0.1, momentum=0.9))
        assert str(refused.value) == (
            f"network: block own has no kernel that the rule {rule.name} can replace; allowed: a parameter "
            "'kernel' in init and init_feedback, of one shape, by which forward multiplies with @, "
            "dtp_jax.ops.linear or dtp_jax.ops.conv"
        )
    dtp.Learner(network, dtp.fw_dtp(beta=1), dtp.optim.sgd(0.1, momentum=0.9))
