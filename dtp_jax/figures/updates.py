"""A rule's update beside backprop's gradient on the batch of a figure, block by block."""

from functools import partial

import jax
import jax.numpy as jnp

from dtp_jax import ops
from dtp_jax.blocks import Params
from dtp_jax.figures.protocol import Series
from dtp_jax.figures.store import Store
from dtp_jax.figures.training import Batch, restored
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner
from dtp_jax.learning.symmetric import symmetric

Array = jax.Array


def measure(
    store: Store, name: str, series: Series, learner: Learner, batch: Batch, trained: dict[str, str]
) -> None:
    """Stores the job `name`: `angle` (degrees), `distance` and `angle_original`, each (blocks,).

    The last is the angle by the formula of the original program, whose denominator has 1e-8 added: for
    gradients as small as DRL's output layer has, that alone makes a degree.

    Args:
      trained: the names of the jobs that have trained the maps, by block.

    Raises:
      KeyError: one of them has not finished.
    """
    forward, feedback = weights_of(store, series, learner, batch, trained)
    found = jax.device_get(_comparison(learner, forward, feedback, batch.images, batch.labels))
    arrays = {"block": [block.name for block in learner.network], **found}
    columns = [list(values) for values in arrays.values()]
    store.save(name, arrays, [list(arrays), *zip(*columns, strict=True)])


def weights_of(
    store: Store, series: Series, learner: Learner, batch: Batch, trained: dict[str, str]
) -> tuple[dict[str, Params], dict[str, Params]]:
    """Forward and feedback weights of a series: drawn, copied, or those of finished jobs."""
    forward, feedback = batch.state.forward, dict(batch.state.feedback)
    if series.feedback == "symmetric":
        return symmetric(forward, feedback)
    for block, job in trained.items():
        arrays = store.load(job)
        if arrays is None:
            raise KeyError(job)
        head = "stale" if series.feedback == "stale" else "omega"
        feedback[block] = restored(head, arrays, feedback[block])
    return forward, feedback


@partial(jax.jit, static_argnums=0)
def _comparison(
    learner: Learner,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    images: Array,
    labels: Array,
) -> dict[str, Array]:
    """Of all parameters of a block as one vector; the distance is relative to the rule's update."""
    rule, network = learner.rule, learner.network
    # The step of the rule's own beta, by which DRL divides the gradient of a mean.
    beta = rule.beta / (len(images) if rule.name == "drl" else 1)
    with ops.products_in("float32"):
        found = metrics.compared_updates(
            network, rule, forward, feedback, images, labels, beta=beta
        )
    update, scaled, reference = ([_vector(tree[b.name]) for b in network] for tree in found)
    pairs = list(zip(update, reference))
    return {
        "angle": jnp.stack([metrics.direction_angle(*pair) for pair in pairs]),
        "distance": jnp.stack([metrics.distance(u, s) for u, s in zip(update, scaled)]),
        "angle_original": jnp.stack([metrics.angle(*pair) for pair in pairs]),
    }


def _vector(params: Params) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
