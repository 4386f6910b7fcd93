"""Convolution and its adjoint, in five implementations.

On a CPU XLA's own convolution loses a factor of 40 to 90 inside `lax.scan` (jax issue 12868), where
matrix products keep their speed: hence those that are built on products. Autodiff derives the
adjoint and all gradients of each; they are products of the same sizes.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dtp_jax.ops.asymmetric import StandIn
from dtp_jax.ops.platform import form
from dtp_jax.ops.precision import product_dtype
from dtp_jax.ops.windows import inside, taps

Array = jax.Array


def conv(
    x: Array, kernel: Array, *, stride: int = 1, padding: int = 0, implementation: str | None = None
) -> Array:
    """2-D convolution (correlation) without bias.

    Args:
      x: images, (batch, height, width, in channels).
      kernel: (k, k, in channels, out channels), or a `StandIn` for one.
      stride, padding: the same for both image axes; padding is zeros.
      implementation: one of IMPLEMENTATIONS, or None for the fastest one of the platform.

    Returns:
      (batch, (height + 2 padding - k) // stride + 1, likewise the width, out channels).

    Raises:
      ValueError: the implementation is unknown, or does not do this window or stride.
    """
    if isinstance(kernel, StandIn):
        apply = partial(conv, stride=stride, padding=padding, implementation=implementation)
        return kernel.apply(apply, x)
    dtype = product_dtype(x.dtype)
    chosen = implementation or _fastest(x.shape, kernel.shape, stride, dtype)
    if chosen not in IMPLEMENTATIONS:
        raise ValueError(f"conv: implementation {chosen!r}; allowed: {', '.join(IMPLEMENTATIONS)}")
    y = IMPLEMENTATIONS[chosen](x.astype(dtype), kernel.astype(dtype), stride, padding)
    return y.astype(x.dtype)


def conv_transpose(
    y: Array,
    kernel: Array,
    *,
    input_shape: tuple[int, ...],
    stride: int = 1,
    padding: int = 0,
    implementation: str | None = None,
) -> Array:
    """The adjoint of `conv` for the same kernel: <conv(x), y> = <x, conv_transpose(y)>.

    The kernel keeps the layout of the forward one, (k, k, channels of x, channels of y), so forward
    and feedback kernels can be compared entry by entry. It equals torch's ConvTranspose2d with
    output_padding = stride - 1 where that reproduces the size of x.

    Args:
      y: (batch, height, width, out channels of the forward convolution).
      input_shape: (height, width, channels) of the result, i.e. of the forward convolution's input.
      implementation: as of `conv`.
    """
    x = jax.ShapeDtypeStruct((y.shape[0], *input_shape), y.dtype)
    forward = partial(
        conv, kernel=kernel, stride=stride, padding=padding, implementation=implementation
    )
    return jax.linear_transpose(forward, x)(y)[0]


def _fastest(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, dtype: jnp.dtype
) -> str:
    """The choice by static shapes; times are ms per L-DRL iteration at batch 32 on two CPU cores."""
    if not form().own_convolutions:
        return "lax"
    k, _, in_channels, _ = kernel_shape
    if dtype == jnp.bfloat16:
        return "matmul"  # the others add and subtract outside of products, and would lose what bits there are
    if k > 1 and max(x_shape[1:3]) <= k - 1:
        # Most taps fall outside. 2x2 images, 256 -> 512: taps 3.5, winograd 6.4, matmul 4.6.
        return "taps"
    # Winograd's against patches. 16x16, 128 -> 128: 33 and 60 with tiles of 2x2 outputs; tiles of 4x4 take 5
    # less. 5x5 kernels: 16x16, 32 -> 64: 19 and 35. With 3 channels patches are three times as fast.
    if stride == 1 and in_channels >= LEAST_CHANNELS.get(k, math.inf):
        return "winograd_4" if k == 3 and min(x_shape[1:3]) >= 4 else "winograd"
    return "matmul"


def _conv_lax(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """XLA's own."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _conv_matmul(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """One product of all patches with the kernel."""
    k, _, in_channels, out_channels = kernel.shape
    patches = jnp.concatenate(list(taps(x, k, stride, padding)), axis=-1)
    y = patches.reshape(-1, k * k * in_channels) @ kernel.reshape(k * k * in_channels, out_channels)
    return y.reshape(*patches.shape[:3], out_channels)


def _conv_taps(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """One product per position in the kernel, of only those pixels that it sees inside the image.

    On 2x2 images, 3x3 windows and padding 1 that is 16 pixels where the patches have 36.
    """
    k, _, _, out_channels = kernel.shape
    sizes = [(n + 2 * padding - k) // stride + 1 for n in x.shape[1:3]]
    rows, columns = (list(inside(n, k, stride, padding)) for n in x.shape[1:3])
    y = jnp.zeros((x.shape[0], *sizes, out_channels), x.dtype)
    for i, seen_rows, around_rows in rows:
        for j, seen_columns, around_columns in columns:
            part = _pointwise(x[:, seen_rows, seen_columns], kernel[i, j])
            y += jnp.pad(part, ((0, 0), around_rows, around_columns, (0, 0)))
    return y


class Winograd(NamedTuple):
    """F(m, k): matrices with outputs = outputs @ ((kernel @ g) * (inputs @ d)), for m outputs of a kernel g of k
    taps and the m + k - 1 inputs d that they see. So m + k - 1 products do what takes m k."""

    inputs: tuple[tuple[float, ...], ...]
    kernel: tuple[tuple[float, ...], ...]
    outputs: tuple[tuple[float, ...], ...]


SIX_INPUTS = (
    (1, -3 / 2, -2, 3 / 2, 1, 0),
    (0, -1, 1 / 2, 5 / 2, 1, 0),
    (0, 1, -5 / 2, 1 / 2, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 1 / 2, -1, -1 / 2, 1, 0),
    (0, 1, -3 / 2, -2, 3 / 2, 1),
)
"""By polynomials at 0, 1, -1, 1/2, -2 and infinity: in float32 a third less rounding than with 2 for 1/2."""

WINOGRAD = {
    (2, 3): Winograd(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    (4, 3): Winograd(
        inputs=SIX_INPUTS,
        kernel=(
            (1, 0, 0),
            (1 / 3, 1 / 3, 1 / 3),
            (-1 / 3, 1 / 3, -1 / 3),
            (-16 / 15, -8 / 15, -4 / 15),
            (1 / 15, -2 / 15, 4 / 15),
            (0, 0, 1),
        ),
        outputs=(
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 1 / 2, -2, 0),
            (0, 1, 1, 1 / 4, 4, 0),
            (0, 1, -1, 1 / 8, -8, 1),
        ),
    ),
    (2, 5): Winograd(
        inputs=SIX_INPUTS,
        kernel=(
            (1, 0, 0, 0, 0),
            (1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3),
            (-1 / 3, 1 / 3, -1 / 3, 1 / 3, -1 / 3),
            (-16 / 15, -8 / 15, -4 / 15, -2 / 15, -1 / 15),
            (1 / 15, -2 / 15, 4 / 15, -8 / 15, 16 / 15),
            (0, 0, 0, 0, 1),
        ),
        outputs=((1, 1, 1, 1, 1, 0), (0, 1, -1, 1 / 2, -2, 1)),
    ),
}
"""By outputs of a tile along an axis, and the kernel's size."""
LEAST_CHANNELS = {3: 16, 5: 8}
"""From so many input channels on Winograd's form pays on a CPU, by the kernel's size."""


def pixel_copies(k: int) -> float:
    """How often what a CPU multiplies holds each pixel, with a k x k kernel: in Winograd's largest tiles, or in
    patches."""
    tiles = [((m + k - 1) / m) ** 2 for m, size in WINOGRAD if size == k]
    return min(tiles, default=k**2)


def _conv_winograd(x: Array, kernel: Array, stride: int, padding: int, *, m: int = 2) -> Array:
    """Winograd's F(m x m, k x k): for each tile of 2x2 outputs, 16 products where the patches of a 3x3 kernel
    need 36, and 36 where those of a 5x5 kernel need 100; for each of 4x4 outputs, 36 where patches need 144.

    Lavin and Gray 2016 (arXiv 1509.09308), section 4.1. Its derivatives are Winograd convolutions too:
    autodiff transposes each transform.

    Raises:
      ValueError: there are no matrices for the kernel, or the stride is not 1.
    """
    k = kernel.shape[0]
    if (m, k) not in WINOGRAD or stride != 1:
        kernels = " or ".join(f"({k}, {k})" for n, k in WINOGRAD if n == m)
        raise ValueError(
            f"winograd: kernel {kernel.shape[:2]} with stride {stride}; allowed: {kernels} with stride 1"
        )
    batch, height, width, in_channels = x.shape
    out_height, out_width = (n + 2 * padding - k + 1 for n in (height, width))
    rows, columns = -(-out_height // m), -(-out_width // m)  # of tiles
    groups = [n + -(-(k - 1) // m) for n in (rows, columns)]  # of m pixels
    after = [m * n - size - padding for n, size in zip(groups, (height, width))]
    # Axes 2 and 4 count inside groups of pixels, so that a tile's inputs are plain slices.
    x = jnp.pad(x, ((0, 0), *((padding, n) for n in after), (0, 0)))
    x = x.reshape(batch, groups[0], m, groups[1], m, in_channels)
    transform = WINOGRAD[m, k]
    strips = _combined(transform.inputs, _seen(x, 1, rows, k))
    tiles = [_combined(transform.inputs, _seen(strip, 2, columns, k)) for strip in strips]
    kernels = [
        _combined(transform.kernel, _unstack(g, 0))
        for g in _combined(transform.kernel, _unstack(kernel, 0))
    ]
    products = [[_pointwise(*pair) for pair in zip(*row)] for row in zip(tiles, kernels)]
    half = [_combined(transform.outputs, row) for row in products]
    y = [_combined(transform.outputs, column) for column in zip(*half)]  # column by column
    y = jnp.stack([jnp.stack(row, axis=3) for row in zip(*y)], axis=2)
    return y.reshape(batch, m * rows, m * columns, -1)[:, :out_height, :out_width]


def _seen(groups: Array, axis: int, tiles: int, k: int) -> list[Array]:
    """What tiles see at each of their m + k - 1 positions; the m pixels of a group are along axis + 1."""
    pixels = _unstack(groups, axis + 1)
    m = len(pixels)
    return [
        lax.slice_in_dim(pixels[p % m], p // m, p // m + tiles, axis=axis) for p in range(m + k - 1)
    ]


def _combined(matrix: tuple[tuple[float, ...], ...], parts: Sequence[Array]) -> list[Array]:
    """matrix @ parts, by sums that leave zeros out."""
    return [_sum([(c, part) for c, part in zip(row, parts) if c != 0]) for row in matrix]


def _sum(terms: list[tuple[float, Array]]) -> Array:
    """Of c * part; by one product where all c are of one size, and without negations, which XLA:CPU would keep."""
    sizes = {abs(c) for c, _ in terms}
    common = sizes.pop() if len(sizes) == 1 else 1
    (first, total), *others = sorted(terms, key=lambda term: term[0] < 0)
    total = _times(first / common, total)
    for c, part in others:
        part = _times(abs(c) / common, part)
        total = total + part if c > 0 else total - part
    return _times(common, total)


def _times(c: float, a: Array) -> Array:
    return a if c == 1 else c * a


def _unstack(x: Array, axis: int) -> list[Array]:
    """x[0], x[1], ... along the axis. The derivative is a concatenation, where that of indexing is a sum of
    padded arrays."""
    return [part.squeeze(axis) for part in lax.split(x, (1,) * x.shape[axis], axis)]


def _pointwise(x: Array, kernel: Array) -> Array:
    """1x1 convolution. Flat, so that XLA:CPU transposes no copy of x for the kernel's gradient."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


IMPLEMENTATIONS = {
    "lax": _conv_lax,
    "matmul": _conv_matmul,
    "taps": _conv_taps,
    "winograd": _conv_winograd,
    "winograd_4": partial(_conv_winograd, m=4),
}
"""By name: (x, kernel, stride, padding) -> y."""
