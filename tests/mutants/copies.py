"""Copies of the checkout, and what tests say in them."""

import compileall
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutants.defect import Defect

FOUND, PASSED = 1, 0
"""Exit codes of pytest: a test has failed, none has. All others say that something else went wrong."""
LONGEST_SECONDS = 400
"""Of a call of pytest, where there is a defect."""
FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (?:tests/)?(\S+::.*?)(?: - .*)?$", re.MULTILINE)


class Said(NamedTuple):
    """What pytest said."""

    code: int
    output: str

    @property
    def first(self) -> str | None:
        """The test that failed first."""
        found = FIRST_FAILURE.search(self.output)
        return found and found[1]


class Judged(NamedTuple):
    """What came of a defect."""

    defect: Defect
    found_by: str | None
    """A test; None where none has found it."""
    seconds: float
    problem: str = ""
    """Why it was not found, in a line."""
    is_named: bool = True
    """Whether it is one of the tests that should see it."""


def files_of(repository: Path) -> list[Path]:
    """What git knows of, or would: relative paths of files, and of links to anything."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    names = dict.fromkeys(name for name in listed.stdout.split("\0") if name)
    return [Path(name) for name in names if os.path.lexists(repository / name)]


class Copy:
    """A copy of a checkout, in which one defect at a time is planted."""

    def __init__(self, folder: Path):
        """`folder`: of the copy, see `made`."""
        self.folder = folder
        self._running: subprocess.Popen | None = None
        self._is_stopped, self._lock = False, threading.Lock()

    @classmethod
    def made(cls, repository: Path, folder: Path) -> "Copy":
        """Copies the files that git knows of.

        What Python compiles is compiled here, once, and known by the hash of its code: a file that a defect
        was planted in, and taken out of again, within a second is never taken for the other one.
        """
        for name in files_of(repository):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, folder / name, follow_symlinks=False)
        by_hash = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder, quiet=2, invalidation_mode=by_hash)
        return cls(folder)

    def another(self, folder: Path) -> "Copy":
        """A copy of the copy."""
        return Copy(shutil.copytree(self.folder, folder, symlinks=True))

    def tested(
        self, tests: Sequence[str], *options: str, seconds: float | None = LONGEST_SECONDS
    ) -> Said:
        """What pytest says of these tests, up to the first that fails, within so many seconds."""
        plain = ["-x", "-n", "0", "-m", "", "-rfE", "--no-header", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *plain, *options]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "400"}
        with self._lock:
            if self._is_stopped:
                return Said(-1, "stopped")
            self._running = subprocess.Popen(
                [*command, *(f"tests/{test}" for test in tests)],
                cwd=self.folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            output, _ = self._running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            return Said(-1, f"no end within {seconds} s")
        return Said(self._running.returncode, output)

    def judged(self, defect: Defect) -> Judged:
        """Plants the defect, asks the tests that should see it and then the rest of their files, and takes it
        out again."""
        start, package = time.monotonic(), self.folder / "dtp_jax"
        try:
            code = defect.plant(package)
        except ValueError as error:
            return Judged(defect, None, 0.0, str(error))
        try:
            said, is_named = self.tested(defect.tests), True
            if said.code == PASSED:
                said, is_named = self.tested(defect.test_files), False
        finally:
            (package / defect.file).write_text(code)
        seconds = time.monotonic() - start
        if said.code == FOUND and said.first:
            return Judged(defect, said.first, seconds, is_named=is_named)
        lines = said.output.strip().splitlines()
        last = lines[-1] if lines else f"pytest ended with {said.code}"
        problem = "no test sees it" if said.code == PASSED else last
        return Judged(defect, None, seconds, problem)

    def stop(self) -> None:
        """Ends what runs here, and lets nothing begin; from another thread."""
        with self._lock:
            self._is_stopped = True
        self._kill()

    def _kill(self) -> None:
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, signal.SIGKILL)  # its group: what tests start as well
            self._running.wait()
