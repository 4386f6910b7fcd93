"""Several seeds of one config: each is the run that it is alone, in turn, together, on several devices."""

import json
import os
import signal
import statistics
import time

import jax
import numpy as np
import pytest
from helpers import config_fields, slow
from launching import (
    TINY,
    arrays,
    assert_same_run,
    finish,
    launch,
    rows,
    start,
    summary,
    tree,
    wait_for_lines,
)
from test_loop import killed

import dtp_jax as dtp
from dtp_jax.run import cli, loop, several, signals, together
from dtp_jax.run.arguments import parse
from dtp_jax.run.assemble import plan
from dtp_jax.run.build import learning_rates
from dtp_jax.run.config import validate
from dtp_jax.run.seeds import with_seed

pytest_plugins = ["run_fixtures"]

ARGS = (*TINY, "--config.epochs=2")
NOTEBOOK = {"channels": (4, 8), "feedback_iterations": 2, "epochs": 1}
TOGETHER = "--config.seeds_as=together"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Between seeds that are trained together and alone, after two epochs in float32."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Three runs of their own, with the seeds 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("alone")
    for seed in range(3):
        args = (*ARGS, f"--config.seed={seed}", f"--workdir={folder}/seed_{seed}")
        assert launch(*args).code == 0
    return folder


def assert_weights_alike(folder, reference):
    """The same last state up to rounding."""
    mine, other = arrays_of(folder), arrays_of(reference)
    assert mine.keys() == other.keys()
    for name, found in mine.items():
        np.testing.assert_allclose(found, other[name], **TOLERANCE, err_msg=name)


def assert_alike(folder, reference):
    """The same run up to rounding, and the same lines."""
    assert_weights_alike(folder, reference)
    pairs = zip(rows(folder), rows(reference), strict=True)
    for found, expected in pairs:
        assert found.keys() == expected.keys()
        for name in ("step", "epoch", "split"):
            assert found[name] == expected[name]
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-3)


def arrays_of(folder):
    """Every array of the last checkpoint."""
    return {
        name: np.frombuffer(content, dtype).astype(float)
        for name, (dtype, _, content) in arrays(folder).items()
    }


def test_in_turn_every_bit_is_that_of_a_run_alone(place, alone):
    found = launch(*ARGS, "--config.seeds=3", "--workdir=w")
    assert found.code == 0 and "seeds    0 to 2, one after the other" in found.out
    for seed in range(3):
        assert_same_run(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")
    assert found.out.count("compiling the training step") == 1
    assert found.out.count("reading digits") == 1


@pytest.mark.parametrize("devices", [slow(1), 2, slow(4)])
def test_together_they_are_alike(place, alone, monkeypatch, devices):
    """Three seeds on two devices: one of them trains the last seed twice; on four, each alone."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    found = launch(*ARGS, "--config.seeds=3", TOGETHER, "--workdir=w")
    assert found.code == 0, found.err
    way = {1: "on one device", 2: "at most 2 on each of 2", 4: "at most 1 on each of 3 devices"}
    assert f"together, {way[devices]}".replace(", on one", " on one") in found.out
    for seed in range(3):
        assert_alike(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")


def test_the_summary_of_a_folder_of_seeds(place, alone):
    launch(*ARGS, "--config.seeds=3", "--workdir=w")
    of_each = [summary(alone / f"seed_{seed}") for seed in range(3)]
    found = summary(place / "w")
    accuracies = [one["test_accuracy"] for one in of_each]
    assert [one["test_accuracy"] for one in found["seeds"]] == accuracies
    assert [one["seed"] for one in found["seeds"]] == [0, 1, 2] and found["failed"] == []
    assert found["test_accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert found["test_accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    validated = [one["val_accuracy"] for one in of_each]
    assert found["val_accuracy_std"] == pytest.approx(statistics.stdev(validated))
    assert found["rule"] == "ldrl" and found["epochs"] == 2 and found["steps"] == 78

    again = launch("--workdir=w")
    assert again.code == 0 and "w: these runs are finished" in again.out
    assert "mean over" in again.out and "seeds 0, 1, 2" in again.out


@pytest.mark.parametrize(
    "call, flags", [(5, ()), slow(2, ()), slow(2, (TOGETHER,)), slow(5, (TOGETHER,))]
)
def test_killed_and_gone_on_with(place, monkeypatch, alone, flags, call):
    """In the middle of a round of saving, too: some seeds then have a checkpoint that others lack."""
    args = (*ARGS, "--config.seeds=3", *flags, "--workdir=w")
    killed(monkeypatch, loop.Run, "_save", call, *args)
    found = launch(*args)
    assert found.code == 0, found.err
    same = assert_alike if flags else assert_same_run
    for seed in range(3):
        same(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")
    assert len(summary(place / "w")["seeds"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("way", ["together", "in_turn"])
def test_a_signal_saves_all(place, alone, way):
    args = (*ARGS, "--config.seeds=3", f"--config.seeds_as={way}", "--workdir=w")
    process = start(*args, devices=1)
    wait_for_lines(process, place / "w/seed_0", 5)
    process.send_signal(signal.SIGTERM)
    found = finish(process)
    assert found.code == 143, found.err
    assert not (place / "w/summary.json").exists()
    steps = {
        max(int(path.name) for path in (place / f"w/seed_{seed}/checkpoints").glob("[0-9]*"))
        for seed in range(3 if way == "together" else 1)
    }
    assert len(steps) == 1
    assert launch(*args).code == 0
    for seed in range(3):
        assert_alike(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")


def test_a_signal_when_all_is_saved_ends_what_would_come_next(place, monkeypatch):
    """Of seeds that are trained together; a comparison would go on with its next config."""
    finish_run = loop.Run.finish

    def late(run):
        if run.config["seed"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(2 * signals.SETTLE_SECONDS)  # it is heard
        return finish_run(run)

    args = (*TINY, "--config.max_steps=2", "--config.seeds=2", TOGETHER, "--workdir=w")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "finish", late)
        assert launch(*args).code == 143
    assert not (place / "w/summary.json").exists()
    assert launch(*args).code == 0 and len(summary(place / "w")["seeds"]) == 2


@pytest.mark.parametrize("flags", [slow(()), (TOGETHER,)], ids=["in turn", "together"])
def test_one_that_diverges_does_not_end_the_others(place, monkeypatch, alone, flags):
    check = loop.Run._guard

    def diverging(run, found, first):
        if run.config["seed"] == 1 and first >= 39:
            bad = jax.tree.map(lambda a: np.full_like(a, np.nan), found)
            return check(run, bad, first)
        return check(run, found, first)

    monkeypatch.setattr(loop.Run, "_guard", diverging)
    args = (*ARGS, "--config.seeds=3", *flags, "--workdir=w")
    found = launch(*args)
    assert found.code == cli.EXIT_DIVERGED
    assert "seed 1: diverged" in found.out and len(found.err.splitlines()) == 1
    result = summary(place / "w")
    assert [one["seed"] for one in result["seeds"]] == [0, 2]
    assert result["failed"] == [{"seed": 1, "outcome": "diverged"}]
    assert "seed 1 diverged" in found.out
    for seed in (0, 2):
        assert_alike(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")
    monkeypatch.setattr(loop.Run, "_guard", check)  # from its last good checkpoint
    assert launch(*args).code == 0
    assert_alike(place / "w/seed_1", alone / "seed_1")
    assert summary(place / "w")["failed"] == []


def test_a_seed_is_a_run_like_any_other(place):
    """Read, reported, and continued alone; the others then go on without it, and with it again."""
    assert launch(*TINY, "--config.seeds=2", "--config.epochs=1", "--workdir=w").code == 0
    run = dtp.load_run("w/seed_1")
    assert run.summary["seed"] == 1 and run.experiment.config["seeds"] == 1
    assert launch("--workdir=w/seed_1", "--config.epochs=2").code == 0
    before = tree(place / "w/seed_1/checkpoints")
    found = launch("--workdir=w", "--config.epochs=2", TOGETHER)
    assert found.code == 0 and "seed 1: " in found.out and "(finished before)" in found.out
    assert tree(place / "w/seed_1/checkpoints") == before
    assert {summary(place / f"w/seed_{n}")["steps"] for n in (0, 1)} == {78}


@pytest.mark.slow
def test_one_that_is_ahead_is_caught_up_with(place, alone):
    """Alone for two steps more, it trains together with the others from there on."""
    args = (*ARGS, "--workdir=w", "--config.seeds=2", TOGETHER)
    assert launch(*args, "--config.max_steps=3").code == 0
    assert launch("--workdir=w/seed_1", "--config.max_steps=5").code == 0
    found = launch(*args, "--config.max_steps=0")
    assert found.code == 0 and "seed 0: catches up from step 3" in found.out
    for seed in range(2):
        assert_weights_alike(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")


def test_finished_seeds_without_a_summary_are_summed_up_again(place):
    """As after a kill between the last seed and the summary: nothing is trained."""
    args = (*TINY, "--config.max_steps=2", "--config.seeds=2", TOGETHER, "--workdir=w")
    assert launch(*args).code == 0
    expected, before = summary(place / "w"), tree(place / "w/seed_1")
    (place / "w/summary.json").unlink()
    found = launch(*args)
    assert found.code == 0, found.err
    assert tree(place / "w/seed_1") == before
    assert summary(place / "w")["seeds"] == expected["seeds"]


def test_more_seeds_later(place):
    args = (*TINY, "--config.epochs=1", "--workdir=w")
    assert launch(*args, "--config.seeds=2", "--config.seed=5").code == 0
    before = tree(place / "w/seed_6")
    assert launch("--workdir=w", "--config.seeds=3").code == 0
    assert tree(place / "w/seed_6") == before
    assert [one["seed"] for one in summary(place / "w")["seeds"]] == [5, 6, 7]


def planned(*flags):
    """(the plan of the folder w, those of its seeds)"""
    arguments = parse(["dtp train", "--workdir=w", *flags])
    how = {"overridden": arguments.overridden, "extended": arguments.extended}
    made = plan(arguments.config, arguments.workdir, **how)
    return made, [seed.made for seed in several.plan_seeds(made, arguments)]


def begin(*flags, seeds=(0, 1)):
    """Folders as training begins with them, or makes them longer: that of all, and these of them."""
    made, plans = planned("--config=digits_backprop", *flags)
    for one in [made, *(plans[seed] for seed in seeds)]:
        extended = [extension._asdict() for extension in one.experiment.extensions]
        one.workdir.create(one.experiment.config, {}, extended)


def rates_of(plans):
    """The learning rates of every epoch, of each."""
    epochs = plans[0].experiment.config["epochs"]
    return [[learning_rates(one.experiment, n + 1) for n in range(epochs)] for one in plans]


TWO, FOUR, SIX = (f"--config.epochs={epochs}" for epochs in (2, 4, 6))
PAIR, TRIPLE = "--config.seeds=2", "--config.seeds=3"


def test_seeds_that_join_longer_runs_have_their_rates(place):
    begin(TWO, PAIR)
    _, plans = planned("--config=digits_backprop", FOUR, TRIPLE)
    first, *others = rates_of(plans)
    assert len(plans) == 3 and all(rates == first for rates in others)


def test_a_schedule_without_an_end_lets_seeds_join_longer_runs(place):
    constant = "--config.schedule=constant"
    begin(TWO, PAIR, constant)
    _, plans = planned("--config=digits_backprop", FOUR, TRIPLE, constant)
    first, *others = rates_of(plans)
    assert len(plans) == 3 and all(rates == first for rates in others)


@pytest.mark.parametrize("t_max", [(), ("--config.t_max=3",)])
def test_an_extension_that_was_stopped_goes_on(place, t_max):
    """By the same command, and by --workdir alone; once more by those who had it in one step."""
    begin(TWO, PAIR)
    begin(FOUR, PAIR, *t_max, seeds=(0,))
    for again in (["--config=digits_backprop", FOUR, PAIR, *t_max], []):
        _, plans = planned(*again)
        first, second = rates_of(plans)
        assert first == second and all(one.experiment.extensions for one in plans)
    begin(SIX, PAIR, *t_max)
    _, plans = planned()
    first, second = rates_of(plans)
    assert first == second and [len(one.experiment.extensions) for one in plans] == [2, 1]


def test_a_folder_with_two_schedules_goes_on_as_it_is(place):
    """An older version made such ones."""
    begin(TWO, PAIR, seeds=(0,))
    begin(FOUR, PAIR, seeds=(0,))
    config = validate(parse(["dtp train", "--config=digits_backprop", FOUR]).config).config
    several.Workdir(place / "w/seed_1").create({**config, "seed": 1}, {}, [])
    assert len(planned()[1]) == 2
    with pytest.raises(ValueError, match="and seed 1 would have other learning rates"):
        planned("--config=digits_backprop", SIX, PAIR)


def test_one_that_ends_early_does_not_end_the_others(place, monkeypatch, alone):
    """As patience may: its summary is written, and those that gain go on."""

    def ended_by(config, epochs_without_gain, seconds):
        return "patience" if config["seed"] == 1 else None

    monkeypatch.setattr(loop.ending, "ended_by", ended_by)
    monkeypatch.setattr(loop.Run, "_ended_by", lambda run, seconds: _late(run, ended_by))
    assert launch(*ARGS, "--config.seeds=3", TOGETHER, "--workdir=w").code == 0
    found = summary(place / "w")["seeds"]
    assert [one["steps"] for one in found] == [78, 39, 78] and found[1]["ended_by"] == "patience"
    (validated,) = rows(place / "w/seed_1", "val")  # with the weights that it ended with
    assert found[1]["val_accuracy"] == validated["accuracy"]
    assert_alike(place / "w/seed_2", alone / "seed_2")


def _late(run, ended_by):
    """Not before the first step."""
    return ended_by(run.config, 0, 0.0) if run.progress.step else None


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.seeds=0"], "config.seeds is 0; allowed: a whole number, 1 or more"),
        (["--config.seeds=x"], "config.seeds is 'x'"),
        (["--config.seeds=2", "--config.seed=2147483647"], "config.seeds is 2; allowed: 1 to 1,"),
        (
            ["--config.seeds_as=both"],
            "config.seeds_as is 'both'; allowed: one of auto, together, in_turn",
        ),
        (
            ["--config.seeds=2", TOGETHER, "--config.layer_parallel=2"],
            "config.layer_parallel is 2; allowed: 1 with config.seeds_as together",
        ),
        (
            ["--config.seeds=2", TOGETHER, "--config.images_on=host"],
            "config.images_on is 'host'; allowed: auto or device with",
        ),
        (
            ["--config.seeds=2", "--coordinator=h:1", "--processes=2", "--process=0"],
            "config.seeds is '2'; allowed: 1 with several processes",
        ),
    ],
)
def test_refusals(place, flags, said):
    found = launch(*TINY, "--workdir=w", *flags)
    assert (found.code, len(found.err.splitlines())) == (2, 1) and said in found.err, found.err
    assert list(place.iterdir()) == []


def test_a_folder_of_one_run_and_one_of_seeds_are_not_mixed_up(place):
    few = (*TINY, "--config.max_steps=1")
    assert (
        launch(*few, "--workdir=one").code == launch(*few, "--workdir=s", "--config.seeds=2").code
    )
    before = tree(place)
    found = launch("--workdir=one", "--config.seeds=2")
    assert found.code == 2 and "it holds one run, and config.seeds is 2; allowed" in found.err
    found = launch("--workdir=s", "--config.seeds=1")
    assert found.code == 2 and "it holds the seeds of several, and config.seeds is 1" in found.err
    with pytest.raises(ValueError, match="holds several seeds; allowed: one of its folders"):
        dtp.load_run("s")
    assert tree(place) == before


@pytest.mark.slow
def test_a_seed_that_somebody_else_trains_is_left_out(place):
    """The others are trained; its folder's owner is named."""
    other = start(*TINY, "--config.epochs=50", "--config.seed=1", "--workdir=w/seed_1", devices=1)
    try:
        wait_for_lines(other, place / "w/seed_1", 2)
        args = ("--config.seeds=2", "--workdir=w", TOGETHER)
        found = launch(*TINY, "--config.epochs=50", "--config.max_steps=2", *args)
        assert found.code == 2 and "seed 1: --workdir is 'w/seed_1': process" in found.err
        assert [one["seed"] for one in summary(place / "w")["seeds"]] == [0]
    finally:
        other.kill()


def test_an_array_of_slurm_gives_every_task_seeds_of_its_own():
    config = {"seed": 3, "seeds": 4}
    for task in range(3):
        found, said = with_seed(config, dict, (), {"SLURM_ARRAY_TASK_ID": str(task)})
        assert found["seed"] == 3 + 4 * task
        assert (
            said
            == f"seed {3 + 4 * task}: 3 and 4 times the number of this task, $SLURM_ARRAY_TASK_ID"
        )


@pytest.mark.parametrize(
    "platform, devices, config, expected",
    [
        ("cpu", 1, {}, (False, "a CPU gains nothing")),
        ("cpu", 4, {}, (False, "a CPU gains nothing")),
        ("cpu", 4, {"seeds_as": "together"}, (True, "at most 2 on each of 3 devices")),
        ("gpu", 1, {}, (True, "together on one device")),
        ("gpu", 4, {}, (True, "at most 2 on each of 3 devices")),
        ("gpu", 4, {"data_parallel": 2}, (False, "each on the whole mesh")),
        ("tpu", 8, {"images_on": "host"}, (False, "streamed")),
        ("gpu", 1, {"seeds_as": "in_turn"}, (False, "one after the other")),
    ],
)
def test_the_way_is_chosen_by_the_platform(monkeypatch, platform, devices, config, expected):
    class Device:
        pass

    Device.platform = platform
    monkeypatch.setattr(jax, "local_devices", lambda: [Device] * devices)
    usual = {"seeds_as": "auto", "data_parallel": 1, "layer_parallel": 1, "images_on": "auto"}
    assert several.way({**usual, **config}, 0) == (False, "none is left")
    found = several.way({**usual, **config}, 5)
    assert found[0] == expected[0] and expected[1] in found[1]


def test_images_that_do_not_fit_the_device_are_streamed_in_turn(place, monkeypatch, alone):
    monkeypatch.setattr(together, "fits_device", lambda splits: False)
    monkeypatch.setattr("dtp_jax.data.feeding.fits_device", lambda splits: False)
    monkeypatch.setattr(cli, "way", lambda config, left: (True, "together on one device"))
    found = launch(*ARGS, "--config.seeds=2", "--workdir=w")
    assert found.code == 0 and "the images do not fit the device" in found.out
    for seed in range(2):
        assert_same_run(place / "w" / f"seed_{seed}", alone / f"seed_{seed}")


def test_a_config_of_seeds_is_valid_as_a_whole():
    found = validate(config_fields(seeds=5, seed=7)).config
    assert (found["seeds"], found["seed"]) == (5, 7)
    assert json.loads(json.dumps(found))["seeds_as"] == "auto"


def test_a_seed_without_a_checkpoint_costs_the_others_nothing(place, monkeypatch, single_precision):
    trained = cli.train

    def fails(made, *args, **options):
        if made.experiment.config["seed"] == 1:
            made.workdir.create(made.experiment.config)
            return cli.EXIT_DIVERGED
        return trained(made, *args, **options)

    monkeypatch.setattr(cli, "train", fails)
    good, bad = dtp.train_seeds("digits_dtp", "w", seeds=2, quiet=True, **NOTEBOOK)
    assert good.summary["seed"] == 0 and good.state is not None
    assert (bad.summary, bad.state, bad.experiment.config["seed"]) == (None, None, 1)


def test_from_a_program(place, single_precision):
    runs = dtp.train_seeds("digits_dtp", "w", seeds=2, quiet=True, seed=3, **NOTEBOOK)
    assert [run.summary["seed"] for run in runs] == [3, 4]
    mean = statistics.mean(run.summary["test_accuracy"] for run in runs)
    assert summary(place / "w")["test_accuracy"] == pytest.approx(mean)
    assert summary(place / "w")["provenance"]["command"].startswith(
        "dtp_jax.train_seeds('digits_dtp', workdir='w', seed=3, "
    )
    with pytest.raises(ValueError, match="seeds is 2; allowed: 1; dtp_jax.train_seeds trains"):
        dtp.train("digits_dtp", "v", seeds=2, **NOTEBOOK)
    with pytest.raises(ValueError, match="seeds is 1; allowed: 2 or more; dtp_jax.train trains"):
        dtp.train_seeds("digits_dtp", "v", seeds=1, **NOTEBOOK)
    assert not (place / "v").exists()
