"""Jobs of --submit: they run, save, are queued again and go on. Slurm is a stand-in; all else is real."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import slurm_stand_in
from helpers import REPOSITORY
from launching import TINY, assert_same_run, launch, summary
from submitting import SHORT, SLURM, as_here, dtp, exit_code, lines, says_epoch, until

from dtp_jax.submit import command, jobs, local, options, task
from dtp_jax.submit import slurm as sending

pytest_plugins = ["run_fixtures"]
COMPILING = "compiling the training step"
"""A run that is told to end while it does saves after its first step."""


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_to_the_same_result(slurm, place, monkeypatch):
    """Preempted twice, in two ways; for time that is up see two nodes. No seed is added."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    args = (*TINY, "--config.epochs=6")
    printed = dtp("train", *args, "--workdir=w", *SLURM, "--submit.print")[1]
    code, out, err = dtp("train", *args, "--workdir=w", *SLURM)
    assert (code, err) == (0, "") and out.startswith("job 100: w\n")
    for words in (f"{place}/w/submitted/100_0_log.out", "squeue --jobs=100", "scancel 100"):
        assert words in out
    assert (slurm / "100.sh").read_text() == printed
    log = place / "w/submitted/100_0_log.out"
    until(lambda: COMPILING in lines(log))
    # Preempted, and told so by two signals: a run that is sent SIGTERM twice so far apart would not save.
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGTERM)
    time.sleep(0.5)
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGUSR2)
    until(lambda: (slurm / "100.runs").read_text() == "2")
    until(lambda: "going on from step" in log.read_text())
    until(lambda: says_epoch(log, 1))
    # Preempted by SIGTERM alone, or cancelled: it saves, and waits for what Slurm does with it.
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGTERM)
    until(lambda: "the run was stopped, and goes on where it has saved" in log.read_text())
    time.sleep(0.3)
    assert not (slurm / "100.exit").exists() and (slurm / "100.runs").read_text() == "2"
    (slurm / "100.requeue").touch()
    assert exit_code(slurm, "100") == 0
    assert (slurm / "100.runs").read_text() == "3"
    assert log.read_text().count("going on from step") == 2
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert launch("--workdir=peace", *args).code == 0
    assert_same_run(place / "w", place / "peace")
    code, out, err = dtp("train", *args, "--workdir=w", *SLURM)
    assert (code, out) == (0, "w: finished before\nnothing is left to send\n")


@pytest.mark.slow
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
    assert out.splitlines()[-1].startswith(
        "  dtp compare '--configs=digits_backprop[beta=0.1|0.2]'"
    )
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
    """With its own exit code and its words, once; and what waits for it never begins."""
    own = ("submit.extra.dependency", "singleton")
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), own])
    fails = task.Command(("train", "--config=nix"), str(place), command.environment())
    logs = place / "logs"
    logs.mkdir()
    made = sending.executor(asked, logs, ["train"], fails.environment)
    assert sending.send(made, [fails]) == ["100"]
    found = jobs.Jobs(place, [], [], afterwards=("--version",))
    assert sending.send_table(asked, logs, found, fails, "100") == "101"
    scripts = [slurm_stand_in.parameters((slurm / f"{n}.sh").read_text()) for n in (100, 101)]
    # What the user asks for is for the runs; the table waits for them.
    assert [one["dependency"] for one in scripts] == ["singleton", "afterok:100"]
    assert exit_code(slurm, "100") == 2 and (slurm / "100.runs").read_text() == "1"
    before, last = lines(logs / "100_0_log.err")
    assert before.startswith("error: --config is 'nix', which does not exist")
    assert last.startswith("error: the command has failed (exit code 2); ")
    until((slurm / "101.never").exists)


@pytest.mark.slow
def test_two_nodes_are_one_run(slurm, place, monkeypatch):
    """A process on each; when the time is up, all save and the job is queued again, once."""
    as_here(monkeypatch, 2)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    mesh = ("--config.data_parallel=4", "--config.epochs=2", "--workdir=w")
    assert dtp("train", *TINY, *mesh, *SLURM, "--submit.nodes=2")[0] == 0
    first, second = (place / f"w/submitted/100_{rank}_log.out" for rank in range(2))
    until(lambda: COMPILING in lines(first))
    slurm_stand_in.deliver_to(slurm, "100", signal.SIGUSR2)
    assert exit_code(slurm, "100") == 0, first.read_text()
    assert (slurm / "100.runs").read_text() == "2"
    said = first.read_text()
    assert "4 data-parallel" in said and "going on from step" in said
    assert "the run was stopped" in second.read_text() and not says_epoch(second, 1)
    assert summary(place / "w")["steps"] == 2 * 39


@pytest.mark.slow
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
    assert sorted({line for log in logs for line in lines(log) if "GPU" in line}) == [
        "GPU 3",
        "GPU 5",
    ]
    assert (
        json.loads((place / "c" / "digits_backprop-beta=0.1/seed_1/config.json").read_text())[
            "seed"
        ]
        == 1
    )


@pytest.mark.slow
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


@pytest.mark.slow
def test_time_is_up_on_this_machine(place, monkeypatch):
    """A minute of which 50 seconds are for saving: the run is told after ten, and goes on in a second job."""
    as_here(monkeypatch, jax.device_count())
    args = (*TINY, "--config.epochs=100000", "--workdir=w", "--submit=local")
    code, out, err = dtp(
        "train", *args, "--submit.time=1", "--submit.grace=50", "--submit.requeues=1"
    )
    assert err == ""
    (log,) = (place / "w/submitted").glob("local_*/*_log.out")
    assert log.read_text().count("going on from step") == 1
    assert log.read_text().count("saved in w/checkpoints/") == 2
    assert code == 143 and "[1/1] w: stopped; the same command goes on from here" in out


@pytest.mark.parametrize(
    "kind, result, code",
    [
        ("success", 4, 4),
        ("error", "...\ndtp_jax.submit.task.Ended: the run has ended with exit code 0\n", 0),
        ("error", "...\ndtp_jax.submit.task.Ended: the run has ended with exit code 4\n", 4),
        ("error", "UncompletedJobError: Job not requeued because: timed-out too many times.", 143),
        ("error", "OSError: [Errno 28] No space left on device", 1),
    ],
)
def test_how_a_job_of_this_machine_has_ended(tmp_path, kind, result, code):
    (tmp_path / "r.pkl").touch()
    paths = SimpleNamespace(result_pickle=tmp_path / "r.pkl", stdout="o", stderr="e")
    handle = SimpleNamespace(paths=paths, _get_outcome_and_result=lambda: (kind, result))
    assert local._code(handle) == code
    one = local.Running(1, jobs.Job("a job", (), None), handle, time.monotonic())
    words = {0: "done", 143: "stopped; the same command goes on", 4: "diverged; log: e"}
    assert local._line(one, code).startswith(words.get(code, "failed (exit code 1)"))
    assert local._line(one, 137).startswith("failed (exit code 137)")  # killed is not saved


@pytest.mark.parametrize("has_waitid", [True, False])
def test_a_run_that_ends_while_it_is_told_to_save(place, monkeypatch, has_waitid):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    if not has_waitid:  # macOS
        monkeypatch.delattr(os, "waitid")
    for code in (0, 4):
        ended = task.Command((), str(place), {})
        ended.run = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
        assert task.ended(ended.run) == code
        with pytest.raises(task.Ended) as said:
            ended.checkpoint()
        assert local.ENDED.search(str(said.value))[1] == str(code)


def test_a_failure_on_this_machine(place):
    """The others run all the same; the exit code is that of the first that failed."""
    asked = options.read([("submit", "local"), ("submit.setup", "set -e")])
    tools = (("--version",), ("train", "--config=nix"), ("nix",), ("--help",))
    made = [jobs.Job(f"job {number}", tool, None) for number, tool in enumerate(tools)]
    commands = [task.Command(job.arguments, str(place), command.environment()) for job in made]
    said = []
    assert local.run(made, commands, asked, place / "logs", said.append) == 2
    assert [line.partition(": ")[0] for line in said] == [
        f"[{n}/4] job {n - 1}" for n in range(1, 5)
    ]
    assert re.fullmatch(r"\[1/4\] job 0: done, 0:0\d", said[0])
    assert re.fullmatch(r"\[2/4\] job 1: failed \(exit code 2\); log: .*_0_log.err", said[1])
    log = said[1].partition("log: ")[2]
    assert "--config is 'nix', which does not exist" in Path(log).read_text()
