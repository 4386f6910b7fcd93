"""Sweeps: what a space may say, trials that are runs, workers that share them and are killed."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import data_files
import jax
import optuna
import pytest
from helpers import REPOSITORY
from launching import finish, launch, rows, tree, untimed_rows, wait_for
from rich.console import Console

import dtp_jax as dtp
from dtp_jax.plots.search import Parameter, Trial, draw_search
from dtp_jax.report import __main__ as report
from dtp_jax.rules import RULES
from dtp_jax.run import cli, gpus, loop, signals, trackers
from dtp_jax.run.arguments import parse
from dtp_jax.run.config import validate
from dtp_jax.run.files import DiskError
from dtp_jax.run.loading import load_config
from dtp_jax.run.owner import Ownership
from dtp_jax.run.screen import Screen
from dtp_jax.sweep import __main__, command, plan, pool, results, study, tell, trial
from dtp_jax.sweep import dimensions as dimensions_
from dtp_jax.sweep.dimensions import as_text, default_space, dimensions, fields_at, trained_maps
from dtp_jax.sweep.space import Choice, IntUniform, LogUniform, PerMap, Uniform

pytest_plugins = ["run_fixtures"]

STEPS = 39  # of an epoch
CONFIG = """from dtp_jax.configs import {config}
from dtp_jax.sweep.space import Choice, IntUniform, LogUniform, PerMap, Uniform

space = {space}


def get_config():
    config = {config}.get_config()
    if config.rule == "backprop":  # compiled in no time
        config.network, config.channels, config.hidden = "mlp", (), (8,)
    return config
"""
RATES = '{"forward_lr": LogUniform(1e-3, 0.3), "momentum": Uniform(0, 0.95)}'


def sweep(*args):
    """The command line in this process -> (exit code, stdout after its first line, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = __main__.main(list(args), "dtp sweep")
    first, rest = out.getvalue().split("\n", 1)
    assert first == "starting JAX"
    return code, rest, err.getvalue()


def own(folder, space=RATES, config="digits_backprop"):
    """--config of a file with this space."""
    file = folder / "own.py"
    file.write_text(CONFIG.format(space=space, config=config))
    return f"--config={file}"


def table(folder):
    """The lines of sweep.csv."""
    with (folder / "sweep.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def stored(folder):
    """The trials, as Optuna alone reads them."""
    name = folder.name
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'sweep.db'}").trials


def experiment(name="digits_dtp", **fields):
    return validate({**load_config(name).config.to_dict(), **fields})


# What a space may say.

REFUSED = {
    "{'betta': Uniform(.1, 1)}": "config.betta: no such field; did you mean beta?",
    "{'beta': Uniform(0, 1)}": r"space\['beta'\] is 0; allowed: a finite number above 0",
    "{'beta': LogUniform(0, 1)}": r"is LogUniform\(low=0, high=1\); allowed: two numbers above 0",
    "{'beta': Uniform(1, .1)}": "allowed: two finite numbers, the lower one first",
    "{'beta': Uniform(.1, float('inf'))}": "two finite numbers",
    "{'beta': Uniform('a', 1)}": "allowed: two numbers",
    "{'beta': .5}": r"space\['beta'\] is 0.5; allowed: Uniform or LogUniform or IntUniform or Choice",
    "{'beta': PerMap(Uniform(.1, 1))}": "it has no value for each feedback map",
    "{'beta': Choice(.5)}": "two values or more, all of them different",
    "{'beta': Choice(.5, .5)}": "two values or more, all of them different",
    "{'beta': Choice(.5, -1.0)}": r"space\['beta'\] is -1.0; allowed: a finite number above 0",
    "{'beta': Choice(.5, 'much')}": "is 'much'; allowed: a finite number above 0",
    "{'beta': Choice(.5, None)}": "allowed: numbers, texts, True and False, tuples of numbers",
    "{'batch_size': Uniform(1, 9)}": r"allowed: IntUniform or Choice$",
    "{'batch_size': IntUniform(1.5, 9)}": "allowed: two whole numbers",
    "{'batch_size': Choice(32, 5000)}": r"space\['batch_size'\] has 5000, .*1 to 1257, the training",
    "{'network': Choice('lenet', 'vgg19')}": r"space\['network'\] is 'vgg19'; allowed: one of",
    "{'feedback_lr': PerMap(Uniform(0, 1))}": r"space\['feedback_lr'\] is 0; allowed",
    "{'feedback_lr': PerMap(.1)}": "or PerMap of",
    "{'feedback_lr': PerMap()}": "or PerMap of",
    "{'feedback_lr': PerMap(*[Uniform(.1, 1)] * 3)}": "of one for all, or of 2, for conv_1, fc$",
    "{'feedback_lr': PerMap(Uniform(.1, 1), Uniform(0, 1))}": r"space\['feedback_lr'\] is 0; allowed",
    "{'channels': Choice((4, 8), (4, 8, 16))}": "values that leave|feedback map",
    "{'seed': IntUniform(0, 9)}": r"all trials of a sweep have the same; allowed: --config.seed=VALUE",
    "{'epochs': IntUniform(1, 9)}": "all trials of a sweep have the same",
    "{'log_every': IntUniform(1, 9)}": "it changes no number of a run",
    "{}": "is empty; allowed: one field or more",
    "['beta']": r"is \['beta'\]; allowed: a dict",
    "{1: Uniform(.1, 1)}": "allowed: a dict",
}


@pytest.mark.parametrize("space", REFUSED)
def test_a_space_is_refused_in_a_line(place, space):
    code, out, err = sweep(own(place, space, "digits_dtp"), "--trials=2", "--workdir=w")
    assert (code, out) == (cli.EXIT_INVALID, "")
    assert re.fullmatch("error: .*\n", err) and re.search(REFUSED[space], err.strip()), err
    assert not (place / "w").exists()


@pytest.mark.parametrize(
    ("rule", "space", "words"),
    [
        ("backprop", "{'feedback_lr': LogUniform(.01, .1)}", "backprop trains no feedback maps"),
        ("backprop", "{'beta': Uniform(.1, 1)}", "the rule backprop has no beta"),
        ("analytic", "{'noise': Uniform(.1, 1)}", "trains no feedback maps"),
    ],
)
def test_what_would_change_nothing_is_refused(place, rule, space, words):
    file = own(place, space, "digits_dtp")
    code, _, err = sweep(file, f"--config.rule={rule}", "--trials=2", "--workdir=w")
    assert code == cli.EXIT_INVALID and words in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config.val_split=0",), "config.val_split is 0; allowed: more than 0"),
        (("--config.beta=-1",), "config.beta is -1.0; allowed"),
        (("--take-over",), "--take-over is no flag of a sweep"),
        (
            ("--storage=/dev/null/x.journal",),
            "--storage is '/dev/null/x.journal'; allowed: a file in a folder",
        ),
        (("--storage=nowhere:///x",), "--storage is 'nowhere:///x'; allowed: an address such as"),
        (
            ("--config.rule=backprop", "--config.dataset=mnist", "--config.data_dir=/no"),
            "mnist: no data",
        ),
    ],
)
def test_other_refusals(place, flags, words):
    code, _, err = sweep("--config=digits_dtp", "--trials=2", "--workdir=w", *flags)
    assert code in (cli.EXIT_INVALID, cli.EXIT_DATA) and words in err.split("\n")[0]
    assert not list(place.glob("w/trial_*"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("train_images=5000",), "config.train_images is 5000; allowed: 0 to 1257: 1257 images"),
        (("overfit_batches=50",), "config.overfit_batches is 50; allowed: 0 to 39: 1257 images"),
        (("val_split=0", "val_per_class=139"), "config.val_per_class is 139; allowed: 0 to 138"),
    ],
)
def test_more_images_than_there_are_are_refused_before_the_first_trial(place, fields, said):
    """Here, and where the trials are sent elsewhere; what the data cannot tell is no error there."""
    flags = [f"--config.{field}" for field in fields]
    code, _, err = sweep("--config=digits_dtp", "--trials=20", "--workdir=w", *flags)
    assert (code, err.count("\n")) == (cli.EXIT_INVALID, 1) and f"error: {said}" in err
    args, others = __main__.arguments_of(["--config=digits_dtp", "--trials=2", *flags], "dtp sweep")
    with pytest.raises(ValueError, match=f"^{said}"):
        command.planned(args, others, "dtp sweep")
    args, others = __main__.arguments_of(["--config=imagenet32_dtp", "--trials=2"], "dtp sweep")
    assert command.planned(args, others, "dtp sweep").folder == Path("runs/sweep/imagenet32_dtp")
    assert not list(place.iterdir())


def test_a_sweep_some_of_whose_trials_have_enough_images_begins(place):
    """Its own batch size is too large for this data, and those that it may draw are not."""
    data_files.write_npz(place / "data", "mnist", *data_files.fake("mnist"))
    file = own(place, '{"batch_size": Choice(20, 40)}', "mnist_mlp")
    flags = ("--config.val_split=0.5", f"--config.data_dir={place / 'data'}", "--workdir=w")
    args, others = __main__.arguments_of([file, "--trials=2", *flags], "dtp sweep")
    assert command.planned(args, others, "dtp sweep", trains_here=True).config["batch_size"] > 30


def test_a_folder_of_data_that_is_not_there_is_said(place, monkeypatch):
    """Once, by the sweep: its trials would say it again and again."""
    monkeypatch.setattr(command, "work", lambda *_: trial.Ended(cli.EXIT_DISK, "as a test says"))
    flags = ("--config.data_dir=dta", "--config.forward_eps=1e-7", "--trials=2", "--workdir=w")
    code, out, _ = sweep(own(place), *flags)
    said = " ".join(out.split())
    assert code == cli.EXIT_DISK
    assert (
        "note: config.data_dir is 'dta' and changes nothing: it is not there; the data is" in said
    )
    assert said.count("config.forward_eps is ") == said.count("config.data_dir is ") == 1


@pytest.mark.parametrize(
    "flags",
    [("--trials=2",), ("--config=digits_dtp",), ("--status",), ("--trials=0", "--config=x")],
)
def test_flags_that_are_missing(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(list(flags), "dtp sweep")
    assert ended.value.code == 2 and "allowed:" in capsys.readouterr().err


def test_status_of_no_sweep(place):
    code, _, err = sweep("--status", "--workdir=nowhere")
    assert code == cli.EXIT_INVALID and "it holds no sweep.db" in err
    assert not (place / "nowhere").exists()


def test_the_config_of_the_documentation(place):
    page = (REPOSITORY / "docs/sweeps.md").read_text()
    (place / "mine.py").write_text(re.search("```python\n(.*?)```", page, re.DOTALL)[1])
    made = plan.make("mine.py", ["--config.beta=0.5"], place / "w", "none", "dtp sweep")
    names = {one.name for one in made.dimensions}
    assert {"noise/fc", "feedback_lr/fc", "feedback_iterations", "batch_size"} <= names
    assert "beta" not in names and "beta is not searched, for it is set to 0.5" in made.remarks
    assert made.experiment.config["epochs"] == 10  # as the config has it


# The default space.


@pytest.mark.parametrize("rule", RULES)
def test_the_default_space_of_every_rule(rule):
    """Rates and noise of the maps that it trains, beta where it has one; all of it is valid."""
    made = experiment(rule=rule, noise=(0.1,), feedback_lr=(0.1,), feedback_iterations=(1,))
    found = dimensions(default_space(made), made, "it")
    maps = trained_maps(made)
    per_map = [f"{name}/{block}" for name in ("noise", "feedback_lr") for block in maps]
    beta = [] if rule == "backprop" else ["beta"]
    assert [one.name for one in found] == [*beta, *per_map, "forward_lr", "batch_size"]
    assert maps == {
        **dict.fromkeys(("ldrl", "dtp", "tp"), ["conv_1", "fc"]),
        "drl": ["conv_0", "conv_1"],
    }.get(rule, [])
    rates = next(one for one in found if one.field == "forward_lr").distribution
    assert rates == LogUniform(1e-4, 1e-1)


# What is drawn.

SPACE = {
    "beta": Uniform(0.25, 0.75),
    "feedback_lr": PerMap(LogUniform(1e-4, 1e-1)),
    "feedback_samples": IntUniform(1, 3),
    "batch_size": IntUniform(8, 64, log=True),
    "channels": Choice((4, 8), (8, 4)),
    "bias": Choice(True, False),
    "activation": Choice("elu", "tanh"),
}


def drawn(folder, count, seed):
    """Fields of so many trials, whose accuracies are their numbers."""
    dims = dimensions(SPACE, experiment(), "it")
    there = study.Study(optuna.storages.InMemoryStorage(), folder)
    there.make({})
    found = []
    for number in range(count):
        there.add(count)
        one = there.open_trial(there.trials()[number], seed, "none")
        found.append(fields_at(dims, study.draw(one, dims)))
        there.tell(number, number / count)
    return found


def test_what_is_drawn_lies_in_the_space(tmp_path):
    found = drawn(tmp_path, 14, 0)  # the last ones are no longer random
    for fields in found:
        assert 0.25 <= fields["beta"] <= 0.75
        assert len(fields["feedback_lr"]) == 2
        assert all(1e-4 <= rate <= 1e-1 for rate in fields["feedback_lr"])
        assert type(fields["feedback_samples"]) is int and 1 <= fields["feedback_samples"] <= 3
        assert type(fields["batch_size"]) is int and 8 <= fields["batch_size"] <= 64
        assert fields["channels"] in ((4, 8), (8, 4)) and type(fields["bias"]) is bool
        made = experiment(**fields).config  # a config that is valid, and has these very values
        assert {name: made[name] for name in fields} == fields
    for name in SPACE:
        assert len({fields[name] for fields in found}) > 1, name
    below = sum(rate < 3.2e-3 for fields in found for rate in fields["feedback_lr"])
    assert 5 <= below <= 23  # half of them: it counts in logarithms


def test_a_seed_draws_the_same_again(tmp_path):
    first = drawn(tmp_path, 13, 3)
    assert drawn(tmp_path, 13, 3) == first
    assert drawn(tmp_path, 2, 4) != first[:2]
    rates = [one["feedback_lr"] for one in first]  # and every trial draws anew
    assert len(set(rates)) == len(rates)


def test_each_map_may_have_a_range_of_its_own(tmp_path, monkeypatch):
    ranges = PerMap(LogUniform(1e-4, 1e-3), LogUniform(1e-2, 1e-1))
    monkeypatch.setattr(sys.modules[__name__], "SPACE", {"feedback_lr": ranges})
    for fields in drawn(tmp_path, 8, 0):
        conv_1, fc = fields["feedback_lr"]
        assert 1e-4 <= conv_1 <= 1e-3 and 1e-2 <= fc <= 1e-1


# A first trial with the values of the config.


def test_the_first_trial_has_the_values_of_the_config(tmp_path):
    made = experiment(feedback_samples=2, batch_size=32)
    space = {name: SPACE[name] for name in SPACE if name != "channels"}
    space["beta"], space["noise"] = Uniform(0.1, 0.9), PerMap(Uniform(0.01, 0.5))
    dims = dimensions(space, made, "it")
    own_values = dimensions_.own_values(dims, made)
    there = study.Study(optuna.storages.InMemoryStorage(), tmp_path)
    there.make({})
    there._load().enqueue_trial(own_values)  # a worker that was killed while it added the trial
    assert there.trials() == []
    for count in (1, 2):
        there.add(count, own_values)
    assert len(there.trials()) == 2
    first, second = (
        fields_at(dims, study.draw(there.open_trial(one, 0, "none"), dims))
        for one in there.trials()
    )
    assert first == {name: made.config[name] for name in space}
    assert second != first
    there.tell(0, 0.5)
    assert there.trials()[0].value == 0.5


def test_a_sweep_from_its_config(place):
    flags = ("--config.epochs=1", "--trials=1", "--from-config")
    code, _, err = sweep(own(place, '{"forward_lr": LogUniform(0.1, 1)}'), "--workdir=w", *flags)
    said = "config.forward_lr is 0.01, which is outside of space['forward_lr']"
    assert code == cli.EXIT_INVALID and said in err and not (place / "w").exists()
    file = own(place, 'lambda rate: {"forward_lr": LogUniform(1e-3, float(rate))}')
    with (place / "own.py").open("a") as more:
        more.write("\n\nalone = get_config\n\n\ndef get_config(rate):\n    return alone()\n")
    code, out, err = sweep(f"{file}:0.5", "--workdir=w", *flags)
    assert (code, err) == (0, "") and "0.001 to 0.5, log" in out
    assert [one.params for one in stored(place / "w")] == [{"forward_lr": 0.01}]


# A whole sweep.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three trials of two epochs, in this process: (folder, what was said)."""
    folder = tmp_path_factory.mktemp("sweep")
    flags = (own(folder), "--config.epochs=2", "--pruner=none", f"--workdir={folder / 'w'}")
    code, out, err = sweep(*flags, "--trials=3")
    assert (code, err) == (0, "")
    return folder / "w", flags, out


def test_trials_are_runs_that_never_see_a_test_image(whole):
    folder, _, _ = whole
    for number, one in enumerate(stored(folder)):
        assert one.number == number and one.state == optuna.trial.TrialState.COMPLETE
        run = folder / f"trial_{number}"
        val = [row["accuracy"] for row in rows(run, "val")]
        assert one.intermediate_values == {1: val[0], 2: val[1]} and one.value == val[1]
        config = json.loads((run / "config.json").read_text())
        assert {name: config[name] for name in one.params} == one.params
        assert (run / "checkpoints" / str(2 * STEPS)).is_dir()
        assert not rows(run, "test") and not (run / "summary.json").exists()
    texts = [file.read_text() for file in folder.rglob("*.*") if file.suffix in (".jsonl", ".csv")]
    assert texts and not any("test" in text for text in texts)


def test_what_a_sweep_leaves(whole):
    folder, _, out = whole
    best = max(stored(folder), key=lambda one: one.value)
    lines = table(folder)
    assert [line["number"] for line in lines] == ["0", "1", "2"]
    for line, one in zip(lines, stored(folder), strict=True):
        assert float(line["value"]) == one.value and line["state"] == "complete"
        assert float(line["best"]) == max(one.intermediate_values.values())
        assert {name: float(line[name]) for name in one.params} == one.params
        assert float(line["seconds"]) > 0 and line["epoch"] == "2"
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "sweep.md").read_text()
    for text in (out, page):
        assert f"the best is trial {best.number}" in text.lower()
        assert f"--config.forward_lr={best.params['forward_lr']!r}" in text
    assert "![" in page and "sweep.png" in page and "dtp sweep --config=" in page


def test_run_again_it_is_done_and_more_goes_on(whole):
    folder, flags, _ = whole
    before = tree(folder / "trial_0")
    code, out, _ = sweep(*flags, "--trials=3")
    assert code == 0 and "this sweep is done" in out
    code, out, _ = sweep(*flags, "--trials=4")
    assert code == 0 and "trial 3" in out and "3 of them there" in out
    assert len(stored(folder)) == len(table(folder)) == 4
    assert tree(folder / "trial_0") == before


@pytest.mark.parametrize(
    ("more", "space", "words"),
    [
        (("--config.weight_decay=0.5",), RATES, "its weight_decay is 0.0001, here it is 0.5"),
        (
            (),
            '{"forward_lr": LogUniform(1e-3, 0.2), "momentum": Uniform(0, 0.95)}',
            "another space",
        ),
        (("--pruner=median",), RATES, "another pruner: none, here it is median"),
        (("--config.momentum=0.5",), RATES, "its momentum is Uniform(0, 0.95), here it is not"),
        (("--config.max_steps=5",), RATES, "its max_steps is 0, here it is 5"),  # shorter trials
        (("--from-config",), RATES, "--from-config comes too late"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(whole, tmp_path, more, space, words):
    folder, flags, _ = whole
    file = own(tmp_path, space)
    code, _, err = sweep(file, *flags[1:], "--trials=9", *more)
    assert code == cli.EXIT_INVALID and words in err and err.count("\n") == 1


def test_the_command_trains_the_best(whole, tmp_path):
    """Over the epochs of the sweep it has the very accuracy."""
    folder, _, _ = whole
    code, out, _ = sweep("--status", f"--workdir={folder}")
    assert code == 0
    command = shlex.split(next(line for line in out.splitlines() if line.startswith("dtp train")))
    assert not any("epochs" in word for word in command)
    done = launch(*command[2:], "--config.epochs=2", f"--workdir={tmp_path / 'again'}")
    assert done.code == 0, done.err
    best = max(one.value for one in stored(folder))
    assert json.loads((tmp_path / "again/summary.json").read_text())["val_accuracy"] == best


def test_a_trial_can_be_trained_on_by_hand(whole, tmp_path):
    """It is a run that has not finished: `dtp train` takes its last steps as done, and tests it."""
    folder, _, _ = whole
    done = launch(f"--workdir={folder / 'trial_1'}")
    assert done.code == 0, done.err
    summary = json.loads((folder / "trial_1/summary.json").read_text())
    assert summary["val_accuracy"] == stored(folder)[1].value and "test_accuracy" in summary
    (folder / "trial_1/summary.json").unlink()


def test_status_changes_nothing(whole):
    folder, _, _ = whole
    before = tree(folder)
    code, out, err = sweep("--status", f"--workdir={folder}")
    assert (code, err) == (0, "") and "results: " in out and "dtp train --config=" in out
    assert tree(folder) == before


# Trials that end before.


def test_a_pruned_trial_stops_there(place, monkeypatch):
    class Odd(optuna.pruners.BasePruner):
        """Prunes trials of odd number after their first epoch."""

        def prune(self, study, trial):
            return trial.number % 2 == 1

    monkeypatch.setattr(study, "_pruner", lambda name: Odd())
    code, out, _ = sweep(own(place), "--config.epochs=2", "--trials=3", "--workdir=w")
    assert code == 0 and "pruned after epoch 1" in out
    states = [one.state.name for one in stored(place / "w")]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [row["epoch"] for row in rows(place / "w/trial_1", "val")] == [1]
    pruned = table(place / "w")[1]
    assert pruned["state"] == "pruned" and pruned["epoch"] == "1"
    assert float(pruned["value"]) == rows(place / "w/trial_1", "val")[0]["accuracy"]


def test_no_trial_is_pruned_after_its_last_epoch(tmp_path, monkeypatch):
    """It has its value then, whatever a pruner says; one that is told twice is told once."""

    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return True

    monkeypatch.setattr(study, "_pruner", lambda name: Always())
    there = study.Study(optuna.storages.InMemoryStorage(), tmp_path)
    there.make({})
    there.add(1)
    one = there.open_trial(there.trials()[0], 0, "halving")
    watch = trial._watch(one, {"epochs": 3})
    assert [watch(epoch, 0.1 * epoch) for epoch in (3, 2, 2)] == [False, True, True]
    assert there.trials()[0].intermediate_values == {3: pytest.approx(0.3), 2: 0.2}
    assert one.user_attrs[trial.PRUNED] == 2


def test_successive_halving_prunes_what_is_worse(tmp_path):
    """Of accuracies that fall, only the first trial is among the best third at epoch 1."""
    there = study.Study(study.open_storage(None, tmp_path), tmp_path)
    there.make({})
    pruned = []
    for number in range(4):
        there.add(number + 1)
        one = there.open_trial(there.trials()[number], 0, "halving")
        one.report(0.9 - 0.1 * number, 1)
        pruned.append(one.should_prune())
    assert pruned == [False, True, True, True]


def test_what_diverges_or_cannot_be_is_a_result(place, monkeypatch):
    """Of value 0, with its reason; the sweep goes on."""
    real = trial.assemble.plan

    def refuses_the_first(config, folder, **more):
        if folder.path.name == "trial_0":
            raise ValueError("config.beta is what a test says")
        return real(config, folder, **more)

    monkeypatch.setattr(trial.assemble, "plan", refuses_the_first)
    file = own(place, '{"forward_lr": LogUniform(1e18, 1e19)}')
    code, out, err = sweep(file, "--config.epochs=1", "--trials=2", "--workdir=w")
    assert code == cli.EXIT_INVALID and "trial 0  failed: config.beta is what a test says" in out
    assert "trial 1  diverged: " in out
    none = "none of 2 trials has an accuracy; trial 0 failed: config.beta is what a test says"
    assert err == f"error: {none}\n"
    assert [(one.state.name, one.value) for one in stored(place / "w")] == [("COMPLETE", 0.0)] * 2
    failed, diverged = table(place / "w")
    assert (failed["state"], failed["value"]) == ("failed", "")
    assert (diverged["state"], diverged["value"]) == ("diverged", "") and diverged["reason"]
    assert not rows(place / "w/trial_1", "test")


# Workers.


def test_a_trial_that_nobody_could_tell_of_is_told_without_training(place, monkeypatch):
    """As after a kill between the last checkpoint and the study; the run stays as it was."""
    flags = (own(place), "--config.epochs=1", "--trials=1", "--workdir=w")
    with monkeypatch.context() as patched:
        patched.setattr(
            study.Study,
            "tell",
            lambda *a, **b: (_ for _ in ()).throw(
                study.DiskError("the storage of the sweep cannot be used: a test")
            ),
        )
        code, _, err = sweep(*flags)
        assert code == cli.EXIT_DISK and "storage" in err
    before = untimed_rows(place / "w/trial_0")
    assert stored(place / "w")[0].state.name == "RUNNING"
    assert sweep(*flags)[0] == 0
    assert untimed_rows(place / "w/trial_0") == before
    (found,) = stored(place / "w")
    assert found.value == rows(place / "w/trial_0", "val")[0]["accuracy"]


def test_a_trial_whose_owner_lives_is_left_alone(tmp_path):
    """It is shown as running, and as stopped once its owner is gone."""
    there = study.Study(study.open_storage(None, tmp_path), tmp_path)
    there.make({})
    there.add(1)
    there.add(1)
    assert len(there.trials()) == 1
    there.open_trial(there.trials()[0], 0, "none").suggest_float("beta", 0, 1)
    run = tmp_path / "trial_0"
    run.mkdir()
    owner = Ownership(run)
    found = there.trials()
    assert trial.attempt(plan_of(tmp_path), there, found[0], Console(quiet=True), None) is None
    assert [one.state for one in results.rows(found, tmp_path)] == ["running"]
    owner.release()
    assert [one.state for one in results.rows(found, tmp_path)] == ["stopped"]


def plan_of(folder):
    return plan.make("digits_backprop", ["--config.epochs=1"], folder, "none", "dtp sweep")


def start(*args):
    """The command line in a process of its own, with as many devices as here: the same programs."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dtp_jax", "sweep", *args],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def owner_of(run):
    """The process that trains there."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((run / "owner.json").read_text())["process"]
    return None


@pytest.mark.slow
def test_a_worker_is_killed(place):
    """None of the trials is lost, none is there twice, and the killed one's run goes on from its checkpoint."""
    flags = (own(place), "--config.epochs=6", "--pruner=none", f"--workdir={place / 'w'}")
    process = start(*flags, "--trials=3", "--workers=2")
    run = place / "w/trial_0"
    second = run / "checkpoints" / str(2 * STEPS)  # so that the first one is whole
    wait_for(second.is_dir, [process], "checkpoint")
    os.kill(owner_of(run), signal.SIGKILL)
    done = finish(process)
    assert done.code == 0, done.out + done.err
    assert "was ended by SIGKILL; another one takes its place" in done.err
    found = stored(place / "w")
    assert [one.number for one in found] == [0, 1, 2]
    assert all(one.state.name == "COMPLETE" for one in found)
    assert len(list((place / "w").glob("trial_*"))) == len(table(place / "w")) == 3
    logs = "".join(log.read_text() for log in (place / "w").glob("worker_*.log"))
    assert int(re.search(r"trial 0: going on from step (\d+)", logs)[1]) >= STEPS
    # It has all lines of a run that was never stopped, the test line apart.
    values = [f"--config.{name}={value!r}" for name, value in found[0].params.items()]
    other = launch(own(place), "--config.epochs=6", *values, f"--workdir={place / 'o'}")
    assert other.code == 0, other.err
    assert untimed_rows(run) == [line for line in untimed_rows(place / "o") if '"test"' not in line]
    assert found[0].intermediate_values == {
        row["epoch"]: row["accuracy"] for row in rows(run, "val")
    }


def test_workers_that_are_killed_again_and_again_are_no_stop(place, capsys):
    """As where memory is short: it is an error, and says which worker, how, and where its log is."""
    process = subprocess.Popen(["sh", "-c", "kill -9 $$"])
    process.wait()
    worker = pool.Worker(3, process, place / "worker_3.log", 0)
    ended = trial.Ended(pool._code(worker), pool._last_words(worker))
    assert command._end(ended, Screen()) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: worker 3 was ended by SIGKILL; ") and "worker_3.log" in said


def test_a_signal_when_all_is_saved_ends_the_sweep(place, monkeypatch):
    """Not the trial, which is over, but what would come next."""
    finish_run = loop.Run.finish

    def late(run):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * signals.SETTLE_SECONDS)  # it is heard
        return finish_run(run)

    flags = (own(place), "--config.epochs=1", "--trials=2", f"--workdir={place / 'w'}")
    codes = []
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "finish", late)
        outermost = signals.until_stopped(lambda: codes.append(sweep(*flags)) or 0, "stopped")
    assert outermost == 128 + signal.SIGTERM and not codes
    assert not (place / "w/trial_1").exists()
    assert sweep(*flags)[0] == 0
    assert [one.state.name for one in stored(place / "w")] == ["COMPLETE"] * 2


def test_trackers_hear_that_a_trial_has_come_to_its_end(place):
    ends = []

    class Listens(trackers.Tracker):
        def end(self, summary):
            ends.append(summary)

    dtp.trackers.register(Listens, name="listens")
    try:
        flags = ("--config.epochs=1", "--trials=1", "--config.trackers=listens", "--workdir=w")
        assert sweep(own(place), *flags)[0] == 0
    finally:
        del trackers.TRACKERS["listens"]
    (summary,) = ends
    assert summary["val_accuracy"] == stored(place / "w")[0].value
    assert not [name for name in summary if "test" in name and summary[name] is not None]


def test_a_sweep_whose_folder_got_another_name_goes_on(whole, tmp_path):
    folder, flags, _ = whole
    other = tmp_path / "renamed"
    shutil.copytree(folder, other)
    code, out, err = sweep(*flags[:-1], f"--workdir={other}", "--trials=3")
    assert (code, err) == (0, "") and "this sweep is done" in out
    assert sweep("--status", f"--workdir={other}")[0] == 0


def test_of_two_that_begin_at_once_one_says_of_which_sweep_it_is(tmp_path, monkeypatch):
    """The other one looked before that was written down, and takes what it finds."""
    storage = study.open_storage(None, tmp_path)
    first, second = (study.Study(storage, tmp_path) for _ in range(2))
    create = optuna.create_study

    def slowly(**options):
        made = create(**options)
        time.sleep(0.2)
        return made

    monkeypatch.setattr(optuna, "create_study", slowly)
    makers = [
        threading.Thread(target=one.make, args=({"seed": n},))
        for n, one in enumerate((first, second))
    ]
    found = []
    for maker in makers:
        maker.start()
    makers[0].join()
    found.append(first.record())
    makers[1].join()
    found.append(first.record())
    assert found[0] == found[1]


def test_a_storage_that_is_gone_is_a_disk_that_refuses(tmp_path, monkeypatch):
    file = tmp_path / "far" / "s.journal"
    there = study.Study(study.open_storage(str(file), tmp_path), tmp_path)
    there.make({})
    shutil.rmtree(file.parent)
    with pytest.raises(DiskError, match="the storage of the sweep cannot be used"):
        there.add(1)


def test_a_journal_is_named_from_the_top(place, monkeypatch):
    """Its lock is a link to it, which is followed from another folder."""
    monkeypatch.setenv("HOME", str(place))
    for given in ("far/s.journal", "~/s.journal"):
        storage = study.open_storage(given, place / "w")
        assert Path(storage._backend._file_path).is_absolute()
    assert not (place / "~").exists()
    with pytest.raises(study.StudyError, match="--storage is .*; allowed: a local path"):
        study.open_storage("s3:/bucket/s.journal", place / "w")


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(place):
    flags = (own(place), "--config.epochs=6", "--trials=1", f"--workdir={place / 'w'}")
    process = start(*flags)
    wait_for(lambda: (place / "w/trial_0/checkpoints").is_dir(), [process], "checkpoint")
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.code == 128 + signal.SIGTERM and "the same command goes on from here" in done.out
    assert stored(place / "w")[0].state.name == "RUNNING"
    code, out, _ = sweep("--status", f"--workdir={place / 'w'}")
    assert code == 0 and "1 stopped" in out
    assert sweep(*flags)[0] == 0
    (found,) = stored(place / "w")
    assert found.state.name == "COMPLETE" and sorted(found.intermediate_values) == list(range(1, 7))


# What is shown.


def some_rows(count=20):
    """Trials of every state, of a search in seven dimensions."""
    states = ("complete", "complete", "pruned", "diverged", "running")
    names = list(some_record()["space"])
    return [
        results.Row(
            number,
            states[number % 5],
            None if number % 5 == 3 else 0.9 - 0.01 * number,
            0.9,
            2,
            75.0,
            {name: 32 if name == "batch_size" else 0.0123456 * (number + 1) for name in names},
            "loss",
        )
        for number in range(count)
    ]


def some_record():
    floats = {"block": "", "kind": "LogUniform", "low": 1e-4, "high": 1.0}
    space = {"beta": {**floats, "field": "beta"}}
    for field in ("noise", "feedback_lr"):
        for block in ("conv_1", "fc"):
            space[f"{field}/{block}"] = {**floats, "field": field, "block": block}
    space["forward_lr"] = {**floats, "field": "forward_lr"}
    space["batch_size"] = {"field": "batch_size", "block": "", "kind": "Choice", "values": [32, 64]}
    return {"config": "it's.py", "plugins": [], "overrides": [], "epochs": 3, "space": space}


def test_a_table_fits_eighty_columns():
    out = io.StringIO()
    screen = Screen(Console(file=out, width=80, force_terminal=True, color_system=None))
    shares = {"feedback_lr/fc": 0.6, "beta": 0.3, "forward_lr": 0.1}
    tell.show(some_rows(), some_record(), shares, screen)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    heading = next(line for line in lines if "accuracy" in line and "┃" in line)
    # What matters most stays; the first to go is what says least.
    assert "feedback_lr" in heading and "beta" in heading and "time" not in heading
    assert "16 results: 8 complete, 4 pruned, 4 diverged, 4 running" in text
    assert "feedback_lr/fc 60%" in text
    body = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert body[:3] == ["0", "1", "5"] and len(body) == 15


def test_the_best_command_is_quoted_for_a_shell():
    one = some_rows(1)[0]
    words = shlex.split(results.command_of(one, some_record()))
    assert words[:3] == ["dtp", "train", "--config=it's.py"]
    assert "--config.noise=0.0123456,0.0123456" in words and "--config.batch_size=32" in words


def test_a_value_comes_back_from_a_command_line_as_it_was():
    values = {
        "channels": (4, 8),
        "hidden": (),
        "noise": (0.1 + 0.2, 1e-7),
        "beta": 1 / 3,
        "bias": False,
        "activation": "tanh",
        "batch_size": 48,
    }
    texts = [f"--config.{name}={as_text(value)}" for name, value in values.items()]
    config = parse(["dtp train", "--config=digits_dtp", *texts]).config
    assert {name: config[name] for name in values} == values


def test_a_password_is_shown_nowhere(place):
    file, storage = own(place), "nowhere://me:secret@host/x"
    code, out, err = sweep(file, "--trials=1", "--workdir=w", f"--storage={storage}")
    assert code == cli.EXIT_INVALID and "nowhere://me:***@host/x" in err
    assert "secret" not in out + err.partition("FILE.journal")[0]
    assert study.masked(f"dtp sweep --storage={storage} --trials=1").count("secret") == 0


def test_what_matters_is_what_the_accuracy_follows():
    many = [
        one._replace(
            state="complete",
            value=0.1 * (n % 7),
            values={
                **dict.fromkeys(one.values, 0.5),
                "beta": 0.1 + 0.1 * (n % 7),
                "forward_lr": 0.01 * (1 + n % 3),
                "batch_size": 32,
            },
        )
        for n, one in enumerate(some_rows(21))
    ]
    shares = results.importances(many, some_record())
    assert next(iter(shares)) == "beta" and shares["beta"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert results.importances(many[:9], some_record()) == {}


def test_the_picture_has_every_trial_in_every_panel():
    trials = [
        Trial("complete", 90.0, (0.1, 32)),
        Trial("pruned", 80.0, (0.01, 64)),
        Trial("came to nothing", float("nan"), (0.5, 32)),
        Trial("complete", 91.0, (0.2, 64)),
    ]
    parameters = [Parameter("rate", True, (), (1e-3, 1)), Parameter("batch", choices=(32, 64))]
    figure = draw_search(trials, parameters, {"rate": 0.9, "batch": 0.1}, title="$x_1$")
    history, shares, rate, batch = figure.axes
    for axis in (history, rate, batch):
        points = [
            tuple(p)
            for c in axis.collections
            for p in c.get_offsets()
            if c.get_label() != "the best"
        ]
        assert len(points) == 4
    assert [round(bar.get_width()) for bar in shares.patches] == [10, 90]
    assert rate.get_xscale() == "log" and rate.get_xlim()[0] < 1e-3 and rate.get_xlim()[1] > 1
    (star,) = (c for c in rate.collections if c.get_label() == "the best")
    assert [tuple(p) for p in star.get_offsets()] == [(0.2, 91.0)]
    with pytest.raises(ValueError, match="0 trials"):
        draw_search([], parameters, {})
    with pytest.raises(ValueError, match="trial 0 has 2 values; allowed: 1"):
        draw_search(trials, parameters[:1], {})


def test_a_journal_as_storage(place):
    journal = place / "shared" / "all.journal"
    flags = (own(place), "--config.epochs=1", "--workdir=w", f"--storage={journal}")
    assert sweep(*flags, "--trials=1")[0] == 0
    assert journal.is_file() and not Path("w/sweep.db").exists()
    code, out, _ = sweep("--status", "--workdir=w", f"--storage={journal}")
    assert code == 0 and "1 result: 1 complete" in out


def test_a_worker_has_a_gpu_of_its_own(monkeypatch):
    """As far as there are so many; where two share one, neither takes the memory in advance."""
    four = {"CUDA_VISIBLE_DEVICES": "3,5,6,7"}
    assert [pool._device(n, 2, four) for n in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    one = {"CUDA_VISIBLE_DEVICES": "0"}
    shared = {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert pool._device(1, 2, one) == shared
    assert pool._device(0, 2, {"JAX_PLATFORMS": "cpu", **four}) == {}
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    assert pool._device(0, 2, {}) == {}


def test_a_drawn_seed_is_one_for_all_trials(place):
    """The same command goes on with it, and the best command has it."""
    flags = (own(place), "--config.epochs=1", "--config.seed=-1", "--workdir=w")
    assert sweep(*flags, "--trials=1")[0] == 0
    code, out, _ = sweep(*flags, "--trials=2")
    assert code == 0
    seeds = {json.loads(f.read_text())["seed"] for f in (place / "w").glob("trial_*/config.json")}
    (seed,) = seeds
    assert f"--config.seed={seed}" in out and len(stored(place / "w")) == 2


def test_a_report_on_a_sweep(whole, tmp_path):
    """It shows the trials and the command, and looks at no test image."""
    folder, _, _ = whole
    with contextlib.redirect_stdout(io.StringIO()), jax.enable_x64(False):
        assert report.main([str(folder), f"--out={tmp_path / 'page.html'}"]) == 0
    page = (tmp_path / "page.html").read_text()
    best = max(stored(folder), key=lambda one: one.value)
    assert f"--config.forward_lr={best.params['forward_lr']!r}" in page
    assert 'src="data:image/png;base64,' in page and f"trial {best.number}" in page
    assert "no checkpoint was read" in page
    out = io.StringIO()
    with contextlib.redirect_stdout(out), jax.enable_x64(False):
        assert report.main([str(folder), "--text"]) == 0
    assert (
        "Trials of the sweep of" in out.getvalue() and f"{100 * best.value:.2f}" in out.getvalue()
    )


@pytest.mark.parametrize("content", ['{"order": ["0"]}', '{"order": [-1]}', "{", "[]"])
def test_a_report_on_what_is_no_sweep(tmp_path, content, capsys, single_precision):
    (tmp_path / "sweep.json").write_text(content)
    assert report.main([str(tmp_path)]) == 2
    assert "it holds no run" in capsys.readouterr().err
