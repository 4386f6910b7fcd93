"""What JAX is told before it starts: where compiled programs are kept, to give the same bits again, and
to use a CPU's vectors and caches."""

import contextlib
import functools
import importlib.util
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from dtp_jax import fields
from dtp_jax.data.cache import cache_folder

GPU_FLAG = "--xla_gpu_exclude_nondeterministic_ops=true"
CPU_FLAGS = ("--xla_cpu_prefer_vector_width=512",)
"""LLVM stops at 256 bits even where there are 512: a few percent of the feedback training."""
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13", "libtpu")
"""Packages that bring an XLA of their own."""
READS_FLAGS = "from jaxlib import xla_client; xla_client.make_cpu_client()"
REFUSALS = (
    re.compile(r"Unknown flag in XLA_FLAGS: (.*)"),
    re.compile(r"Couldn't interpret value .* for flag ()(.*)"),
    re.compile(r"Could not open file ()\"[^\"]*\""),
)
"""What XLA says before it ends the process; in brackets a flag that it does not know."""
TRUE = ("y", "yes", "t", "true", "on", "1")
"""What JAX takes for that in the environment."""
SMALLEST_LIBRARY = 10_000_000
"""Bytes. XLA is never that small."""


def prepare() -> None:
    """Makes JAX ready; to be called before anything asks for a device. What the user has set is kept.

    Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default in the cache folder of decoded images, and
    with them what XLA has found fastest on a GPU: so the choice of kernels, and the rounding that goes
    with it, stays from run to run. Kernels that add in an order of their own are never chosen.

    `dtp train` and `dtp_jax.train` do this by themselves. A second start takes seconds.
    """
    jax.config.update("jax_threefry_partitionable", True)  # else seeds have other draws
    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(OSError):  # nobody's home: programs are compiled each time
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    set_flags()


def require_devices() -> None:
    """Raises ValueError, one line, where JAX has no device to compute on."""
    try:
        jax.devices()
    except (
        RuntimeError,
        AssertionError,
    ) as problem:  # it asserts that a platform it knows is there
        asked = jax.config.jax_platforms
        reason = str(problem).split("\n")[0].partition(" (set JAX_PLATFORMS")[0]
        reason = reason or "no such device can be used here"
        where = f"$JAX_PLATFORMS is {asked!r}" if asked else "$JAX_PLATFORMS is not set"
        raise ValueError(
            f"{where}: {reason}; allowed: cpu, or a kind of device that this machine and JAX have"
        ) from problem


def check_flags() -> None:
    """Raises ValueError, one line, where environment or session would end the process or change its numbers."""
    wide = os.environ.get("JAX_ENABLE_X64", "")
    if wide.lower() in TRUE:
        raise fields.error("$JAX_ENABLE_X64", wide, "unset or 0, for a run computes in float32")
    if jax.config.jax_enable_x64:  # by the program that calls this one
        raise fields.error("jax_enable_x64", True, "False, for a run computes in float32")
    given = os.environ.get("XLA_FLAGS", "")
    refusal = _refusal(given) if given.strip() else ""
    if refusal:
        raise fields.error("$XLA_FLAGS", given, f"flags of XLA, which says: {refusal}")


@functools.lru_cache
def _refusal(given: str) -> str:
    """What XLA says before it ends the process for such an $XLA_FLAGS; "" where it takes it.

    It reads them in a process of its own, for a third of a second.
    """
    environment = {**os.environ, "XLA_FLAGS": given}
    with contextlib.suppress(subprocess.TimeoutExpired):
        said = subprocess.run(
            [sys.executable, "-P", "-c", READS_FLAGS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=30,
        ).stderr.decode(errors="replace")
        for refusal in REFUSALS:
            found = refusal.search(said)
            if found and not _known_elsewhere(found[1]):
                return found[0]
    return ""


def _known_elsewhere(flag: str) -> bool:
    """Whether the XLA of a plugin, which may be another one, knows a flag."""
    plugins = [library for library in libraries() if "jaxlib" not in library.parts]
    return any(known([flag], [library]) for library in plugins if flag)


def set_flags(flags: Sequence[str] = ()) -> None:
    """Adds flags to $XLA_FLAGS, as far as XLA knows them and the user has not said otherwise.

    Args:
      flags: "--xla_name=value"; by default those of this kind of machine.
    """
    flags = flags or ((*CPU_FLAGS, GPU_FLAG) if has_gpu_plugin() else CPU_FLAGS)
    set_already = os.environ.get("XLA_FLAGS", "")
    if set_already.strip() and not set_already.lstrip().startswith("-"):  # a file that holds them
        set_already = Path(set_already).read_text()
    wanted = [flag for flag in flags if flag.split("=")[0] not in set_already]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [set_already, *known(wanted, libraries())]))


def known(flags: Sequence[str], libraries: Sequence[Path]) -> list[str]:
    """The flags that all of these libraries know: XLA ends the process at one that it does not.

    XLA cannot be asked before it starts, so the name of the flag is looked for in the library.
    """
    found = list(flags) if libraries else []
    for library in libraries:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            found = [
                f for f in found if text.find(f"\0{f.split('=')[0].lstrip('-')}\0".encode()) >= 0
            ]
    return found


def libraries() -> list[Path]:
    """The files that hold an XLA."""
    places = [spec.submodule_search_locations for spec in map(_find, ("jaxlib", *PLUGINS)) if spec]
    files = [file for place in places for folder in place for file in Path(folder).glob("*.so")]
    return [file for file in files if file.stat().st_size >= SMALLEST_LIBRARY]


def has_gpu_plugin() -> bool:
    """Whether JAX for NVIDIA GPUs is installed. Asking JAX itself would start it."""
    return any(_find(f"jax_cuda{v}_plugin") for v in (12, 13))


def _find(name: str):
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the package above it is not there
        return None
