"""Runs that end before their last step: by patience with validation, by a limit of time."""

import pytest
from launching import STEPS_PER_EPOCH, TINY, checkpoint_steps, launch, rows, summary

from dtp_jax.run.ending import ended_by, has_ended, in_words
from dtp_jax.run.loop import Run

pytest_plugins = ["run_fixtures"]

STILL = (
    *TINY,
    "--config.forward_lr=1e-12",
    "--config.schedule=constant",
    "--config.weight_decay=0",
)
"""Validation never gains."""


@pytest.mark.parametrize(
    "patience, minutes, waited, seconds, expected",
    [
        (0, 0.0, 100, 1e9, None),
        (3, 0.0, 2, 1e9, None),
        (3, 0.0, 3, 0.0, "patience"),
        (3, 2.0, 4, 1e9, "patience"),
        (0, 2.0, 9, 119.9, None),
        (0, 2.0, 0, 120.0, "max_minutes"),
    ],
)
def test_what_ends_a_run(patience, minutes, waited, seconds, expected):
    config = {"patience": patience, "max_minutes": minutes}
    assert ended_by(config, epochs_without_gain=waited, seconds=seconds) == expected
    found = {"ended_by": "patience", "epochs_without_gain": waited, "wall_seconds": seconds}
    assert has_ended(config, found) == (expected is not None)
    assert not has_ended(config, {"wall_seconds": seconds})
    assert not has_ended(config, found | {"epochs_without_gain": "3"})
    if expected:
        assert f"config.{expected}" in in_words(config, expected)


def test_patience(place):
    """The epoch that sets the mark, then two without gain; more patience goes on from there."""
    flags = (*STILL, "--config.epochs=5", "--workdir=w")
    found = launch(*flags, "--config.patience=2")
    assert found.code == 0 and "has not gained for config.patience = 2 epochs" in found.out
    ended = summary(place / "w")
    assert ended["steps"] == 3 * STEPS_PER_EPOCH and ended["ended_by"] == "patience"
    validated = [row["accuracy"] for row in rows(place / "w", "val")]
    assert len(validated) == 3 and len(set(validated)) == 1
    again = launch(*flags, "--config.patience=2")
    assert "is finished: config.patience is 2; --config.patience=0 goes on" in again.out
    more = launch(*flags, "--config.patience=3")
    assert "going on from step 117" in more.out
    assert summary(place / "w")["steps"] == 4 * STEPS_PER_EPOCH
    assert launch(*flags, "--config.patience=0").code == 0
    last = summary(place / "w")
    assert last["steps"] == 5 * STEPS_PER_EPOCH and "ended_by" not in last
    assert last["best_val_step"] == last["steps"]  # of epochs that are equally good, the last one


def test_a_run_that_gains_is_not_ended(place):
    flags = (*TINY, "--config.epochs=2", "--config.patience=1")
    assert launch(*flags, "--workdir=w").code == 0
    first, second = (row["accuracy"] for row in rows(place / "w", "val"))
    assert first < second and "ended_by" not in summary(place / "w")


def test_patience_needs_validation(place):
    found = launch(*TINY, "--config.patience=2", "--config.val_split=0")
    assert found.code == 2 and "config.patience is 2; allowed: 0, where no images" in found.err


def test_a_limit_of_time(place):
    """In the middle of an epoch. Without it the same run as if there had been none."""
    flags = (*TINY, "--config.epochs=1", "--workdir=w")
    found = launch(*flags, "--config.max_minutes=0.0001")
    assert found.code == 0 and "config.max_minutes = 0.0001 are over" in found.out
    ended = summary(place / "w")
    assert ended["ended_by"] == "max_minutes" and 0 < ended["steps"] < STEPS_PER_EPOCH
    assert checkpoint_steps(place / "w") == [ended["steps"]]
    again = launch(*flags, "--config.max_minutes=0.0001")
    assert "--config.max_minutes=0 goes on" in again.out
    assert launch(*flags, "--config.max_minutes=0").code == 0
    assert launch(*TINY, "--config.epochs=1", "--workdir=straight").code == 0
    through, straight = summary(place / "w"), summary(place / "straight")
    for name in ("steps", "val_accuracy", "test_accuracy"):
        assert through[name] == straight[name]
    assert rows(place / "w", "train")[-1]["loss"] == rows(place / "straight", "train")[-1]["loss"]


def test_the_limit_of_time_is_of_all_starts(place, monkeypatch):
    """A run whose first start took 1000 s is over at once where 16 minutes are allowed."""
    flags = (*TINY, "--config.epochs=1", "--workdir=w")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "wall_seconds", lambda run: 1000.0)
        assert launch(*flags, "--config.max_steps=2").code == 0
    over = launch(*flags, "--config.max_steps=0", "--config.max_minutes=16")
    assert over.code == 0 and summary(place / "w")["steps"] == 2
    assert summary(place / "w")["ended_by"] == "max_minutes"
    again = launch(*flags, "--config.max_steps=4", "--config.max_minutes=17")
    assert summary(place / "w")["steps"] == 4
    assert 0 < summary(place / "w")["wall_seconds"] - 1000 < over.seconds + again.seconds
