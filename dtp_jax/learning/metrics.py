"""Diagnostics: of weights, of updates, of Jacobians. Pure functions.

The first two are here. Others live in `comparison` (two arrays), `jacobians` (a block and its feedback map)
and `gauss_newton` (targets), and are found here as well.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax import fields
from dtp_jax.blocks import Activations, Block, Network, Params, forward_all
from dtp_jax.learning import checks
from dtp_jax.learning.comparison import Alignment, alignment, angle, direction_angle, distance
from dtp_jax.learning.gauss_newton import (
    gauss_newton_angle,
    gauss_newton_step,
    null_space_share,
    output_jacobians,
)
from dtp_jax.learning.jacobians import (
    jacobian_distance,
    positive_share,
    product_eigenvalues,
    product_trace,
)
from dtp_jax.learning.learner import global_gradient, local_gradients, solved_feedback
from dtp_jax.rules.backprop import backprop
from dtp_jax.rules.rule import Rule, cross_entropy

__all__ = [
    "SMALL_BETA",
    "Alignment",
    "alignment",
    "angle",
    "compared_updates",
    "direction_angle",
    "distance",
    "gauss_newton_angle",
    "gauss_newton_step",
    "gradient_matching",
    "jacobian_distance",
    "norm_ratio",
    "null_space_share",
    "output_jacobians",
    "positive_share",
    "product_eigenvalues",
    "product_trace",
    "small_step",
    "update_alignment",
    "weight_alignment",
]

Array = jax.Array

SMALL_BETA = 0.005
"""Step size of the output target at which the original compares updates with backprop's."""


def weight_alignment(
    forward: dict[str, Params], feedback: dict[str, Params]
) -> dict[str, Alignment]:
    """`alignment` of every kernel of theta_n with its mirror image in omega_n.

    Feedback kernels have the layout of the forward ones, so no transposition is needed. Biases and
    batch norms are not compared, nor are kernels of another shape, as those of direct feedback are, which
    mirror nothing. (Where a hidden layer is as wide as the output, they have the same shape.) Ernoult et
    al. 2022 draw both numbers in figure 4.2.

    Returns:
      By "block", or "block/path" where a block has several kernels: layer_1/block_0/conv1.

    Raises:
      ValueError: one line; there is a feedback map of a block that `forward` does not have.
    """
    return {name: alignment(*pair) for name, pair in _mirrored(forward, feedback).items()}


def norm_ratio(forward: dict[str, Params], feedback: dict[str, Params]) -> dict[str, Array]:
    """||omega_n|| / ||theta_n|| of every kernel and its mirror image; names and refusals as in
    `weight_alignment`.

    An angle does not see a gain. Beside it in biotorch (Sanfiz and Akrout 2021, arXiv 2108.13446).
    """
    return {
        name: jnp.linalg.norm(omega.ravel()) / jnp.linalg.norm(theta.ravel())
        for name, (theta, omega) in _mirrored(forward, feedback).items()
    }


def _mirrored(
    forward: dict[str, Params], feedback: dict[str, Params]
) -> dict[str, tuple[Array, Array]]:
    """(kernel, its mirror image) by "block" or "block/path"."""
    for name in feedback:
        if name not in forward:
            raise fields.error("feedback", sorted(feedback), f"maps of {', '.join(forward)}")
    found = {}

    def visit(path: tuple[str, ...], theta: Params, omega: Params) -> None:
        for name, value in omega.items():
            if isinstance(value, dict):
                visit((*path, name), theta[name], value)
            elif name == "kernel" and name in theta and theta[name].shape == value.shape:
                found["/".join(path)] = (theta[name], value)

    visit((), forward, feedback)
    return found


def gradient_matching(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
    *,
    beta: float,
) -> dict[str, Any]:
    """`alignment` of the rule's forward gradient / beta with backprop's, per parameter.

    Args:
      rule: built with this same (small) beta, for instance 0.005.

    Returns:
      The tree of forward parameters with an `Alignment` at each leaf. The distance is relative to the
      rule's gradient. Ernoult et al. 2022, section 4.2.

    Raises:
      ValueError: one line; a rule without targets or of another beta, an array of a wrong type or shape.
    """
    checks.check_rule(rule)
    if rule.global_loss is not None or rule.targets is None:
        raise fields.error("rule", rule.name, "a rule with targets")
    fields.require(fields.RATE, beta=beta)
    if rule.beta is not None and not fields.is_traced(beta) and float(beta) != rule.beta:
        raise fields.error("beta", beta, f"{rule.beta}, with which the rule was built")
    _check_arrays(network, rule, forward, feedback, images, labels)
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    feedback = solved_feedback(network, rule, forward, feedback, activations)
    targets = rule.targets(network, forward, feedback, activations, top)
    checks.check_targets(rule, targets, activations)
    _, gradient = local_gradients(network, rule, forward, activations, targets)
    reference = global_gradient(network, backprop(), forward, images, labels)
    return jax.tree.map(lambda g, r: alignment(g / beta, r), gradient, reference)


def update_alignment(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
    *,
    beta: float = SMALL_BETA,
) -> dict[str, Any]:
    """How far the rule's forward gradient is from backprop's, per parameter, for any rule and any beta.

    With g the rule's gradient at targets of `small_step`, and r that of the mean cross-entropy:

        angle = the one between g and r,      distance = ||g - s r|| / ||g||

    s, one number for a block, is what the rule's local loss would make of backprop's own step: beta for
    half the square error; for DRL 2 beta, and 2 beta / (size of the output) for images. The angle has no
    small number in its denominator (`direction_angle`), since gradients may be as small as it. Rules
    with one global loss have no targets, and s is 1: backprop is at 0 from itself.

    Costs a step without feedback training, and a gradient. Affordable for any block.

    Returns:
      The tree of forward parameters with an `Alignment` at each leaf; NaN where a gradient is zero. The
      angle is the one that Ernoult et al. 2022 draw in figure 4.3.

    Raises:
      ValueError: one line; a rule without targets or global loss, an array of a wrong type or shape.
    """
    found = compared_updates(network, rule, forward, feedback, images, labels, beta=beta)
    return jax.tree.map(lambda g, s, r: Alignment(distance(g, s), direction_angle(g, r)), *found)


def compared_updates(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
    *,
    beta: float = SMALL_BETA,
) -> tuple[dict[str, Params], dict[str, Params], dict[str, Params]]:
    """(g, s r, r) of `update_alignment`, as trees of forward parameters."""
    _check_arrays(network, rule, forward, feedback, images, labels)
    reference = global_gradient(network, backprop(), forward, images, labels)
    if rule.global_loss is not None:
        gradient = global_gradient(network, rule, forward, images, labels)
        return gradient, reference, reference
    activations, targets = small_step(network, rule, forward, feedback, images, labels, beta=beta)
    _, gradient = local_gradients(network, rule, forward, activations, targets)
    scaled = {}
    for block, h, t in zip(network, activations.h[1:], targets):
        scale = beta * len(labels) * _slope(rule, block, h, t)
        scaled[block.name] = jax.tree.map(lambda r, s=scale: s * r, reference[block.name])
    return gradient, scaled, reference


def _slope(rule: Rule, block: Block, h: Array, t: Array) -> Array:
    """c, where the gradient of the local loss by h is c (h - t), as of any multiple of its square."""
    pull = jax.grad(lambda h: rule.local_loss(block, h, t))(h)
    return jnp.sum(pull * (h - t)) / jnp.sum((h - t) ** 2)


def small_step(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
    *,
    beta: float = SMALL_BETA,
) -> tuple[Activations, tuple[Array, ...]]:
    """A clean pass and the rule's targets of all blocks, at a step of the logits of a given size.

    The rule's own output target gives the direction; the step is as long as beta times the gradient of
    the summed cross-entropy, whatever the beta of the rule. So no rule has to be built again, and that
    of DRL, whose step is divided by the batch, does not drown in float32. Feedback in closed form is
    solved for this batch, as in a training step; trained feedback is what it is.

    Raises:
      ValueError: one line; the rule's targets are not one for every block, of its output's shape.
    """
    activations = forward_all(network, forward, images)
    logits = activations.h[-1]
    feedback = solved_feedback(network, rule, forward, feedback, activations)
    step = rule.output_target(logits, labels) - logits
    error = jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)
    top = logits + step * (beta * jnp.linalg.norm(error) / jnp.linalg.norm(step))
    targets = rule.targets(network, forward, feedback, activations, top)
    checks.check_targets(rule, targets, activations)
    return activations, tuple(targets)


def _check_arrays(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
) -> None:
    """Raises ValueError, one line, where these are not parameters of the rule and a batch."""
    checks.check_rule(rule)
    if rule.global_loss is None and rule.targets is None:
        raise fields.error("rule", rule.name, "a rule with targets or a global loss")
    checks.check_batch(network, images, labels)
    expected = jax.eval_shape(
        lambda: [f(network, jax.random.key(0)) for f in (rule.init_forward, rule.init_feedback)]
    )
    for name, found, shapes in zip(("forward", "feedback"), (forward, feedback), expected):
        checks.check_tree(name, found, shapes, f"as in TrainState.{name}", more=True)
