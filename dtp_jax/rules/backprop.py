"""Backpropagation: the baseline, and the same as a target-propagation rule."""

import jax

from dtp_jax.blocks import Activations, Network, Params
from dtp_jax.rules.rule import Rule, cross_entropy, gradient_step_target, half_square_loss

Array = jax.Array


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
    """

    def targets(
        network: Network,
        forward: dict[str, Params],
        feedback: dict[str, Params],
        activations: Activations,
        top: Array,
    ) -> tuple[Array, ...]:
        del feedback
        error, result = activations.h[-1] - top, [top]
        for i in reversed(range(1, len(network))):
            theta = forward[network[i].name]
            _, pullback = jax.vjp(
                lambda x, f=network[i].forward, p=theta: f(p, x)[0], activations.h[i]
            )
            (error,) = pullback(error)
            result.insert(0, activations.h[i] - error)
        return tuple(result)

    return Rule(
        name="backprop_targets",
        init_feedback=lambda network, key: {},
        feedback_training=None,
        output_target=lambda logits, labels: gradient_step_target(logits, labels, beta=beta),
        targets=targets,
        local_loss=half_square_loss,
    )
