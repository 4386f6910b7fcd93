"""Figures of the paper: jobs train as training does, can be stopped, and are drawn without computing."""

import csv
import errno
import fcntl
import json
import os
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import REPOSITORY, slow

from dtp_jax.data import load_splits, locate
from dtp_jax.figures import __main__ as command
from dtp_jax.figures import jobs, training
from dtp_jax.figures.drawing import Drawn
from dtp_jax.figures.protocol import BLOCKS, PUBLISHED, Series, protocol
from dtp_jax.figures.store import Store
from dtp_jax.learning import learner as learning
from dtp_jax.run import locks

SMALL = {"seeds": 1, "iterations": 7, "batch": 8}
FLAGS = [f"--{name}={value}" for name, value in SMALL.items()]


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch, single_precision):
    monkeypatch.setattr(training, "PIECE", 3)


def prepared(rule, **settings):
    made = protocol("4.3", {**SMALL, **settings}, quick=True)
    experiment, learner = made.experiments["lenet", rule], made.learner("lenet", rule)
    splits = load_splits(locate("digits"), experiment.config["val_split"], 123)
    return made, learner, training.batch_of(learner, experiment, splits, 123)


def opened(folder, made):
    store = Store(folder)
    store.open(made)
    return store


def run(*args):
    return command.main(["4.3", "--quick", *FLAGS, *map(str, args)])


@pytest.mark.parametrize("rule", ["ldrl", slow("drl")])
def test_a_job_trains_a_map_as_a_training_step_does(rule, tmp_path):
    made, learner, batch = prepared(rule, rules=(rule,))
    store = opened(tmp_path, made)
    if rule == "drl":  # its last steps are those of the public program
        learner = learner.replace(stale_gradients="kept")
    feedback, _, losses = jax.jit(learning.train_feedback, static_argnums=0)(
        learner, batch.state, batch.activations
    )
    for n, block in enumerate(learner.trained):
        training.train_map(store, block.name, learner, n, batch)
        found = store.load(block.name)
        head = "stale" if rule == "drl" else "omega"
        after = training.restored(head, found, batch.state.feedback[block.name])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
            after,
            feedback[block.name],
        )
        np.testing.assert_allclose(found["loss"], losses[block.name], rtol=2e-4)


def test_stale_steps_follow_on_the_clean_ones(tmp_path):
    """The upper map of DRL is never stepped on again, the ones below it are: once for every iteration above."""
    made, learner, batch = prepared("drl")
    store = opened(tmp_path, made)
    for n, block in enumerate(learner.trained):
        training.train_map(store, block.name, learner, n, batch)
        found = store.load(block.name)
        moved = np.abs(found["stale/kernel"] - found["omega/kernel"]).max()
        rate = made.experiments["lenet", "drl"].config["feedback_lr"][n]
        above = SMALL["iterations"] * (len(learner.trained) - 1 - n)
        # Kingma and Ba 2015, section 2.1: no step of Adam is longer than rate (1 - b1) / sqrt(1 - b2).
        assert 0.3 * rate * above <= moved <= 3.17 * rate * above


class Stop(Exception):
    """A signal."""


def test_a_job_that_was_stopped_gives_the_same_bits(tmp_path, monkeypatch):
    made, learner, batch = prepared("ldrl")
    store = opened(tmp_path, made)
    training.train_map(store, "whole", learner, 0, batch)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    seen = []

    def progress(done, of):
        seen.append(done)
        if seen == [0, 3, 6]:
            raise Stop

    with pytest.raises(Stop):
        training.train_map(store, "stopped", learner, 0, batch, progress)
    assert store.load("stopped") is None and not store.has("stopped")
    training.train_map(store, "stopped", learner, 0, batch, progress)
    assert seen == [0, 3, 6, 6]
    whole, stopped = store.load("whole"), store.load("stopped")
    assert whole.keys() == stopped.keys() and len(whole["loss"]) == SMALL["iterations"]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, stopped[name])
    assert store.load("stopped", part=True) is None


def test_the_command_computes_draws_and_does_not_compute_again(tmp_path, monkeypatch, capsys):
    assert run("--workdir", tmp_path) == 0
    names = {file.name for file in tmp_path.iterdir()}
    pictures = {
        f"figure_4.3{part}.{ending}" for part in ("", "_distance") for ending in ("png", "pdf")
    }
    assert {*pictures, "figure_4.3.csv", "figure_4.3.json", "protocol.json", "jobs"} == names
    with (tmp_path / "figure_4.3.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["block"] for row in rows} == set(BLOCKS)
    angles = {(r["series"], r["block"]): float(r["angle_mean"]) for r in rows}
    assert angles["L-DRL, symmetric weights", "fc1"] < 0.01
    assert angles["L-DRL, random feedback", "fc1"] > 60
    assert all(angle < 0.1 for (_, block), angle in angles.items() if block == "fc2")
    assert all(row["published_angle"] == "" for row in rows)  # not of these data
    job = json.loads((tmp_path / "figure_4.3.json").read_text())
    assert job["command"].startswith("python -m dtp_jax.figures 4.3") and job["versions"]["jax"]

    def no_job(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(jobs, "train_map", no_job)
    monkeypatch.setattr(jobs, "measure", no_job)
    for name in pictures:
        (tmp_path / name).unlink()
    assert run("--workdir", tmp_path) == 0
    assert run("--workdir", tmp_path, "--draw") == 0
    assert pictures <= {file.name for file in tmp_path.iterdir()}
    # What has been measured is enough: the weights can go.
    trained = [
        file for file in (tmp_path / "jobs").glob("*.npz") if "omega" in str(np.load(file).files)
    ]
    assert trained
    for file in trained:
        file.unlink()
    capsys.readouterr()
    assert run("--workdir", tmp_path) == 0
    assert "not there yet" not in capsys.readouterr().out
    assert run("--workdir", tmp_path, "--batch=9") == 2
    error = capsys.readouterr().err
    assert "batch_size" in error and "8, not 9" in error and error.count("\n") == 1
    more = ["--workdir", tmp_path, "--seeds=2", "--draw"]
    assert run(*more) == 0  # what there is
    assert "are not there yet" in capsys.readouterr().out


@pytest.mark.slow
def test_rules_of_other_kinds_can_be_drawn(tmp_path):
    rules = "tp,feedback_alignment,direct_feedback_alignment,analytic"
    assert run("--workdir", tmp_path, f"--rules={rules}", "--iterations=1") == 0
    with (tmp_path / "figure_4.3.csv").open() as file:
        rows = list(csv.DictReader(file))
    angles = {(r["series"], r["block"]): float(r["angle_mean"]) for r in rows}
    drawn = {series.split(",")[0] for series, _ in angles}
    assert drawn == {"TP", "FA", "DFA", "analytic"}
    assert all(0 <= angle <= 180 for angle in angles.values())
    assert ("analytic, random feedback", "fc1") not in angles
    assert angles["analytic, in closed form", "fc1"] < 1 < 60 < angles["FA, random feedback", "fc1"]


def test_figure_4_2_has_a_line_for_both_rules(tmp_path):
    flags = ["--quick", *FLAGS, f"--workdir={tmp_path}", "--seeds=2"]
    assert command.main(["4.2", *flags]) == 0
    with (tmp_path / "figure_4.2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == list(range(SMALL["iterations"]))
    for rule in ("drl", "ldrl"):
        assert 0 < float(rows[-1][f"angle_{rule}_mean"]) < float(rows[0][f"angle_{rule}_mean"]) + 5
        assert float(rows[0][f"distance_{rule}_std"]) > 0
    assert {f.name for f in (tmp_path / "jobs").glob("*.npz")} == {
        f"lenet_{map_}_seed{seed}.npz" for map_ in ("drl_fc1", "ldrl_fc2") for seed in (123, 124)
    }


def test_the_direct_map_below_the_output_is_compared_with_it(tmp_path):
    made, learner, batch = prepared("drl")
    theta = batch.state.forward["fc2"]["kernel"]
    seen = training.observer(learner, batch.state.forward)
    iteration = training.Iteration(0.0, None, {"kernel": 2 * theta.T})
    found, _ = seen(2, iteration)
    np.testing.assert_allclose(found["distance"], 1, rtol=1e-6)
    assert found["angle"] < 0.1
    assert seen(1, iteration)[0].keys() == {"loss"}


def test_a_job_of_another_process_is_left_to_it(tmp_path, monkeypatch):
    made = protocol("4.3", {"seeds": 1, "batch": 8, "rules": ("fw_dtp",)}, quick=True)
    store = opened(tmp_path, made)
    (job,) = jobs.jobs_of(made)
    lock = (store.jobs / f"{job.name}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        assert not store.has(job.name)
        if len(waits) == 2:
            lock.close()  # that process ends

    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    jobs.compute(made, store, lambda *_: None)
    assert len(waits) == 2 and store.has(job.name)


def test_without_locks_jobs_are_done_all_the_same(tmp_path, monkeypatch):
    """Not waited for until the end of time."""
    made = protocol("4.3", {"seeds": 1, "batch": 8, "rules": ("fw_dtp",)}, quick=True)
    store = opened(tmp_path, made)

    def refuses(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    has_none = SimpleNamespace(**{**vars(fcntl), "flock": refuses})
    monkeypatch.setattr(locks, "fcntl", has_none)
    jobs.compute(made, store, lambda *_: None)
    assert store.has(jobs.jobs_of(made)[0].name)


def test_a_damaged_unfinished_job_begins_anew(tmp_path):
    made, learner, batch = prepared("ldrl")
    store = opened(tmp_path, made)
    (store.jobs / "x.part.npz").write_bytes(b"PK\x03\x04 half a file")
    training.train_map(store, "x", learner, 2, batch)
    assert len(store.load("x")["loss"]) == SMALL["iterations"]


DAMAGED = b"PK\x03\x04 half a file"


def test_damaged_jobs_are_computed_again(tmp_path, monkeypatch):
    """A training whose map is measured anew, too; not one whose measures are all there."""
    made = protocol("4.3", {**SMALL, "rules": ("tp",)}, quick=True)
    store, done = opened(tmp_path, made), []
    *trainings, random, trained = (job.name for job in jobs.jobs_of(made))
    assert "random" in random and len(trainings) == 3

    def train_map(store, name, *_):
        done.append(name)
        store.save(name, {"omega/kernel": np.zeros(1)})

    def measure(store, name, series, learner, batch, needs):
        assert all(store.load(job) is not None for job in needs.values())
        done.append(name)
        store.save(name, {"angle": np.zeros(4)})

    monkeypatch.setattr(jobs, "_prepared", lambda *_: (None, None))
    monkeypatch.setattr(jobs, "train_map", train_map)
    monkeypatch.setattr(jobs, "measure", measure)
    jobs.compute(made, store, lambda *_: None)
    assert sorted(done) == sorted([*trainings, random, trained])
    for damaged, again in (
        ([], []),
        ([random], [random]),
        ([trainings[0]], []),
        ([trainings[1], trained], [trainings[0], trainings[1], trained]),
    ):
        done.clear()
        for name in damaged:
            (store.jobs / f"{name}.npz").write_bytes(DAMAGED)
            assert not store.has(name) and store.is_damaged(name)
        jobs.compute(made, store, lambda *_: None)
        assert sorted(done) == sorted(again)


KEPT = REPOSITORY / "benchmarks/results/figure_4.3"


def test_jobs_that_were_kept_are_drawn_today(tmp_path, capsys):
    """Hours of computing, by a version that did not know all fields of today's configs."""
    shutil.copytree(KEPT, tmp_path / "kept")
    command_line = ["4.3", f"--workdir={tmp_path / 'kept'}", "--draw"]
    assert command.main(command_line) == 0
    assert "33.7" in capsys.readouterr().out
    published = REPOSITORY / "benchmarks/results/2026-11-26_figure_4.3_cpu.csv"
    assert (tmp_path / "kept/figure_4.3.csv").read_text() == published.read_text()


def test_rules_share_a_folder(tmp_path, monkeypatch, capsys):
    """The jobs of one rule are done; another rule, and fewer rules, find them."""
    done = []

    def measure(store, name, *_):
        done.append(name)
        store.save(name, {"block": BLOCKS, "angle": np.zeros(4)})

    monkeypatch.setattr(jobs, "_prepared", lambda *_: (None, None))
    monkeypatch.setattr(jobs, "measure", measure)
    monkeypatch.setattr(
        "dtp_jax.figures.command.draw", lambda *_: Drawn([], ("series",), [("FA",)])
    )
    for rules, new in (("fw_dtp", 1), ("fw_dtp,feedback_alignment", 1), ("feedback_alignment", 0)):
        done.clear()
        flags = ["4.3", "--quick", "--seeds=1", "--batch=8", f"--workdir={tmp_path}"]
        assert command.main([*flags, f"--rules={rules}"]) == 0
        assert len(done) == new
    record = json.loads((tmp_path / "figure_4.3.json").read_text())
    (origin,) = record["jobs"].values()
    assert (
        origin["date"]
        and origin["versions"]["jax"]
        and record["configs"].keys() == {"lenet, feedback_alignment"}
    )
    assert command.main([*flags[:-1], f"--workdir={tmp_path}", "--rules=fw_dtp", "--batch=9"]) == 2
    assert "lenet, fw_dtp batch_size 8, not 9" in capsys.readouterr().err


def test_jobs_without_their_protocol_are_not_taken(tmp_path, capsys):
    of_figure_4_2(tmp_path, seeds=1)
    (tmp_path / "protocol.json").write_text("{")
    for more in ([], ["--draw"]):
        assert command.main(["4.2", "--quick", *FLAGS, f"--workdir={tmp_path}", *more]) == 2
        assert "whose protocol.json cannot be read" in capsys.readouterr().err


def of_figure_4_2(folder, seeds):
    """Jobs of DRL and L-DRL that nobody has computed, whose angles end at 3.024 degrees. Returns their names."""
    made = protocol("4.2", {**SMALL, "seeds": seeds}, quick=True)
    store = opened(folder, made)
    names = [job.name for job in jobs.jobs_of(made)]
    for name in names:
        store.save(name, {"angle": np.array([90, 3.024]), "distance": np.array([1, 0.05])})
    return names


def test_damaged_jobs_are_not_drawn_and_not_there_yet(tmp_path, capsys):
    names = of_figure_4_2(tmp_path, seeds=2)
    command_line = ["4.2", "--quick", *FLAGS, "--seeds=2", f"--workdir={tmp_path}", "--draw"]
    assert command.main(command_line) == 0
    assert "not there yet" not in capsys.readouterr().out
    (tmp_path / f"jobs/{names[0]}.npz").write_bytes(DAMAGED)
    assert command.main(command_line) == 0
    out, err = capsys.readouterr()
    said = f"1 of 4 jobs are not there yet, and {names[0]}.npz cannot be read\n"
    assert said in out and err == ""
    with (tmp_path / "figure_4.2.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    for name in names:
        (tmp_path / f"jobs/{name}.npz").write_bytes(DAMAGED)
    assert command.main(command_line) == 2
    said = f"no job has finished in {tmp_path}, and {names[0]}.npz and 3 more cannot be read; allowed: without --draw\n"
    assert capsys.readouterr().err == f"error: --draw: {said}"


def test_a_command_says_which_jobs_it_computes_again(tmp_path, monkeypatch, capsys):
    names = of_figure_4_2(tmp_path, seeds=1)
    (tmp_path / f"jobs/{names[1]}.npz").write_bytes(DAMAGED)
    sound = {"angle": np.ones(2), "distance": np.ones(2)}
    monkeypatch.setattr(jobs, "_prepared", lambda *_: (None, None))
    monkeypatch.setattr(jobs, "train_map", lambda store, name, *_: store.save(name, sound))
    flags = ["4.2", "--quick", *FLAGS, f"--workdir={tmp_path}", "--data_dir=mistyped"]
    assert command.main(flags) == 0
    out, err = capsys.readouterr()
    damaged, place = err.splitlines()
    assert (
        damaged == f"warning: {names[1]}.npz of {tmp_path / 'jobs'} cannot be read: computed again"
    )
    assert place.startswith(
        "warning: --data_dir is 'mistyped' and changes nothing: it is not there"
    )
    assert "not there yet" not in out


def test_published_ends_stand_beside_the_published_protocol_alone(tmp_path, capsys):
    of_figure_4_2(tmp_path, seeds=1)
    assert command.main(["4.2", "--quick", *FLAGS, f"--workdir={tmp_path}", "--draw"]) == 0
    assert "17.0" not in capsys.readouterr().out
    made = protocol("4.2", {"seeds": 1})
    store = opened(tmp_path / "full", made)
    for job in jobs.jobs_of(made):
        store.save(job.name, {"angle": np.array([90, 3.0]), "distance": np.array([1, 0.05])})
    assert command.main(["4.2", "--seeds=1", f"--workdir={tmp_path / 'full'}", "--draw"]) == 0
    assert "17.0" in capsys.readouterr().out


def test_one_seed_has_no_deviation(tmp_path, capsys):
    of_figure_4_2(tmp_path, seeds=1)
    assert command.main(["4.2", "--quick", *FLAGS, f"--workdir={tmp_path}", "--draw"]) == 0
    out = capsys.readouterr().out
    assert "3.02" in out and "±" not in out.partition("published\n")[2] and "nan" not in out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["5.1"], "FIGURE is '5.1'; allowed: 4.2, 4.3, 4.3-extra"),
        (["4.3", "--rules=ldr"], "--rules is 'ldr'; allowed:"),
        (["4.2", "--rules=fw_dtp"], "rules that train feedback weights"),
        (["4.2", "--rules=ldrl,drl,ldrl"], "--rules is 'ldrl,drl,ldrl'; allowed: each rule once"),
        (["4.3", "--rules=drl,fw_dtp", "--noise=0.1"], "--noise is (0.1,); allowed: with one of"),
        (
            ["4.2", "--rules=drl", "--feedback_lr=1"],
            "--feedback_lr is (1.0,); allowed: with one of",
        ),
        (["4.3", "--rules=fw_dtp", "--iterations=9"], "--iterations is 9; allowed: with one of"),
        (["4.3", "--seeds=0"], "--seeds is 0; allowed:"),
        (["4.3", "--first_seed=2147483647"], "--seeds is 2; allowed: 1 to 1, for seeds end"),
        (["4.3", "--rules="], "--rules is"),
        (["4.3", "--first_seed=-1"], "--first_seed is -1"),
        (["4.3", "--network=lenett"], "--network is 'lenett'; allowed:"),
        (["4.3", "--dataset=cifar"], "--dataset is 'cifar'; allowed:"),
        (["4.3", "--noise=0.1,0.2"], "noise"),
        (["4.3", "--batch=4000"], "--batch is 4000"),
        (["4.3", "--network=meulemans"], "or --noise and --feedback_lr with one value for each"),
        (["4.3", "--draw"], "no job has finished"),
    ],
)
def test_bad_flags_are_refused_in_a_line(flags, words, tmp_path, capsys):
    figure, *flags = flags
    assert command.main([figure, "--quick", f"--workdir={tmp_path}", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_another_network_has_both_rules(tmp_path):
    """The rates of `cifar10_drl` are those of LeNet's blocks; one of them stands for other maps."""
    for network in ("simple_vgg", "resnet18"):
        made = protocol("4.3", {"network": network})
        assert len(jobs.jobs_of(made)) == 5 * (5 + 5 + 3 + 3)
        drl, ldrl = (made.experiments[network, rule].config for rule in ("drl", "ldrl"))
        assert set(drl["feedback_lr"]) == {0.0045157498494467095} and len(set(ldrl["noise"])) > 1


def test_nothing_is_drawn_where_nothing_lies(tmp_path, capsys):
    """A folder with a mistake in its name is not made."""
    assert run("--workdir", tmp_path / "mistyped", "--draw") == 2
    assert "no job has finished in" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()


def test_missing_images_have_their_own_exit_code(tmp_path, capsys):
    flags = ["4.3", *FLAGS, f"--workdir={tmp_path / 'figure'}", f"--data_dir={tmp_path}"]
    assert command.main([*flags, "--dataset=imagenet32"]) == 3
    assert "imagenet32" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run("--workdir", tmp_path / "figure") == 2
    assert "can be written to" in capsys.readouterr().err


def test_the_published_protocol_is_the_default():
    """Ernoult et al. 2022: LeNet without biases, batches of 256, five seeds from 123, 5000 iterations."""
    made = protocol("4.3", {})
    assert made.seeds == (123, 124, 125, 126, 127) and made.networks == ("lenet",)
    ldrl, drl = (made.experiments["lenet", rule].config for rule in ("ldrl", "drl"))
    for config in (ldrl, drl):
        assert (config["batch_size"], config["bias"], config["dataset"]) == (256, False, "cifar10")
        assert config["feedback_iterations"] == (5000,) * 3 and config["activation"] == "elu"
    assert ldrl["beta"] == 0.4655 and ldrl["noise"] == (0.2, 0.2, 0.1)
    assert ldrl["feedback_lr"] == (1e-4, 2.5e-3, 0.01) and ldrl["feedback_optimizer"] == "sgd"
    assert drl["feedback_optimizer"] == "adam" and not drl["weight_decay"]
    assert tuple(block.name for block in made.learner("lenet", "ldrl").network) == BLOCKS
    assert set(PUBLISHED) < set(made.series)
    assert Series("drl", "trained") in made.series  # drawn beside the published variant


def test_the_extra_figure_is_of_the_larger_networks():
    assert protocol("4.3-extra", {}, quick=True).networks == ("simple_vgg", "resnet18", "resnet34")
    made = protocol("4.3-extra", {})
    assert made.networks == ("simple_vgg", "resnet18", "resnet34") and made.rules == ("ldrl",)
    assert len(jobs.jobs_of(made)) == 5 * 3 * (5 + 3)
