"""Analytic feedback: the Jacobian-matching feedback kernel in closed form, without iterations.

After the idea of Bao et al., AAAI 2024. It reads the forward weights, so it is
weight transport with a gain per output channel, not a local rule.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dtp_jax import ops
from dtp_jax.blocks import Activations, Block, Network, Params, Residual
from dtp_jax.rules.fixed import fw_dtp
from dtp_jax.rules.rule import Rule, check_kernels, read_by, shapes_of

Array = jax.Array


def analytic(*, beta: float) -> Rule:
    r"""DTP's targets with the feedback kernel V'_c = V_c E[f' g'] / E[g'^2] of every batch.

    For F = f(V x) and G(y) = V'^T f(y) that is where the expected gradient of L-DRL vanishes for small
    noise, and the minimum of ||J_G - J_F^T||^2 at the given pool indices. f' is the slope of the
    activation at the pre-activation, g' its slope at the output. There is one gain per output channel
    and, near zero padding, per kernel tap: the mean runs over the positions that the tap reaches.

    With max-pooling this is no longer L-DRL's fixed point: there the noisy pass may switch the winning
    position. Blocks whose feedback map is not linear in its parameters (residual stages) take the
    forward weights as they are. Feedback biases cancel in the targets and stay as they were drawn.
    """
    return fw_dtp(beta=beta)._replace(
        name="analytic",
        solve_feedback=solve_feedback,
        check=lambda network: check_kernels("analytic", network, can_be_solved),
    )


def solve_feedback(
    network: Network, forward: dict[str, Params], omega: Params, i: int, activations: Activations
) -> Params:
    """The feedback parameters of block i for this batch; see `analytic`."""
    block = network[i]
    theta = forward[block.name]
    if block.features is None:
        return transported(theta, omega)
    x, y, residual = activations.h[i], activations.h[i + 1], activations.residuals[i]
    gain = jacobian_matching_gain(block, theta, x, y, residual)
    return {**omega, "kernel": theta["kernel"] * gain}


def jacobian_matching_gain(
    block: Block, theta: Params, x: Array, y: Array, residual: Residual
) -> Array:
    """E[f' g'] / E[g'^2] in the shape of the kernel; 1 where g' is zero everywhere.

    Args:
      x, y, residual: input, output and residual of the block on the clean pass.
    """
    shift = jnp.zeros(theta["kernel"].shape[-1:], y.dtype)
    # f', the slope at the pre-activation of the positions that won: what a common shift changes.
    _, f = jax.jvp(partial(shifted, block, theta=theta, x=x), (shift,), (jnp.ones_like(shift),))

    def plane(v: Array) -> Array:
        """g' v, unpooled."""
        return jax.jvp(lambda y: block.features(y, residual), (y,), (v,))[1]

    def per_tap(a: Array) -> Array:
        """Sums over the positions that each kernel entry reaches: the adjoint of decoding, at ones."""
        ones = {"kernel": jnp.ones_like(theta["kernel"])}
        return jax.grad(lambda p: block.decode(p, a).sum())(ones)["kernel"]

    fg, gg = per_tap(plane(f)), per_tap(plane(jnp.ones_like(y)) ** 2)
    return jnp.where(gg > 0, fg / jnp.where(gg > 0, gg, 1), 1)


def shifted(block: Block, shift: Array, *, theta: Params, x: Array) -> Array:
    """The output of a block whose pre-activation is moved by `shift`, one number per output channel."""
    return block.forward({**theta, "kernel": ops.Shifted(theta["kernel"], shift)}, x)[0]


def can_be_solved(block: Block) -> bool:
    """Whether `solve_feedback` finds what it needs: a kernel with a slope after it, or, without `features`,
    kernels of omega that theta has too."""
    theta, omega, x = shapes_of(block)
    if block.features is None:
        found = jax.eval_shape(transported, theta, omega)
        kernels = [path for path, _ in jax.tree.leaves_with_path(omega) if path[-1].key == "kernel"]
        return bool(kernels) and jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, omega)
    y, residual = jax.eval_shape(block.forward, theta, x)
    gain = jax.eval_shape(partial(jacobian_matching_gain, block), theta, x, y, residual)
    shift = jax.ShapeDtypeStruct(gain.shape[-1:], y.dtype)
    moves = read_by(
        lambda shift, theta, x: shifted(block, shift, theta=theta, x=x), shift, theta, x
    )
    return moves and gain.shape == omega["kernel"].shape


def transported(theta: Params, omega: Params) -> Params:
    """omega with the kernels of theta."""
    return {
        name: transported(theta[name], value)
        if isinstance(value, dict)
        else theta[name]
        if name == "kernel"
        else value
        for name, value in omega.items()
    }
