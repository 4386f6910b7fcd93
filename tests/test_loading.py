"""What --config names, the run in --workdir, and what the files of a run say of their origin."""

import datetime
import json
import re
import shutil
import socket
import subprocess

import jax
import pytest
from launching import TINY, launch, rows, summary

from dtp_jax.export import __main__ as export
from dtp_jax.run import cli, loading, provenance
from dtp_jax.run.arguments import parse
from dtp_jax.run.config import FIELDS
from dtp_jax.version import __version__

pytest_plugins = ["run_fixtures"]

OWN = "from dtp_jax.configs import default\n\ndef get_config():\n    return default.get_config()\n"


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


# Names.


@pytest.mark.parametrize("name", loading.names())
def test_a_bare_name_is_the_config_of_the_package(place, name):
    loaded = loading.load_config(name)
    assert loaded.name == name and loaded.config.to_dict().keys() == FIELDS.keys()
    path = loading.load_config(str(loading.CONFIGS / f"{name}.py"))
    assert path.config.to_dict() == loaded.config.to_dict() and path.name == name


def test_a_bare_name_with_an_argument():
    assert loading.load_config("cifar10_lenet:tp").config.rule == "tp"
    assert loading.load_config("cifar10_lenet").config.rule == "dtp"
    with pytest.raises(
        ValueError, match="'cifar10_lenet:x', which fails with ValueError: rule 'x'"
    ):
        loading.load_config("cifar10_lenet:x")


def test_a_file_of_ones_own(place):
    (place / "mine.py").write_text(OWN)
    assert loading.load_config("mine.py").name == "mine"
    (place / "digits_dtp").mkdir()  # a folder does not hide a name
    assert loading.load_config("digits_dtp").config.dataset == "digits"


CONFIGS_OF_OTHER_TYPES = """
import numpy as np
from ml_collections import FrozenConfigDict, config_dict
from dtp_jax.configs import digits_dtp

def get_config(kind):
    config = digits_dtp.get_config()
    if kind == "frozen":
        return FrozenConfigDict(config)
    if kind == "locked":
        return config.lock()
    fields = {**config.to_dict(), "weight_decay": 0, "beta": np.float32(0.5), "epochs": np.int64(3)}
    return config_dict.ConfigDict(fields)
"""


@pytest.mark.parametrize("kind", ["frozen", "locked", "plain"])
def test_an_override_has_the_type_of_its_field(place, kind):
    """Whatever the config file has in its place."""
    (place / "mine.py").write_text(CONFIGS_OF_OTHER_TYPES)
    flags = ("--config.weight_decay=1e-4", "--config.beta=0.25", "--config.epochs=4")
    config = parse(["dtp train", f"--config=mine.py:{kind}", *flags]).config
    assert (config["weight_decay"], config["beta"], config["epochs"]) == (1e-4, 0.25, 4)
    assert parse(["dtp train", f"--config=mine.py:{kind}"]).config["rule"] == "ldrl"


REFERRING = """
from dtp_jax.configs import digits_dtp

shared = digits_dtp.get_config()
shared.epochs = 10
shared.t_max = shared.get_ref("epochs")
shared.eta_min = shared.get_oneway_ref("forward_lr") * 0.5

def get_config(kind):
    return shared.lock() if kind == "locked" else shared
"""


@pytest.mark.parametrize("kind", ["locked", "plain"])
def test_a_field_that_refers_to_another_follows_its_override(place, kind):
    (place / "mine.py").write_text(REFERRING)
    flags = ["--config.epochs=20", "--config.forward_lr=0.5"]
    config = parse(["dtp train", f"--config=mine.py:{kind}", *flags]).config
    assert (config["epochs"], config["t_max"], config["eta_min"]) == (20, 20, 0.25)


def test_one_value_may_become_several(place):
    """A config file may have a number where the field has a number for each map."""
    text = "from dtp_jax.configs import digits_dtp\n\n\ndef get_config():\n"
    text += "    config = digits_dtp.get_config().to_dict() | {'noise': 0.1}\n"
    text += "    return __import__('ml_collections').ConfigDict(config)\n"
    (place / "mine.py").write_text(text)
    config = parse(["dtp train", "--config=mine.py", "--config.noise=0.1,0.2"]).config
    assert config["noise"] == (0.1, 0.2)


@pytest.mark.parametrize(
    "given, said",
    [
        ("configs/cifar10_dtp.py", "which does not exist; did you mean cifar10_dtp?"),
        ("cifar10_lenet.py:dtp", "which does not exist; did you mean cifar10_lenet:dtp?"),
        ("cifar10_lenet.py:d\np", "which does not exist; allowed: a Python file"),
        (
            "depth:ldrl",
            "which fails with ValueError: 'ldrl'; allowed: RULE_LAYERS, such as ldrl_8, or RULE_resnet18",
        ),
        (
            "cifar10",
            "which does not exist; allowed: a Python file, a config.json, or one of cifar10_b",
        ),
        ("none.json", "which cannot be read: "),
        ("list.json", "which cannot be read: it holds no object"),
        ("text.txt", "which is no Python file"),
    ],
)
def test_what_is_no_config(place, given, said):
    (place / "text.txt").write_text("")
    (place / "list.json").write_text("[1]")
    with pytest.raises(ValueError) as error:
        loading.load_config(given)
    assert str(error.value).startswith(f"--config is {given!r}, {said}")
    assert "\n" not in str(error.value)


def test_every_tool_takes_a_bare_name(place):
    found = launch("--config=digits_backprop", "--workdir=w", "--config.max_steps=1",
                   "--config.channels=4,8")  # fmt: skip
    assert found.code == 0 and "config   digits_backprop" in found.out
    assert export.main(["w", "w.safetensors"]) == 0
    assert export.main(["--to-workdir", "v", "w.safetensors", "--config=digits_backprop",
                        "--config.channels=4,8"]) == 0  # fmt: skip
    assert config_of(place / "v")["rule"] == "backprop"


# The run in --workdir.


def test_workdir_alone_goes_on(place):
    assert (
        launch("--config=digits_backprop", "--workdir=w", *TINY, "--config.max_steps=2").code == 0
    )
    found = launch("--workdir=w", "--config.max_steps=4")
    assert found.code == 0 and "going on from step 2 of 4" in found.out
    assert summary(place / "w")["rule"] == "backprop" and len(rows(place / "w", "train")) == 4
    assert "this run is finished" in launch("--workdir=w").out
    assert "this run is finished" in launch("--workdir", "w").out


def test_workdir_alone_of_a_run_that_had_not_begun(place):
    """config.json is all there is."""
    assert launch("--workdir=w", *TINY, "--config.max_steps=2").code == 0
    shutil.rmtree(place / "w" / "checkpoints")
    (place / "w" / "summary.json").unlink()
    assert launch("--workdir=w").code == 0
    assert config_of(place / "w")["channels"] == [4, 8]


def test_a_config_of_before_a_field_was_there(place):
    """It has the value with which older versions computed: see tests/test_formats.py."""
    assert launch("--workdir=w", *TINY, "--config.max_steps=1").code == 0
    old = config_of(place / "w")
    for name in ("precision", "train_images", "provenance"):
        del old[name]
    (place / "w" / "config.json").write_text(json.dumps(old))
    assert "this run is finished" in launch("--workdir=w").out
    assert launch("--workdir=w", "--config.max_steps=2").code == 0
    assert config_of(place / "w")["precision"] == "tf32"


# Origin.


def test_config_and_summary_say_where_they_came_from(place):
    args = ("--config=digits_dtp", "--workdir=w", *TINY, "--config.max_steps=1")
    before = datetime.datetime.now().astimezone().replace(microsecond=0)
    assert launch(*args).code == 0
    told = config_of(place / "w")["provenance"]
    assert told == summary(place / "w")["provenance"]
    assert told["config"] == "digits_dtp"
    assert told["overrides"] == [*TINY, "--config.max_steps=1"]
    assert told["command"] == " ".join(
        ["launch.py", args[0], args[1], *TINY, "--config.max_steps=1"]
    )
    assert told["host"] == socket.gethostname() and told["device"].startswith("1 x ")
    assert told["versions"]["jax"] == jax.__version__
    assert told["versions"]["dtp_jax"] == __version__
    assert (
        before
        <= datetime.datetime.fromisoformat(told["date"])
        < before + datetime.timedelta(hours=1)
    )
    assert told["registered_by"] == {}


def test_the_commands_of_a_run_that_goes_on(place):
    """config.json keeps the first, summary.json has the one that ended it."""
    assert launch("--workdir=w", *TINY, "--config.max_steps=1").code == 0
    first = config_of(place / "w")["provenance"]
    assert launch("--workdir=w", "--config.max_steps=2").code == 0
    assert config_of(place / "w")["provenance"] == first
    assert (
        summary(place / "w")["provenance"]["command"]
        == "launch.py --workdir=w --config.max_steps=2"
    )


def git(folder, *args):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_of_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "package"
    here, other = package / "run" / "provenance.py", tmp_path / "README.md"
    here.parent.mkdir(parents=True)
    here.write_text("1\n")
    other.write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(here))
    assert provenance.commit() is None  # no repository
    git(tmp_path, "init")
    assert provenance.commit() is None  # one that it does not belong to
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "-m", "x")
    assert provenance.commit() is None  # nor does it yet
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "x")
    assert provenance.commit() == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    other.write_text("2\n")
    assert "dirty" not in provenance.commit()
    (package / "rules.py").write_text("not known to git\n")
    assert "dirty" not in provenance.commit()
    here.write_text("2\n")
    assert provenance.commit().endswith("-dirty")
    monkeypatch.setattr(provenance.shutil, "which", lambda _: None)  # no git
    assert provenance.commit() is None


# Words.


@pytest.mark.parametrize(
    "flag, said",
    [
        ("digits_dtp", "allowed: flags such as --config=digits_dtp; see"),
        ("mnist_mlp:dtp", "allowed: flags such as --config=mnist_mlp:dtp; see"),
        ("mine.py", "allowed: flags such as --config=mine.py; see"),
        ("mnist_mlp:d\np", "allowed: flags such as --config=FILE"),
        ("--seed=1", "did you mean --config.seed=1?"),
        ("--epochs=3", "did you mean --config.epochs=3?"),
        ("--lr=0.1", "did you mean --config.forward_lr=0.1 or --config.feedback_lr=0.1?"),
        (
            "--learning_rate=0.1",
            "did you mean --config.forward_lr=0.1 or --config.feedback_lr=0.1?",
        ),
        ("--config.leraning_rate=1", "did you mean forward_lr or feedback_lr?"),
        ("--config.lr=1", "did you mean forward_lr or feedback_lr?"),
        ("--config.learning_rate=1", "did you mean forward_lr or feedback_lr?"),
        ("--config.sigma=1", "did you mean noise?"),
        ("--config.model=lenet", "did you mean network?"),
        ("--config.forward_learning_rate=1", "did you mean forward_lr?"),
        ("--config.epoch=1", "did you mean epochs?"),
        ("--config.iterations=1", "did you mean feedback_iterations?"),
        ("--config.weight_deacy=1", "did you mean weight_decay?"),
        ("--config.zzz=1", "allowed: rule, network"),
    ],
)
def test_suggestions(place, flag, said):
    found = launch(flag)
    assert (
        found.code == 2 and said in found.err and "alternate" not in found.err.split("allowed")[0]
    )


@pytest.mark.parametrize(
    "flags, said",
    [
        (
            ["channels=8"],
            "config.channels is (8,), which makes 1 feedback map (fc), but noise has 2 and feedback_lr "
            "has 2 values; allowed: as many maps as values, or --config.noise and --config.feedback_lr",
        ),
        (
            ["network=mlp", "channels=()", "hidden=4,4,4"],
            "config.channels is (), which makes 3 feedback maps (fc2, fc3, fc4), but noise has 2",
        ),
        (
            ["channels=8", "noise=.1,.2"],
            "config.noise is (0.1, 0.2); allowed: 1 value, or 1: one for",
        ),
        (
            ["noise=.1,.2,.3"],
            "config.noise is (0.1, 0.2, 0.3); allowed: 1 value, or 2: one for each",
        ),
    ],
)
def test_the_field_that_is_wrong_is_blamed(place, flags, said):
    found = launch(*(f"--config.{flag}" for flag in flags))
    assert found.code == 2 and re.sub(r"\s+", " ", found.err).startswith(f"error: {said}")


def test_parse_is_what_the_tools_share():
    found = cli.parse(["x", "--config=digits_dtp", "--config.seed=4", "--workdir=w"])
    assert found.overridden == ("seed",) and found.request.config == "digits_dtp"
    assert found.request.command == "x --config=digits_dtp --config.seed=4 --workdir=w"


def test_the_config_is_in_metrics_and_tensorboard(place, monkeypatch):
    """First of all, and again only from where it has changed."""
    from dtp_jax.run.trackers.tensorboard import Board

    shown = []
    monkeypatch.setattr(Board, "_show_config", lambda self, config: shown.append(dict(config)))
    args = ("--workdir=w", *TINY, "--config.checkpoint_every=1")
    assert launch(*args, "--config.max_steps=2").code == 0
    (first,) = rows(place / "w", "config")
    assert json.loads((place / "w" / "metrics.jsonl").read_text().splitlines()[0]) == first
    assert (first["step"], first["epoch"]) == (0, 0)
    saved = config_of(place / "w")
    assert (
        first["config"]
        == {name: saved[name] for name in FIELDS}
        == shown[0]
        | {name: list(value) for name, value in shown[0].items() if isinstance(value, tuple)}
    )
    shutil.rmtree(place / "w" / "checkpoints" / "2")
    (place / "w" / "summary.json").unlink()
    assert launch(*args, "--config.max_steps=2").code == 0  # nothing has changed
    assert len(rows(place / "w", "config")) == 1 and len(shown) == 2
    assert launch(*args, "--config.max_steps=3").code == 0
    assert [row["step"] for row in rows(place / "w", "config")] == [0, 2]


def test_rates_and_speed_have_a_line_of_every_epoch(place):
    fields = ("--config.block_forward_lr=.01,.02,.03", "--config.feedback_lr=.01,.02")
    assert (
        launch("--workdir=w", *TINY, *fields, "--config.epochs=2", "--config.log_every=50").code
        == 0
    )
    ends = rows(place / "w", "epoch")
    assert [(row["step"], row["epoch"]) for row in ends] == [(39, 1), (78, 2)]
    for row, share in zip(ends, (1.0, 0.5), strict=True):  # the cosine of two epochs, at 0 and 1
        for block, rate in (("conv_0", 0.01), ("conv_1", 0.02), ("fc", 0.03)):
            assert row[f"forward_lr/{block}"] == pytest.approx(rate * share, rel=1e-3)
        assert row["feedback_lr/conv_1"] == 0.01 and row["feedback_lr/fc"] == 0.02
        assert row["images_per_second"] > 0


@pytest.mark.parametrize(
    "body", ["raise OSError(8, 'no program')", "raise subprocess.TimeoutExpired('git', 1)"]
)
def test_a_git_that_does_not_run_or_end_is_no_commit(monkeypatch, body):
    def run(*args, **options):
        assert options["timeout"] == provenance.GIT_SECONDS
        exec(body)

    monkeypatch.setattr(provenance.subprocess, "run", run)
    monkeypatch.setattr(provenance.shutil, "which", lambda name: "/usr/bin/git")
    assert provenance.commit() is None


def test_a_git_that_distrusts_the_folder_is_no_commit(monkeypatch, tmp_path):
    """As where the checkout is somebody else's: git fails, and says why on stderr."""
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho fatal: detected dubious ownership >&2\nexit 128\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() is None
    git.unlink()
    assert provenance.commit() is None


@pytest.mark.parametrize(
    "saved, said",
    [
        ({"items": 3}, "config.items: no such field"),
        ({"a.b": 3}, "config.a.b: no such field"),
        ({"provenance": ["x"], "rule": "none"}, "--config is 'c.json', which has a malformed"),
        ({"extended": [{"x": 1}]}, "--config is 'c.json', which says extended is "),
        ({"rule": ["ldrl"]}, "--config is 'c.json', which has the rule ['ldrl']; allowed: text"),
        ({"epochs": {"a": 1}}, "--config is 'c.json', which says epochs is {'a': 1}; "),
        ({"channels": [[1]]}, "--config is 'c.json', which says channels is "),
    ],
)
def test_a_config_json_that_nobody_has_written(place, saved, said):
    fields = cli.parse(["x", "--config=digits_dtp"]).config
    (place / "c.json").write_text(json.dumps({**fields, **saved}))
    found = launch("--config=c.json", "--workdir=w")
    assert found.code == 2 and f"error: {said}" in found.err and found.err.count("\n") == 1
    (place / "c.json").write_text("[" * 100_000)
    found = launch("--config=c.json")
    assert found.code == 2 and found.err.startswith("error: --config is 'c.json', which ")
