"""Sliding windows as strided slices."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp


def taps(x: jax.Array, window: int, stride: int, padding: int, fill: float = 0.0) -> Iterator[jax.Array]:
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
            yield x[:, i:i + stride * (rows - 1) + 1:stride, j:j + stride * (columns - 1) + 1:stride]
