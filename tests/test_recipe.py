"""docs/add_a_rule.md: its code runs, is right, and trains from the command line."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY, assert_close, config_fields, normal

from dtp_jax import rules
from dtp_jax.blocks import chain, dense_block, forward_all
from dtp_jax.learning import learner
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate

RECIPE = REPOSITORY / "docs" / "add_a_rule.md"


@pytest.fixture
def weight_mirror():
    """The rule of the recipe, registered as the recipe does it."""
    _, code = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, str(RECIPE), "exec"), names)
    yield names["weight_mirror"]
    del rules.RULES["weight_mirror"]


def test_a_rule_takes_thirty_lines(weight_mirror):
    _, code = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30


def test_its_minimum_for_a_linear_block_are_the_forward_weights(weight_mirror):
    """Noise of covariance one in the batch: the gradient there is exactly zero."""
    network = chain((4,), [dense_block(n, features=4, bias=False) for n in ("a", "b")])
    forward = {"a": {"kernel": jnp.eye(4)}, "b": {"kernel": jnp.asarray(normal(0, (4, 4)))}}
    activations = forward_all(network, forward, jnp.asarray(normal(1, (4, 4))))
    loss = weight_mirror(noise=(0.3,), beta=1.0).feedback_training.loss
    e = 2 * jnp.eye(4)
    value, gradient = jax.value_and_grad(loss, argnums=2)(
        network, forward, forward["b"], 1, activations, e
    )
    np.testing.assert_allclose(gradient["kernel"], 0, atol=1e-15)
    assert_close(value, -(0.3**2) / 2 * jnp.sum(forward["b"]["kernel"] ** 2))


def test_it_trains_from_a_config(weight_mirror, single_precision):
    fields = config_fields(rule="weight_mirror", channels=(4, 4), batch_size=8)
    made = build_learner(validate(fields), steps_per_epoch=10)
    assert made.rule.name == "weight_mirror"
    state = learner.init(made, jax.random.key(0))
    images, labels = jax.random.normal(jax.random.key(1), (8, 8, 8, 1)), jnp.arange(8)
    after, metrics = jax.jit(lambda s: learner.train_step(made, s, images, labels))(state)
    assert sorted(metrics.feedback_loss) == ["conv_1", "fc"]
    for name in metrics.feedback_loss:
        assert np.isfinite(metrics.feedback_loss[name])
        assert (after.feedback[name]["kernel"] != state.feedback[name]["kernel"]).any()
