"""The trained forward network: its logits, and how good they are."""

from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Network, Params
from dtp_jax.rules.rule import cross_entropy

Array = jax.Array


def infer(
    network: Network, forward: dict[str, Params], images: Array, statistics: dict[str, Any]
) -> Array:
    """Logits of the forward network as it is evaluated: batch norms use the running statistics."""
    h = images
    for block in network:
        theta = forward[block.name]
        if block.infer is None:
            h, _ = block.forward(theta, h)
        else:
            h = block.infer(theta, statistics[block.name], h)
    return h


def evaluate_batch(
    network: Network,
    forward: dict[str, Params],
    images: Array,
    labels: Array,
    weights: Array,
    statistics: dict[str, Any] | None = None,
) -> dict[str, Array]:
    """Sums over a batch, for exact means over a data set whose last batch is padded.

    Args:
      statistics: see `TrainState`; needed where the network has batch norms.
      weights: (batch,), 1 for an example and 0 for padding.

    Returns:
      loss: summed cross-entropy; correct, correct_top5, examples: counts. All float32.
    """
    outputs = infer(network, forward, images, statistics or {})
    own = jnp.take_along_axis(outputs, labels[:, None], axis=1)
    # Rank of the label: classes above it, and of equal ones those that come first. Written so that
    # nan is above everything: a diverged network has no correct answers.
    earlier = jnp.arange(outputs.shape[1]) < labels[:, None]
    rank = jnp.sum(~(outputs <= own) | ((outputs == own) & earlier), axis=1)
    weights = weights.astype(jnp.float32)
    return {
        "loss": jnp.sum(weights * cross_entropy(outputs, labels)),
        "correct": jnp.sum(weights * (rank < 1)),
        "correct_top5": jnp.sum(weights * (rank < 5)),
        "examples": jnp.sum(weights),
    }
