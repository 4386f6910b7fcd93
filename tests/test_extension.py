"""A finished run is given more epochs: what stays as it was, and what says so."""

import json
import shutil

import numpy as np
import pytest
from launching import (
    STEPS_PER_EPOCH,
    TINY,
    arrays,
    checkpoint_steps,
    launch,
    rows,
    summary,
    tree,
    untimed_rows,
)

import dtp_jax as dtp
from dtp_jax.run.build import build_learner, learning_rates
from dtp_jax.run.extension import Extension
from dtp_jax.run.results import experiment_of

pytest_plugins = ["run_fixtures"]

# The cosine's minimum comes after round(2 * 85 / 90) = 2 epochs; t_max is not given here.
SHORT = tuple(arg for arg in TINY if "t_max" not in arg)
END = 2 * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("finished") / "w"
    assert launch(f"--workdir={folder}", *SHORT, "--config.epochs=2").code == 0
    return folder


@pytest.fixture
def copy(finished, place):
    """The same, to be written to."""
    return shutil.copytree(finished, place / "w")


def refused(*args):
    found = launch(*args)
    assert found.code == 2 and len(found.err.splitlines()) == 1
    return found.err


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def rate(epoch, t_max, first=0.01, eta_min=1e-5):
    """By its definition (Ernoult et al. 2022, appendix)."""
    return eta_min + (first - eta_min) * (1 + np.cos(np.pi * epoch / t_max)) / 2


def rates(folder):
    return [row["forward_lr"] for row in rows(folder, "epoch")]


def test_more_epochs(copy, finished):
    found = launch("--workdir=w", "--config.epochs=4")
    assert found.code == 0, found.err
    told = f"at step {END}: 4 epochs instead of 2, the rate at its minimum after epoch 2"
    assert told in " ".join(found.out.split())
    assert f"going on from step {END} of {2 * END}" in found.out
    # Everything up to there is as it was, the test row of the shorter run included.
    assert untimed_rows(copy)[: len(untimed_rows(finished))] == untimed_rows(finished)
    assert [row["step"] for row in rows(copy, "test")] == [END, 2 * END]
    assert [row["step"] for row in rows(copy, "train")] == list(range(1, 2 * END + 1))
    # The rate: the cosine of two epochs, then its minimum.
    np.testing.assert_allclose(rates(copy), [rate(0, 2), rate(1, 2), 1e-5, 1e-5], rtol=1e-5)
    extended = [{"at_step": END, "from_epochs": 2, "to_epochs": 4, "t_max": 2}]
    assert config_of(copy)["extended"] == summary(copy)["extended"] == extended
    assert config_of(copy)["epochs"] == summary(copy)["epochs"] == 4
    assert config_of(copy)["provenance"] == config_of(finished)["provenance"]
    assert f"at step {END} from 2 to 4 epochs" in launch("--workdir=w").out


def test_the_first_epochs_have_the_rate_that_they_had(finished, copy):
    """Also where they are trained once more, since the newer checkpoints are gone."""
    before = experiment_of(finished)
    longer = before._replace(
        config=before.config | {"epochs": 5}, extensions=(Extension(END, 2, 5, 2),)
    )
    for epoch in (1, 2):
        assert learning_rates(longer, epoch) == learning_rates(before, epoch)
    assert learning_rates(longer, 3)["forward_lr"] == pytest.approx(1e-5)
    assert launch("--workdir=w", "--config.epochs=3").code == 0
    for step in checkpoint_steps(copy)[1:]:
        (copy / "checkpoints" / str(step) / "checksums.json").write_text("{}")
    (copy / "summary.json").unlink()
    assert launch("--workdir=w").code == 0
    assert [row["loss"] for row in rows(copy, "train")][:END] == [
        row["loss"] for row in rows(finished, "train")
    ]
    assert arrays(copy, END) == arrays(finished, END)


@pytest.mark.slow
def test_stopped_in_the_added_epochs(copy):
    """It goes on as the extended run that it is, also from the command that extended it."""
    command = ("--workdir=w", "--config.epochs=3")
    assert launch(*command, f"--config.max_steps={END + 5}").code == 0
    assert launch("--workdir=w", f"--config.max_steps={END + 9}").code == 0
    assert launch(*command, "--config.max_steps=0").code == 0
    assert "this run is finished" in launch(*command, "--config.max_steps=0").out
    assert len(config_of(copy)["extended"]) == 1 and summary(copy)["steps"] == 3 * STEPS_PER_EPOCH
    assert [row["step"] for row in rows(copy, "train")] == list(range(1, 3 * STEPS_PER_EPOCH + 1))


def test_another_minimum_on_request(copy):
    command = ("--workdir=w", "--config.epochs=5", "--config.t_max=4")
    assert launch(*command).code == 0
    np.testing.assert_allclose(
        rates(copy), [rate(0, 2), rate(1, 2), rate(2, 4), rate(3, 4), 1e-5], rtol=1e-5
    )
    assert config_of(copy)["t_max"] == 0 and config_of(copy)["extended"][0]["t_max"] == 4
    assert "this run is finished" in launch(*command).out


@pytest.mark.slow
def test_twice(copy):
    for epochs in (3, 4):
        assert launch("--workdir=w", f"--config.epochs={epochs}").code == 0
    assert [one["at_step"] for one in summary(copy)["extended"]] == [END, END + STEPS_PER_EPOCH]
    assert [one["t_max"] for one in summary(copy)["extended"]] == [2, 2]
    np.testing.assert_allclose(rates(copy)[2:], [1e-5, 1e-5], rtol=1e-5)


@pytest.mark.slow
def test_run_again_with_all_its_extensions(copy, place):
    """From config.json alone: the same rates, numbers and words."""
    assert launch("--workdir=w", "--config.epochs=3").code == 0
    assert launch("--config=w/config.json", "--workdir=v").code == 0
    assert summary(place / "v")["extended"] == summary(copy)["extended"]
    assert rates(place / "v") == rates(copy)
    assert [r["loss"] for r in rows(place / "v", "train")] == [
        r["loss"] for r in rows(copy, "train")
    ]
    assert arrays(place / "v") == arrays(copy)
    # With epochs of its own it is another run, that had them from the start.
    assert launch("--config=w/config.json", "--workdir=u", "--config.epochs=1").code == 0
    assert "extended" not in config_of(place / "u")


def test_what_else_may_not_differ(copy):
    before = tree(copy)
    for args, said in (
        (["--config.epochs=1"], "its epochs is 2, here it is 1"),
        (["--config.epochs=3", "--config.seed=1"], "its seed is 0, here it is 1"),
        (["--config.t_max=5"], "its t_max is 0, here it is 5"),
        (
            ["--config.epochs=3", "--config.max_steps=10"],
            f"config.max_steps is 10; allowed: 0, or more than the {END} steps of the first 2 epochs",
        ),
    ):
        assert said in refused("--workdir=w", *args)
    assert tree(copy) == before


def test_the_original_command_after_an_extension(copy):
    assert launch("--workdir=w", "--config.epochs=3").code == 0
    message = refused("--workdir=w", *SHORT, "--config.epochs=2")
    assert "config.epochs is 2; allowed: 3 or more, for this run was extended at step" in message


def test_a_run_that_is_not_finished_is_extended_where_it_would_have_ended(place, finished):
    assert launch("--workdir=w", *SHORT, "--config.epochs=2", "--config.max_steps=50").code == 0
    assert launch("--workdir=w", "--config.epochs=3", "--config.max_steps=0").code == 0
    assert summary(place / "w")["extended"][0]["at_step"] == END
    whole = [row["loss"] for row in rows(finished, "train")]
    assert [row["loss"] for row in rows(place / "w", "train")][:END] == whole


@pytest.mark.slow
def test_a_run_that_alternates_counts_its_forward_epochs(place):
    """Two passes an epoch: the rate of the added one is the minimum all the same."""
    args = (*SHORT, "--config.alternate=True", "--config.epochs=1")
    assert launch("--workdir=w", *args).code == 0
    assert launch("--workdir=w", "--config.epochs=2").code == 0
    assert summary(place / "w")["extended"][0] == dict(
        at_step=END, from_epochs=1, to_epochs=2, t_max=1
    )
    run = dtp.load_run("w")
    schedule_count = 2 * STEPS_PER_EPOCH  # forward steps, half of all
    assert int(run.state.step) == 2 * schedule_count
    made = build_learner(run.experiment, STEPS_PER_EPOCH)
    assert made.network == run.learner.network
    assert [row["forward_lr"] for row in rows(place / "w", "epoch")] == pytest.approx(
        [0.01, 0.01, 1e-5, 1e-5], rel=1e-4
    )


def test_the_state_is_that_of_an_uninterrupted_extension(copy, place):
    """Stopped in the middle of the added epoch, or not."""
    shutil.copytree(copy, place / "v")
    assert launch("--workdir=w", "--config.epochs=3").code == 0
    assert launch("--workdir=v", "--config.epochs=3", f"--config.max_steps={END + 7}").code == 0
    (place / "v" / "summary.json").unlink()
    lines = (place / "v" / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if not (f'"step": {END + 7}' in line and "test" in line)]
    (place / "v" / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert launch("--workdir=v", "--config.max_steps=0").code == 0
    assert arrays(place / "w") == arrays(place / "v")
    assert summary(place / "w")["test_accuracy"] == summary(place / "v")["test_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_seeds_that_come_with_more_epochs_have_the_rates_of_the_others(place, bare):
    """And those that come later."""
    one = ("--workdir=w", *SHORT, "--config.seeds=2", "--config.epochs=2")
    assert launch(*one).code == 0
    found = launch("--workdir=w", "--config.epochs=4", "--config.seeds=3")
    assert found.code == 0, found.err
    more = () if bare else (*SHORT, "--config.epochs=4")
    assert launch("--workdir=w", *more, "--config.seeds=4").code == 0
    for seed in range(4):
        folder = place / f"w/seed_{seed}"
        assert summary(folder)["extended"][0]["t_max"] == 2, seed
        experiment = experiment_of(folder)
        found = [learning_rates(experiment, epoch)["forward_lr"] for epoch in (1, 2, 3, 4)]
        assert found == pytest.approx([rate(0, 2), rate(1, 2), 1e-5, 1e-5]), seed


def test_seeds_of_which_some_would_be_longer_and_others_as_long_are_refused(place):
    """As in a comparison that had one seed, and gets a second one and more epochs at once."""
    assert launch("--workdir=w/seed_0", *SHORT, "--config.epochs=1").code == 0
    before = tree(place)
    found = refused("--workdir=w", *SHORT, "--config.epochs=2", "--config.seeds=2")
    assert (
        "config.epochs is 2: seed 0 in w becomes longer than it was, and seed 1 would have" in found
    )
    assert tree(place) == before
