"""L-DRL: difference target propagation with learned backprop targets.

Ernoult et al., "Towards Scaling Difference Target Propagation by Learning Backprop Targets", ICML
2022 (arXiv 2201.13415): the paper's "local difference reconstruction loss".
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields, ops
from dtp_jax.blocks import Network, Params, mirror_feedback
from dtp_jax.rules.rule import (
    FeedbackTraining,
    Normals,
    Rule,
    batch_dot,
    gradient_step_target,
    half_square_loss,
    known,
    of_map,
    of_own_block,
    per_map,
    read_by,
)
from dtp_jax.rules.targets import difference_targets

Array = jax.Array


class Noise(NamedTuple):
    """Unscaled N(0, 1) draws of one noise sample: e like the block's input, u like its output."""

    e: Array
    u: Array


class Prepared(NamedTuple):
    """What one iteration needs of theta, activations and noise: dr = decode(d1), dr_y = decode(d2)."""

    dx: Array
    d1: Array
    """features(F(x + dx)) - features(h)."""
    d2: tuple[Array, Array]
    """features(h + dy) - features(h): for the value of dr_y, and for the gradient."""


def ldrl(*, noise: float | tuple[float, ...], beta: float) -> Rule:
    r"""L-DRL. With x = h_{n-1}, h = F_n(x), e and u drawn from N(0, 1), dx = sigma_n e, dy = sigma_n u:

        dr   = G_n(F_n(x + dx)) - G_n(h)
        dr_y = G_n(h + dy) - G_n(h)
        feedback loss = mean_b[ -2 <dx, dr>_b + ||dr_y||^2_b ]                 (with respect to omega_n)

        t_L = h_L + beta (onehot - softmax(h_L)),   t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n)
        forward loss = sum_n 1/2 mean_b ||F_n(h_{n-1}) - t_n||^2_b             (with respect to theta_n)

    Args:
      noise: sigma of each trained feedback map, blocks 1, 2, ... in forward order; or one for all.
      beta: step size of the output target.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    noise = fields.checked("noise", noise, fields.NOISE)
    beta = fields.checked("beta", beta, fields.RATE)

    def feedback_loss(network, forward, omega, i, activations, draws):
        """The loss above, written out."""
        block, theta, sigma = network[i], forward[network[i].name], of_map(noise, i - 1)
        x, h, residual = activations.h[i], activations.h[i + 1], activations.residuals[i]
        dx, dy = sigma * draws.e, sigma * draws.u
        r = block.feedback(omega, h, residual)
        dr = block.feedback(omega, *block.forward(theta, x + dx)) - r
        dr_y = block.feedback(omega, h + dy, residual) - r
        return -2 * batch_dot(dx, dr) + batch_dot(dr_y, dr_y)

    def prepare(network, forward, i, activations, clean, draws) -> Prepared:
        """The difference form, omega-free part."""
        block, theta, sigma = network[i], forward[network[i].name], of_map(noise, i - 1)
        x, h, residual = activations.h[i], activations.h[i + 1], activations.residuals[i]
        dx, dy = sigma * draws.e, sigma * draws.u

        def change(y, residual, clean):
            return block.features(y, residual) - clean

        d1 = change(*block.forward(theta, x + dx), clean)
        d2 = ops.for_each_use(change, h + dy, residual, clean, uses=2)
        return Prepared(dx, d1, d2)

    def gradient(network, omega, i, prepared: Prepared) -> tuple[Array, Params]:
        """The difference form, the rest: loss = mean_b[-2 <dx, decode(d1)>_b + ||decode(d2)||^2_b]."""
        decode, (dx, d1, (d2, d2_again)) = network[i].decode, prepared
        dr_y = decode(omega, d2)

        # d loss / d dr = -2 dx / batch and d loss / d dr_y = 2 dr_y / batch. By Euler <gradient, omega> is
        # the linear term, and twice the quadratic one. Decoding does not read the bias, whose gradient of
        # zero would else be multiplied and summed on its own in each iteration.
        scale, dot = 2 / dx.shape[0], partial(dot_where, read_by(decode, omega, d2), omega)
        if ops.form().paired_gradients:
            cotangent = scale * paired(-dx, dr_y)
            gradient = kernel_gradient(decode, omega, paired(d1, d2), cotangent)
            return dot(gradient) - batch_dot(dr_y, dr_y), gradient
        linear = adjoint_kernel_gradient(decode, omega, d1, dx)
        quadratic = adjoint_kernel_gradient(decode, omega, d2_again, dr_y)
        gradient = jax.tree.map(lambda q, g: scale * (q - g), quadratic, linear)
        loss = jax.tree.map(lambda q, g: scale * (q / 2 - g), quadratic, linear)
        return dot(loss), gradient

    return Rule(
        name="ldrl",
        init_feedback=mirror_feedback,
        feedback_training=FeedbackTraining(
            draw_noise,
            feedback_loss,
            prepare,
            gradient,
            flops=iteration_flops,
            divides=of_own_block,
        ),
        output_target=lambda logits, labels: gradient_step_target(logits, labels, beta=beta),
        targets=difference_targets,
        local_loss=half_square_loss,
        per_map=per_map(noise=noise),
        beta=known(beta),
    )


def iteration_flops(network: Network, i: int) -> float:
    """Of one example: F, one decoding and two gradients of the kernel in the difference form; written
    out, it is F, three G (G(h), G(F(x + dx)), G(h + dy)) and the gradient of each."""
    return (7 if network[i].features is None else 4) * network[i].forward_flops


def kernel_gradient(decode, omega: Params, a: Array, cotangent: Array) -> Params:
    """The gradient of <decode(omega, a), cotangent>; linear in omega, so that no value is needed."""
    return jax.vjp(lambda omega: decode(omega, a), omega)[1](cotangent)[0]


def adjoint_kernel_gradient(decode, omega: Params, a: Array, cotangent: Array) -> Params:
    """The same as the gradient of <a, adjoint(omega, cotangent)>: that of a forward convolution, whose
    kernel lies in memory as that of the decoding does."""

    def adjoint(omega):
        return jax.linear_transpose(lambda a: decode(omega, a), a)(cotangent)[0]

    return jax.vjp(adjoint, omega)[1](a)[0]


def dot_where(chosen: Params, a: Params, b: Params) -> Array:
    """<a, b> over the chosen parameters."""
    products = jax.tree.map(lambda c, a, b: (a * b).sum() if c else 0.0, chosen, a, b)
    return sum(jax.tree.leaves(products))


def paired(a: Array, b: Array) -> Array:
    """a[0], b[0], a[1], b[1], ...: one batch of both, which stays where it is if batches are divided
    among devices."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


draw_noise = Normals(lambda block: Noise(e=block.input_shape, u=block.output_shape))
"""One noise sample for a batch: e of shape (batch, *input), u of shape (batch, *output)."""
