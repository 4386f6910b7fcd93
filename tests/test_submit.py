"""--submit: what it refuses, the script that it sends, and jobs that run, save, are queued again and go on.

Slurm is a stand-in (slurm_stand_in.py); submitit, the runs and their signals are real.
"""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
import slurm_stand_in
from helpers import REPOSITORY
from launching import TINY, assert_same_run, launch, summary

from dtp_jax.__main__ import main
from dtp_jax.submit import command, jobs, local, options

pytest_plugins = ["run_fixtures"]
SLURM = ("--submit=slurm", "--submit.time=10")
SHORT = (*TINY, "--config.epochs=1", "--config.max_steps=6")


@pytest.fixture
def slurm(place, monkeypatch):
    """The folder of the stand-in's jobs."""
    as_here(monkeypatch, jax.device_count())
    folder = slurm_stand_in.install(place.parent / "slurm", monkeypatch)
    yield folder
    slurm_stand_in.clear(folder)


def as_here(monkeypatch, devices):
    """What processes that tests start compute with: the same programs as here."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(devices))


def dtp(*args):
    """The command in this process -> (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(args))
    return code, out.getvalue(), err.getvalue()


def until(condition, seconds=120):
    """Waits for something, and returns it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)
    return found


def exit_code(folder, name):
    """Of a job of the stand-in, once it has ended."""
    file = folder / f"{name}.exit"
    until(file.exists)
    return int(file.read_text())


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def says_epoch(log, count):
    """Whether a log tells of so many ends of epochs."""
    return len([line for line in lines(log) if line.startswith("epoch ")]) >= count


@pytest.mark.parametrize(
    "text, minutes",
    [
        ("1", 1),
        ("90", 90),
        ("4:00:00", 240),
        ("04:00:00", 240),
        ("00:00:30", 1),
        ("0:59:01", 60),
        ("100:00:00", 6000),
        ("1-00:00:00", 1440),
        ("7-12:30:00", 7 * 1440 + 750),
    ],
)
def test_times(text, minutes):
    assert options.read([("submit", "slurm"), ("submit.time", text)]).time == minutes


@pytest.mark.parametrize(
    "text", ["", "0", "4:00", "1-12", "1-4:00", "1-24:00:00", "0:60:00", "4h", "-5", "0:00:00", "1.5"]
)
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="submit.time is .*; allowed: minutes, HH:MM:SS or D-HH:MM:SS"):
        options.read([("submit", "slurm"), ("submit.time", text)])


@pytest.mark.parametrize(
    "args, said",
    [
        (["--submit=slrum"], "--submit is 'slrum'; allowed: slurm or local"),
        (["--submit"], "--submit is ''; allowed: --submit=VALUE"),
        (["--submit.time=10"], "--submit is ''; allowed: slurm or local"),
        (["--submit=slurm"], "--submit.time is missing; allowed: minutes"),
        ([*SLURM, "--submit.gpu=1"], "--submit.gpu is no flag; allowed"),
        ([*SLURM, "--submit.gpus=two"], "--submit.gpus is 'two'; allowed: a number"),
        ([*SLURM, "--submit.nodes=0"], "--submit.nodes is '0'; allowed: a whole number, 1 or more"),
        ([*SLURM, "--submit.memory=64"], "--submit.memory is '64'; allowed: a number and K, M"),
        ([*SLURM, "--submit.partition=a b"], "--submit.partition is 'a b'; allowed: a word"),
        ([*SLURM, "--submit.grace=600"], "--submit.grace is 600; allowed: less than the 600 s"),
        ([*SLURM, "--submit.extra.signal=x"], "submit.extra.signal is given already, by submit.grace"),
        ([*SLURM, "--submit.setup=a\nb"], "--submit.setup is 'a\\nb'; allowed: a line of shell"),
        ([*SLURM, "--submit.print=yes"], "--submit.print is 'yes'; allowed: --submit.print alone"),
        ([*SLURM, "--submit-file=none.toml"], "--submit-file is 'none.toml'; allowed: a TOML file"),
        (["--submit=local", "--submit.nodes=2"], "--submit.nodes is 2; allowed: 1 with"),
        (["--submit=local", "--submit.print"], "--submit.print prints the script for sbatch"),
        ([*SLURM, "--config.epochs=0"], "config.epochs is 0; allowed: a whole number, 1 or more"),
        ([*SLURM, "--config.epohcs=3"], "config.epohcs: no such field; did you mean epochs"),
        ([*SLURM, "--config=nix"], "--config is 'nix', which does not exist"),
        ([*SLURM, "--workdir=file"], "--workdir is 'file'; allowed: a writable folder"),
        ([*SLURM, "--submit.nodes=2"], "--workdir is missing; allowed: a folder that all nodes see"),
        (
            [*SLURM, "--submit.nodes=2", "--workdir=w", "--config.seed=-1"],
            "config.seed is -1; allowed: 0 or more on several nodes",
        ),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_what_is_not_valid_is_refused_and_nothing_sent(slurm, place, args, said):
    (place / "file").write_text("")
    code, out, err = dtp("train", *args)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert said in err
    assert not list(slurm.iterdir()) and [path.name for path in place.iterdir()] == ["file"]


def test_a_comparison_that_is_not_valid_is_not_sent(slurm, place):
    code, out, err = dtp("compare", "--configs=digits_dtp,digits_dtp[beta=-1]", *SLURM)
    assert (code, out) == (2, "") and "config.beta is -1" in err and err.count("\n") == 1
    assert not list(slurm.iterdir()) and not list(place.iterdir())


@pytest.mark.parametrize(
    "text, said",
    [
        ("time = ", "--submit-file is 'c.toml'; allowed: a TOML file; "),
        ("gpu = 1", "c.toml: gpu is no key; allowed: partition, time, gpus, nodes"),
        ("gpus = true", "c.toml: gpus is True; allowed: text or a whole number"),
        ("gpus = 1.5", "c.toml: gpus is 1.5; allowed: text or a whole number"),
        ("time = '4h'", "c.toml: time is '4h'; allowed: minutes, HH:MM:SS"),
        ("extra = 3", "c.toml: extra is no table; allowed: [extra]"),
        ("[extra]\nMAIL = 'x'", "c.toml: extra.MAIL is no parameter of sbatch"),
        ("[extra]\nexclusive = false", "c.toml: extra.exclusive is False; allowed: text"),
    ],
)
def test_files_of_options_that_are_not_valid(slurm, place, text, said):
    (place / "c.toml").write_text(text)
    code, out, err = dtp("train", *SLURM, "--submit-file=c.toml")
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert not list(slurm.iterdir())


def test_flags_win_over_the_file(place):
    (place / "c.toml").write_text(
        'partition = "gpu"\ntime = 04:00:00\ngpus = 2\nmemory = "64G"\n'
        'setup = ["module load cuda", "ulimit -c 0"]\n[extra]\nmail-type = "END"\nexclusive = true\n'
    )
    flags, others = options.split(
        ["--config=x", "--submit", "slurm", "--submit-file=c.toml", "--submit.gpus", "a100:4"]
    )
    found = options.read(flags)
    assert others == ["--config=x"]
    assert (found.partition, found.time, found.memory) == ("gpu", 240, "64G")
    assert (found.gpus, found.gpu_count) == ("a100:4", 4)
    assert found.setup == ("module load cuda", "ulimit -c 0")
    assert found.extra == {"mail-type": "END", "exclusive": True}


def test_every_flag_arrives_in_the_script(place):
    """Printed also where there is no Slurm. Printing leaves nothing behind."""
    code, script, err = dtp(
        "train",
        "--workdir=w",
        "--submit=slurm",
        "--submit.time=1-02:00:00",
        "--submit.partition=gpu,long",
        "--submit.gpus=a100:2",
        "--submit.nodes=2",
        "--submit.cpus=8",
        "--submit.memory=64G",
        "--submit.account=lab",
        "--submit.qos=high",
        "--submit.constraint=a100&ib",
        "--submit.name=mine",
        "--submit.grace=300",
        "--submit.setup=module load cuda",
        "--submit.setup=ulimit -c 0",
        "--submit.extra.mail-type=END,FAIL",
        "--submit.extra.comment=it's mine",
        "--submit.print",
    )
    assert (code, err) == (0, "") and not list(place.iterdir())
    logs = place / "w" / "submitted"
    assert slurm_stand_in.parameters(script) == {
        "account": "lab",
        "comment": "it's mine",
        "constraint": "a100&ib",
        "cpus-per-task": "8",
        "error": f"{logs}/%j_0_log.err",
        "gpus-per-node": "a100:2",
        "job-name": "mine",
        "mail-type": "END,FAIL",
        "mem": "64G",
        "nodes": "2",
        "ntasks-per-node": "1",
        "open-mode": "append",
        "output": f"{logs}/%j_0_log.out",
        "partition": "gpu,long",
        "qos": "high",
        "requeue": "",
        "signal": "USR2@300",
        "time": "1560",
    }
    body = script[script.index("# setup") :].splitlines()
    assert body[1] == "# dtp train --workdir=w"
    assert body.index("export DTP_JAX_SUBMITTED=1") < body.index("module load cuda")
    assert body[body.index("module load cuda") + 1] == "ulimit -c 0"
    assert body[-1].startswith("srun --unbuffered ") and "--cpus-per-task=8" in body[-1]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_no_slurm_here(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    code, out, err = dtp("train", *SLURM, "--workdir=w")
    assert (code, out) == (2, "") and not list(place.iterdir())
    assert err == "error: --submit is 'slurm'; allowed: where Slurm's sbatch is found; or local\n"


def test_slurm_refuses(slurm, place):
    (place.parent / "slurm/bin/sbatch").write_text("#!/bin/sh\necho 'invalid account' >&2\nexit 1\n")
    code, out, err = dtp("train", *SLURM, "--workdir=w")
    assert (code, out, err) == (2, "", "error: sbatch refuses: invalid account\n")


def test_submitit_is_missing(place, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    code, out, err = dtp("train", *SLURM)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "submitit is missing" in err and "pip install submitit" in err


def test_a_job_that_is_interrupted_goes_on_to_the_same_result(slurm, place, monkeypatch):
    """Its time is up; then it is preempted, of which all processes hear twice. No seed is added."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    args = (*TINY, "--config.epochs=12")
    printed = dtp("train", *args, "--workdir=w", *SLURM, "--submit.print")[1]
    code, out, err = dtp("train", *args, "--workdir=w", *SLURM)
    assert (code, err) == (0, "") and out.startswith("job 100: w\n")
    for words in (f"{place}/w/submitted/100_0_log.out", "squeue --jobs=100", "scancel 100"):
        assert words in out
    assert (slurm / "100.sh").read_text() == printed
    log = place / "w/submitted/100_0_log.out"
    until(lambda: says_epoch(log, 2))
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGUSR2)
    until(lambda: (slurm / "100.runs").read_text() == "2")
    until(lambda: "going on from step" in log.read_text())
    until(lambda: says_epoch(log, 5))
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGTERM)
    time.sleep(0.5)  # a run that is sent it twice so far apart would end without saving
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGUSR2)
    assert exit_code(slurm, "100") == 0
    assert (slurm / "100.runs").read_text() == "3"
    assert log.read_text().count("going on from step") == 2
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert launch("--workdir=peace", *args).code == 0
    assert_same_run(place / "w", place / "peace")
    code, out, err = dtp("train", *args, "--workdir=w", *SLURM)
    assert (code, out) == (0, "w: finished before\nnothing is left to send\n")


def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(slurm, place):
    args = (*TINY, "--config.epochs=40", "--workdir=w")
    assert dtp("train", *args, *SLURM)[0] == 0
    log = place / "w/submitted/100_0_log.out"
    until(lambda: says_epoch(log, 1))
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGTERM)
    until(lambda: "the run was stopped, and goes on where it has saved" in log.read_text())
    assert "saved in w/checkpoints/" in log.read_text()
    time.sleep(0.3)
    assert not (slurm / "100.exit").exists()  # it waits for Slurm, which may be about to requeue it
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGKILL)
    assert exit_code(slurm, "100") == 137 and (slurm / "100.runs").read_text() == "1"


def test_a_comparison_as_an_array_and_its_table(slurm, place):
    args = ("--configs=digits_backprop[beta=0.1|0.2]", "--seeds=1", "--workdir=c", *SHORT)
    code, out, err = dtp("compare", *args, *SLURM, "--submit.array=1")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "job 100: 2 runs, 1 at once",
        "  100_0  digits_backprop-beta=0.1, seed 0",
        "  100_1  digits_backprop-beta=0.2, seed 0",
    ]
    assert "job 101: the table" in out
    assert out.splitlines()[-1].startswith("  dtp compare '--configs=digits_backprop[beta=0.1|0.2]'")
    asked = slurm_stand_in.parameters((slurm / "100.sh").read_text())
    assert asked["array"] == "0-1%1" and asked["output"].endswith("/c/submitted/%A_%a_0_log.out")
    after = slurm_stand_in.parameters((slurm / "101.sh").read_text())
    assert after["dependency"] == "afterok:100" and after["kill-on-invalid-dep"] == "yes"
    assert exit_code(slurm, "101") == 0
    for beta in (0.1, 0.2):
        run = place / f"c/digits_backprop-beta={beta}/seed_0"
        config = json.loads((run / "config.json").read_text())
        assert (config["beta"], config["seed"], summary(run)["steps"]) == (beta, 0, 6)
    assert "beta=0.2" in (place / "c/comparison.md").read_text()


def test_a_run_that_fails_fails_the_job(slurm, place):
    """With its own exit code and its words, once; and nothing is made of it."""
    args = ("--configs=digits_dtp[forward_lr=1e9]", "--seeds=1", "--workdir=c", *TINY)
    assert dtp("compare", *args, *SLURM)[0] == 0
    assert exit_code(slurm, "100") == 4 and (slurm / "100.runs").read_text() == "1"
    *_, before, last = lines(place / "c/submitted/100_0_log.err")
    assert before.startswith("error: step ") and "the loss is" in before
    assert last.startswith("error: the command has failed (exit code 4); ")
    until((slurm / "101.never").exists)
    assert not (place / "c/comparison.md").exists()


def test_two_nodes_are_one_run(slurm, place, monkeypatch):
    """A process on each; when the time is up, all save and the job is queued again, once."""
    as_here(monkeypatch, 2)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    mesh = ("--config.data_parallel=4", "--config.epochs=12", "--workdir=w")
    assert dtp("train", *TINY, *mesh, *SLURM, "--submit.nodes=2")[0] == 0
    first, second = (place / f"w/submitted/100_{rank}_log.out" for rank in range(2))
    until(lambda: says_epoch(first, 1))
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGUSR2)
    assert exit_code(slurm, "100") == 0, first.read_text()
    assert (slurm / "100.runs").read_text() == "2"
    said = first.read_text()
    assert "4 data-parallel" in said and "going on from step" in said
    assert "the run was stopped" in second.read_text() and not says_epoch(second, 1)
    assert summary(place / "w")["steps"] == 12 * 39


def test_a_comparison_on_this_machine(place, monkeypatch):
    as_here(monkeypatch, jax.device_count())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    args = ("--configs=digits_backprop[beta=0.1|0.2]", "--seeds=2", "--workdir=c", *SHORT)
    here = ("--submit=local", "--submit.gpus=1", "--submit.partition=gpu")
    code, out, err = dtp("compare", *args, *here, "--submit.setup=echo GPU $CUDA_VISIBLE_DEVICES")
    assert (code, err) == (0, "")
    found = out.splitlines()
    assert found[0] == "not used on this machine: submit.partition"
    assert found[1].startswith("4 jobs, 2 at once; logs: ")
    runs = [f"digits_backprop-beta={beta}, seed {seed}" for beta in (0.1, 0.2) for seed in (0, 1)]
    for number, run in enumerate(runs, 1):
        (line,) = (line for line in found if line.startswith(f"[{number}/4] {run}: "))
        assert re.search(r"\d+\.\d\d % test, \d:\d\d$", line)
    table = (place / "c/comparison.md").read_text()
    assert "beta=0.1" in table and "beta=0.2" in table
    logs = list((place / "c/submitted").glob("local_*/*_log.out"))
    assert sorted({line for log in logs for line in lines(log) if "GPU" in line}) == ["GPU 3", "GPU 5"]
    assert json.loads((place / "c" / "digits_backprop-beta=0.1/seed_1/config.json").read_text())["seed"] == 1


def test_ctrl_c_ends_jobs_of_this_machine_with_saving(place, monkeypatch):
    as_here(monkeypatch, jax.device_count())
    args = (*TINY, "--config.epochs=200", "--workdir=w", "--submit=local")
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch.py"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def log():
        return next((place / "w/submitted").glob("local_*/*_log.out"), place / "none")

    until(lambda: process.poll() is not None or says_epoch(log(), 1))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "stopping after this chunk of steps" in out
    assert "[1/1] w: stopped; the same command goes on from here" in out
    assert "saved in w/checkpoints/" in log().read_text()


def test_a_failure_on_this_machine(place, monkeypatch):
    """Others run all the same; its exit code is that of the command, and there is no table."""
    as_here(monkeypatch, jax.device_count())
    configs = "--configs=digits_dtp[forward_lr=1e9],digits_backprop"
    args = (configs, "--seeds=1", "--workdir=c", *TINY, "--config.epochs=1")
    code, out, err = dtp("compare", *args, "--submit=local", "--submit.array=2")
    assert code == 4
    assert re.search(r"^\[1/2\] .*: diverged; log: .*_log.err$", out, re.MULTILINE)
    assert re.search(r"^\[2/2\] digits_backprop, seed 0: .* % test", out, re.MULTILINE)
    assert not (place / "c/comparison.md").exists()


@pytest.mark.parametrize(
    "flags, environment, expected",
    [
        ({}, {}, [None]),
        ({"array": "3"}, {}, [None] * 3),
        ({"array": "2"}, {"CUDA_VISIBLE_DEVICES": "1"}, ["1", "1"]),
        ({"gpus": "1"}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ["0", "1", "2", "3"]),
        ({"gpus": "2"}, {"CUDA_VISIBLE_DEVICES": "4,5,6,7,8"}, ["4,5", "6,7"]),
        ({"gpus": "1", "array": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}, ["GPU-a", "GPU-b"]),
    ],
)
def test_each_job_has_gpus_of_its_own(flags, environment, expected):
    given = [("submit", "local"), *((f"submit.{key}", value) for key, value in flags.items())]
    assert local.slots(options.read(given), environment) == expected


@pytest.mark.parametrize("flags", [("gpus", "3"), ("array", "3")])
def test_more_gpus_than_there_are(flags):
    given = [("submit", "local"), ("submit.gpus", "1"), (f"submit.{flags[0]}", flags[1])]
    with pytest.raises(ValueError, match="--submit.gpus is .*; allowed: what this machine has: 2 GPUs"):
        local.slots(options.read(given), {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_gpus_are_counted(place, monkeypatch):
    (place / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID)'\necho 'GPU 1: H100 (UUID)'\n")
    (place / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    assert local.gpus({}) == ["0", "1"]
    assert local.gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    monkeypatch.setenv("PATH", str(place / "none"))
    assert local.gpus({}) == []


def test_a_job_for_each_seed(place):
    args = ["--config=digits_dtp", "--config.seed=3", "--config.seeds", "2", "--workdir=w"]
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), ("submit.array", "2")])
    found = jobs.train(args, asked, print)
    assert [job.label for job in found.jobs] == ["seed 3", "seed 4"]
    for seed, job in zip((3, 4), found.jobs):
        tool, *flags = job.arguments
        assert tool == "train" and flags[-2:] == [f"--config.seed={seed}", f"--workdir=w/seed_{seed}"]
        assert not any("seeds" in flag and flag != "--config.seeds=1" for flag in flags)
    assert found.afterwards == ("train", *args)
    with pytest.raises(ValueError, match="config.seeds is 'x'; allowed: a whole number, 1 or more"):
        jobs.train(["--config.seeds=x", "--workdir=w"], asked, print)


def test_a_default_folder_is_fixed_when_the_job_is_sent(place):
    """So that a job that is queued again goes on in it."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9")])
    found = jobs.train(["--config=digits_dtp"], asked, print)
    (job,) = found.jobs
    assert job.arguments[-1] == f"--workdir={found.folder}" and found.folder.parts[0] == "runs"
    assert not list(place.iterdir())


def test_data_that_is_not_on_this_machine_is_a_warning(slurm, place, monkeypatch):
    monkeypatch.setattr("dtp_jax.data.download.why_unreachable", lambda remote: "no network")
    code, out, err = dtp("train", "--config=imagenet32_dtp", "--workdir=w", *SLURM, "--submit.print")
    assert code == 0 and out.startswith("#!/bin/bash\n")
    assert err.startswith("warning: on this machine: ") and "imagenet32" in err
