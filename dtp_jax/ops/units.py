"""Activation functions and initialisers."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dtp_jax.fields import checked, choice

Array = jax.Array


ACTIVATIONS = {
    "elu": jax.nn.elu,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}
"""Hidden-unit functions. All map 0 to exactly 0, which `features` in `dtp_jax.blocks` relies on."""


def activation(name: str, option: str = "activation") -> Callable[[Array], Array]:
    """The function of this name.

    Args:
      option: what the name was given as, for the error.

    Raises:
      ValueError: one line; `ACTIVATIONS` has no such name.
    """
    return ACTIVATIONS[checked(option, name, choice(ACTIVATIONS))]


def uniform_fan_in(key: Array, shape: tuple[int, ...], fan_in: int, dtype=jnp.float32) -> Array:
    """An array of this shape, uniform in +-1/sqrt(fan_in): PyTorch's default for weights and biases alike."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


xavier_normal = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal", dtype=jnp.float32)
"""Normal with std sqrt(2 / (fan_in + fan_out)): initializer(key, shape), the initialisation of DRL."""
