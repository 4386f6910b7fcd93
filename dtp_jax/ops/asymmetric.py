"""Kernels whose derivative uses other weights than their value."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from dtp_jax.ops.precision import product_dtype

Array = jax.Array


class Asymmetric(NamedTuple):
    """Stands in for a kernel: `forward` gives the value, `backward` the derivative with respect to the
    input. Feedback alignment sends its errors through such kernels."""

    forward: Array
    backward: Array

    def apply(self, product: Callable[[Array, Array], Array], x: Array) -> Array:
        """product(x, forward), with the derivative of product(x, backward) with respect to x."""
        constant = jax.lax.stop_gradient(x)
        return product(constant, self.forward) + product(x - constant, self.backward)


def linear(x: Array, kernel: Array | Asymmetric) -> Array:
    """x @ kernel, (batch, in) by (in, out), where the kernel may be an `Asymmetric` pair."""
    if isinstance(kernel, Asymmetric):
        return kernel.apply(linear, x)
    dtype = product_dtype(x.dtype)
    return (x.astype(dtype) @ kernel.astype(dtype)).astype(x.dtype)
