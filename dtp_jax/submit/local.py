"""Jobs as processes of this machine: some at once, each with GPUs of its own, the same way as in Slurm."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from submitit import LocalExecutor
from submitit.core.utils import environment_variables

from dtp_jax.fields import error
from dtp_jax.run import signals
from dtp_jax.run.failures import outcome
from dtp_jax.run.gpus import GPUS, visible_gpus
from dtp_jax.run.layout import duration
from dtp_jax.run.workdir import Workdir
from dtp_jax.submit.jobs import Job
from dtp_jax.submit.options import Options
from dtp_jax.submit.task import ENDED, SAVED, Command

LONG_MINUTES = 60 * 24 * 365
MOST_REQUEUES = 5
"""submitit's own limit here; beyond it a job would be gone without a word."""
TOO_OFTEN = "timed-out too many times"
"""So submitit says that a job is not queued again."""
POLL_SECONDS = 0.1
NOT_HERE = ("partition", "memory", "account", "qos", "constraint", "cpus", "name", "extra")
"""Options that only Slurm understands."""
OF_THE_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""They reach every process that a terminal has; here one hears them for all."""


class Running(NamedTuple):
    """A job that has begun."""

    number: int
    job: Job
    handle: Any
    """submitit's."""
    start: float


def slots(options: Options, environment: Mapping[str, str]) -> list[str | None]:
    """What each of the jobs that run at once sees as $CUDA_VISIBLE_DEVICES; None: all that there is.

    Raises:
      ValueError: one line; there are not so many GPUs.
    """
    each = options.gpu_count
    if not each:
        return [environment.get(GPUS)] * (options.array or 1)
    there = visible_gpus(environment)
    at_once = options.array or len(there) // each
    if not at_once or at_once * each > len(there):
        raise error(
            "--submit.gpus",
            options.gpus,
            f"what this machine has: {len(there)} GPUs, for {at_once or 1} jobs at once",
        )
    return [",".join(there[slot * each : (slot + 1) * each]) for slot in range(at_once)]


def run(
    jobs: list[Job],
    commands: list[Command],
    options: Options,
    logs: Path,
    say: Callable[[str], None],
) -> int:
    """Runs all jobs, as many at once as there are slots; says a line for each that has ended.

    ctrl-C, SIGTERM and SIGHUP are passed on to all of them; they save.

    Returns:
      The exit code: 0, or that of the first job that failed, or 128 and the number of a signal.
    """
    waiting = deque(zip(range(1, len(jobs) + 1), jobs, commands, strict=True))
    running: dict[int, Running] = {}
    codes: list[int] = []
    places = slots(options, os.environ)

    def stop() -> None:
        for one in running.values():
            one.handle._process.send_signal(signal.SIGTERM)

    with signals.StopSignals(say, stop) as received:
        told = False
        while running or (waiting and not received()):
            for slot in range(len(places)):
                if slot not in running and waiting and not received():
                    number, job, command = waiting.popleft()
                    handle = _start(command, places[slot], options, logs)
                    running[slot] = Running(number, job, handle, time.monotonic())
            if received() and not told:
                told = True
                stop()
            for slot, one in list(running.items()):
                if one.handle.done():
                    code = _code(one.handle)
                    head = f"[{one.number}/{len(jobs)}] {one.job.label}"
                    say(f"{head}: {_line(one, code)}")
                    codes += [code] if code else []
                    del running[slot]
            time.sleep(POLL_SECONDS)
        if received():
            return 128 + received()
    return codes[0] if codes else 0


def _start(command: Command, visible: str | None, options: Options, logs: Path) -> Any:
    executor = LocalExecutor(logs, max_num_timeout=min(options.requeues, MOST_REQUEUES))
    executor.update_parameters(
        timeout_min=options.time or LONG_MINUTES, signal_delay_s=options.grace
    )
    # submitit hides all GPUs that it was not told of; nothing is hidden from who sees ours.
    shown = {GPUS: visible} if visible is not None else {}
    own = Command(
        command.arguments, command.folder, {**command.environment, **shown}, options.setup
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
    try:
        with environment_variables(
            **command.environment
        ):  # submitit's own process imports this package
            return executor.submit(own)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _code(handle: Any) -> int:
    """The exit code of a job that has ended."""
    if not handle.paths.result_pickle.exists():
        return 1
    kind, result = handle._get_outcome_and_result()
    if kind == "success":
        return result
    if ended := ENDED.search(result):
        return int(ended[1])
    return 128 + signal.SIGTERM if TOO_OFTEN in result else 1  # its run has saved first


def _line(one: Running, code: int) -> str:
    if code in SAVED:
        return f"stopped; the same command goes on from here (log: {one.handle.paths.stdout})"
    if code:
        return f"{outcome(code)}; log: {one.handle.paths.stderr}"
    summary = Workdir(one.job.workdir).read_summary() if one.job.workdir else None
    parts = [f"{100 * summary['test_accuracy']:.2f} % test"] if summary else ["done"]
    return ", ".join([*parts, duration(time.monotonic() - one.start)])
