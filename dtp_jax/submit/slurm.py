"""Jobs to Slurm: the script, word for word as submitit sends it, and what is said once it is sent."""

import contextlib
import io
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from dtp_jax.submit.jobs import Job, Jobs
from dtp_jax.submit.options import Options
from dtp_jax.submit.task import Command
from dtp_jax.sweep.study import masked

AT_ONCE = 256
"""Jobs of an array, where nobody says how many."""
TABLE_MINUTES = 30


class Executor(SlurmExecutor):
    """submitit's, which can also tell what it would send where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        """As on a machine that has Slurm."""
        return 2

    def script(self, count: int) -> str:
        """What sbatch is given for so many jobs."""
        parameters = {**self.parameters, **({"map_count": count} if count > 1 else {})}
        before, self.parameters = self.parameters, parameters
        try:
            return self._make_submission_file_text(self._submitit_command_str, "")
        finally:
            self.parameters = before


def executor(
    options: Options, logs: Path, command: Sequence[str], environment: dict[str, str], **more: Any
) -> Executor:
    """An executor for these options.

    Args:
      logs: folder of scripts, functions and logs.
      command: as the user has typed it, for whoever reads the script.
      environment: that of the job, beside what Slurm hands on.
      more: parameters of sbatch instead of those of the options.
    """
    made = Executor(logs, max_num_timeout=options.requeues)
    several = {"srun_args": [f"--cpus-per-task={options.cpus}"]} if options.cpus else {}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    parameters = {
        "job_name": options.name or f"dtp-{command[0]}",
        "partition": options.partition or None,
        "time": options.time,
        "nodes": options.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": options.gpus if options.gpu_count else None,
        "cpus_per_task": options.cpus or None,
        "mem": options.memory or None,
        "account": options.account or None,
        "qos": options.qos or None,
        "constraint": options.constraint or None,
        "array_parallelism": options.array or AT_ONCE,
        "signal_delay_s": options.grace,
        "setup": [f"# {_on_a_line(command)}", *exports, *options.setup],
        "additional_parameters": {"requeue": True, **options.extra},
        "wckey": None,  # clusters that have such keys refuse submitit's
        **several,  # srun of Slurm 22.05 and later does not take it from sbatch
        **more,
    }
    made.update_parameters(**parameters)
    return made


def send(made: Executor, commands: list[Command]) -> list[str]:
    """Sends commands as one job, or as an array -> a number for each, such as 4711 or 4711_0.

    Raises:
      ValueError: one line; Slurm refuses.
    """
    try:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # what sbatch says comes once more as the error
            jobs = made.submit_array(commands)
    except (OSError, subprocess.SubprocessError, RuntimeError) as problem:
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise ValueError(f"sbatch refuses: {said}") from problem
    return [job.job_id for job in jobs]


def send_table(options: Options, logs: Path, jobs: Jobs, command: Command, after: str) -> str:
    """Sends what is to be done once a job, or all of an array, has done well -> its number.

    Raises:
      ValueError: one line; Slurm refuses.
    """
    made = executor(
        options,
        logs,
        jobs.afterwards,
        command.environment,
        dependency=f"afterok:{after}",
        nodes=1,
        time=min(options.time, TABLE_MINUTES),
        signal_delay_s=1,
        job_name=f"{options.name or f'dtp-{jobs.afterwards[0]}'}-table",
        additional_parameters={
            "kill-on-invalid-dep": "yes",
            **{name: value for name, value in options.extra.items() if name != "dependency"},
        },
    )
    return send(made, [command])[0]


def sent(numbers: list[str], jobs: list[Job], options: Options, logs: Path) -> list[str]:
    """Lines about what has been sent: what, where its words go, how to look, how to end it."""
    first = numbers[0].partition("_")[0]
    if len(jobs) == 1:
        lines = [f"job {first}: {jobs[0].label}"]
        log = f"{logs}/{first}_0_log.out"
    else:
        at_once = min(options.array or AT_ONCE, len(jobs))
        lines = [f"job {first}: {len(jobs)} runs, {at_once} at once"]
        lines += [f"  {number}  {job.label}" for number, job in zip(numbers, jobs, strict=True)]
        log = f"{logs}/{first}_*_0_log.out"
    return [
        *lines,
        f"logs: {log}, and .err beside each",
        f"look: squeue --jobs={first}; sacct --jobs={first}; end: scancel {first}",
        "A job whose time is up saves, is queued again and goes on. The same command again sends what has "
        "not finished.",
    ]


def _on_a_line(command: Sequence[str]) -> str:
    return masked(" ".join(shlex.join(["dtp", *command]).split()))
