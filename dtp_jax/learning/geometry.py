"""Measures of Jacobians: what feedback maps and targets are beside transposes and Gauss-Newton. Pure functions.

J_F is the Jacobian of a block's forward map at its input x, J_G that of its feedback map at y = F(x),
with the pool indices of x. J_i is the Jacobian of the logits with respect to the output of block i.
"""


import jax
import jax.numpy as jnp

Array = jax.Array


def direction_angle(a: Array, b: Array) -> Array:
    """Angle between the flattened arrays, in degrees, whatever their norms; NaN where one is zero.

    2 atan2(|u - v|, |u + v|) of the unit vectors (W. Kahan): exact to rounding also near 0 and 180
    degrees. The published `metrics.angle` has 1e-8 in its denominator, which turns a gradient of norm
    1e-3 by 8 degrees from itself.
    """
    u, v = (x.ravel() / jnp.linalg.norm(x.ravel()) for x in (a, b))
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v)))
