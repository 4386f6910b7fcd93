"""Diagnostics: distances and angles between parameters or gradients. Pure functions."""

from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Network, Params, forward_all
from dtp_jax.learning.learner import global_gradient, local_gradients
from dtp_jax.rules.backprop import backprop
from dtp_jax.rules.rule import Rule

Array = jax.Array


def distance(a: Array, b: Array) -> Array:
    """||a - b|| / ||a||: relative to the first argument."""
    return jnp.sqrt(jnp.sum((a - b) ** 2) / jnp.sum(a**2))


def angle(a: Array, b: Array) -> Array:
    """Angle between the flattened arrays, in degrees: <a, b> / (|a| |b| + 1e-8), clipped to [-1, 1]."""
    cosine = jnp.sum(a * b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()) + 1e-8)
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def alignment(a: Array, b: Array) -> Array:
    """(distance, angle) as one array of shape (2,)."""
    return jnp.stack([distance(a, b), angle(a, b)])


def weight_alignment(forward: dict[str, Params], feedback: dict[str, Params]) -> dict[str, Array]:
    """`alignment` of every kernel of theta_n with its mirror image in omega_n.

    Feedback kernels have the layout of the forward ones, so no transposition is needed. Biases and
    batch norms are not compared, nor are kernels of direct feedback, which mirror nothing.

    Returns:
      By "block", or "block/path" where a block has several kernels: layer_1/block_0/conv1.
    """
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
      The tree of forward parameters with an array (2,) = (distance, angle) at each leaf. The
      distance is relative to the rule's gradient. Ernoult et al. 2022, section 4.2.
    """
    activations = forward_all(network, forward, images)
    top = rule.output_target(activations.h[-1], labels)
    targets = rule.targets(network, forward, feedback, activations, top)
    _, gradient = local_gradients(network, rule, forward, activations, targets)
    reference = global_gradient(network, backprop(), forward, images, labels)
    return jax.tree.map(lambda g, r: alignment(g / beta, r), gradient, reference)
