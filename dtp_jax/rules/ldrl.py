"""L-DRL: difference target propagation with learned backprop targets.

Ernoult et al., "Towards Scaling Difference Target Propagation by Learning Backprop Targets", ICML
2022 (arXiv 2201.13415): the paper's "local difference reconstruction loss".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields, ops
from dtp_jax.blocks import Block, Network, Params, mirror_feedback
from dtp_jax.rules.rule import (
    FeedbackTraining,
    Rule,
    batch_dot,
    gradient_step_target,
    half_square_loss,
    known,
    of_map,
    per_map,
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
    d2: Array
    """features(h + dy) - features(h)."""


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
        d1 = block.features(*block.forward(theta, x + dx)) - clean
        d2 = block.features(h + dy, residual) - clean
        return Prepared(dx, d1, d2)

    def gradient(network, omega, i, prepared: Prepared) -> tuple[Array, Params]:
        """The difference form, the rest: loss = mean_b[-2 <dx, decode(d1)>_b + ||decode(d2)||^2_b]."""
        decode, (dx, d1, d2) = network[i].decode, prepared
        dr_y = decode(omega, d2)
        # d loss / d dr = -2 dx / batch and d loss / d dr_y = 2 dr_y / batch: both through one decode,
        # which is linear in omega, so that its value is not needed.
        _, pull = jax.vjp(lambda omega: decode(omega, paired(d1, d2)), omega)
        (grads,) = pull(paired(-dx, dr_y) * (2 / dx.shape[0]))
        # By Euler <grads, omega> is the linear term plus twice the quadratic one.
        products = jax.tree.map(lambda g, w: (g * w).sum(), grads, omega)
        return sum(jax.tree.leaves(products)) - batch_dot(dr_y, dr_y), grads

    return Rule(
        name="ldrl",
        init_feedback=mirror_feedback,
        feedback_training=FeedbackTraining(
            draw_noise, feedback_loss, prepare, gradient, flops=iteration_flops
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


def paired(a: Array, b: Array) -> Array:
    """a[0], b[0], a[1], b[1], ...: one batch of both, which stays where it is if batches are divided
    among devices."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def draw_noise(key: Array, block: Block, batch: int, dtype: Any) -> Noise:
    """One noise sample for a batch: e of shape (batch, *input), u of shape (batch, *output)."""
    key_e, key_u = jax.random.split(key)
    return Noise(
        ops.standard_normal(key_e, (batch, *block.input_shape), dtype),
        ops.standard_normal(key_u, (batch, *block.output_shape), dtype),
    )
