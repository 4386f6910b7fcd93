"""The trained forward network: its logits, and how good they are."""

from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Network, Params, check_images, init_forward, initial_statistics
from dtp_jax.learning import checks
from dtp_jax.rules.rule import cross_entropy

Array = jax.Array


def infer(
    network: Network, forward: dict[str, Params], images: Array, statistics: dict[str, Any]
) -> Array:
    """Logits of the forward network as it is evaluated: batch norms use the running statistics.

    Raises:
      ValueError: one line; images, parameters or statistics are not those of the network.
    """
    check_images(network, images)
    expected = jax.eval_shape(
        lambda: (init_forward(network, jax.random.key(0)), initial_statistics(network))
    )
    for name, found, shapes in zip(("forward", "statistics"), (forward, statistics), expected):
        checks.check_tree(name, found, shapes, f"as in TrainState.{name}", more=True)
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

    Raises:
      ValueError: one line; an array of a wrong type or shape, no statistics where there are batch norms.
    """
    checks.check_batch(network, images, labels)
    checks.check_weights(weights, len(labels))
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
