"""Convolution and its adjoint, in five implementations.

On a CPU XLA's own convolution loses a factor of 40 to 90 inside `lax.scan` (jax issue 12868), where
matrix products keep their speed: hence the four that are built on products. Autodiff derives the
adjoint and all gradients of each; they are products of the same sizes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dtp_jax.ops.asymmetric import Asymmetric
from dtp_jax.ops.platform import form
from dtp_jax.ops.precision import product_dtype
from dtp_jax.ops.windows import inside, taps

Array = jax.Array

WINOGRAD_CHANNELS = 16
"""From this many input channels on Winograd's transforms pay on a CPU: 16 -> 32 on 16x16 images, batch
128, 37 ms per L-DRL iteration where the patches take 42; 32 -> 64 on 8x8 images 18 and 24."""

ROWS_CHANNELS = 16
"""From this many input channels on, a row of a kernel is a product that is worth its own call."""


def conv(
    x: Array, kernel: Array, *, stride: int = 1, padding: int = 0, implementation: str | None = None
) -> Array:
    """2-D convolution (correlation) without bias.

    Args:
      x: images, (batch, height, width, in channels).
      kernel: (k, k, in channels, out channels), or an `Asymmetric` pair of such kernels.
      stride, padding: the same for both image axes; padding is zeros.
      implementation: one of IMPLEMENTATIONS, or None for the fastest one of the platform.

    Returns:
      (batch, (height + 2 padding - k) // stride + 1, likewise the width, out channels).

    Raises:
      ValueError: the implementation is unknown, or does not do this window or stride.
    """
    if isinstance(kernel, Asymmetric):
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
    if k == 3 and stride == 1 and in_channels >= WINOGRAD_CHANNELS:
        # 16x16, 128 -> 128: winograd 33, matmul 60. 4x4, 256 -> 256: winograd 6.7, matmul 9.5.
        return "winograd"
    if k == 5 and in_channels >= ROWS_CHANNELS:
        return "rows"  # 16x16, 32 -> 64, at batch 256: rows 503, matmul 690
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


def _conv_rows(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """One product per row of the kernel, of patches that are one row high.

    Those hold every pixel k times where whole patches hold it k^2 times, and building patches is what
    takes most of the time. With image rows leading, the patches below each other are plain slices.
    """
    k, _, in_channels, out_channels = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))).transpose(1, 0, 2, 3)
    rows, columns = ((n - k) // stride + 1 for n in (x.shape[0], x.shape[2]))
    strips = [x[:, :, j : j + stride * (columns - 1) + 1 : stride] for j in range(k)]
    patches = jnp.concatenate(strips, axis=-1)
    y = 0.0
    for i in range(k):
        seen = patches[i : i + stride * (rows - 1) + 1 : stride]
        y += seen.reshape(-1, k * in_channels) @ kernel[i].reshape(k * in_channels, out_channels)
    return y.reshape(rows, x.shape[1], columns, out_channels).transpose(1, 0, 2, 3)


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


def _conv_winograd(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """Winograd's F(2x2, 3x3): 16 products per tile of 2x2 outputs where the patches need 36.

    Lavin and Gray 2016 (arXiv 1509.09308), section 4.1. In one dimension, with a tile's inputs d0..d3
    and a kernel g0 g1 g2, the outputs are m0 + m1 + m2 and m1 - m2 - m3 with

        m0 = (d0 - d2) g0,  m1 = (d1 + d2) (g0 + g1 + g2) / 2,  m2 = (d2 - d1) (g0 - g1 + g2) / 2,
        m3 = (d1 - d3) g2.

    Its derivatives are Winograd convolutions too: autodiff transposes each transform.

    Raises:
      ValueError: the kernel is not 3x3, or the stride not 1.
    """
    if kernel.shape[:2] != (3, 3) or stride != 1:
        raise ValueError(
            f"winograd: kernel {kernel.shape[:2]} with stride {stride}; allowed: (3, 3) with stride 1"
        )
    batch, height, width, in_channels = x.shape
    out_height, out_width = height + 2 * padding - 2, width + 2 * padding - 2
    rows, columns = -(-out_height // 2), -(-out_width // 2)  # of tiles
    after = (2 * rows + 2 - height - padding, 2 * columns + 2 - width - padding)
    # Axes 2 and 4 count inside pairs of pixels, so that a tile's four inputs are plain slices.
    pairs = jnp.pad(x, ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    pairs = pairs.reshape(batch, rows + 1, 2, columns + 1, 2, in_channels)
    even, odd = _unstack(pairs, 2)
    strips = _inputs(even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:])
    tiles = []
    for s in strips:
        even, odd = _unstack(s, 3)
        tiles.append(_inputs(even[:, :, :-1], odd[:, :, :-1], even[:, :, 1:], odd[:, :, 1:]))
    kernels = [_kernels(*_unstack(g, 0)) for g in _kernels(*_unstack(kernel, 0))]
    m = [[_pointwise(tiles[i][j], kernels[i][j]) for j in range(4)] for i in range(4)]
    half = [_outputs(*row) for row in m]
    top, bottom = zip(*(_outputs(*(half[i][j] for i in range(4))) for j in range(2)), strict=True)
    y = jnp.stack([jnp.stack(top, axis=3), jnp.stack(bottom, axis=3)], axis=2)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :out_height, :out_width]


def _inputs(d0, d1, d2, d3):
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _unstack(x: Array, axis: int) -> list[Array]:
    """x[0], x[1], ... along the axis. The derivative is a concatenation, where that of indexing is a sum of
    padded arrays."""
    return [part.squeeze(axis) for part in lax.split(x, (1,) * x.shape[axis], axis)]


def _kernels(g0, g1, g2):
    return g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2


def _outputs(m0, m1, m2, m3):
    return m0 + m1 + m2, m1 - m2 - m3


def _pointwise(x: Array, kernel: Array) -> Array:
    """1x1 convolution. Flat, so that XLA:CPU transposes no copy of x for the kernel's gradient."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


IMPLEMENTATIONS = {
    "lax": _conv_lax,
    "matmul": _conv_matmul,
    "rows": _conv_rows,
    "taps": _conv_taps,
    "winograd": _conv_winograd,
}
"""By name: (x, kernel, stride, padding) -> y."""
