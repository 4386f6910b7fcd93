"""Several processes: how they find each other, and that they do what one process does."""

import os
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest
from helpers import slow
from launching import TINY, finish, finish_all, launch, rows, start, start_two, summary, wait_for

from dtp_jax.parallel import processes
from dtp_jax.parallel.processes import Cluster, cluster
from dtp_jax.run import signals

pytest_plugins = ["run_fixtures"]

SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
FOUND = Cluster(None, None, None)


@pytest.mark.parametrize(
    "flags, environment, expected",
    [
        (("", 0, -1), {}, None),
        (("auto", 0, -1), {}, FOUND),
        (("none", 0, -1), SLURM, None),
        (("h:1", 2, 1), {}, Cluster("h:1", 2, 1)),
        (("", 0, -1), SLURM, FOUND),
        (("", 0, -1), {**SLURM, "SLURM_NTASKS": "1"}, None),
        # salloc -n8: the shell is a step of one task, with the number of its allocation.
        (("", 0, -1), {**SLURM, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (("", 0, -1), {**SLURM, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "8"}, FOUND),
        (("h:1", 0, -1), {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, Cluster("h:1", 4, 1)),
        # mpirun in a job of Slurm: its daemons are the tasks of the step.
        (("", 0, -1), {**SLURM, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (("", 0, -1), {**SLURM, "SLURM_STEP_NUM_TASKS": "1", **OPEN_MPI}, FOUND),
        (("h:1", 0, -1), {**SLURM, **OPEN_MPI}, Cluster("h:1", 4, 3)),
        # The shell of a job, where srun is yet to come.
        (("", 0, -1), {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
        (("h:1", 0, -1), SLURM, Cluster("h:1", 2, 1)),
        (("", 0, -1), OPEN_MPI, FOUND),
        (("", 0, -1), {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (("h:1", 0, -1), OPEN_MPI, Cluster("h:1", 4, 3)),
        (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "a,b"}, FOUND),
        (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_cluster(flags, environment, expected):
    assert cluster(*flags, environment) == expected


@pytest.mark.parametrize(
    "flags, words",
    [
        (("", 2, -1), "--processes is 2; allowed: together with --coordinator"),
        (("", 0, 0), "--process is 0; allowed: together with --coordinator"),
        (("auto", 2, 0), "--processes is 2; allowed: together"),
        (("h", 2, 0), "--coordinator is 'h'; allowed: HOST:PORT"),
        (("h:port", 2, 0), "--coordinator is 'h:port'; allowed: HOST:PORT"),
        (("h:99999", 2, 0), "--coordinator is 'h:99999'; allowed"),
        (("h:1", 0, 0), "--processes is 0; allowed: 1 or more"),
        (("h:1", 2, 2), "--process is 2; allowed: 0 to 1"),
        (("h:1", 2, -1), "--process is -1; allowed: 0 to 1"),
    ],
)
def test_cluster_errors(flags, words):
    with pytest.raises(ValueError, match=words):
        cluster(*flags, {})


@pytest.mark.parametrize(
    "environment, devices",
    [
        ({**SLURM, "SLURM_NNODES": "2"}, "all"),  # a task per machine
        ({**SLURM, "SLURM_NNODES": "1"}, "1"),  # two tasks on one machine
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all"),
        # a daemon per machine, with two processes each
        ({**SLURM, "SLURM_NNODES": "2", **OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "1"),
        # one task on one of eight machines
        ({**SLURM, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NNODES": "1"}, "all"),
        ({**SLURM, "SLURM_NNODES": "2", "JAX_LOCAL_DEVICE_IDS": "0,3"}, "1"),
    ],
)
def test_a_process_alone_on_its_machine_has_all_its_gpus(monkeypatch, environment, devices):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # As JAX does for every task that has a number on its machine.
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *args, **options: jax.config.update("jax_cuda_visible_devices", "1"),
    )
    processes.join(FOUND)
    assert told["jax_cuda_visible_devices"] == devices


def join_with(monkeypatch, initialize, found=FOUND):
    """`join`, with what JAX does instead; returns what it has said."""
    said = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: initialize())
    monkeypatch.setattr(processes, "FIRST_WORD_SECONDS", 0.05)
    monkeypatch.setattr(processes, "NEXT_WORD_SECONDS", 0.1)
    try:
        processes.join(found, said.append)
    finally:
        assert all("\n" not in line for line in said)
    return said


def test_a_join_that_waits_says_for_whom(monkeypatch):
    said = join_with(monkeypatch, lambda: time.sleep(0.6), Cluster("h:1", 8, 3))
    assert len(said) >= 2 and not processes.is_joining()
    assert said[0].startswith("waiting for 8 processes at h:1, of which this is process 3: 0 s")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    (first, *_) = join_with(monkeypatch, lambda: time.sleep(0.3))
    assert "the other processes ($SLURM_NTASKS is 2; --coordinator=none trains alone)" in first
    assert join_with(monkeypatch, lambda: None) == []


def test_a_join_is_left_by_a_signal_and_after_its_time(monkeypatch):
    """While JAX waits in its thread, which goes on."""
    end = threading.Event()
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert signals.until_stopped(lambda: join_with(monkeypatch, end.wait), "left") == 143
        assert processes.is_joining()
        monkeypatch.setattr(processes, "JOIN_SECONDS", 0.3)
        with pytest.raises(
            ValueError, match="'h:1': the others have not come within 0.3 s; allowed"
        ):
            join_with(monkeypatch, end.wait, Cluster("h:1", 2, 0))
    finally:
        end.set()


@pytest.mark.parametrize("problem", [KeyError("SLURM_LOCALID"), RuntimeError("a\nb"), ValueError()])
def test_whatever_jax_finds_amiss_is_one_line(monkeypatch, problem):
    def fail():
        raise problem

    with pytest.raises(ValueError, match="did not lead to the others: .*; allowed: ") as error:
        join_with(monkeypatch, fail)
    assert "\n" not in str(error.value)
    assert not isinstance(problem, KeyError) or "KeyError: 'SLURM_LOCALID'" in str(error.value)


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "130"), (signal.SIGTERM, "143")])
def test_a_process_that_waits_for_others_ends_at_once(place, number, name):
    """JAX itself waits, in C++, for a process that never comes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    waiting = start(
        *TINY, "--workdir=w", f"--coordinator=127.0.0.1:{port}", "--processes=2", "--process=0"
    )
    lines = iter(waiting.stdout.readline, "")
    assert any(f"waiting for 2 processes at 127.0.0.1:{port}" in line for line in lines)
    waiting.send_signal(number)
    found = finish(waiting, timeout=30)
    assert str(found.code) == name and found.err.endswith("stopped before the first step\n")
    assert "Traceback" not in found.err
    assert not (place / "w").exists()


def test_errors_that_are_no_loss(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    error = jax.errors.JaxRuntimeError
    assert processes.lost(error("RESOURCE_EXHAUSTED: Out of memory")) is None
    assert "lost another one" in processes.lost(error("UNAVAILABLE: Connection closed by peer"))
    assert processes.lost(ValueError("UNAVAILABLE")) is None


def test_errors_that_say_that_memory_is_used_up():
    """As JAX tells it on a GPU, and on a CPU."""
    error = jax.errors.JaxRuntimeError
    for told in (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
        "INTERNAL: Error dispatching computation: Out of memory allocating 5184000000 bytes.",
    ):
        assert processes.is_memory_used_up(error(told))
    assert processes.is_memory_used_up(MemoryError())
    assert not processes.is_memory_used_up(error("INTERNAL: something else"))


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_ends_a_process_that_others_would_wait_for(monkeypatch, capsys, count):
    left = []
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(processes, "leave", left.append)
    try:
        with processes.nobody_waits():
            raise OSError("disk full")
    except OSError:
        assert count == 1 and not left
    else:
        assert left == [1] and "OSError: disk full" in capsys.readouterr().err


def test_processes_must_be_given_the_same(monkeypatch):
    processes.require_same("config", "a")
    monkeypatch.setattr(processes, "_everyone", lambda number: np.array([number, number + 1]))
    with pytest.raises(ValueError, match="config differ among the processes; allowed: the same"):
        processes.require_same("config", "a")


def test_one_process_agrees_with_itself():
    assert processes.is_first() and processes.first_says(7) == 7
    assert processes.any_says(None) is None and processes.any_says(15) == 15
    assert processes.lost(RuntimeError("anything")) is None


def assert_close(found, expected):
    """The same lines of metrics, their numbers equal up to rounding in float32 over an epoch."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split", "images_per_second", "config"}:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("is_lost", [False, slow(True)])
def test_two_processes_train_as_one_lost_or_stopped_or_not(place, is_lost):
    """One run in up to three legs: a process is killed, then one is told to stop, then all goes well."""
    args = ("--config.epochs=2", "--config.checkpoint_every=7", "--config.images_on=host")
    assert launch("--workdir=alone", *TINY, *args).code == 0

    workdir = place / "two"
    metrics = workdir / "metrics.jsonl"

    def newest():
        files = (workdir / "checkpoints").glob("*/checksums.json")
        return max((int(f.parent.name) for f in files if f.parent.name.isdigit()), default=0)

    if is_lost:
        both = start_two(workdir, *args)
        wait_for(newest, both, "checkpoint")
        both[1].send_signal(signal.SIGKILL)
        left, killed = finish_all(both)
        assert killed.code == -signal.SIGKILL
        assert "process 1 of 2 ended all at once" in killed.err
        # Either Python still learns of it, or JAX's runtime ends the process.
        assert (left.code == 5 and "process 0 of 2 has lost another one" in left.err) or (
            left.code != 0 and "process 0 of 2 ended all at once" in left.err
        )
        assert f"go on from {workdir / 'checkpoints'}" in left.err

    before = newest()
    both = start_two(workdir, *args)
    wait_for(lambda: newest() > before, both, "further checkpoint")
    both[1].send_signal(signal.SIGTERM)
    first, second = finish_all(both)
    assert (first.code, second.code) == (143, 143) and "stopped after step" in first.out
    assert "stopped after step" not in second.out

    first, second = finish_all(start_two(workdir, *args))
    assert (first.code, second.code) == (0, 0) and "going on from step" in first.out
    assert "4 data-parallel x 1 layer-parallel" in first.out and "in 2 processes" in first.out
    assert_close(rows(workdir), rows(place / "alone"))
    assert summary(workdir)["device"].startswith("4 x")
    splits = ("train", "val", "test", "epoch", "config")  # every line once
    assert metrics.read_text().count("\n") == sum(len(rows(workdir, split)) for split in splits)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(place):
    """Every group of diagnostics: the same rows and pictures, and no process that waits for the other."""
    groups = ("iterations", "updates", "jacobians", "gauss_newton", "eigenvalues")
    args = ("--config.epochs=1", *(f"--config.diagnostics_{g}=on" for g in groups))
    assert launch("--workdir=alone", *TINY, *args).code == 0
    found = finish_all(start_two(place / "two", *args))
    assert [each.code for each in found] == [0, 0], [each.err for each in found]
    for split in ("diagnostics", "feedback"):
        assert rows(place / "alone", split)
        assert_close(rows(place / "two", split), rows(place / "alone", split))
    pictures = [{f.name for f in (place / w / "figures").iterdir()} for w in ("alone", "two")]
    assert pictures[0] == pictures[1] != set()
