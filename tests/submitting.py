"""For tests of --submit: the command in this process, a stand-in for Slurm, and waiting for jobs."""

import contextlib
import io
import time

import jax
import submitit  # noqa: F401  (here: it closes the log handlers that it finds, those of a running test too)
from launching import TINY

from dtp_jax.__main__ import main

SLURM = ("--submit=slurm", "--submit.time=10")
SHORT = (*TINY, "--config.epochs=1", "--config.max_steps=6")


def as_here(monkeypatch, devices):
    """What processes that tests start compute with: the same programs as here."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(devices))


def dtp(*args):
    """The command in this process -> (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
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
