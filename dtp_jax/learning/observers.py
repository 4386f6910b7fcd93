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
      feedback: parameters, or their shapes; of maps without kernels that mirror forward ones, only the
        loss is seen.

    Returns:
      A function (i, iteration) -> {"loss", "angle", "distance"}, scalars from before the iteration's
      update. All kernels of a map are one vector: a residual stage has one angle, in degrees.
    """
    mirrored = is_mirrored(network, feedback)

    def observe(i: int, iteration: Iteration) -> dict[str, Array]:
        theta, omega = _kernels(forward[network[i].name]), _kernels(iteration.omega)
        if not mirrored or not omega:
            return {"loss": iteration.loss}
        compared = alignment(jnp.concatenate(theta), jnp.concatenate(omega))
        return {"loss": iteration.loss, **compared._asdict()}

    return observe


def _kernels(params: Params) -> list[Array]:
    """The kernels of a block, flattened; a block of a user's may call its weights otherwise."""
    leaves = jax.tree.leaves_with_path(params)
    return [leaf.ravel() for path, leaf in leaves if path[-1].key == "kernel"]
