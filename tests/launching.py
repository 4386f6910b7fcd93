"""Runs of the command line, inside the test process or as a user starts them, and what they leave."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import REPOSITORY

from dtp_jax.run import cli

# 1,257 digits are 39 batches of 32: one epoch.
# t_max is given, so that runs of all lengths are one program: compiled once.
TINY = (
    "--config.channels=4,8",
    "--config.feedback_iterations=2",
    "--config.batch_size=32",
    "--config.t_max=2",
)
STEPS_PER_EPOCH = 39
LAUNCH = [sys.executable, str(REPOSITORY / "launch.py")]


class Outcome(NamedTuple):
    """How a run ended."""

    code: int
    out: str
    err: str
    seconds: float


def launch(*args: str) -> Outcome:
    """The command line in this process, in single precision as it comes."""
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = cli.main(["launch.py", *args], "What launch.py does.")
    return Outcome(code, out.getvalue(), err.getvalue(), time.monotonic() - start)


def start(
    *args: str, devices: int | None = None, shell: Sequence[str] = (), **more: Any
) -> subprocess.Popen:
    """The command line in a process of its own, with as many devices as here: the same programs.

    Args:
      shell: a command that starts its arguments. more: for subprocess.Popen.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices or jax.device_count()),
    }
    if devices:
        environment.pop("XLA_FLAGS", None)  # they may ask for another number
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*shell, *LAUNCH, *args], text=True, env=environment, **more)


def start_two(workdir: Path, *args: str) -> list[subprocess.Popen]:
    """Both processes of a tiny run on this machine, with two devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}", "--processes=2")
    return [
        start(*TINY, "--config.data_parallel=4", *flags, f"--process={p}", *args, devices=2)
        for p in range(2)
    ]


def finish(process: subprocess.Popen, timeout: float = 300) -> Outcome:
    """Waits for the end."""
    return finish_all([process], timeout)[0]


def finish_all(processes: list[subprocess.Popen], timeout: float = 300) -> list[Outcome]:
    """Waits for the end of each, and leaves none behind."""
    begin, found = time.monotonic(), []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            found.append(Outcome(process.returncode, out, err, time.monotonic() - begin))
    finally:
        for process in processes:
            process.kill()
    return found


def wait_for(
    condition: Callable[[], Any],
    processes: list[subprocess.Popen],
    what: str,
    timeout: float = 300,
) -> None:
    """Returns when the condition holds; fails where it does not, or a process ends before."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up or any(p.poll() is not None for p in processes):
            for process in processes:
                process.kill()
            pytest.fail(f"no {what}: {[p.communicate() for p in processes]}")
        time.sleep(0.005)


def wait_for_lines(
    process: subprocess.Popen, workdir: Path, count: int, timeout: float = 300
) -> None:
    """Returns when metrics.jsonl has so many lines more; fails where the process ends before."""

    def lines() -> int:
        file = workdir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    end = lines() + count
    wait_for(lambda: lines() >= end, [process], f"{count} more lines of metrics", timeout)


def tree(folder: Path) -> dict[str, Any]:
    """Everything below a folder: content and time of change of files, None for folders."""
    return {
        str(path.relative_to(folder)): None
        if path.is_dir()
        else (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def rows(workdir: Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, by json.loads; of one split, or of train, val and test."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    wanted = (split,) if split else ("train", "val", "test")
    return [row for row in found if row["split"] in wanted]


def untimed_rows(workdir: Path) -> list[str]:
    """The lines of metrics.jsonl as they are written, but for the config and how fast the run was."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    kept = (line for line in lines if '"split": "config"' not in line)
    return [line.partition(', "images_per_second"')[0] for line in kept]


def summary(workdir: Path) -> dict[str, Any]:
    """summary.json."""
    return json.loads((workdir / "summary.json").read_text())


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps whose checkpoints are there, in rising order."""
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()
    )


def arrays(workdir: Path, step: int | None = None) -> dict[str, bytes]:
    """Every array of a checkpoint (default: the last), by its path in the state, read by orbax alone."""
    step = checkpoint_steps(workdir)[-1] if step is None else step
    folder = workdir.absolute() / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        there = reader.metadata(folder).item_metadata.tree
        # To the host, whatever devices it was saved from.
        to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), there)
        state = reader.restore(folder, restore_args=to_host)
    return {
        jax.tree_util.keystr(path): (leaf.dtype, leaf.shape, leaf.tobytes())
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Both runs end with the same bits, lines and accuracies."""
    assert untimed_rows(workdir) == untimed_rows(reference)
    assert checkpoint_steps(workdir)[-1] == checkpoint_steps(reference)[-1]
    assert arrays(workdir) == arrays(reference)
    timing = ("wall_seconds", "images_per_second", "device", "provenance")
    timing += ("diagnostics_seconds", "diagnostics_compile_seconds", "memory_bytes")
    mine, other = (
        {k: v for k, v in summary(folder).items() if k not in timing}
        for folder in (workdir, reference)
    )
    assert mine == other
