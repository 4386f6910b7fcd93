"""Targets beside those of Gauss-Newton: Meulemans et al., "A Theoretical Framework for Target
Propagation", NeurIPS 2020 (arXiv 2006.14331). Pure functions.

J_i is the Jacobian of the logits with respect to h_i, the output of block i.
"""

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Activations, Network, Params
from dtp_jax.learning.comparison import direction_angle
from dtp_jax.learning.jacobians import refuse_batch_norm

Array = jax.Array


def output_jacobians(
    network: Network, forward: dict[str, Params], activations: Activations
) -> tuple[Array, ...]:
    """J_i of every block i and example; that of the last block is the identity.

    What the Gauss-Newton targets of Meulemans et al. 2020 are made of: see `gauss_newton_step`.

    Returns:
      One array per block, (batch, classes, *shape of its output).

    Raises:
      ValueError: one line; a block above the first has batch norm, which couples the examples.

    Cost: a backward pass per class for all blocks together, and the memory of that many batches of
    activations: for some dozens of classes, and few images.
    """
    refuse_batch_norm(network[1:])
    logits = activations.h[-1]
    eye = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    rows = jnp.broadcast_to(eye[:, None], (len(eye), *logits.shape))
    found = [rows]
    for i in reversed(range(1, len(network))):
        theta = forward[network[i].name]
        _, pullback = jax.vjp(lambda x, f=network[i].forward, p=theta: f(p, x)[0], activations.h[i])
        (rows,) = jax.vmap(pullback)(rows)
        found.insert(0, rows)
    return tuple(jnp.moveaxis(rows, 0, 1) for rows in found)


def gauss_newton_step(jacobian: Array, error: Array, *, damping: float = 0.0) -> Array:
    """J_i^T (J_i J_i^T + damping)^-1 error of every example: where Gauss-Newton wants h_i to go.

    Without damping J_i^+ error, the shortest change of h_i that changes the logits by `error` to first
    order: with error = t_L - h_L it leads to the Gauss-Newton target of Meulemans et al. 2020, which
    DRL learns to propagate. Strong damping gives the direction of backprop.

    Args:
      jacobian: one of `output_jacobians`, (batch, classes, *shape).
      error: (batch, classes).
      damping: added to the eigenvalues of J_i J_i^T. Those within rounding of zero are left out.

    Returns:
      (batch, *shape).

    Cost: a matrix of classes x classes per example, beside `output_jacobians`. It holds squares, so in
    float32 singular values below a thousandth of the largest are no longer told from zero.
    """
    rows = jacobian.reshape(*jacobian.shape[:2], -1)
    values, vectors = jnp.linalg.eigh(rows @ jnp.swapaxes(rows, 1, 2))
    rounding = values.shape[-1] * jnp.finfo(values.dtype).eps
    kept = values > rounding * values[:, -1:]
    inverse = jnp.where(kept, 1 / jnp.where(kept, values + damping, 1), 0)
    weights = jnp.einsum("bck,bk,bdk,bd->bc", vectors, inverse, vectors, error)
    return jnp.einsum("bc,bcn->bn", weights, rows).reshape(-1, *jacobian.shape[2:])


def gauss_newton_angle(
    jacobian: Array, step: Array, error: Array, *, damping: float = 0.0
) -> Array:
    """Angle in degrees between a rule's step t_i - h_i and `gauss_newton_step`, mean over the examples.

    Meulemans et al. 2020 log it, as a plain mean. Here an example counts by the size of its output
    error, so that those which are all but learned, whose steps are rounding, do not hide the others;
    one without a step has no angle and does not count.

    Args:
      step: (batch, *shape).
      jacobian, error, damping: as of `gauss_newton_step`.

    Returns:
      A scalar; NaN where no example has a step. 0 for DRL's minimum in a linear network.

    Cost: that of `gauss_newton_step`; for any block whose Jacobian fits.
    """
    wanted = gauss_newton_step(jacobian, error, damping=damping)
    angles = jax.vmap(direction_angle)(step, wanted)
    known = ~jnp.isnan(angles)
    weights = jnp.where(known, jnp.linalg.norm(error, axis=-1), 0)
    return jnp.sum(weights * jnp.where(known, angles, 0)) / jnp.sum(weights)


def null_space_share(jacobian: Array, step: Array) -> Array:
    """||(1 - J_i^+ J_i) d|| / ||d|| of the steps d = t_i - h_i of a batch: how much of them, 0 to 1,
    the logits do not feel to first order.

    A ratio of norms, not of squares, as Meulemans et al. 2020 plot it for updates of weights. For one
    example and a linear block W x both are the same number, since the update is the outer product of d
    and x. Backprop's step J_i^T e and Gauss-Newton's J_i^+ e have no such share.

    Args:
      jacobian: one of `output_jacobians`, (batch, classes, *shape).
      step: (batch, *shape).

    Returns:
      A scalar; NaN where the steps are zero.

    Cost: as of `gauss_newton_angle`.
    """
    rows = jacobian.reshape(*jacobian.shape[:2], -1)
    felt = jnp.einsum("bcn,bn->bc", rows, step.reshape(step.shape[0], -1))
    unseen = step - gauss_newton_step(jacobian, felt)
    return jnp.linalg.norm(unseen.ravel()) / jnp.linalg.norm(step.ravel())
