"""The command line: what it refuses and how, its exit codes, and what it says."""

import ast
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import data_files
import pytest
from helpers import REPOSITORY, slow
from launching import (
    TINY,
    assert_same_run,
    checkpoint_steps,
    finish,
    launch,
    rows,
    start,
    summary,
    tree,
    wait_for_lines,
)

from dtp_jax.data import download
from dtp_jax.run import cli
from dtp_jax.version import __version__

pytest_plugins = ["run_fixtures"]

FIRST_LINE = f"dtp-jax {__version__}: starting JAX"
CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))


def config_file(
    place, name="own.py", body="config = config_dict.ConfigDict({})\n    return config"
):
    file = place / name
    file.write_text(f"from ml_collections import config_dict\n\ndef get_config():\n    {body}\n")
    return file


def refused(place, *args):
    """Runs something invalid; checks all that holds for everything invalid. Returns the message."""
    before, cpu = tree(place.parent), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = launch(*args)
    assert found.code == 2
    assert found.out == ""
    assert 1 <= len(found.err.splitlines()) <= 2 and found.err.startswith("error: ")
    assert "Traceback" not in found.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu < 3
    assert tree(place.parent) == before
    return found.err


@pytest.mark.parametrize(
    "args, said",
    [
        (["--config.epohcs=3"], ["epohcs", "did you mean epochs"]),
        (["--config.epohcs", "3"], ["epohcs", "did you mean epochs"]),
        (["--config.qqq=3"], ["qqq", "allowed: rule, network"]),
        (["--config.noise.x=3"], ["noise.x", "did you mean noise"]),
        (["--config.epochs=abc"], ["config.epochs", "'abc'", "allowed: a whole number"]),
        (["--config.epochs=1.5"], ["config.epochs", "1.5", "allowed: a whole number"]),
        (["--config.epochs=0"], ["config.epochs", "0", "allowed: a whole number, 1 or more"]),
        (["--config.epochs="], ["config.epochs", "''", "allowed"]),
        (["--config.epochs"], ["config.epochs", "allowed"]),
        (["--config.seed=-2"], ["config.seed", "-2", "allowed"]),
        (["--config.forward_lr=fast"], ["config.forward_lr", "'fast'", "allowed: a finite number"]),
        (["--config.forward_lr=nan"], ["config.forward_lr", "nan", "allowed: a finite number"]),
        (["--config.forward_lr=inf"], ["config.forward_lr", "inf", "allowed: a finite number"]),
        (["--config.forward_lr=-1"], ["config.forward_lr", "-1", "allowed: a finite number"]),
        (["--config.augment=maybe"], ["config.augment", "'maybe'", "allowed: True or False"]),
        (
            ["--config.noise=0.1,0.2,0.3"],
            ["config.noise", "(0.1, 0.2, 0.3)", "allowed: 1 value, or 2", "conv_1, fc"],
        ),
        (["--config.noise=()"], ["config.noise", "()", "allowed"]),
        (
            ["--config.noise=-0.1,0.2"],
            ["config.noise", "(-0.1, 0.2)", "allowed: finite numbers above 0"],
        ),
        (["--config.noise=loud"], ["config.noise", "loud", "allowed: finite numbers above 0"]),
        (
            ["--config.feedback_iterations=1.5"],
            ["config.feedback_iterations", "1.5", "allowed: whole numbers"],
        ),
        (["--config.feedback_lr=0.1,x"], ["config.feedback_lr", "x", "allowed: finite numbers"]),
        (["--config.rule=dpt"], ["config.rule", "'dpt'", "allowed: one of ldrl, dtp, tp"]),
        (["--config.network=vgg"], ["config.network", "'vgg'", "simple_vgg"]),
        (["--config.dataset=digit"], ["config.dataset", "'digit'", "digits", "cifar10"]),
        (["--config.schedule=exp"], ["config.schedule", "'exp'", "cosine"]),
        (
            ["--config.channels=4,8,16,32,64"],
            ["config.network", "simple_vgg", "0x0", "allowed: fewer"],
        ),
        (["--config.hidden=4"], ["config.hidden", "(4,)", "allowed: ()"]),
        (["--config.batch_size=5000"], ["config.batch_size", "5000", "allowed: 1 to 1257"]),
        (["--config.batch_size=1258"], ["config.batch_size", "1258", "allowed: 1 to 1257"]),
        (
            ["--config.val_split=1"],
            ["config.val_split", "1.0", "allowed: a number from 0 to below 1"],
        ),
        (["--config.val_split=1e-9"], ["config.val_split", "1e-09", "1437", "allowed"]),
        (
            ["--config=none.py"],
            ["--config", "'none.py'", "does not exist", "digits_dtp"],
        ),
        (["--config", "none.py:x"], ["--config", "'none.py:x'", "does not exist"]),
        (["--config="], ["--config", "''", "allowed"]),
        (["--config"], ["--config", "''", "allowed"]),
        (["--config=."], ["--config", "'.'", "no Python file"]),
        (["train"], ["argument 'train'", "allowed", "--help"]),
        (
            ["--config.seed=1", "configs/digits_dtp.py"],
            ["argument 'configs/digits_dtp.py'", "allowed"],
        ),
        (["--sede=1"], ["sede", "--help"]),
        (["--flagfile=none"], ["flagfile", "allowed"]),
        (["--workdir"], ["workdir", "allowed"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith(("-", "t")) else "",
)
def test_invalid_flags(place, args, said):
    message = refused(place, *args)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "args, said",
    [
        (
            ["--workdir=gs://bucket/run"],
            ["--workdir is 'gs://bucket/run'", "allowed: a local path"],
        ),
        (["--workdir=file:///x"], ["--workdir is 'file:///x'", "allowed: a local path"]),
        (["--workdir=s3:/x"], ["--workdir is 's3:/x'", "allowed: a local path"]),
        (["--config=gs://b/c.json"], ["--config is 'gs://b/c.json'", "allowed: a local path"]),
        (["--config=gs://b/c.py"], ["--config is 'gs://b/c.py'", "allowed: a local path"]),
        (["--config=gs://b/c.py:x"], ["--config is 'gs://b/c.py'", "allowed: a local path"]),
        (["--plugin=gs://b/c.py"], ["--plugin is 'gs://b/c.py'", "allowed: a local path"]),
        (["--config.data_dir=gs://b"], ["config.data_dir is 'gs://b'", "allowed: a local path"]),
        (
            ["--workdir=~nosuchuser/x"],
            ["--workdir is '~nosuchuser/x'", "allowed: a path without ~"],
        ),
        (
            ["--config=~nosuchuser/x.py"],
            ["--config is '~nosuchuser/x.py'", "allowed: a path without ~"],
        ),
        (
            ["--config.data_dir=~nosuchuser"],
            ["config.data_dir is '~nosuchuser'", "a path without ~"],
        ),
        (["--workdir="], ["--workdir is ''", "allowed: "]),
        (["--workdir", "--config=digits_dtp"], ["--workdir is ''", "allowed: "]),
        (["--workdir=a\0b"], [r"--workdir is 'a\x00b'", "allowed: "]),
        (["--workdir=a\nb"], [r"--workdir is 'a\nb'", "allowed: "]),
        (["--workdir=a\udcffb"], [r"--workdir is 'a\udcffb'", "allowed: "]),
        (["--config=" + "x" * 300], ["--config is 'xxx", "File name too long"]),
        (["--config=" + "x" * 300 + ".json"], ["--config is 'xxx", "File name too long"]),
        (["--plugin=a\0.py"], [r"--plugin is 'a\x00.py'", "allowed: "]),
        (["--config.x\ny=3"], [r"config.'x\ny'", "no such field"]),
        (["--x\ny=3"], [r"'--x\ny' is no flag", "allowed: "]),
        (["--config.epochs=" + "1" * 5000], ["config.epochs is '111", "allowed: a whole number"]),
        (
            ["--config.channels=" + "4," * 9999 + "4"],
            ["config.channels is 10000 values", "allowed"],
        ),
        (["--config.epochs=100000000000", "--config.max_steps=1"], ["config.epochs", "32 bits"]),
        (["--config.t_max=2147483648"], ["config.t_max", "32 bits"]),
        (["--config.epochs=2147483647"], ["config.epochs", "--config.max_steps=N"]),
        (["--noconfig.bias=True"], ["--noconfig.bias is 'True'", "allowed: "]),
        (["--noconfig.seed"], ["config.seed", "allowed: a whole number"]),
        (["--config.seed", "--config.epochs=1"], ["config.seed: its value is missing; allowed"]),
        (["--processes=x"], ["--processes is 'x'; allowed: a whole number"]),
        (["--take-over=maybe"], ["--take-over is 'maybe'; allowed: True or False"]),
        (["--undefok=x"], ["--undefok is no flag"]),
    ],
    ids=lambda value: ascii(value[0])[:40],
)
def test_what_nobody_means_is_a_line(place, args, said):
    message = refused(place, *args)
    for part in said:
        assert part in message


@pytest.mark.parametrize("path", ["loop", "loop/run", "dangling", "dangling/run"])
def test_links_that_lead_nowhere(place, path):
    for name, target in (("loop", "other"), ("other", "loop"), ("dangling", "nowhere")):
        (place / name).symlink_to(target)
    found = launch(f"--workdir={path}")
    assert found.code == 2 and found.out == "" and found.err.count("\n") == 1
    assert f"--workdir is {path!r}; allowed: a writable folder; " in found.err
    assert {file.name for file in place.iterdir()} == {"loop", "other", "dangling"}


@pytest.mark.parametrize(
    "args, name, expected, recorded",
    [
        (["--config.channels=4,8", "--config.channels=2,2"], "channels", (2, 2), "=2,2"),
        (["--config.channels", "4,8", "--config.channels", "2,2"], "channels", (2, 2), "=2,2"),
        (["--config.channels=4,8", "--config.channels", "2,2"], "channels", (2, 2), "=2,2"),
        (["--config.channels=4,8", "--config.channels=()"], "channels", (), "=()"),
        (["-config.noise=1", "--config.noise=-2"], "noise", (-2.0,), "=-2"),
        (["--config.noise=1", "--config.noise", "-2"], "noise", (-2.0,), "=-2"),
        (["--noconfig.bias", "--config.bias"], "bias", True, ""),
        (["--config.bias", "--noconfig.bias"], "bias", False, None),
        (["--noconfig.bias", "--config.bias=True"], "bias", True, "=True"),
        (["--config.bias=True", "--config.bias", "False"], "bias", False, "=False"),
    ],
)
def test_the_last_of_a_flag_holds(place, args, name, expected, recorded):
    found = cli.parse(["x", *args])
    assert found.config[name] == expected
    told = f"--noconfig.{name}" if recorded is None else f"--config.{name}{recorded}"
    assert found.request.overrides == [told] and found.overridden == (name,)
    assert cli.parse(["x", *found.request.overrides]).config == found.config


def test_the_last_workdir_and_take_over_hold(place):
    found = cli.parse(["x", "--workdir=a", "--workdir", "b", "--take-over"])
    assert str(found.workdir.path) == "b" and found.take_over
    assert not cli.parse(["x", "--take-over", "--take-over=False"]).take_over


@pytest.mark.slow
def test_nobody_without_a_home_trains(place):
    """An unknown user without $HOME, as in a container."""
    program = (
        "import pwd, sys\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from dtp_jax.__main__ import train\n"
        "sys.exit(train(sys.argv[1:], 'x'))"
    )
    hidden = ("HOME", "USER", "LOGNAME", "DTP_JAX_CACHE", "XDG_CACHE_HOME")
    hidden += ("JAX_COMPILATION_CACHE_DIR",)
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program, *TINY, "--config.max_steps=1", "--workdir=w"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=place,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert summary(place / "w")["steps"] == 1


@pytest.mark.parametrize(
    "body, said",
    [
        ("raise ValueError('no luck\\ntoday')", ["ValueError", "no luck"]),
        ("raise SystemExit(0)", ["SystemExit"]),
        ("open('none')", ["FileNotFoundError", "'none'"]),
        ("return", ["returns None", "allowed: a ml_collections.ConfigDict"]),
        ("return 3 3", ["SyntaxError", "own.py, line 4"]),
        ("return config_dict.ConfigDict({'rule': 'ldrl'})", ["config.", "missing", "allowed"]),
    ],
)
def test_config_files_that_fail(place, body, said):
    message = refused(place, f"--config={config_file(place, body=body)}")
    for part in said:
        assert part in message


def test_a_config_file_without_get_config(place):
    (place / "own.py").write_text("config = 3\n")
    assert "'get_config'" in refused(place, "--config=own.py")
    assert "fails with TypeError" in refused(place, f"--config={config_file(place)}:argument")


def test_an_override_that_the_config_lacks(place):
    assert "config.seed: --config=own.py lacks it; allowed" in refused(
        place, "--config=own.py" if config_file(place) else "", "--config.seed=1"
    )


@pytest.mark.parametrize("path", ["file", "file/run", "file/new/run", "x" * 300, "/proc/run"])
def test_unwritable_workdirs(place, path):
    (place / "file").write_text("")
    if path.startswith("/") and not os.path.isdir("/proc"):
        pytest.skip("no /proc here")
    message = refused(place, f"--workdir={path}")
    assert f"--workdir is {path!r}" in message and "allowed: a writable folder" in message


def test_a_read_only_workdir(place):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (place / "locked").mkdir(mode=0o500)
    for path in ("locked", "locked/run"):
        assert "allowed: a writable folder" in refused(place, f"--workdir={path}")


def test_the_workdir_of_another_config(place):
    assert launch("--workdir=w", *TINY, "--config.max_steps=1").code == 0
    for option, said in (
        ("seed=1", "seed is 0, here it is 1"),
        ("noise=.3", "[0.2, 0.08], here it is [0.3, 0.3]"),
    ):
        message = refused(place, "--workdir=w", *TINY, "--config.max_steps=1", f"--config.{option}")
        assert (
            "'w'" in message
            and said in message
            and "allowed: a new folder, or the same config" in message
        )
    (place / "w" / "config.json").write_text("{")
    assert "its config.json cannot be read; allowed" in refused(place, "--workdir=w", *TINY)
    (place / "w" / "config.json").unlink()
    assert "no config.json" in refused(place, "--workdir=w", *TINY)


def test_batches_larger_than_the_data_on_disk(place):
    """The data set has fewer images than usual: 60, of which 6 are for validation."""
    data_files.write_npz(place / "data", "cifar10", *data_files.fake("cifar10"))
    message = refused(
        place, f"--config={REPOSITORY / 'configs' / 'cifar10_dtp.py'}", "--config.data_dir=data"
    )
    for part in ("config.batch_size", "128", "allowed: 1 to 54", "cifar10"):
        assert part in message


def no_data(place, *args):
    """Runs without usable data; checks all that holds then. Returns the message."""
    before, cpu = tree(place.parent), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = launch("--workdir=w", *args)
    assert found.code == 3 and "Traceback" not in found.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu < 3
    assert tree(place.parent) == before
    return found.err


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_data_that_is_not_there(place, monkeypatch, name):
    """The host of the download refuses connections."""
    gone = {
        key: remote._replace(url="http://127.0.0.1:9/x.tar.gz")
        for key, remote in download.REMOTES.items()
    }
    monkeypatch.setattr(download, "REMOTES", gone)
    monkeypatch.setenv("DTP_JAX_DATA", str(place / "data"))
    message = no_data(place, f"--config.dataset={name}", "--config.data_dir=here")
    for part in (
        name,
        "here (--config.data_dir): does not exist",
        f"{place / 'data'} ($DTP_JAX_DATA)",
        "not set: $TFDS_DATA_DIR",
        "tensorflow_datasets",
        f"{name}.npz",
    ):
        assert part in message
    assert "Download of http://127.0.0.1:9" in message


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_corrupt_data(place, damage):
    """Cut off in the middle; with a wrong bit, that only reading shows; no images at all."""
    file = data_files.write_npz(place / "data", "cifar10", *data_files.fake("cifar10"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(
        {"cut": content[: len(content) // 2], "flip": content, "other": b"not a zip file"}[damage]
    )
    message = no_data(
        place,
        f"--config={REPOSITORY / 'configs' / 'cifar10_dtp.py'}",
        "--config.data_dir=data",
        "--config.batch_size=8",
    )
    assert "cifar10.npz is corrupt" in message and "--config.data_dir" in message


def test_help(place):
    for flag in ("--help", "-h"):
        found = launch("--config=none.py", flag)
        assert found.code == 0 and found.err == "" and found.out.startswith("What launch.py does.")
        assert all(
            flag in found.out
            for flag in (
                "--config=CONFIG",
                "--config.FIELD=VALUE",
                "--workdir=DIR",
                "--plugin=FILE",
            )
        )
        for file in CONFIGS:
            summary_line = ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]
            assert re.search(
                rf"^ +{file.stem} +{re.escape(summary_line)}$", found.out, re.MULTILINE
            )
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_is_valid(place, monkeypatch, file):
    """They all get as far as to look for their data."""
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "not now")
    monkeypatch.setattr(cli, "train", lambda *_: 0)
    found = launch(f"--config={file}")
    assert found.code == (0 if "digits" in file.stem else 3), found.err


def test_the_quick_start(place):
    """Without any flag but for a shorter run; what is shown is what runs."""
    found = launch(*TINY, "--config.max_steps", "2", "--noconfig.diagnostics")
    assert found.code == 0 and found.err == ""
    (workdir,) = (place / "runs" / "digits_dtp").iterdir()
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}", workdir.name)
    screen = re.sub(r"\s+", " ", found.out)
    for part in (
        "config digits_dtp",
        *TINY,
        "--config.max_steps=2",
        "--noconfig.diagnostics",
        "ldrl",
        "simple_vgg",
        "conv_1",
        "2x2x8",
        "296",
        "292",
        "digits: embedded in scikit-learn",
        "cpu",
        "mesh",
        f"runs/digits_dtp/{workdir.name}",
        "test_accuracy",
    ):
        assert part in screen
    assert summary(workdir)["steps"] == 2
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
    }


def test_overrides_may_stand_before_the_config(place):
    args = (
        "--config.seed=4",
        f"--config={REPOSITORY / 'configs' / 'digits_backprop.py'}",
        "--config.seed=5",
    )
    found = cli.parse(["launch.py", *args, "--workdir", "~/w"])
    assert found.config["seed"] == 5 and found.config["rule"] == "backprop"
    assert found.request.overrides == ["--config.seed=5"]
    assert found.workdir.path == place.parent / "home" / "w"


def test_a_run_can_be_run_again_from_its_config_json(place, reference):
    """Only config.json is left of it, and the other defaults have changed since."""
    folder, _ = reference
    (place / "old").mkdir()
    (place / "old" / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert launch("--config=old/config.json", "--workdir=w").code == 0
    assert_same_run(place / "w", folder)
    again, before = (json.loads((f / "config.json").read_text()) for f in (place / "w", folder))
    assert again.pop("provenance")["config"] == "old/config.json"
    assert before.pop("provenance")["config"] == "digits_dtp"
    assert again == before
    found = cli.parse(["launch.py", "--config=old/config.json", "--config.noise=0.5"])
    assert found.config["noise"] == (0.5,) and found.config["channels"] == (4, 8)
    assert found.workdir.path.parent.name == "digits_dtp"
    assert "No such file" in refused(place, "--config=none.json")
    assert "did you mean old/config.json" in refused(place, "--config=old")


def test_a_seed_is_drawn_once(place, monkeypatch):
    """It is written down; the same command goes on with it, another folder has another one."""
    drawn = iter([17, 18, 19])
    monkeypatch.setattr("secrets.randbelow", lambda most: next(drawn) % most)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")  # adds nothing to what is drawn
    flags = (*TINY, "--config.epochs=1", "--config.max_steps=2", "--config.seed=-1")
    assert "seed 17, drawn" in launch(*flags, "--workdir=a").out
    assert summary(place / "a")["seed"] == 17
    again = launch(*flags, "--workdir=a")
    assert again.code == 0 and "this run is finished" in again.out
    assert launch(*flags, "--workdir=b").code == 0
    configs = [json.loads((place / name / "config.json").read_text()) for name in "ab"]
    assert configs[0]["seed"] == 17 and configs[1]["seed"] in (18, 19)


@pytest.mark.slow
def test_a_task_of_an_array_has_its_own_seed(place, monkeypatch):
    """Unless one is given, or the job was submitted with one; a run that goes on keeps its own."""
    flags = (*TINY, "--config.epochs=1", "--config.max_steps=1")

    def seed(name):
        return json.loads((place / name / "config.json").read_text())["seed"]

    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    found = launch(*flags, "--workdir=own")
    assert "seed 3: 0 and the number of this task, $SLURM_ARRAY_TASK_ID" in found.out
    assert launch(*flags, "--workdir=given", "--config.seed=7").code == 0
    assert (seed("own"), seed("given")) == (3, 7)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    on = launch(*TINY, "--config.epochs=1", "--config.max_steps=2", "--workdir=own")
    assert on.code == 0 and "seed 3, as the run began" in on.out and seed("own") == 3
    monkeypatch.setenv("DTP_JAX_SUBMITTED", "1")
    assert launch(*flags, "--workdir=submitted").code == 0 and seed("submitted") == 0
    monkeypatch.delenv("DTP_JAX_SUBMITTED")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "three")
    assert "$SLURM_ARRAY_TASK_ID is 'three'; allowed: a whole number" in refused(place, *flags)


def test_processes_of_their_own(place):
    """Exit codes and streams as a shell sees them, within 5 s of processor time."""
    for args, code, said in (
        (["--config.rule=dpt"], 2, "error: config.rule is 'dpt'; allowed: one of ldrl, dtp, tp"),
        (["--config.dataset=imagenet32", "--config.batch_size=8"], 3, "imagenet32: no data found"),
        (["--help"], 0, "digits_dtp"),
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = finish(start(*args))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
        assert found.code == code
        said_there, silent = (found.err, found.out) if code else (found.out, found.err)
        # Only the first line, from before JAX is imported, goes to where nothing else does.
        assert said in said_there and silent == (f"{FIRST_LINE}\n" if code else "")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM,), slow((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))],
    ids=["one", "all"],
)
def test_stopped_by_every_signal(place, numbers):
    """One after the other: the same bits as a run left in peace."""
    args = (
        *TINY,
        "--config.epochs=100000",
        "--config.diagnostics=False",
        "--config.checkpoint_every=7",
    )
    for number in numbers:
        process = start("--workdir=w", *args)
        wait_for_lines(process, place / "w", 12)
        process.send_signal(number)
        found = finish(process)
        assert found.err == "" and not (place / "w" / "summary.json").exists()
        if number == signal.SIGKILL:
            assert found.code == -number
            continue
        assert found.code == 128 + number
        step, saved = re.search(
            r"stopped after step (\d+) of \d+; saved in (\S+);", found.out
        ).groups()
        assert saved == f"w/checkpoints/{step}" and "--workdir=w" in found.out
        assert checkpoint_steps(place / "w")[-1] == int(step) == rows(place / "w")[-1]["step"]
    end = f"--config.max_steps={rows(place / 'w')[-1]['step'] + 10}"
    found = finish(start("--workdir=w", *args, end))
    assert found.code == 0 and "going on from step" in found.out
    assert launch("--workdir=peace", *args, end).code == 0
    assert_same_run(place / "w", place / "peace")


STUBBORN = """
import ctypes, sys
from dtp_jax.run.signals import StopSignals

with StopSignals(lambda line: print(line, flush=True), lambda: print("abandoned", flush=True)) as received:
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(60)  # returns early at a signal, but not to the interpreter's handlers
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number):
    """Also while the main thread is in compiled code."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert (
        process.stdout.readline()
        == "stopping after this chunk of steps; once more to stop at once\n"
    )
    process.send_signal(number)
    found = finish(process, timeout=30)
    assert found.code == 128 + number and found.out == "abandoned\n"


def test_a_signal_before_the_first_step(place, monkeypatch):
    """While there is nothing to save, one is enough; handlers are as they were afterwards."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        monkeypatch.setattr(
            "dtp_jax.run.assemble.load_splits",
            lambda *_, number=number, **__: os.kill(os.getpid(), number),
        )
        found = launch("--workdir=w", *TINY)
        assert (
            found.code == 128 + number and "Traceback" not in found.err and "stopped" in found.err
        )
    assert list(place.iterdir()) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_bugs_are_not_taken_for_invalid_input(place, monkeypatch):
    def broken(*_):
        raise ValueError("shapes do not match")

    monkeypatch.setattr("dtp_jax.run.loop.Run.run", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        launch("--workdir=w", *TINY)


@pytest.mark.parametrize(
    "args, words",
    [
        (
            ["--config.data_parallel=3"],
            ["config.data_parallel is 3", "divisors of the batch_size 32"],
        ),
        (["--config.layer_parallel=64"], ["config.layer_parallel is 64", "the number of devices"]),
        (["--config.layer_parallel=0"], ["config.layer_parallel is 0", "1 or more"]),
        (["--config.precision=half"], ["config.precision is 'half'", "float32, tf32, bfloat16"]),
        (["--processes=2"], ["--processes is 2", "--coordinator"]),
        (["--coordinator=a:1", "--processes=2", "--process=0"], ["--workdir is missing"]),
        (
            [
                "--coordinator=a:1",
                "--processes=2",
                "--process=0",
                "--workdir=w",
                "--config.seed=-1",
            ],
            ["config.seed is -1", "0 or more with several processes"],
        ),
    ],
    ids=lambda value: value[0] if value[0].startswith("-") else "",
)
def test_mesh_and_cluster_errors(place, args, words):
    found = launch(*TINY, *args)
    assert found.code == 2 and found.err.count("\n") == 1
    assert all(word in found.err for word in words), found.err
    assert not list(place.iterdir())


@pytest.mark.slow
def test_mesh_on_the_screen_and_the_same_numbers(place):
    args = ("--config.epochs=1", "--config.max_steps=6")
    assert launch("--workdir=one", *TINY, *args).code == 0
    mesh = ("--config.data_parallel=2", "--config.layer_parallel=2")
    found = launch("--workdir=four", *TINY, *args, *mesh)
    assert found.code == 0
    said = " ".join(found.out.split())
    # By hand: 2 * 16 * 8 * 9 * 4 of conv_1 against 2 * 32 * 10 of fc.
    assert "2 data-parallel x 2 layer-parallel; conv_1 is 94% of the feedback training" in said
    one, four = (rows(place / name)[-1] for name in ("one", "four"))
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("place_images", ["device", "host"])
def test_a_run_goes_on_on_another_mesh(place, place_images):
    """From four devices to one and back, with no step done twice and the numbers of one device."""
    args = ("--config.epochs=1", "--config.max_steps=6", "--config.checkpoint_every=2")
    args += ("--config.keep_checkpoints=5",)
    args += (f"--config.images_on={place_images}",)
    mesh = ("--config.data_parallel=2", "--config.layer_parallel=2")
    assert launch("--workdir=one", *TINY, *args).code == 0
    assert launch("--workdir=moved", *TINY, *args, *mesh).code == 0
    for newest, devices in ((6, ()), (4, mesh)):
        (place / "moved" / "summary.json").unlink()
        shutil.rmtree(place / "moved" / "checkpoints" / str(newest))
        found = launch("--workdir=moved", *TINY, *args, *devices)
        assert found.code == 0, found.err
        assert f"going on from step {newest - 2} of 6" in found.out
        shutil.rmtree(place / "moved" / "checkpoints" / "6")
    one, moved = (rows(place / name)[-1] for name in ("one", "moved"))
    assert moved["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert not list((place / "moved" / "checkpoints").glob("damaged*"))


@pytest.mark.slow
def test_export_of_a_run_on_a_mesh_from_one_device(place):
    """In a process of its own: the devices of the run are not there any more."""
    args = ("--config.epochs=1", "--config.max_steps=2", "--config.data_parallel=2")
    assert launch("--workdir=two", *TINY, *args).code == 0
    done = subprocess.run(
        [sys.executable, "-m", "dtp_jax.export", str(place / "two"), str(place / "w.safetensors")],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
