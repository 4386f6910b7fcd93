"""Two arrays of one shape: how far apart, and under which angle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields

Array = jax.Array


class Alignment(NamedTuple):
    """How far an array is from another one: `distance` and `angle`."""

    distance: Array
    """Relative to the first of the two."""
    angle: Array
    """Degrees."""


def distance(a: Array, b: Array) -> Array:
    """||a - b|| / ||a||: relative to the first argument.

    Of weights Ernoult et al. 2022 draw it in figure 4.2; of updates their program has it.

    Raises:
      ValueError: one line; they have two shapes.
    """
    _check_shapes(a, b)
    return jnp.sqrt(jnp.sum((a - b) ** 2) / jnp.sum(a**2))


def angle(a: Array, b: Array) -> Array:
    """Angle between the flattened arrays, in degrees: <a, b> / (|a| |b| + 1e-8), clipped to [-1, 1].

    Raises:
      ValueError: one line; they have two shapes.
    """
    _check_shapes(a, b)
    cosine = jnp.sum(a * b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()) + 1e-8)
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def direction_angle(a: Array, b: Array) -> Array:
    """Angle between the flattened arrays, in degrees, whatever their norms; NaN where one is zero.

    2 atan2(|u - v|, |u + v|) of the unit vectors (W. Kahan): exact to rounding also near 0 and 180
    degrees. The published `angle` has 1e-8 in its denominator, which turns a gradient of norm
    1e-3 by 8 degrees from itself.

    Raises:
      ValueError: one line; they have two shapes.
    """
    _check_shapes(a, b)
    u, v = (x.ravel() / jnp.linalg.norm(x.ravel()) for x in (a, b))
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v)))


def _check_shapes(a: Array, b: Array) -> None:
    if jnp.shape(a) != jnp.shape(b):
        raise fields.error("b", b, f"the shape of a, {jnp.shape(a)}")


def alignment(a: Array, b: Array) -> Alignment:
    """Distance and angle of two arrays of one shape."""
    return Alignment(distance(a, b), angle(a, b))
