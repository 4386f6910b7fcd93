"""What JAX is told before it starts: where compiled programs are kept, to give the same bits again, and
to use a CPU's vectors and caches."""

import importlib.util
import os

import jax

from dtp_jax.data.cache import cache_folder

GPU_FLAG = "--xla_gpu_exclude_nondeterministic_ops=true"
CPU_FLAGS = (
    "--xla_cpu_prefer_vector_width=512",
    "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
)
"""LLVM stops at 256 bits even where there are 512, and XLA by default first computes all 16 operands of
Winograd's products and then all products, where an operand used at once is still in the cache. Together about
10 % of the feedback training of the default network."""


def prepare() -> None:
    """To be called by programs, before anything asks for a device. What the user has set is kept.

    Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default in the cache folder of decoded images, and
    with them what XLA has found fastest on a GPU: so the choice of kernels, and the rounding that goes
    with it, stays from run to run. Kernels that add in an order of their own are never chosen.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    flags = os.environ.get("XLA_FLAGS", "")
    for flag in (*CPU_FLAGS, GPU_FLAG) if has_gpu_plugin() else CPU_FLAGS:
        if flag.split("=")[0] not in flags:
            flags = f"{flags} {flag}"
    os.environ["XLA_FLAGS"] = flags.strip()


def has_gpu_plugin() -> bool:
    """Whether JAX for NVIDIA GPUs is installed. Asking JAX itself would start it."""
    return any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13))
