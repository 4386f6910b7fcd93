"""Clocks, and the peak that shares are of."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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


def alternating(
    calls: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, tuple[float, ...]]:
    """Seconds of each call, `repeats` times: one after the other in turn, after two of each to warm up."""
    for call in (*calls.values(), *calls.values()):
        call()
    rounds = [[seconds(call) for call in calls.values()] for _ in range(repeats)]
    return dict(zip(calls, zip(*rounds)))


def spread(times: Sequence[float]) -> dict[str, float]:
    """The median and what it lies between, by their names in the results."""
    return {"seconds": statistics.median(times), "fastest": min(times), "slowest": max(times)}


def fastest(call: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of the fastest call."""
    return min(alternating({"call": call}, repeats)["call"])


def stepping(take: Callable[..., Any], state: Any, *batch: Any) -> Callable[[], Any]:
    """A call that takes the next step from its last state, and returns the metrics when it is done.

    Args:
      take: (state, *batch) -> (state, metrics); may donate the state.
    """

    def step() -> Any:
        nonlocal state
        state, metrics = jax.block_until_ready(take(state, *batch))
        return metrics

    return step


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
