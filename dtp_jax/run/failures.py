"""What ends a run, as a line for its user and an exit code."""

import jax

from dtp_jax.data import DataError
from dtp_jax.fields import first_line
from dtp_jax.parallel import processes
from dtp_jax.run.files import DiskError, WorkdirError
from dtp_jax.run.guard import Diverged
from dtp_jax.run.workdir import Workdir

EXIT_INVALID, EXIT_DATA, EXIT_DIVERGED, EXIT_LOST, EXIT_DISK, EXIT_MEMORY = 2, 3, 4, 5, 6, 7
EXIT_CRASHED = 1
"""Of an error that no run should have."""
INTERRUPTED = 128
"""Exit codes from here on: the number of a signal above it."""


def explained(error: Exception, folder: Workdir) -> tuple[str, int]:
    """What went wrong in the run of this folder, and its exit code. Any other error is raised again."""
    if isinstance(error, DataError):
        return str(error), EXIT_DATA
    if isinstance(error, WorkdirError):
        return str(error), EXIT_INVALID
    if isinstance(error, Diverged):
        return str(error), EXIT_DIVERGED
    newest = folder.newest_checkpoint()
    if isinstance(error, DiskError):
        return f"{error}; once that is mended, the same command goes on from {newest}", EXIT_DISK
    if not isinstance(error, (jax.errors.JaxRuntimeError, MemoryError)):
        raise error
    if processes.is_memory_used_up(error):
        return (
            f"memory is used up ({first_line(error)}); allowed: a smaller --config.batch_size, "
            "feedback_samples, channels or eval_batch_size, images that stay on the host with "
            "--config.images_on=host, or of several seeds one at a time with "
            f"--config.seeds_as=in_turn; the run can go on from {newest}",
            EXIT_MEMORY,
        )
    message = processes.lost(error)
    if message is None:
        raise error
    return (
        f"{message}; the run can go on from {newest}: start all processes again with the same command",
        EXIT_LOST,
    )


def refused(error: Exception) -> tuple[str, int]:
    """Why a run cannot start, and its exit code. Any other error is raised again."""
    if isinstance(error, DataError):
        return str(error), EXIT_DATA
    if isinstance(error, ValueError):
        return str(error), EXIT_INVALID
    raise error


def outcome(code: int) -> str:
    """What an exit code other than 0 says of a run among others."""
    return "diverged" if code == EXIT_DIVERGED else f"failed (exit code {code})"
