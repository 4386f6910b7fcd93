"""Numbers that are not finite, and who is blamed for them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_learner
from launching import arrays, checkpoint_steps, launch
from launching import rows as rows_of

from dtp_jax import mlp
from dtp_jax.learning import learner
from dtp_jax.learning.learner import Metrics
from dtp_jax.rules import ldrl
from dtp_jax.run import guard, loop, rows

pytest_plugins = ["run_fixtures"]

NETWORK = mlp((2, 2, 1), 3, hidden=(4, 4))
FIRST, SECOND, LAST = (block.name for block in NETWORK)
LEARNER = make_learner(NETWORK, ldrl(noise=(0.1, 0.1), beta=0.7))
CONFIG = {
    "forward_lr": 0.5,
    "block_forward_lr": (),
    "normalize_lr": False,
    "feedback_lr": (0.25, 0.125),
}


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


def test_the_rate_that_was_used_is_named(single_precision):
    own = make_learner(NETWORK, ldrl(noise=(0.1, 0.1), beta=0.7))
    state = learner.init(own, jax.random.key(0))
    spoilt = state.replace(forward={**state.forward, LAST: not_finite(state.forward[LAST])})
    rates = {"block_forward_lr": (0.1, 0.2, 0.3), "normalize_lr": True, "beta": 0.7}
    with pytest.raises(guard.Diverged) as caught:
        guard.check_parameters(spoilt, {**CONFIG, **rates}, LEARNER, "no checkpoint yet")
    assert f"block {LAST}, config.block_forward_lr 0.3 / config.beta 0.7; " in str(caught.value)
    with pytest.raises(guard.Diverged, match=r"config.block_forward_lr \(0.1, 0.2, 0.3\) / config"):
        guard.check_loss("the loss", np.nan, 7, {**CONFIG, **rates}, LEARNER, "none")


def test_an_exploded_map_is_no_good_checkpoint(single_precision):
    state = learner.init(LEARNER, jax.random.key(0)).replace(step=jnp.int32(17))
    state.feedback[LAST]["kernel"] = state.feedback[LAST]["kernel"].at[0, 0].set(-3e20)
    with pytest.raises(guard.Diverged) as caught:
        guard.check_parameters(state, CONFIG, LEARNER, "no checkpoint yet")
    assert str(caught.value).startswith(
        f"step 17: a feedback parameter is 3.0e+20; suspect: block {LAST}, config.feedback_lr 0.125"
    )


@pytest.mark.parametrize("loss", [np.nan, np.inf, 2e6])
def test_the_loss_of_the_weights_is_looked_at(loss):
    options = 7, CONFIG, LEARNER, "no checkpoint yet"
    guard.check_loss("the test loss", 1e5, *options)
    with pytest.raises(guard.Diverged, match=r"^step 7: the test loss is .*config.forward_lr 0.5;"):
        guard.check_loss("the test loss", loss, *options)
    if np.isfinite(loss):
        guard.check_loss("the test loss", loss, *options, most=np.inf)
    else:
        with pytest.raises(guard.Diverged):
            guard.check_loss("the test loss", loss, *options, most=np.inf)
    worst = metrics(**{f"forward_loss__{SECOND}": {3: 9.0}})
    with pytest.raises(guard.Diverged, match=f"suspect: block {SECOND}, config.forward_lr 0.5"):
        guard.check_loss("the loss after it", loss, *options, found=worst)


# Where the compiled step has dealt with it.


def acted(skipped=(0, 0, 0, 0), in_a_row=None, halved=None, before=0, **bad):
    """Metrics of four steps whose guard has skipped these batches, and halved the rate of LAST so often."""
    skipped, halved = np.array(skipped, bool), halved and np.array(halved)
    now = {
        "skipped": before + skipped.cumsum(),
        "in_a_row": skipped.astype(int) if in_a_row is None else np.array(in_a_row),
    }
    did = {"skipped": skipped, "halved": {}, "now": now}
    if halved is not None:
        none = np.zeros(4, int)
        now["halved"] = {SECOND: none, LAST: halved}
        now["factor"] = {name: 0.5**times for name, times in now["halved"].items()}
        did["halved"] = {SECOND: none > 0, LAST: np.diff(halved, prepend=0) > 0}
    return metrics(**bad).replace(guard=did)


def told(found, total=1000):
    return guard.check_recovery(
        found, 10, total, CONFIG, LEARNER, "the last good checkpoint is c/10"
    )


def test_nothing_is_told_where_nothing_happened():
    assert told(metrics(loss={0: np.nan})) == []  # "stop": that is for check_losses
    assert told(acted()) == told(acted(halved=(0, 0, 0, 0))) == []


def test_a_skipped_batch_is_told():
    (line,) = told(acted((0, 0, 1, 0), before=2, loss={2: np.nan}))
    assert line == "step 13: batch skipped: the loss is not finite (3 so far)"
    (line,) = told(acted((0, 1, 0, 1), forward_loss__fc1={1: np.inf}))
    assert line == (
        "steps 12 to 14: 2 batches skipped, the first because the local loss of fc1 is not finite "
        "(2 so far)"
    )


def test_a_halved_rate_is_told():
    last = f"feedback_loss__{LAST}"
    (line,) = told(acted(halved=(0, 1, 2, 2), **{last: {2: np.nan}}))
    assert line == (
        f"step 13: the feedback rate of {LAST} is halved, to 0.25 of what it was: its feedback loss is "
        "not finite"
    )
    both = told(acted((1, 0, 0, 0), halved=(1, 1, 1, 1), **{last: {0: np.nan}}))
    assert both[0] == "step 11: batch skipped: parameters explode (1 so far)"
    assert both[1].endswith("to 0.5 of what it was: its feedback loss is not finite")


@pytest.mark.parametrize("total, row", [(1000, 100), (7, 7)])
def test_a_run_that_skips_everything_is_given_up(total, row):
    found = acted((1, 1, 1, 1), in_a_row=range(row - 2, row + 2), loss={2: np.inf})
    with pytest.raises(guard.Diverged) as caught:
        told(found, total)
    text = str(caught.value)
    assert text.startswith(
        f"step 13: {row} batches in a row were skipped, the last because the loss is not finite; suspect: "
    )
    assert "config.forward_lr 0.5" in text and text.endswith("the last good checkpoint is c/10")
    assert told(acted((1, 1, 1, 1), in_a_row=range(row - 4, row)), total)


def test_a_rate_that_was_halved_too_often_ends_the_run():
    with pytest.raises(guard.Diverged) as caught:
        told(acted(halved=(100, 100, 101, 102)))
    assert str(caught.value).startswith(
        f"step 13: the feedback rate of {LAST} was halved 100 times and is still too large; suspect: "
        f"block {LAST}, config.feedback_lr 0.125; "
    )
    assert told(acted(halved=(98, 98, 99, 100)))


def test_rows_say_what_the_guard_did():
    """Also where log_every leaves a step out."""
    found = acted((0, 1, 0, 0), halved=(0, 0, 2, 2), before=4, loss={1: np.nan})
    plain, *every = (rows.step_rows(f, 10, 1, 4, last=False) for f in (metrics(), found, acted()))
    assert [row["step"] for row in plain] == [12] and not [k for k in plain[0] if "guard" in k]
    assert [row["step"] for row in every[0]] == [12, 13] and [r["step"] for r in every[1]] == [12]
    first, second = every[0]
    assert first["guard/skipped"] == second["guard/skipped"] == 5
    assert first[f"guard/halved/{LAST}"] == 0 and second[f"guard/halved/{LAST}"] == 2
    assert second[f"guard/factor/{LAST}"] == 0.25 and second[f"guard/factor/{SECOND}"] == 1
    assert rows.guard_row(metrics(), -1) == {}
    assert list(guard.counts(found)) == [True, False, True, True]
    assert guard.counts(metrics()).all()


# Whole runs.

RUN = (
    "--workdir=w",
    "--config.network=mlp",
    "--config.channels=()",
    "--config.hidden=16,8",
    "--config.feedback_iterations=2",
    "--config.batch_size=32",
    "--config.epochs=1",
)


@pytest.mark.parametrize("val_split, what", [(0.1, "the val loss"), (0, "the loss after it")])
def test_the_last_step_may_diverge(place, val_split, what):
    """Nobody sees a loss of its weights any more."""
    exploding = (f"--config.val_split={val_split}", "--config.forward_lr=1e4")
    found = launch(*RUN, *exploding, "--config.max_steps=1")
    assert found.code == 4 and not (place / "w" / "summary.json").exists()
    said = rf"error: step 1: {what} is [0-9.e+]+; suspect: .*config.forward_lr 10000.0; no checkpoint yet\n"
    assert re.fullmatch(said, found.err)
    assert checkpoint_steps(place / "w") == []


def test_a_run_with_a_halved_rate_goes_on_where_it_stopped(place):
    """The rate of fc3 is beyond hope in every step; the rows and the state are those of one run."""
    options = (
        "--config.guard=halve",
        "--config.feedback_lr=1e-2,1e30",
        "--config.diagnostics=False",
    )
    found = launch(*RUN, *options, "--config.max_steps=4")
    assert found.code == 0, found.err
    assert re.search("warning: step 1: the feedback rate of fc3 is halved, to 0.5 of", found.err)
    trained = rows_of(place / "w", "train")
    assert [row["guard/halved/fc3"] for row in trained] == [1, 2, 3, 4]
    assert rows_of(place / "w", "epoch")[0]["guard/factor/fc3"] == 2**-4
    assert trained[-1]["guard/halved/fc2"] == trained[-1]["guard/skipped"] == 0
    whole = arrays(place / "w")
    (place / "w").rename(place / "whole")
    for steps in (2, 4):
        assert launch(*RUN, *options, f"--config.max_steps={steps}").code == 0
    assert arrays(place / "w") == whole
    assert rows_of(place / "w", "train") == trained


def test_a_run_that_skips_all_its_batches_fails(place):
    found = launch(*RUN, "--config.guard=skip", "--config.max_steps=3", "--config.forward_lr=1e9")
    assert found.code == 4 and not (place / "w" / "summary.json").exists()
    assert "error: step 3: 3 batches in a row were skipped, the last because " in found.err


def test_means_of_an_epoch_leave_skipped_batches_out(place, monkeypatch):
    """The first of three batches is made a skipped one, whose loss is no number."""
    take_in, runs = loop.Run.take_in, []

    def first_skipped(run, given, found, seconds):
        if run.progress.step == 0:
            done = found.guard | {"skipped": np.arange(len(found.loss)) == 0}
            bad = np.where(done["skipped"], np.nan, found.loss)
            found = found.replace(loss=bad, accuracy=bad, guard=done)
        runs.append(run)
        return take_in(run, given, found, seconds)

    monkeypatch.setattr(loop.Run, "take_in", first_skipped)
    found = launch(*RUN, "--config.guard=skip", "--config.max_steps=3")
    assert found.code == 0 and "step 1: batch skipped: the loss is not finite" in found.err
    trained, progress = rows_of(place / "w", "train"), runs[-1].progress
    assert np.isnan(trained[0]["loss"] or np.nan) and progress.epoch_skipped == 1
    for name in ("loss", "accuracy"):
        good = sum(row[name] for row in trained[1:])
        assert getattr(progress, f"epoch_{name}") == pytest.approx(good, rel=1e-6)
