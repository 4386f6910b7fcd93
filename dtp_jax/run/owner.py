"""Who trains in a folder: one run at a time.

The owner is named in a file of the folder, which it holds open under a lock of the operating system and
renews every few seconds. On the same host the lock says whether the owner lives. On another host, whose
locks are not seen everywhere, the file counts until it has not been renewed for a minute.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.run.files import DiskError, WorkdirError, disk_errors, read_object
from dtp_jax.run.locks import try_lock

OWNER = "owner.json"
RENEWAL_SECONDS = 5.0
LAPSE_SECONDS = 60.0
"""An owner on another host without a sign of life for so long is taken for lost."""
PATIENCE_SECONDS = 10.0
"""How long others may be in the middle of taking a folder over."""
TOKEN = re.compile(r"[0-9a-f]{32}")
WHOLE = re.compile(r"[0-9]{1,9}")
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Tells machines of one name apart, and a machine from itself before it was started again."""


class TakenError(WorkdirError):
    """Another run has the folder, or may have it."""


class Owner(NamedTuple):
    """A run that trains in a folder, as the file names it."""

    token: str
    """Of this one run, whatever else it shares with others."""
    host: str
    boot: str
    process: int
    job: str
    """Of Slurm; "" without one."""
    restarts: int
    """How often Slurm has started this job again."""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "Owner":
        """This process."""
        restarts = environment.get("SLURM_RESTART_COUNT", "")
        return cls(
            uuid.uuid4().hex,
            socket.gethostname(),
            _boot(),
            os.getpid(),
            environment.get("SLURM_JOB_ID", ""),
            int(restarts) if WHOLE.fullmatch(restarts) else 0,
        )

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> "Owner":
        """From the file's content, of which nothing is trusted; "unknown" for a token that is none."""
        texts = {name: str((found or {}).get(name, "")) for name in cls._fields}
        token = texts["token"] if TOKEN.fullmatch(texts["token"]) else "unknown"
        numbers = {
            n: int(texts[n]) if WHOLE.fullmatch(texts[n]) else 0 for n in ("process", "restarts")
        }
        return cls(**texts | numbers | {"token": token})

    def __str__(self) -> str:
        job = f" (Slurm job {self.job})" if self.job else ""
        return f"process {self.process} on {self.host or 'an unknown host'}{job}"

    def is_here(self, other: "Owner") -> bool:
        """Whether both are on one machine that has not been started again in between."""
        return (self.host, self.boot) == (other.host, other.boot)

    def was_requeued_as(self, other: "Owner") -> bool:
        """Whether Slurm has ended this one, and started its job again as the other."""
        return bool(self.job) and self.job == other.job and self.restarts < other.restarts


class Ownership:
    """The right to write to a folder, from its acquisition to its release."""

    def __init__(self, folder: Path, *, take_over: bool = False):
        """Acquires it.

        Args:
          take_over: from an owner on another host, do not wait until it counts as lost.

        Raises:
          TakenError: another run has it. OSError: the file system refuses.
        """
        self._folder, self._file, self._take_over = folder, folder / OWNER, take_over
        self._me, self._place, self._ended = Owner.here(), _identity(folder), threading.Event()
        self._descriptor = self._acquire()
        threading.Thread(target=self._renew, daemon=True, name="owner").start()

    def require(self) -> None:
        """To be called before anything is written.

        Raises:
          DiskError: the folder is gone. WorkdirError: another run has taken it over.
        """
        with disk_errors(self._folder):
            if _identity(self._folder) != self._place:
                raise DiskError(f"{self._folder} is gone: it was removed, moved or unmounted")
            if not self._file.exists():  # somebody has tidied up
                lost, self._descriptor = self._descriptor, self._acquire()
                os.close(lost)
            found = self._named()
        if found.token != self._me.token:
            raise WorkdirError(
                f"{found} has taken {self._folder} over; this run has stopped and writes nothing more"
            )

    def _named(self) -> Owner:
        """Whom the file names. A disk that cannot be read at the moment is an OSError, and nobody's."""
        try:
            found = json.loads(self._file.read_bytes())
        except ValueError:
            found = None
        return Owner.of(found if isinstance(found, dict) else None)

    def release(self) -> None:
        """Gives it up, as far as nobody has taken it."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if self._token() == self._me.token:
                self._file.unlink()
        os.close(self._descriptor)

    def _renew(self) -> None:
        """What the thread does: the time of the file's last change is the last sign of life."""
        while not self._ended.wait(RENEWAL_SECONDS):
            with contextlib.suppress(OSError):  # said by whoever writes next
                if self._token() == self._me.token:
                    os.utime(self._file)

    def _acquire(self) -> int:
        """Puts this run's file in its place. Returns its descriptor, whose lock says that this run lives."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        mine = self._folder / f".{OWNER}-{self._me.token}"
        descriptor = os.open(mine, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try_lock(descriptor)
            os.write(descriptor, json.dumps(self._me._asdict()).encode())
            while True:
                before = self._token()
                if before:
                    self._require_lost(mine)
                if self._put(mine, before):
                    return descriptor
                if time.monotonic() > give_up:
                    raise self._refusal("another run is about to take it over", "another folder")
                time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            mine.unlink(missing_ok=True)

    def _put(self, mine: Path, before: str) -> bool:
        """Replaces the file of the owner with this token ("": none); False where another run does."""
        claim = self._folder / f".{OWNER}-after-{before}"
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if _seconds_between(claim, mine) > LAPSE_SECONDS:  # it was killed while it did
                claim.unlink(missing_ok=True)
            return False
        try:
            is_still_there = self._token() == before
            if is_still_there:
                os.replace(mine, self._file)
            return is_still_there
        finally:
            claim.unlink(missing_ok=True)

    def _token(self) -> str:
        """Of the owner's file; "" where there is none."""
        if not self._file.exists():
            return ""
        return Owner.of(read_object(self._file)).token

    def _require_lost(self, mine: Path) -> None:
        """Raises TakenError where the owner lives, or may."""
        owner = Owner.of(read_object(self._file))
        if owner.was_requeued_as(self._me):
            return
        lives = _is_locked(self._file) if owner.is_here(self._me) else None
        if lives:
            raise self._refusal(
                f"{owner} trains in it", "another folder, or this one once that process has ended"
            )
        seconds = _seconds_between(self._file, mine)
        if lives is None and not self._take_over and seconds <= LAPSE_SECONDS:
            raise self._refusal(
                f"{owner} trains in it, or was lost: its last sign of life is {seconds:.0f} s old",
                f"another folder, this one in {LAPSE_SECONDS - seconds + 1:.0f} s if there is no "
                "other by then, or at once with --take-over",
            )

    def _refusal(self, problem: str, allowed: str) -> TakenError:
        return TakenError(f"--workdir is {str(self._folder)!r}: {problem}; allowed: {allowed}")


def lives(folder: Path) -> bool:
    """Whether a run trains in this folder, as far as it can be seen from here; nothing is written."""
    file = folder / OWNER
    found = read_object(file)
    if found is None:
        return False
    locked = _is_locked(file) if Owner.of(found).is_here(Owner.here()) else None
    with contextlib.suppress(FileNotFoundError):
        if locked is not None:
            return locked
        # The clock of a file server may be ahead of this one: `Ownership` asks that one.
        return abs(time.time() - file.stat().st_mtime) <= LAPSE_SECONDS
    return False


def _is_locked(file: Path) -> bool | None:
    """Whether a process of this host holds an owner's file; None where there are no locks."""
    with contextlib.suppress(FileNotFoundError), file.open() as opened:
        is_free = try_lock(opened, shared=True)
        return None if is_free is None else not is_free
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What stays of a folder while it is the same one; None where there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _seconds_between(file: Path, mine: Path) -> float:
    """Since the last change of a file, by the clock that stamps files: that of the disk's own host."""
    os.utime(mine)
    with contextlib.suppress(FileNotFoundError):
        return mine.stat().st_mtime - file.stat().st_mtime
    return 0.0


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
