"""What JAX is told before it starts: where compiled programs are kept, and to give the same bits again."""

import importlib.util
import os

import jax

from dtp_jax.data.cache import cache_folder

GPU_FLAGS = "--xla_gpu_exclude_nondeterministic_ops=true"


def prepare() -> None:
    """To be called by programs, before anything asks for a device. What the user has set is kept.

    Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default in the cache folder of decoded images, and
    with them what XLA has found fastest on a GPU: so the choice of kernels, and the rounding that goes
    with it, stays from run to run. Kernels that add in an order of their own are never chosen.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    flags = os.environ.get("XLA_FLAGS", "")
    if has_gpu_plugin() and GPU_FLAGS.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {GPU_FLAGS}".strip()


def has_gpu_plugin() -> bool:
    """Whether JAX for NVIDIA GPUs is installed. Asking JAX itself would start it."""
    return any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13))
