"""What stands in for a kernel, so that a rule may look into a block from outside."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax

from dtp_jax.ops.precision import product_dtype

Array = jax.Array
Product = Callable[[Array, Array], Array]


class StandIn(ABC):
    """A block takes one for its kernel wherever it multiplies: in `linear`, `conv` and x @ kernel. It is no
    array, so that a block which does anything else with it fails and computes nothing else in silence."""

    @abstractmethod
    def apply(self, product: Product, x: Array) -> Array:
        """What the block computes in place of product(x, kernel)."""

    def __rmatmul__(self, x: Array) -> Array:
        return self.apply(operator.matmul, x)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Asymmetric(StandIn):
    """A kernel whose derivative uses other weights than its value: `forward` gives the value, `backward` the
    derivative with respect to the input. Feedback alignment sends its errors through such kernels."""

    forward: Array
    backward: Array

    def apply(self, product: Product, x: Array) -> Array:
        """product(x, forward), with the derivative of product(x, backward) with respect to x."""
        constant = jax.lax.stop_gradient(x)
        return product(constant, self.forward) + product(x - constant, self.backward)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shifted(StandIn):
    """A kernel whose product is shifted by `shift`, (out,): the derivative with respect to it is the slope of
    what comes after the product, which the analytic rule asks for."""

    kernel: Array
    shift: Array

    def apply(self, product: Product, x: Array) -> Array:
        """product(x, kernel) + shift."""
        return product(x, self.kernel) + self.shift


def linear(x: Array, kernel: Array | StandIn) -> Array:
    """x @ kernel, (batch, in) by (in, out), where the kernel may be a `StandIn`."""
    if isinstance(kernel, StandIn):
        return kernel.apply(linear, x)
    dtype = product_dtype(x.dtype)
    return (x.astype(dtype) @ kernel.astype(dtype)).astype(x.dtype)
