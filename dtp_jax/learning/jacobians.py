"""The Jacobians of a block and of its feedback map. Pure functions.

J_F is the Jacobian of a block's forward map at its input x, J_G that of its feedback map at y = F(x),
with the pool indices of x. Costs are counted in passes: one evaluation, or derivative, of F or of G.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Block, Params

Array = jax.Array


def jacobian_distance(
    block: Block, theta: Params, omega: Params, x: Array, key: Array | None = None, probes: int = 2
) -> Array:
    """||J_G - J_F^T||_F / ||J_F||_F: 0 where the feedback map carries errors as backprop does.

    L-DRL's condition for backprop's targets, J_G = J_F^T (Ernoult et al. 2022). Of the batch as a
    whole: squares are summed over its examples before the root.

    Args:
      x: input of the block, (batch, *input shape).
      key: draws random signs v, of which E||A v||^2 = ||A||_F^2 (Hutchinson 1990). None: exact.

    Returns:
      A scalar; from probes one that errs by less than 1 / sqrt(probes * batch) of itself, and by far
      less where many units count.

    Cost: two passes per probe, affordable for any block. Exact: two per unit of the output (times the
    batch with batch norm, which couples its examples), for blocks of some hundred units.
    """
    y, residual = block.forward(theta, x)
    _, transposed = jax.vjp(lambda x: block.forward(theta, x)[0], x)

    def squares(v: Array) -> tuple[Array, Array]:
        _, forth = jax.jvp(lambda y: block.feedback(omega, y, residual), (y,), (v,))
        (back,) = transposed(v)
        return jnp.sum((forth - back) ** 2), jnp.sum(back**2)

    off, whole = _quadratic(squares, block, y, key, probes)
    return jnp.sqrt(off / whole)


def product_trace(
    block: Block, theta: Params, omega: Params, x: Array, key: Array | None = None, probes: int = 8
) -> Array:
    """tr(J_F J_G), mean over the examples: the sum of the eigenvalues, real and positive where the
    feedback map agrees with the forward one on the whole.

    The weak condition under which targets of difference target propagation help (Shibuya et al. 2023).

    Args:
      x: input of the block, (batch, *input shape).
      key: draws random signs v, of which E<v, A v> = tr A (Hutchinson 1990). None: exact.

    Returns:
      A scalar; from probes one that errs by about sqrt(2 / (probes * batch)) ||J_F J_G||_F.

    Cost: as of `jacobian_distance`.
    """
    y, residual = block.forward(theta, x)
    around = _loop(block, theta, omega, x, y, residual)
    return _quadratic(lambda v: jnp.sum(v * around(v)), block, y, key, probes) / x.shape[0]


def product_eigenvalues(block: Block, theta: Params, omega: Params, x: Array) -> Array:
    """The eigenvalues of J_F J_G of every example, but for those that are zero by its shape alone.

    J_F J_G and J_G J_F share all others, so the smaller of the two is taken: n is the size of the
    block's input or output, whichever is less. The strict condition of Shibuya et al. 2023 is on their
    real parts: see `positive_share`.

    Args:
      x: input of the block, (batch, *input shape).

    Returns:
      Complex, (batch, n), in no order.

    Raises:
      ValueError: one line; the block has batch norm, which couples the examples of a batch.

    Cost: 2 n passes and about 10 n^3 operations per example: for n up to a few hundred.
    """
    refuse_batch_norm((block,))
    batch, sizes = x.shape[0], (math.prod(block.input_shape), math.prod(block.output_shape))
    y, residual = block.forward(theta, x)
    if sizes[1] <= sizes[0]:
        around, start = _loop(block, theta, omega, x, y, residual), y
    else:
        around, start = _loop(block, theta, omega, x, y, residual, from_input=True), x
    columns = jax.lax.map(around, _basis(block, start))  # (n, batch, *shape)
    matrices = jnp.moveaxis(columns.reshape(*columns.shape[:2], -1), 0, 2)
    return jnp.linalg.eigvals(matrices.reshape(batch, min(sizes), min(sizes)))


def positive_share(eigenvalues: Array) -> Array:
    """Share of eigenvalues with a positive real part, 0 to 1, mean over the examples.

    The strict condition of Shibuya et al. 2023, whose program logs the same share. Rounding is no
    sign: what is below n times the precision of the largest one counts as zero. NaN where one is NaN.

    Args:
      eigenvalues: (batch, n), as `product_eigenvalues` returns them.
    """
    largest = jnp.abs(eigenvalues).max(axis=-1, keepdims=True)
    smallest = eigenvalues.shape[-1] * jnp.finfo(eigenvalues.real.dtype).eps * largest
    share = jnp.mean(eigenvalues.real > smallest, dtype=eigenvalues.real.dtype)
    return jnp.where(jnp.isnan(largest).any(), jnp.nan, share)


def _loop(
    block: Block,
    theta: Params,
    omega: Params,
    x: Array,
    y: Array,
    residual: Any,
    from_input: bool = False,
) -> Callable[[Array], Array]:
    """v -> J_F J_G v, or J_G J_F v."""

    def forth(v: Array) -> Array:
        return jax.jvp(lambda x: block.forward(theta, x)[0], (x,), (v,))[1]

    def back(v: Array) -> Array:
        return jax.jvp(lambda y: block.feedback(omega, y, residual), (y,), (v,))[1]

    return (lambda v: back(forth(v))) if from_input else (lambda v: forth(back(v)))


def _quadratic(
    form: Callable[[Array], Any], block: Block, like: Array, key: Array | None, probes: int
) -> Any:
    """The sum of a quadratic form over an orthonormal basis of arrays `like` this one, which is its
    mean over random signs."""
    if key is None:
        return jax.tree.map(lambda s: s.sum(axis=0), jax.lax.map(form, _basis(block, like)))

    def one(key: Array) -> Any:
        return form(jax.random.rademacher(key, like.shape, like.dtype))

    return jax.tree.map(lambda s: s.mean(axis=0), jax.lax.map(one, jax.random.split(key, probes)))


def _basis(block: Block, like: Array) -> Array:
    """Unit arrays, (n, *shape of `like`): in all examples at once, unless batch norm couples them."""
    if block.statistics is not None:
        return jnp.eye(like.size, dtype=like.dtype).reshape(-1, *like.shape)
    units = jnp.eye(like[0].size, dtype=like.dtype).reshape(-1, 1, *like.shape[1:])
    return jnp.broadcast_to(units, (len(units), *like.shape))


def refuse_batch_norm(blocks: tuple[Block, ...]) -> None:
    """Raises ValueError, one line, where examples have no Jacobians of their own."""
    for block in blocks:
        if block.statistics is not None:
            raise ValueError(
                f"network: block {block.name} has batch norm, which couples the examples of a batch; "
                "allowed: blocks without it, whose examples have Jacobians of their own"
            )
