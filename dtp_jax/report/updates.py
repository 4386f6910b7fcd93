"""How far the updates of a rule are from backprop's, of the weights that a run has ended with."""

import jax
import jax.numpy as jnp
import numpy as np

from dtp_jax.data import prepare_images
from dtp_jax.learning.metrics import gradient_matching
from dtp_jax.report.predictions import Weights, test_images
from dtp_jax.run.build import build_rule

BETA = 0.005
"""Ernoult et al. 2022, section 4.2."""
IMAGES = 256


def update_angles(weights: Weights) -> dict[str, float]:
    """Angles in degrees between the rule's update and backprop's gradient, by <block>/<parameter>.

    On the first test images, with the rule at a small beta.

    Raises:
      ValueError: one line; the rule has no targets. DataError: the images are not on this machine.
    """
    config, data = weights.experiment.config, weights.experiment.data
    rule = build_rule({**config, "beta": BETA})
    _, test = test_images(config["dataset"], config["data_dir"])
    images = prepare_images(test.images[:IMAGES], data, jnp.float32)
    labels = jnp.asarray(test.labels[:IMAGES])

    @jax.jit
    def compare(forward: dict, feedback: dict, images: jax.Array, labels: jax.Array) -> dict:
        network = weights.experiment.network
        return gradient_matching(network, rule, forward, feedback, images, labels, beta=BETA)

    found = compare(weights.state.forward, weights.state.feedback, images, labels)
    leaves = jax.tree.leaves_with_path(found, is_leaf=lambda leaf: hasattr(leaf, "angle"))
    return {
        "/".join(str(part.key) for part in path): float(np.asarray(value.angle))
        for path, value in leaves
    }
