"""A folder of its own, in which commands run as a user types them, and what is seen of them."""

import contextlib
import fcntl
import functools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.reliability import REPOSITORY

TINY = """
from dtp_jax.configs import digits_dtp


def get_config():
    config = digits_dtp.get_config()
    config.channels = (4, 8)
    config.feedback_iterations = (2,)
    config.epochs = 2
    config.t_max = 2
    return config
"""
"""The config tiny.py of every place: 39 steps per epoch."""
STEPS = 78
"""Of a run of it."""
LONG_RUN = """
import tiny


def get_config():
    config = tiny.get_config()
    config.epochs = 100_000
    config.schedule, config.forward_lr = "constant", 1e-4
    config.checkpoint_every = 20
    return config
"""
"""The config long.py of every place: a run that does not end by itself."""
LONG = "--config=long.py --workdir=run"

QUICK = {
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_COMPILATION_CACHE_DIR": f"{tempfile.gettempdir()}/dtp_jax-tests-{os.getuid()}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),
    "JAX_PLATFORMS": "cpu",
}
"""As in tests/conftest.py: programs are compiled quickly, and once."""
NOT_OURS = ("DTP_JAX", "TFDS_", "XDG_", "SLURM_", "OMPI_", "TPU_", "JAX_", "XLA_", "PMI_", "PMIX_")
"""Variables of whoever starts this that are kept away."""
TIME_LIMIT = 300.0
"""Seconds for a fault."""


class Ended(NamedTuple):
    """How a command ended."""

    command: str
    code: int
    """As a shell has it: 128 and the number of a signal."""
    screen: str
    """Standard output and standard error, in the order in which they came."""
    seconds: float

    def __str__(self) -> str:
        screen = "\n".join(self.screen.splitlines()[-15:])
        return f"{self.command} ended with {self.code} after {self.seconds:.0f} s:\n{screen}"

    __repr__ = __str__

    @property
    def last_line(self) -> str:
        """Of what was seen; before it the line of an error that is longer than that."""
        lines = [line.strip() for line in self.screen.splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        errors = [line for line in lines if line.startswith("error: ")]
        # Of an error with several lines, the first one says what is wrong.
        return last if last in errors or not errors else f"{errors[-1]} ... {last}"


class Place:
    """Commands run in `folder`; `dtp` and `launch.py` are those of this checkout."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[Running] = []
        self._mounted: list[Path] = []
        (folder / "home").mkdir(parents=True)
        (folder / "tiny.py").write_text(TINY)
        (folder / "long.py").write_text(LONG_RUN)
        self._script("dtp", "-m dtp_jax")
        self._script("launch.py", str(REPOSITORY / "launch.py"))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)}
        self.environment = {
            **kept,
            **QUICK,
            "PATH": f"{folder / 'bin'}:{kept['PATH']}",
            "PYTHONPATH": f"{REPOSITORY}:{folder}",
            "HOME": str(folder / "home"),
            "DTP_JAX_CACHE": str(folder / "cache"),
            "LANG": "C.UTF-8",
            "no_proxy": "*",
            "PYTHONUNBUFFERED": "1",
        }

    def _script(self, name: str, what: str) -> None:
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {what} "$@"\n')
        file.chmod(0o755)

    def start(self, command: str, *, terminal: bool = False, **environment: str) -> "Running":
        """Starts a command of the shell (bash, with pipefail), in a session of its own.

        Args:
          terminal: on one of its own.
          environment: variables, beside those in the command itself.
        """
        running = Running(self, command, {**self.environment, **environment}, terminal)
        self.started.append(running)
        return running

    def run(self, command: str, **environment: str) -> Ended:
        """Starts a command, and waits for its end."""
        return self.start(command, **environment).end()

    def path(self, name: str) -> Path:
        """A path in this place."""
        return self.folder / name

    def mount(self, name: str, size: str) -> Path:
        """A file system of its own, of this size.

        Raises:
          Missing: this user may not.
        """
        folder = self.path(name)
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            raise Missing("needs a user who may mount file systems")
        self._mounted.append(folder)
        return folder

    def read_only(self, folder: Path) -> None:
        """Of a folder that has been mounted."""
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    def close(self) -> None:
        """Ends what still runs, and removes everything."""
        for running in self.started:
            running.kill()
        for folder in self._mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Missing(Exception):
    """A fault cannot be tried here."""


class Running:
    """A command that runs."""

    def __init__(self, place: Place, command: str, environment: dict[str, str], terminal: bool):
        self.place, self.command, self._begin = place, command, time.monotonic()
        self._screen = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this lives)
        self._closing = threading.Event()
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self._screen}
        if terminal:
            self._master, slave = pty.openpty()
            options = {"stdin": slave, "stdout": slave}
            options["preexec_fn"] = functools.partial(fcntl.ioctl, slave, termios.TIOCSCTTY, 0)
        self.process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=place.folder,
            env=environment,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        if terminal:
            os.close(slave)
            threading.Thread(target=self._read_terminal, daemon=True).start()

    def _read_terminal(self) -> None:
        # Never blocked in reading, which would keep the terminal open.
        with contextlib.suppress(OSError):  # the other side is gone
            while not self._closing.is_set():
                if select.select([self._master], [], [], 0.05)[0]:
                    os.write(self._screen.fileno(), os.read(self._master, 1 << 16))
        os.close(self._master)

    def close_terminal(self) -> None:
        """As a window is closed: the processes in it are told so."""
        self._closing.set()

    def signal(self, number: int) -> None:
        """To the process alone."""
        os.kill(self.process.pid, number)

    def ctrl_c(self) -> None:
        """To all processes of the command, as a terminal does it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """All processes of the command, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def seen(self) -> str:
        """The screen so far."""
        size = os.fstat(self._screen.fileno()).st_size
        return os.pread(self._screen.fileno(), size, 0).decode(errors="replace")

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        """Returns when the condition holds.

        Raises:
          AssertionError: the command ended before, or it takes too long.
        """
        give_up = time.monotonic() + TIME_LIMIT
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.seen()[-2000:]}"
            assert time.monotonic() < give_up, f"no {what}: {self.seen()[-2000:]}"
            time.sleep(0.01)

    def wait_for_words(self, words: str) -> None:
        """Returns when they are on the screen."""
        self.wait_for(lambda: words in self.seen(), f"word of {words!r}")

    def wait_for_steps(self, count: int = 1, workdir: str = "run") -> None:
        """Returns when metrics.jsonl has so many steps."""
        self.wait_for(lambda: len(steps_of(self.place.path(workdir))) >= count, f"{count} steps")

    def wait_for_checkpoint(self, workdir: str = "run") -> None:
        """Returns when there is one, and a step after it."""
        folder = self.place.path(workdir)
        self.wait_for(
            lambda: checkpoints_of(folder) and steps_of(folder)[-1] > checkpoints_of(folder)[-1],
            "step after a checkpoint",
        )

    def end(self, timeout: float = TIME_LIMIT) -> Ended:
        """Waits for the end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"still ran after {timeout} s: {self.seen()}") from error
        code = 128 - code if code < 0 else code
        return Ended(self.command, code, self.seen(), time.monotonic() - self._begin)


@contextlib.contextmanager
def a_place() -> Iterator[Place]:
    """A place that is removed in the end."""
    place = Place(Path(tempfile.mkdtemp(prefix="dtp_jax-fault-")) / "here")
    try:
        yield place
    finally:
        place.close()
        shutil.rmtree(place.folder.parent, ignore_errors=True)


def steps_of(workdir: Path) -> list[int]:
    """Of the lines of training in metrics.jsonl, in their order; () where there is no such file."""
    found = []
    with contextlib.suppress(OSError):
        for line in (workdir / "metrics.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                found += [row["step"]] if row["split"] == "train" else []
    return found


def checkpoints_of(workdir: Path) -> list[int]:
    """The steps of the checkpoints that are complete, in rising order."""
    files = (workdir / "checkpoints").glob("*/checksums.json")
    return sorted(int(file.parent.name) for file in files if file.parent.name.isdigit())
