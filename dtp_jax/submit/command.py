"""--submit, from the arguments to jobs that have been sent."""

import datetime
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import jax

from dtp_jax.fields import FOLDER, error
from dtp_jax.run import backend
from dtp_jax.run.screen import Screen
from dtp_jax.run.seeds import SUBMITTED
from dtp_jax.submit import jobs as tools
from dtp_jax.submit.jobs import Jobs
from dtp_jax.submit.options import Options, read, split
from dtp_jax.submit.task import Command

EXIT_INVALID = 2
TOOLS: dict[str, Callable[[list[str], Options, Callable[[str], None]], Jobs]] = {
    "train": tools.train,
    "compare": tools.compare,
    "sweep": tools.sweep,
}
MISSING = "submitit is missing, which --submit sends jobs with; pip install submitit"
LOGS = "submitted"
"""Folder of logs, in that of the runs."""


def submit(tool: str, args: list[str], program: str) -> int:
    """Sends what `dtp TOOL ARGS` would do, without its flags that begin with --submit.

    Args:
      program: what the user has typed before the arguments.

    Returns:
      The exit code. Sent to Slurm: 0, at once. On this machine, after all jobs have ended: 0, or that of
      the first one that failed, or of an interruption.
    """
    screen = Screen()
    try:
        flags, others = split(args)
        options = read(flags)
        if importlib.util.find_spec("submitit") is None:
            raise ValueError(MISSING)
        # What is checked here needs no device, and leaves those of this machine to whoever computes.
        jax.config.update("jax_platforms", "cpu")
        backend.check_flags()
        backend.prepare()
        found = TOOLS[tool](others, options, screen.warn)
        return _send(found, options, (tool, *others), program, screen)
    except ValueError as problem:
        screen.error(str(problem))
        return EXIT_INVALID


def environment() -> dict[str, str]:
    """What a job needs beside the environment that it finds."""
    package, paths = Path(__file__).resolve().parents[2], os.environ.get("PYTHONPATH", "")
    found = {SUBMITTED: "1"}
    installed = package == Path(sysconfig.get_path("purelib")).resolve()
    if not installed and str(package) not in paths.split(os.pathsep):  # a checkout
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), paths]))
    return found


def _send(
    found: Jobs, options: Options, typed: tuple[str, ...], program: str, screen: Screen
) -> int:
    for label in found.finished:
        if not options.only_print:
            screen.note(f"{label}: finished before")
    if options.where == "local":
        return _run_here(found, options, program, screen)
    if not found.jobs:
        return _nothing_left(found, program, screen)
    return _send_to_slurm(found, options, typed, program, screen)


def _send_to_slurm(
    found: Jobs, options: Options, typed: tuple[str, ...], program: str, screen: Screen
) -> int:
    from dtp_jax.submit import slurm

    logs = found.folder.absolute() / LOGS
    executor = slurm.executor(options, logs, typed, environment())
    if options.only_print:
        sys.stdout.write(executor.script(len(found.jobs)))
        return 0
    if shutil.which("sbatch") is None:
        raise error("--submit", options.where, "where Slurm's sbatch is found; or local")
    _make(logs, found.folder)
    numbers = slurm.send(executor, [_command(job.arguments) for job in found.jobs])
    for line in slurm.sent(numbers, found.jobs, options, logs):
        screen.note(line)
    if not found.afterwards:
        return 0
    first = numbers[0].partition("_")[0]
    try:
        table = slurm.send_table(options, logs, found, _command(found.afterwards), first)
        screen.note(f"job {table}: the table, once all of them have done well; or, at any time:")
    except ValueError as problem:
        screen.warn(f"the runs have been sent, a job for their table not: {problem}")
    screen.note(f"  {_again(found, program)}")
    return 0


def _run_here(found: Jobs, options: Options, program: str, screen: Screen) -> int:
    from dtp_jax.submit import local

    if found.together and not options.array and not options.gpu_count:
        options = options._replace(array=len(found.jobs))
    at_once = len(local.slots(options, os.environ))
    ignored = [name for name in local.NOT_HERE if getattr(options, name)]
    if ignored:
        screen.note(f"not used on this machine: {', '.join(f'submit.{name}' for name in ignored)}")
    if found.jobs:
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        logs = found.folder.absolute() / LOGS / f"local_{now}_{os.getpid()}"
        _make(logs, found.folder)
        count = f"{len(found.jobs)} job{'s' if len(found.jobs) > 1 else ''}"
        screen.note(f"{count}, {min(at_once, len(found.jobs))} at once; logs: {logs}")
        commands = [_command(job.arguments) for job in found.jobs]
        code = local.run(found.jobs, commands, options, logs, screen.note)
        if code:
            return code
    if not found.afterwards:
        return 0
    sys.stdout.flush()
    done = [sys.executable, "-m", "dtp_jax", *found.afterwards]
    return subprocess.call(done, env={**os.environ, **environment()})


def _nothing_left(found: Jobs, program: str, screen: Screen) -> int:
    screen.note("nothing is left to send" + (":" if found.afterwards else ""))
    if found.afterwards:
        screen.note(f"  {_again(found, program)}")
    return 0


def _again(found: Jobs, program: str) -> str:
    """The command that takes the finished runs, as the user would type it."""
    return f"{program} {shlex.join(found.afterwards[1:])}"


def _command(arguments: tuple[str, ...]) -> Command:
    return Command(arguments, os.getcwd(), environment())


def _make(logs: Path, folder: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise error("--workdir", str(folder), f"{FOLDER}; {problem.strerror}") from problem
