"""A stand-in for Slurm on one machine: sbatch, srun and `scontrol requeue`, as far as --submit needs them.

`install(folder)` puts them into folder/bin. What they know lies in folder/jobs: ID.sh is the script as it
was sent, ID.exit the exit code of a job that has ended, ID.runs how often it has begun, ID.never that what
it depends on has failed. The nodes of a job
are so many names for this machine. Signals go to every process of a job's step, as under a cgroup.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol")
ROOT = "SLURM_STAND_IN"
MARK = "STAND_IN_JOB"
KILL_WAIT_SECONDS = 20


def install(folder: Path, monkeypatch) -> Path:
    """Makes the commands and puts them first on PATH. Returns the folder of jobs."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        file = folder / "bin" / name
        file.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {__file__} {name} "$@"\n'
        )
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(ROOT, str(folder))
    return folder / "jobs"


def jobs() -> Path:
    return Path(os.environ[ROOT]) / "jobs"


def clear(folder: Path) -> None:
    """Ends whatever is left of jobs."""
    for file in folder.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    for file in folder.glob("*.group"):
        deliver_to(folder, file.stem, signal.SIGKILL)


def sbatch(script: str) -> None:
    """Takes a script; a process of its own runs it."""
    text = Path(script).read_text()
    number = 100 + len(list(jobs().glob("*.sh")))
    (jobs() / f"{number}.sh").write_text(text)
    print(f"Submitted batch job {number}", flush=True)
    with open(jobs() / f"{number}.log", "w") as log:
        subprocess.Popen(
            [sys.executable, "-SE", __file__, "run", str(number)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def parameters(text: str) -> dict[str, str]:
    """Those of a script, by name."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)
    return {name: shlex.split(value)[0] if value else "" for name, value in found}


def run(number: str) -> None:
    """Runs a job, or the tasks of an array in turn, once what it depends on has done well."""
    asked = parameters((jobs() / f"{number}.sh").read_text())
    (jobs() / f"{number}.pid").write_text(str(os.getpid()))
    if ":" in asked.get("dependency", ""):
        before = asked["dependency"].partition(":")[2]
        while not (codes := list(jobs().glob(f"{before}.all"))):
            time.sleep(0.05)
        if codes[0].read_text() != "0":
            (jobs() / f"{number}.never").touch()
            return
    if "array" in asked:
        first, last = map(int, asked["array"].partition("%")[0].split("-"))
        codes = [run_task(number, asked, task) for task in range(first, last + 1)]
    else:
        codes = [run_task(number, asked, None)]
    replace(jobs() / f"{number}.all", max(codes))


def run_task(number: str, asked: dict[str, str], task: int | None) -> int:
    name = number if task is None else f"{number}_{task}"
    nodes = int(asked.get("nodes", 1))
    environment = {
        **os.environ,
        MARK: name,
        "SLURM_JOB_ID": number if task is None else str(1000 + 10 * int(number) + task),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes * int(asked.get("ntasks-per-node", 1))),
        "SLURM_JOB_NODELIST": ",".join(["localhost"] * nodes),
    }
    if task is not None:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}
    for count in range(10):
        if count:
            environment["SLURM_RESTART_COUNT"] = str(count)
        (jobs() / f"{name}.runs").write_text(str(count + 1))
        process = subprocess.Popen(["bash", str(jobs() / f"{number}.sh")], env=environment)
        again = jobs() / f"{name}.requeue"
        while process.poll() is None and not again.exists():
            time.sleep(0.02)
        if not again.exists():
            break
        again.unlink()
        # What Slurm does to a running job that is queued again.
        time.sleep(0.2)
        deliver(name, signal.SIGTERM)
        try:
            process.wait(KILL_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            deliver(name, signal.SIGKILL)
            process.wait()
    replace(jobs() / f"{name}.exit", process.returncode)
    return process.returncode


def replace(file: Path, content: int) -> None:
    """Writes a number that is never seen half."""
    file.with_suffix(".part").write_text(str(content))
    file.with_suffix(".part").rename(file)


def srun(*arguments: str) -> None:
    """Starts a task on each node, with its output in files of its own; ends with the largest exit code."""
    waiting, outputs = list(arguments), {}
    while waiting[0].startswith("--"):
        name, _, value = waiting.pop(0).partition("=")
        if name in ("--output", "--error"):
            outputs[name] = value or waiting.pop(0)
        else:
            assert name in ("--unbuffered", "--cpus-per-task"), name
    name, nodes = os.environ[MARK], int(os.environ["SLURM_NNODES"])
    tasks = []
    for rank in range(nodes):
        files = {}
        for kind, path in outputs.items():
            path = path.replace("%A_%a", name).replace("%j", name).replace("%t", str(rank))
            files[kind] = open(path, "a")  # noqa: SIM115
        own = {
            "SLURM_PROCID": str(rank),
            "SLURM_NODEID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_TASKS": str(nodes),
            "SLURM_STEP_NUM_NODES": str(nodes),
            "SLURM_STEP_NODELIST": ",".join(["localhost"] * nodes),
        }
        tasks.append(
            subprocess.Popen(
                waiting,
                env={**os.environ, **own},
                stdout=files.get("--output"),
                stderr=files.get("--error"),
                process_group=tasks[0].pid if tasks else 0,
            )
        )
        (jobs() / f"{name}.group").write_text(str(tasks[0].pid))
    codes = [task.wait() for task in tasks]
    sys.exit(max(code if code >= 0 else 128 - code for code in codes))


def deliver(name: str, number: int) -> None:
    """A signal to every process of a job's step."""
    deliver_to(jobs(), name, number)


def deliver_to(folder: Path, name: str, number: int) -> None:
    """The same, from a test that has the folder of jobs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int((folder / f"{name}.group").read_text()), number)


def scontrol(verb: str, name: str) -> None:
    """requeue JOB"""
    assert verb == "requeue"
    (jobs() / f"{name}.requeue").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
