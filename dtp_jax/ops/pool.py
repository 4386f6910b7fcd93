"""Pooling and unpooling, free of gathers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dtp_jax.ops.platform import form
from dtp_jax.ops.windows import taps

Array = jax.Array


def pooled_size(size: int, *, window: int, stride: int, padding: int) -> int:
    """Length of an image axis of length `size` after pooling (or convolution) with this window."""
    return (size + 2 * padding - window) // stride + 1


def max_pool(x: Array, *, window: int, stride: int, padding: int = 0) -> tuple[Array, Array]:
    """Max-pooling that also says where each maximum came from.

    Args:
      x: (batch, height, width, channels). Padding counts as -infinity.

    Returns:
      y: (batch, pooled height, pooled width, channels).
      index: the shape of y: position inside the window, row * window + column, uint8 (float32 in the
        form of a TPU). Of equal values the first in row-major order wins. A NaN is passed over, unless
        it is the first of its window.
    """
    if window == stride and padding == 0:
        return _pool_disjoint(x, window)
    return _pooled(taps(x, window, stride, padding, fill=-jnp.inf))


def _pooled(values: Iterator[Array]) -> tuple[Array, Array]:
    """`max_pool` from what all windows see at each of their positions."""
    y = next(values)
    kind = jnp.dtype(jnp.float32 if form().wide_indices else jnp.uint8)
    index = jnp.zeros(y.shape, kind)
    for tap, value in enumerate(values, start=1):
        better = value > y
        y, index = jnp.where(better, value, y), jnp.where(better, kind.type(tap), index)
    return y, index


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _pool_disjoint(x: Array, window: int) -> tuple[Array, Array]:
    """`max_pool` for windows that tile the image."""
    return _pooled(taps(x, window, window, 0))


@_pool_disjoint.defjvp
def _pool_disjoint_jvp(window: int, primals: tuple[Array], tangents: tuple[Array]):
    """Picks by the index, so that the transpose is an unpooling and not a sum of four padded arrays."""
    (x,), (dx,) = primals, tangents
    y, index = _pool_disjoint(x, window)
    rows, columns = y.shape[1:3]
    tiles = dx[:, : rows * window, : columns * window]
    tiles = tiles.reshape(len(y), rows, window, columns, window, y.shape[3])
    dy = jnp.where(_hits(index, window), tiles, 0).sum(axis=(2, 4))
    return (y, index), (
        dy,
        jnp.zeros(index.shape, jax.dtypes.float0 if index.dtype == jnp.uint8 else index.dtype),
    )


def _hits(index: Array, window: int) -> Array:
    """(batch, rows, window, columns, window, channels): whether the maximum came from there."""
    tap = np.arange(window * window, dtype=index.dtype).reshape(window, 1, window, 1)
    return index[:, :, None, :, None] == tap


def max_unpool(
    y: Array,
    index: Array,
    *,
    input_shape: tuple[int, ...],
    window: int,
    stride: int,
    padding: int = 0,
) -> Array:
    """Puts each value back where `max_pool` found the maximum; zero elsewhere.

    Where windows overlap and several of them point at one position, the last window in row-major
    order wins, on every backend. Autodiff gives the exact derivative: a value that lost its
    position to a later window has none.

    Args:
      y, index: (batch, pooled height, pooled width, channels); index as `max_pool` returns it.
      input_shape: (height, width, channels) of the result.
    """
    if window == stride and padding == 0:
        return _unpool_disjoint(y, index, input_shape, window)
    # Positions of one remainder by the stride are seen at the same taps, by windows next to each other.
    seers = [_seers(r, window, stride, padding) for r in range(stride)]
    sizes = [-(-n // stride) for n in input_shape[:2]]
    parts = [[_gathered(y, index, window, row, column, sizes) for column in seers] for row in seers]
    # (batch, rows, stride, columns, stride, channels)
    x = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)
    x = x.reshape(y.shape[0], *(stride * n for n in sizes), y.shape[3])
    return x[:, : input_shape[0], : input_shape[1]]


def _seers(remainder: int, window: int, stride: int, padding: int) -> list[tuple[int, int]]:
    """(tap, shift) of the windows that see the positions q * stride + remainder along an axis: window
    q + shift does at this tap. In ascending order of the windows."""
    taps_ = [t for t in range(window) if (t - remainder - padding) % stride == 0]
    return [(t, (remainder + padding - t) // stride) for t in reversed(taps_)]


def _gathered(
    y: Array,
    index: Array,
    window: int,
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
    sizes: list[int],
) -> Array:
    """What windows put at the positions of one pair of remainders: (batch, *sizes, channels)."""
    x = jnp.zeros((y.shape[0], *sizes, y.shape[3]), y.dtype)
    for row, down in rows:
        for column, right in columns:
            seen = partial(_shifted, shifts=(down, right), sizes=sizes)
            x = jnp.where(seen(index == row * window + column, False), seen(y, 0), x)
    return x


def _shifted(y: Array, fill: Any, *, shifts: tuple[int, int], sizes: list[int]) -> Array:
    """y at row + shift, column + shift for rows and columns of these sizes; `fill` where it has none."""
    axes = [(-s, n + s - m, 0) for s, n, m in zip(shifts, sizes, y.shape[1:3])]
    return lax.pad(y, jnp.asarray(fill, y.dtype), ((0, 0, 0), *axes, (0, 0, 0)))


def _unpool_disjoint(y: Array, index: Array, input_shape: tuple[int, ...], window: int) -> Array:
    """`max_unpool` for windows that tile the image: one comparison per position."""
    batch, height, width, channels = y.shape
    x = jnp.where(_hits(index, window), y[:, :, None, :, None], 0).reshape(
        batch, window * height, window * width, channels
    )
    # Rows and columns that no window covers (odd sizes) hold zeros.
    return jnp.pad(
        x, ((0, 0), *((0, n - m) for n, m in zip(input_shape[:2], x.shape[1:3])), (0, 0))
    )


def adaptive_average_pool(x: Array, size: tuple[int, int]) -> Array:
    """Averages x, (batch, height, width, channels), to size, (height, width); a larger one upsamples.

    Cell i of b averages the inputs floor(i a / b) .. ceil((i + 1) a / b) - 1 of a, as torch's
    adaptive pooling does.
    """
    if tuple(size) == (1, 1):
        return x.mean(axis=(1, 2), keepdims=True)
    if x.shape[1:3] == (1, 1):
        return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
    rows, columns = (_average_matrix(a, b, x.dtype) for a, b in zip(x.shape[1:3], size))
    return jnp.einsum("ri,bijc,sj->brsc", rows, x, columns, precision="highest")


def _average_matrix(a: int, b: int, dtype) -> Array:
    """(b, a) matrix of averages over one axis."""
    i, j = jnp.arange(b)[:, None], jnp.arange(a)[None, :]
    member = (j >= i * a // b) & (j < -(-(i + 1) * a // b))
    return (member / member.sum(axis=1, keepdims=True)).astype(dtype)
