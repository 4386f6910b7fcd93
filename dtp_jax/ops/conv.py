"""Convolution and its adjoint, in three implementations.

On a CPU XLA's own convolution loses a factor of 40 to 90 inside `lax.scan` (jax issue 12868), where
matrix products keep their speed: hence the two that are built on products.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dtp_jax.ops.windows import taps

Array = jax.Array


def conv(x: Array, kernel: Array, *, stride: int = 1, padding: int = 0, implementation: str | None = None) -> Array:
    """2-D convolution (correlation) without bias.

    Args:
      x: images, (batch, height, width, in channels).
      kernel: (k, k, in channels, out channels).
      stride, padding: the same for both image axes; padding is zeros.
      implementation: one of IMPLEMENTATIONS, or None for the fastest one of the default backend.

    Returns:
      (batch, (height + 2 padding - k) // stride + 1, likewise the width, out channels).
    """
    chosen = implementation or _fastest(kernel, stride)
    return IMPLEMENTATIONS[chosen](x, kernel, stride, padding)


def conv_transpose(y: Array, kernel: Array, *, input_shape: tuple[int, ...], stride: int = 1, padding: int = 0,
                   implementation: str | None = None) -> Array:
    """The adjoint of `conv` for the same kernel: <conv(x), y> = <x, conv_transpose(y)>.

    The kernel keeps the layout of the forward one, (k, k, channels of x, channels of y), so forward
    and feedback kernels can be compared entry by entry. It equals torch's ConvTranspose2d with
    output_padding = stride - 1 where that reproduces the size of x.

    Args:
      y: (batch, height, width, out channels of the forward convolution).
      input_shape: (height, width, channels) of the result, i.e. of the forward convolution's input.
    """
    x = jax.ShapeDtypeStruct((y.shape[0], *input_shape), y.dtype)
    forward = partial(conv, kernel=kernel, stride=stride, padding=padding, implementation=implementation)
    return jax.linear_transpose(forward, x)(y)[0]


def _fastest(kernel: Array, stride: int) -> str:
    if jax.default_backend() != "cpu":
        return "lax"
    return "winograd" if kernel.shape[0] == 3 and stride == 1 and kernel.shape[2] > 3 else "matmul"


def _conv_lax(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """XLA's own."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((padding, padding),) * 2,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_matmul(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """One product of all patches with the kernel."""
    k, _, in_channels, out_channels = kernel.shape
    patches = jnp.concatenate(list(taps(x, k, stride, padding)), axis=-1)
    y = patches.reshape(-1, k * k * in_channels) @ kernel.reshape(k * k * in_channels, out_channels)
    return y.reshape(*patches.shape[:3], out_channels)


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
        raise ValueError(f"winograd: kernel {kernel.shape[:2]} with stride {stride}; allowed: (3, 3) with stride 1")
    batch, height, width, in_channels = x.shape
    out_height, out_width = height + 2 * padding - 2, width + 2 * padding - 2
    rows, columns = -(-out_height // 2), -(-out_width // 2)  # of tiles
    after = (2 * rows + 2 - height - padding, 2 * columns + 2 - width - padding)
    # Axes 2 and 4 count inside pairs of pixels, so that a tile's four inputs are plain slices.
    pairs = jnp.pad(x, ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    pairs = pairs.reshape(batch, rows + 1, 2, columns + 1, 2, in_channels)
    strips = _inputs(pairs[:, :-1, 0], pairs[:, :-1, 1], pairs[:, 1:, 0], pairs[:, 1:, 1])
    tiles = [_inputs(s[:, :, :-1, 0], s[:, :, :-1, 1], s[:, :, 1:, 0], s[:, :, 1:, 1]) for s in strips]
    kernels = [_kernels(*g) for g in _kernels(*kernel)]
    m = [[tiles[i][j] @ kernels[i][j] for j in range(4)] for i in range(4)]
    half = [_outputs(*row) for row in m]
    top, bottom = zip(*(_outputs(*(half[i][j] for i in range(4))) for j in range(2)))
    y = jnp.stack([jnp.stack(top, axis=3), jnp.stack(bottom, axis=3)], axis=2)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :out_height, :out_width]


def _inputs(d0, d1, d2, d3):
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _kernels(g0, g1, g2):
    return g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2


def _outputs(m0, m1, m2, m3):
    return m0 + m1 + m2, m1 - m2 - m3


IMPLEMENTATIONS = {"lax": _conv_lax, "matmul": _conv_matmul, "winograd": _conv_winograd}
"""By name: (x, kernel, stride, padding) -> y."""
