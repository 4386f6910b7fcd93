"""What convolutions and linear maps share: PyTorch's default initialisation, and the bias."""

import jax

from dtp_jax import ops
from dtp_jax.blocks.block import Array, Params, Shape


def init_affine(
    key: Array, kernel_shape: Shape, bias_size: int, *, fan_in: int, bias: bool
) -> Params:
    """Kernel and bias, uniform in +-1/sqrt(fan_in)."""
    kernel_key, bias_key = jax.random.split(key)
    params = {"kernel": ops.uniform_fan_in(kernel_key, kernel_shape, fan_in)}
    if bias:
        params["bias"] = ops.uniform_fan_in(bias_key, (bias_size,), fan_in)
    return params


def add_bias(y: Array, params: Params) -> Array:
    """y + bias where there is one."""
    return y + params["bias"] if "bias" in params else y
