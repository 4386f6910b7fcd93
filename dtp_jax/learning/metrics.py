"""Diagnostics: distances and angles between parameters or gradients. Pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields
from dtp_jax.blocks import Network, Params, forward_all
from dtp_jax.learning import checks
from dtp_jax.learning.learner import global_gradient, local_gradients
from dtp_jax.rules.backprop import backprop
from dtp_jax.rules.rule import Rule

Array = jax.Array


class Alignment(NamedTuple):
    """How far an array is from another one: `distance` and `angle`."""

    distance: Array
    """Relative to the first of the two."""
    angle: Array
    """Degrees."""


def distance(a: Array, b: Array) -> Array:
    """||a - b|| / ||a||: relative to the first argument.

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


def _check_shapes(a: Array, b: Array) -> None:
    if jnp.shape(a) != jnp.shape(b):
        raise fields.error("b", b, f"the shape of a, {jnp.shape(a)}")


def alignment(a: Array, b: Array) -> Alignment:
    """Distance and angle of two arrays of one shape."""
    return Alignment(distance(a, b), angle(a, b))


def weight_alignment(
    forward: dict[str, Params], feedback: dict[str, Params]
) -> dict[str, Alignment]:
    """`alignment` of every kernel of theta_n with its mirror image in omega_n.

    Feedback kernels have the layout of the forward ones, so no transposition is needed. Biases and
    batch norms are not compared, nor are kernels of direct feedback, which mirror nothing.

    Returns:
      By "block", or "block/path" where a block has several kernels: layer_1/block_0/conv1.

    Raises:
      ValueError: one line; there is a feedback map of a block that `forward` does not have.
    """
    for name in feedback:
        if name not in forward:
            raise fields.error("feedback", sorted(feedback), f"maps of {', '.join(forward)}")
    found = {}

    def visit(path: tuple[str, ...], theta: Params, omega: Params) -> None:
        for name, value in omega.items():
            if isinstance(value, dict):
                visit((*path, name), theta[name], value)
            elif name == "kernel" and name in theta and theta[name].shape == value.shape:
                found["/".join(path)] = alignment(theta[name], value)

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
    checks.check_batch(network, images, labels)
    expected = jax.eval_shape(
        lambda: [f(network, jax.random.key(0)) for f in (rule.init_forward, rule.init_feedback)]
    )
    for name, found, shapes in zip(("forward", "feedback"), (forward, feedback), expected):
        checks.check_tree(name, found, shapes, f"as in TrainState.{name}", more=True)
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    targets = rule.targets(network, forward, feedback, activations, top)
    _, gradient = local_gradients(network, rule, forward, activations, targets)
    reference = global_gradient(network, backprop(), forward, images, labels)
    return jax.tree.map(lambda g, r: alignment(g / beta, r), gradient, reference)
