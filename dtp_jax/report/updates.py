"""How far the updates of a rule are from backprop's, with the weights that a run has ended with."""

from functools import partial

import jax
import jax.numpy as jnp

from dtp_jax.data import prepare_images
from dtp_jax.learning.diagnostics import GROUPS
from dtp_jax.report.predictions import Weights, test_images
from dtp_jax.report.reading import shown

IMAGES = 256


def update_angles(weights: Weights) -> dict[str, float]:
    """Angles in degrees between the rule's update and backprop's gradient, by <block>/<parameter>.

    On the first test images. Ernoult et al. 2022, section 4.2.

    Raises:
      ValueError: one line; the rule has no update that could be compared.
      DataError: the images are not on this machine.
    """
    config, data, group = weights.experiment.config, weights.experiment.data, GROUPS["updates"]
    if reason := group.refuses(weights.learner):
        raise ValueError(reason)
    _, test = test_images(config["dataset"], config["data_dir"])
    images = prepare_images(test.images[:IMAGES], data, jnp.float32)
    labels = jnp.asarray(test.labels[:IMAGES])
    measure = jax.jit(partial(group.measure, weights.learner))
    found = jax.device_get(measure(weights.state, images, labels, jax.random.key(0)))
    angles = {name: value for name, value in found.items() if name.startswith("update_angle/")}
    return {shown(n.removeprefix("update_angle/")): float(value) for n, value in angles.items()}
