"""Clocks, and the peak that shares are of."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dtp_jax import ops

PEAK_SIZE = 2048
CHAINED = 50
"""Products in one program of an accelerator, where the round trip to the host takes as long as one."""


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest(call: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of the fastest call after a warm-up."""
    call()
    return min(seconds(call) for _ in range(repeats))


def matmul_peak(precision: str = "tf32") -> float:
    """Operations per second of products of two PEAK_SIZE matrices in this precision (`ops.PRECISIONS`)."""
    count = 1 if jax.default_backend() == "cpu" else CHAINED
    with ops.products_in(precision):
        dtype = ops.product_dtype(jnp.float32)
        # Of this scale, products of products stay as large.
        a = jax.random.normal(jax.random.key(0), (PEAK_SIZE, PEAK_SIZE)) / PEAK_SIZE**0.5
        chain = jax.jit(lambda a: lax.fori_loop(0, count, lambda _, b: a @ b, a))
        a = a.astype(dtype)
        return count * 2 * PEAK_SIZE**3 / fastest(lambda: chain(a).block_until_ready())


def torch_matmul_peak() -> float:
    """The same of PyTorch, as `torch_baseline` has set it up."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    count = 1 if device == "cpu" else CHAINED
    m = torch.randn(PEAK_SIZE, PEAK_SIZE, device=device) / PEAK_SIZE**0.5

    def products() -> None:
        product = m
        for _ in range(count):
            product = torch.mm(m, product)
        if device == "cuda":
            torch.cuda.synchronize()

    return count * 2 * PEAK_SIZE**3 / fastest(products)
