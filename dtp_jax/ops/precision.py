"""In which precision products and convolutions are computed."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax import fields

PRECISIONS = fields.PRECISIONS
"""Of the operands of all products and convolutions; whatever is added, stored or updated is float32.

float32: as it says, on every device.
tf32: operands rounded to 10 bits of mantissa on devices that have TensorFloat-32 products (three
  passes of bfloat16 on a TPU), float32 elsewhere. What PyTorch and XLA do on their own for convolutions.
bfloat16: operands and results rounded to 7 bits of mantissa, sums inside a product in float32, as
  torch.autocast does. (On a CPU, where this is emulated, the adjoint of a convolution rounds once per
  position in the kernel.)"""

_MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
_current: ContextVar[str] = ContextVar("precision", default="tf32")


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """A context; programs traced in it compute their products in this precision (see `PRECISIONS`).

    Raises:
      ValueError: one line; the precision is none of these.
    """
    fields.require(fields.PRECISION, precision=precision)
    token = _current.set(precision)
    try:
        with jax.default_matmul_precision(_MATMUL[precision]):
            yield
    finally:
        _current.reset(token)


def as_operands(tree: Any) -> Any:
    """All arrays of the tree as products would round them: half as large in bfloat16."""
    return jax.tree.map(lambda a: a.astype(product_dtype(a.dtype)), tree)


def product_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """What operands of this type are rounded to; only float32 ones ever are."""
    reduced = _current.get() == "bfloat16" and dtype == jnp.float32
    return jnp.dtype(jnp.bfloat16) if reduced else dtype
