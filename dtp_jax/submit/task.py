"""What a job does: a command line of this program in a process of its own, which saves when it is told to.

In a job run, one in another:

    the script that sbatch was given            hears nothing
    submitit, and `Command` in it               hears SIGUSR2, `grace` seconds before the time is up
    python -m dtp_jax ..., the run              is sent SIGTERM; saves, and exits with 143

Of several tasks only the first one is asked by submitit for a checkpoint; the runs agree among themselves.
"""

import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

SAVED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Exit codes of a run that a signal has stopped; it goes on from what it has saved."""
LINGER_SECONDS = 600.0
"""So long a job that has saved waits for Slurm to take it away."""
FOR_US = (signal.SIGUSR1, signal.SIGUSR2)
"""Slurm sends these to every process of a job; they would kill a run, and mean nothing to it."""


BY_ITSELF = "the run has ended with exit code "
ENDED = re.compile(BY_ITSELF + r"(\d+)")


class Ended(Exception):
    """A run was told to save, and had ended by itself."""


@dataclasses.dataclass
class Command:
    """A function without arguments, as submitit runs and queues it again."""

    arguments: tuple[str, ...]
    """Those of `python -m dtp_jax`."""
    folder: str
    """Where it runs: paths in the arguments are meant from here."""
    environment: dict[str, str]
    """Beside what the job finds."""
    setup: tuple[str, ...] = ()
    """Lines of shell before it."""
    run: Any = dataclasses.field(default=None, init=False, repr=False)
    """The process, once it has begun."""
    told: bool = dataclasses.field(default=False, init=False, repr=False)
    """Whether it has been sent SIGTERM."""

    def __call__(self) -> int:
        """Runs the command. Returns the exit code on this machine; in Slurm, a failure is the job's own."""
        from submitit import JobEnvironment

        is_slurm = JobEnvironment().cluster == "slurm"
        # Slurm sends it to all processes of a job; elsewhere it is passed on. A run that hears it twice ends
        # at once.
        pass_on = self._note if is_slurm else self._tell
        signal.signal(signal.SIGTERM, lambda number, frame: pass_on(number))
        self._start()
        code = ended(self.run)
        if code in SAVED:
            print(
                f"the run was stopped, and goes on where it has saved (exit code {code})",
                flush=True,
            )
            if is_slurm:
                # A job that ends by itself is not queued again after a preemption, and one of several tasks
                # that ends may take the others with it before the first of them has asked for that.
                signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(code))
                time.sleep(LINGER_SECONDS)
        elif code:
            _say_failure(code)
        if code and is_slurm:
            raise SystemExit(code)  # where sacct shows it
        return code

    def checkpoint(self) -> Any:
        """Has the run save; called by submitit when the time is up. Returns what is queued again.

        Raises:
          SystemExit, Ended: the run has ended by itself meanwhile, well or not.
        """
        from submitit import JobEnvironment
        from submitit.helpers import DelayedSubmission

        if self.run is not None:
            if not self.told:
                self._tell(signal.SIGTERM)
            code = ended(self.run)
            if code not in SAVED:
                if code:
                    _say_failure(code)
                if JobEnvironment().cluster != "slurm":
                    raise Ended(f"{BY_ITSELF}{code}")  # is kept as the job's result
                raise SystemExit(code)
        return DelayedSubmission(dataclasses.replace(self))

    def _start(self) -> None:
        command = [sys.executable, "-m", "dtp_jax", *self.arguments]
        if self.setup:
            command = ["bash", "-c", "\n".join([*self.setup, f"exec {shlex.join(command)}"])]
        # What is blocked here stays blocked in the run; what comes meanwhile is heard here afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_US)
        try:
            self.run = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **self.environment}
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _tell(self, number: int) -> None:
        """Sends the run a signal; nothing where it has ended, or not yet begun."""
        if self.run is None:
            raise SystemExit(128 + number)
        self._note(number)
        if self.run.returncode is None:
            os.kill(self.run.pid, number)  # it is not reaped yet, so the number is its own

    def _note(self, number: int) -> None:
        self.told = True


def ended(process: subprocess.Popen) -> int:
    """Waits for its end -> its exit code, 128 more than the number of a signal that killed it.

    Not `process.wait()`: that holds a lock, and the handler of a signal waits as well.
    """
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        while process.poll() is None:
            time.sleep(0.1)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status


def _say_failure(code: int) -> None:
    killed = f", killed by signal {code - 128}" if code > 128 else ""
    print(
        f"error: the command has failed (exit code {code}{killed}); its own words stand above. "
        "It is not queued again; once that is mended, the same --submit goes on",
        file=sys.stderr,
        flush=True,
    )
