"""Numbers that are not finite, and who is blamed for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_learner

from dtp_jax import mlp
from dtp_jax.learning import learner
from dtp_jax.learning.learner import Metrics
from dtp_jax.rules import ldrl
from dtp_jax.run import guard

NETWORK = mlp((2, 2, 1), 3, hidden=(4, 4))
FIRST, SECOND, LAST = (block.name for block in NETWORK)
LEARNER = make_learner(NETWORK, ldrl(noise=(0.1, 0.1), beta=0.7))
CONFIG = {"forward_lr": 0.5, "feedback_lr": (0.25, 0.125)}


def metrics(steps=4, **bad):
    """Finite metrics of some steps but for `bad`: field or field__block = {step: value}."""
    found = Metrics(
        loss=np.ones(steps, np.float32),
        accuracy=np.ones(steps, np.float32),
        feedback_loss={name: np.ones(steps, np.float32) for name in (SECOND, LAST)},
        forward_loss={name: np.ones(steps, np.float32) for name in (FIRST, SECOND, LAST)},
    )
    for place, values in bad.items():
        field, _, block = place.partition("__")
        array = getattr(found, field)[block] if block else getattr(found, field)
        for step, value in values.items():
            array[step] = value
    return found


def check(found, first=10):
    guard.check_losses(found, first, CONFIG, LEARNER, "the last good checkpoint is c/10")


def test_finite_losses_pass():
    check(metrics())
    check(metrics(loss={0: 1e5}, feedback_loss__fc2={1: -3e38}))


def test_a_loss_beyond_hope_stops_the_run():
    """A diverged run may stay finite for epochs."""
    with pytest.raises(guard.Diverged, match=r"step 12: the loss is 2.1e\+14; suspect: block "):
        check(metrics(loss={1: 2.1e14}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "place, what, rate",
    [
        (
            f"feedback_loss__{SECOND}",
            f"feedback loss of {SECOND}",
            f"block {SECOND}, config.feedback_lr 0.25",
        ),
        (
            f"feedback_loss__{LAST}",
            f"feedback loss of {LAST}",
            f"block {LAST}, config.feedback_lr 0.125",
        ),
        (f"forward_loss__{LAST}", f"local loss of {LAST}", "config.forward_lr 0.5"),
        ("loss", "the loss", "config.forward_lr 0.5"),
    ],
)
def test_the_suspect_is_named(value, place, what, rate):
    """Index 2 of a chunk that starts after step 10 is step 13."""
    with pytest.raises(guard.Diverged) as caught:
        check(metrics(**{place: {2: value, 3: np.nan}}))
    text = str(caught.value)
    assert text.startswith("step 13: ") and what in text and rate in text
    assert text.endswith("; the last good checkpoint is c/10") and "\n" not in text


def test_the_first_bad_step_counts():
    with pytest.raises(guard.Diverged, match=f"step 11: .*{LAST}.*feedback_lr 0.125"):
        check(metrics(loss={1: np.nan}, **{f"feedback_loss__{LAST}": {0: np.nan, 1: np.nan}}))


def test_a_bad_forward_pass_is_not_blamed_on_the_feedback():
    """The forward weights go wrong in one step, so in the next one nothing is finite."""
    bad = {f"feedback_loss__{name}": {2: np.nan} for name in (SECOND, LAST)}
    with pytest.raises(guard.Diverged, match=f"step 13: .*block {SECOND}, config.forward_lr 0.5"):
        check(
            metrics(loss={2: np.nan}, **bad, **{f"forward_loss__{SECOND}": {1: 100.0, 2: np.nan}})
        )


def test_rules_without_local_losses():
    found = metrics(loss={0: np.inf}).replace(feedback_loss={}, forward_loss={})
    with pytest.raises(
        guard.Diverged, match=r"step 11: the loss is not finite; suspect: .*config.forward_lr 0.5"
    ):
        check(found)


def not_finite(tree):
    return jax.tree.map(
        lambda leaf: leaf * jnp.inf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


@pytest.mark.parametrize(
    "place, suspect",
    [
        ("forward", f"block {LAST}, config.forward_lr 0.5"),
        ("feedback", f"block {LAST}, config.feedback_lr 0.125"),
        ("forward_opt_state", "config.forward_lr 0.5"),
        ("feedback_opt_state", f"block {LAST}, config.feedback_lr 0.125"),
    ],
)
def test_parameters_and_optimizer_states(place, suspect, single_precision):
    own = make_learner(NETWORK, ldrl(noise=(0.1, 0.1), beta=0.7))
    state = learner.init(own, jax.random.key(0)).replace(step=jnp.int32(17))
    guard.check_parameters(state, CONFIG, LEARNER, "no checkpoint yet")
    good = getattr(state, place)
    bad = (
        not_finite(good) if place == "forward_opt_state" else {**good, LAST: not_finite(good[LAST])}
    )
    with pytest.raises(guard.Diverged) as caught:
        guard.check_parameters(state.replace(**{place: bad}), CONFIG, LEARNER, "no checkpoint yet")
    text = str(caught.value)
    assert text.startswith("step 17: ") and suspect in text and text.endswith("no checkpoint yet")
