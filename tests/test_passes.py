"""Passes over the images: feedback alone, forward alone, both; and batch norm's running statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, assert_close, config_fields, make_batch, make_learner, make_state
from launching import TINY, arrays, launch, rows

from dtp_jax import resnet18, rules
from dtp_jax.blocks import forward_all, init_forward
from dtp_jax.learning import evaluation, learner, optim
from dtp_jax.learning.learner import BOTH, FEEDBACK_ONLY, FORWARD_ONLY
from dtp_jax.run.passes import passes


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(1, BOTH), (2, BOTH)]),
        ({"pretrain_epochs": 1}, [(0, FEEDBACK_ONLY), (1, BOTH), (2, BOTH)]),
        ({"feedback_pass": True}, [(1, BOTH), (1, FEEDBACK_ONLY), (2, BOTH), (2, FEEDBACK_ONLY)]),
        (
            {"alternate": True},
            [(1, FEEDBACK_ONLY), (1, FORWARD_ONLY), (2, FEEDBACK_ONLY), (2, FORWARD_ONLY)],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_passes_of_a_run(fields, expected):
    assert list(passes(config_fields(epochs=2, **fields))) == expected


def test_what_is_not_trained_stays():
    """Both halves of a step, one after the other, move what the whole step moves."""
    network = NETWORKS["mlp"]()
    made = make_learner(network, rules.ldrl(noise=(0.1, 0.1), beta=0.7))
    state, (images, labels) = make_state(made), make_batch(network, 4)

    def step(trains):
        return learner.step(made._replace(trains=trains), state, images, labels)

    (whole, record), (feedback, seen), (forward, _) = map(step, (BOTH, FEEDBACK_ONLY, FORWARD_ONLY))
    assert_close(feedback.forward, state.forward, rtol=0, atol=0)
    assert_close(feedback.forward_opt_state, state.forward_opt_state, rtol=0, atol=0)
    assert_close(feedback.feedback, whole.feedback)
    assert_close(seen.observations, record.observations)
    assert_close(forward.feedback, state.feedback, rtol=0, atol=0)
    assert_close(forward.feedback_opt_state, state.feedback_opt_state, rtol=0, atol=0)
    assert feedback.step == forward.step == whole.step == 1
    after, _ = learner.step(
        made._replace(trains=FORWARD_ONLY), feedback.replace(step=state.step), images, labels
    )
    assert_close(after.forward, whole.forward)


def test_a_run_of_passes_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """Stopped in the middle of pre-training and in the pass after an epoch."""
    monkeypatch.chdir(tmp_path)
    args = (*TINY, "--config.pretrain_epochs=1", "--config.feedback_pass=True", "--config.epochs=1")
    assert launch("--workdir=whole", *args).code == 0
    for steps in (20, 90, 0):
        assert launch("--workdir=w", *args, f"--config.max_steps={steps}").code == 0
    train = [row for row in rows(tmp_path / "w", "train")]
    assert [row["epoch"] for row in train[::39]] == [0, 1, 1]
    assert ["forward_loss/fc" in row for row in train[::39]] == [False, True, False]
    losses = [row["loss"] for row in rows(tmp_path / "whole", "train")]
    assert [row["loss"] for row in train] == losses
    assert arrays(tmp_path / "w") == arrays(tmp_path / "whole")


def test_running_statistics_follow_the_clean_pass():
    """0.9 of the old and 0.1 of the batch's mean and unbiased variance, as torch has it."""
    network = resnet18((6, 6, 2), 3, channels=(3, 4), batch_norm=True)
    made = learner.Learner(
        network,
        rules.ldrl(noise=(0.1, 0.1), beta=0.5),
        optim.sgd(0.01, momentum=0.9),
        (optim.sgd(1e-3, momentum=0.9),) * 2,
        (1, 1),
    )
    state = learner.init(made, jax.random.key(0))
    images, labels = make_batch(network, 4)
    after, _ = jax.jit(lambda s: learner.step(made, s, images, labels))(state)
    stem = network[0]
    x = jax.lax.conv_general_dilated(
        images,
        jnp.float64(state.forward[stem.name]["kernel"]),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = after.statistics[stem.name]["bn"]
    np.testing.assert_allclose(found["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        found["var"], 0.9 + 0.1 * np.var(x, axis=(0, 1, 2), ddof=1), rtol=1e-5
    )


def test_running_statistics_keep_their_type():
    """Images may be float64 beside float32 parameters; a scan carries a state of one type."""
    network = resnet18((6, 6, 2), 3, channels=(3, 4), batch_norm=True)
    made = make_learner(network, rules.backprop())
    images, labels = make_batch(network, 2)
    after, _ = jax.eval_shape(partial(learner.train_step, made), made.state_shapes, images, labels)
    assert images.dtype == "float64" and after.statistics
    assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(
        lambda a: a.dtype, made.state_shapes
    )


def test_evaluation_uses_the_running_statistics():
    """With the statistics of a batch as running ones, the logits of that batch are those of training."""
    network = resnet18((6, 6, 2), 3, channels=(3, 4), batch_norm=True)
    forward = jax.tree.map(jnp.float64, init_forward(network, jax.random.key(1)))
    images, labels = make_batch(network, 5)
    activations = forward_all(network, forward, images)
    statistics = {
        block.name: block.statistics(forward[block.name], x)
        for block, x in zip(network, activations.h, strict=False)
        if block.statistics is not None
    }
    # Training divides by n, the running variance is the unbiased one.
    sizes = {b.name: x.size // x.shape[-1] for b, x in zip(network, activations.h[1:], strict=True)}
    biased = {
        name: jax.tree.map_with_path(
            lambda path, a, n=sizes[name]: a * (n - 1) / n if path[-1].key == "var" else a, tree
        )
        for name, tree in statistics.items()
    }
    found = evaluation.infer(network, forward, images, biased)
    assert_close(found, activations.h[-1])
    moved = jax.tree.map(lambda a: a + 1, biased)
    assert not np.allclose(evaluation.infer(network, forward, images, moved), found)
