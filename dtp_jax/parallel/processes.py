"""Several processes, on one machine or many: how they find each other, agree, and notice a loss.

Every process runs the same program on its own devices. The first one shows the screen and writes the
files of the run; checkpoints are written by all (through orbax), into a folder that all of them see.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

JOINING = "joining"
"""Name of the thread that does."""
HEARTBEAT_SECONDS = 30
"""After this time without a sign of life a process counts as lost, and the others end."""


OWN_ERRORS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")
"""How errors of JAX's runtime begin that are this process's own, such as memory that is used up."""

SLURM_TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
"""Of a step. An interactive shell is a step of one task, whose SLURM_NTASKS is that of its allocation."""

JOIN_SECONDS = 300
"""After this time without the others a process ends."""
FIRST_WORD_SECONDS, NEXT_WORD_SECONDS = 2.0, 30.0
"""After which a process says for whom it waits, and says so again."""

LAST_WORDS = """
import pathlib, sys
if not sys.stdin.read():
    found = pathlib.Path(sys.argv[2]).glob("*/checksums.json")  # the last file of a checkpoint
    steps = [file.parent for file in found if file.parent.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name), default="the beginning")
    print(
        f"error: {sys.argv[1]} ended all at once: it was killed, or another one was lost; the run can "
        f"go on from {newest}: start all processes again with the same command",
        file=sys.stderr,
    )
"""
"""What a process of its own runs that outlives this one; see `last_words`."""


class Cluster(NamedTuple):
    """How this process finds the others; None where the environment is to say it."""

    coordinator: str | None
    """HOST:PORT of the first process."""
    processes: int | None
    process: int | None
    """Number of this process: 0, 1, ..."""


def cluster(
    coordinator: str, processes: int, process: int, environment: Mapping[str, str]
) -> Cluster | None:
    """What the flags and the environment say; None for a process on its own.

    Without flags, a Slurm step, `mpirun` of Open MPI or a TPU slice with several workers makes a
    cluster; on one process each, everything stays as it is. JAX reads addresses and numbers from the
    environment itself, wherever the flags do not give them.

    Args:
      coordinator: HOST:PORT, "auto" to look for a cluster anyway (a TPU pod without Kubernetes), "none" to
        look for none, or "".
      processes, process: how many, and which of them this is; 0 and -1 where not given.

    Raises:
      ValueError: one line; the flags do not make a cluster.
    """
    if coordinator in ("", "auto", "none"):
        if processes or process != -1:
            flag = f"--processes is {processes}" if processes else f"--process is {process}"
            raise ValueError(f"{flag}; allowed: together with --coordinator=HOST:PORT")
        wanted = coordinator == "auto" or coordinator == "" and several(environment)
        return Cluster(None, None, None) if wanted else None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator is {coordinator!r}; allowed: HOST:PORT, auto or none")
    processes = processes or _number(environment, "OMPI_COMM_WORLD_SIZE", *SLURM_TASKS)
    if process == -1:
        process = _number(environment, "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", missing=-1)
    if processes < 1:
        raise ValueError(f"--processes is {processes}; allowed: 1 or more, with --coordinator")
    if not 0 <= process < processes:
        raise ValueError(f"--process is {process}; allowed: 0 to {processes - 1}")
    return Cluster(coordinator, processes, process)


def several(environment: Mapping[str, str]) -> bool:
    """Whether the environment speaks of more than one process: under Open MPI, in a Slurm step (not in the
    shell that submits one, which may be a step of one task in an allocation for many), on a TPU slice."""
    if (
        "OMPI_COMM_WORLD_SIZE" in environment
    ):  # nearer than the Slurm job that it may have started in
        return _number(environment, "OMPI_COMM_WORLD_SIZE") > 1
    if "SLURM_STEP_NODELIST" in environment and _number(environment, *SLURM_TASKS) > 1:
        return True
    return len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


def alone_on_its_machine(environment: Mapping[str, str]) -> bool:
    """Whether Slurm or Open MPI has started one process per machine."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:
        return _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") == 1
    if "SLURM_STEP_NODELIST" not in environment:
        return False
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    return _number(environment, *SLURM_TASKS) == nodes


def _number(environment: Mapping[str, str], *names: str, missing: int = 0) -> int:
    """The first of these variables that holds a whole number."""
    return next((int(environment[n]) for n in names if environment.get(n, "").isdigit()), missing)


def join(found: Cluster, say: Callable[[str], None] = lambda text: None) -> None:
    """Waits for all processes; to be called before anything asks for a device.

    A process that is alone on its machine has all its GPUs, one of several on a machine the GPU of its
    number, unless $JAX_LOCAL_DEVICE_IDS says otherwise.

    Args:
      say: told for whom this process waits, where that takes longer.

    Raises:
      ValueError: one line; they were not found.
    """
    # The project's own handler saves on SIGTERM; JAX's would swallow the signal.
    jax.config.update("jax_enable_preemption_service", False)
    problems: list[Exception] = []
    joining = threading.Thread(
        target=_initialize, args=(found, problems), name=JOINING, daemon=True
    )
    joining.start()
    _wait_for(
        joining, lambda seconds: say(f"waiting for {_whom(found, os.environ)}: {seconds:.0f} s")
    )
    if joining.is_alive():
        problems.append(ValueError(f"the others have not come within {JOIN_SECONDS} s"))
    for problem in problems:
        reason = (str(problem).splitlines() or [""])[0]
        if not isinstance(problem, (ValueError, RuntimeError)) or not reason:
            reason = f"{type(problem).__name__}: {reason}"
        raise ValueError(
            f"{_given(found)}: {reason}; "
            "allowed: the address of process 0, with --processes and --process in every process"
        ) from problem
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ and alone_on_its_machine(os.environ):
        # JAX takes every task of Slurm or Open MPI for one of a single GPU.
        jax.config.update("jax_cuda_visible_devices", "all")
        jax.config.update("jax_rocm_visible_devices", "all")


def is_joining() -> bool:
    """Whether JAX still waits for other processes, in a thread that nothing can end."""
    return any(thread.name == JOINING for thread in threading.enumerate())


def _initialize(found: Cluster, problems: list[Exception]) -> None:
    """JAX waits in C++, and nothing in Python runs in the thread that does."""
    try:
        jax.distributed.initialize(
            found.coordinator,
            found.processes,
            found.process,
            initialization_timeout=100 * JOIN_SECONDS,  # at its end JAX aborts the process
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as problem:  # such as a variable of the environment that JAX misses
        problems.append(problem)


def _wait_for(thread: threading.Thread, say: Callable[[float], None]) -> None:
    """Waits for its end, at most JOIN_SECONDS, now and then with a word. Signals are handled meanwhile."""
    start, next_word = time.monotonic(), FIRST_WORD_SECONDS
    while thread.is_alive() and (waited := time.monotonic() - start) < JOIN_SECONDS:
        if waited >= next_word:
            next_word += NEXT_WORD_SECONDS
            say(waited)
        thread.join(0.1)


def _whom(found: Cluster, environment: Mapping[str, str]) -> str:
    """The processes that are waited for, and where."""
    if found.coordinator is not None:
        return (
            f"{found.processes} processes at {found.coordinator}, of which this is process "
            f"{found.process}"
        )
    names = ("OMPI_COMM_WORLD_SIZE", *SLURM_TASKS, "TPU_WORKER_HOSTNAMES")
    told = [f"${name} is {environment[name]}" for name in names if environment.get(name)]
    return f"the other processes ({(told or ['as asked'])[0]}; --coordinator=none trains alone)"


def _given(found: Cluster) -> str:
    if found.coordinator is None:
        return (
            "no --coordinator=HOST:PORT was given, and the environment did not lead to the others"
        )
    return f"--coordinator is {found.coordinator!r}"


def require_same(what: str, content: str) -> None:
    """Raises ValueError, one line, in all processes if some have other content."""
    if len(set(_everyone(zlib.crc32(content.encode()) >> 1).tolist())) > 1:
        raise ValueError(
            f"{what} differ among the processes; allowed: the same command for all of them"
        )


def is_first() -> bool:
    """Whether this process shows the screen and writes the files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def first_says(count: int) -> int:
    """The first process's number, in every process: what they measure differs, what they do must not."""
    return int(_everyone(count)[0])


def any_says(signal: int | None) -> int | None:
    """A signal that any process got, in every process."""
    return int(_everyone(signal or 0).max()) or None


def _everyone(number: int) -> np.ndarray:
    """The numbers of all processes; to be called by all of them alike."""
    if jax.process_count() == 1:
        return np.array([number])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.int32(number))


def is_memory_used_up(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the device or the host."""
    # On a CPU it is an INTERNAL error, told when a result is asked for.
    says_so = str(error).startswith("RESOURCE_EXHAUSTED") or "Out of memory allocating" in str(
        error
    )
    return isinstance(error, MemoryError) or says_so


def lost(error: BaseException) -> str | None:
    """One line where an error of JAX's runtime means that another process is gone; else None."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    reason = (str(error).splitlines() or [""])[0]
    if reason.startswith(OWN_ERRORS):
        return None
    return f"process {jax.process_index()} of {jax.process_count()} has lost another one ({reason})"


@contextlib.contextmanager
def last_words(workdir: Path) -> Iterator[None]:
    """A context that is not left without a word, even where JAX's runtime aborts the process.

    It does so in C++ once another process is gone, or was killed; nothing in Python runs then. So a
    small process waits for the end of this one, and says on stderr how the run can go on.
    """
    if jax.process_count() == 1:
        yield
        return
    who = f"process {jax.process_index()} of {jax.process_count()}"
    waiting = subprocess.Popen(
        [sys.executable, "-c", LAST_WORDS, who, str(workdir / "checkpoints")],
        stdin=subprocess.PIPE,
        start_new_session=True,  # out of reach of the signals that end this process
    )
    try:
        yield
    finally:
        waiting.communicate(b"done")


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """A context that an error leaves at once, traceback printed, where other processes would wait for it."""
    try:
        yield
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        leave(1)


def leave(code: int) -> None:
    """Ends this process at once: a regular end would wait for the processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
