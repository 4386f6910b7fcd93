"""Backpropagation: the baseline, and the same as a target-propagation rule."""

from dtp_jax import fields
from dtp_jax.rules.rule import Rule, cross_entropy, gradient_step_target, half_square_loss, known
from dtp_jax.rules.targets import backpropagated_targets


def backprop() -> Rule:
    """One ordinary gradient of the mean cross-entropy; no feedback parameters."""
    return backprop_targets(beta=1.0)._replace(
        name="backprop", global_loss=lambda logits, labels: cross_entropy(logits, labels).mean()
    )


def backprop_targets(*, beta: float) -> Rule:
    """Backpropagation written as target propagation: t_i = h_i - J_i^T (h_L - t_L).

    J_i is the Jacobian of the logits with respect to h_i. At beta = 1 the gradients of the local
    losses are exactly those of the mean cross-entropy, which makes this rule the oracle for the
    machinery that all rules share.

    Raises:
      ValueError: one line; a beta that is not allowed.
    """
    beta = fields.checked("beta", beta, fields.RATE)

    def targets(network, forward, feedback, activations, top):
        del feedback
        return backpropagated_targets(network, forward, activations, top)

    return Rule(
        name="backprop_targets",
        init_feedback=lambda network, key: {},
        feedback_training=None,
        output_target=lambda logits, labels: gradient_step_target(logits, labels, beta=beta),
        targets=targets,
        local_loss=half_square_loss,
        beta=known(beta),
    )
