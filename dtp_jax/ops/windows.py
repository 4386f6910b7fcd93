"""Sliding windows as strided slices."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp


def taps(
    x: jax.Array, window: int, stride: int, padding: int, fill: float = 0.0
) -> Iterator[jax.Array]:
    """Yields, for each of the window x window positions in row-major order, what every window sees there.

    Args:
      x: (batch, height, width, channels); padded by `padding` entries of value `fill`.

    Yields:
      (batch, rows of windows, columns of windows, channels).
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=fill)
    rows, columns = ((n - window) // stride + 1 for n in x.shape[1:3])
    for i in range(window):
        for j in range(window):
            yield x[
                :,
                i : i + stride * (rows - 1) + 1 : stride,
                j : j + stride * (columns - 1) + 1 : stride,
            ]


def inside(
    size: int, window: int, stride: int, padding: int
) -> Iterator[tuple[int, slice, tuple[int, int]]]:
    """Along one axis, what each position of the windows sees of the image alone, without padding.

    Args:
      size: of the image along this axis; `padding` entries on both sides.

    Yields:
      (tap, seen, around) for each position in the window that sees anything: the slice of the image,
      and how many windows before and after those see padding there.
    """
    windows = (size + 2 * padding - window) // stride + 1
    for tap in range(window):
        first = max(0, -((tap - padding) // stride))
        last = min(windows - 1, (size - 1 + padding - tap) // stride)
        if first <= last:
            start = first * stride + tap - padding
            seen = slice(start, start + (last - first) * stride + 1, stride)
            yield tap, seen, (first, windows - 1 - last)
