"""DTP and TP: target propagation with feedback maps that learn to reconstruct.

Lee et al., "Difference Target Propagation", 2015 (arXiv 1412.7525); Bengio, "How Auto-Encoders Could
Provide Credit Assignment in Deep Networks via Target Propagation", 2014 (arXiv 1407.7906).
"""

import jax

from dtp_jax import fields
from dtp_jax.blocks import mirror_feedback
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
)
from dtp_jax.rules.targets import difference_targets, propagated_targets

Array = jax.Array


def dtp(*, noise: float | tuple[float, ...], beta: float) -> Rule:
    r"""DTP ("vanilla", Lee et al. 2015). With x = h_{n-1}, e drawn from N(0, 1), dx = sigma_n e:

        feedback loss = mean_b ||(x + dx) - G_n(F_n(x + dx))||^2_b             (with respect to omega_n)

        t_L = h_L + beta (onehot - softmax(h_L)),   t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n)
        forward loss = sum_n 1/2 mean_b ||F_n(h_{n-1}) - t_n||^2_b             (with respect to theta_n)

    G_n unpools with the pool indices of the noisy pass in the loss, and of the clean one in the targets.

    Args:
      noise: sigma of each trained feedback map, blocks 1, 2, ... in forward order; or one for all.
      beta: step size of the output target.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    noise = fields.checked("noise", noise, fields.NOISE)
    beta = fields.checked("beta", beta, fields.RATE)

    def feedback_loss(network, forward, omega, i, activations, draws):
        block, theta = network[i], forward[network[i].name]
        x = activations.h[i] + of_map(noise, i - 1) * draws
        error = x - block.feedback(omega, *block.forward(theta, x))
        return batch_dot(error, error)

    return Rule(
        name="dtp",
        init_feedback=mirror_feedback,
        feedback_training=FeedbackTraining(draw_input_noise, feedback_loss, divides=of_own_block),
        output_target=lambda logits, labels: gradient_step_target(logits, labels, beta=beta),
        targets=difference_targets,
        local_loss=half_square_loss,
        per_map=per_map(noise=noise),
        beta=known(beta),
    )


def tp(*, noise: float | tuple[float, ...], beta: float) -> Rule:
    """TP (Bengio 2014): the feedback loss of `dtp`, and targets t_{n-1} = G_n(t_n) without correction."""
    return dtp(noise=noise, beta=beta)._replace(name="tp", targets=propagated_targets)


draw_input_noise = Normals(lambda block: block.input_shape)
"""One noise sample for a batch: N(0, 1) of shape (batch, *block input)."""
