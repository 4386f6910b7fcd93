"""What of the feedback iterations of a batch can be looked at: observers for `step` and `train_feedback`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Network, Params, is_mirrored
from dtp_jax.learning.feedback import Iteration
from dtp_jax.learning.metrics import alignment

Array = jax.Array


def with_alignment(
    network: Network, forward: dict[str, Params], feedback: dict[str, Params]
) -> Callable[[int, Iteration], dict[str, Array]]:
    """An observer of how a map comes to point along its forward weights (Ernoult et al. 2022, figure 4.2).

    Args:
      forward: theta, which stays as it is over the iterations of a batch.
      feedback: parameters, or their shapes; of maps that mirror no forward ones, only the loss is seen.

    Returns:
      A function (i, iteration) -> {"loss", "angle", "distance"}, scalars from before the iteration's
      update. All kernels of a map are one vector: a residual stage has one angle, in degrees.
    """
    mirrored = is_mirrored(network, feedback)

    def observe(i: int, iteration: Iteration) -> dict[str, Array]:
        if not mirrored:
            return {"loss": iteration.loss}
        theta, omega = _kernels(forward[network[i].name]), _kernels(iteration.omega)
        return {"loss": iteration.loss, **alignment(theta, omega)._asdict()}

    return observe


def _kernels(params: Params) -> Array:
    """All kernels of a block as one vector."""
    leaves = jax.tree.leaves_with_path(params)
    return jnp.concatenate([leaf.ravel() for path, leaf in leaves if path[-1].key == "kernel"])
