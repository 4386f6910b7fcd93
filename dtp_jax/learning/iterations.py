"""The loop over the iterations of a feedback map, in the forms that are fast on one platform or another.

All take `update`: (carry, noise of an iteration, or what was prepared of it) -> (carry, what is seen of it),
and the pytree `source` with leading axis = iterations. All return (carry, everything seen, stacked).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax import ops

Update = Callable[[Any, Any], tuple[Any, Any]]


def inside(draw: Callable[[Any], Any], update: Update, carry: Any, source: Any) -> tuple[Any, Any]:
    """Each iteration draws its own noise."""
    return jax.lax.scan(lambda carry, own: update(carry, draw(own)), carry, source)


def carried(draw: Callable[[Any], Any], update: Update, carry: Any, source: Any) -> tuple[Any, Any]:
    """Each iteration draws the noise of the next one; see `ops.Form.noise_carried`.

    It has the source of that from the iteration before: XLA:CPU would slice it again for each element.
    """
    first, second = (jax.tree.map(lambda s, k=k: s[k % len(s)], source) for k in range(2))
    following = jax.tree.map(lambda s: jnp.roll(s, -2, axis=0), source)

    def iteration(carry, after_next):
        carry, noise, next_source = carry
        carry, seen = update(carry, noise)
        return (carry, draw(next_source), after_next), seen

    (carry, *_), seen = jax.lax.scan(iteration, (carry, draw(first), second), following)
    return carry, seen


def ahead(
    prepare: Callable[[Any], Any], update: Update, carry: Any, source: Any, *, budget: float
) -> tuple[Any, Any]:
    """What `prepare` makes of the source of several iterations at once, then these one after the other: a loop
    in whose turns they are written out. So XLA puts what is prepared of each where its products read it.

    Args:
      prepare: source of some iterations -> what `update` takes, with the same leading axis.
      budget: bytes that may be prepared at a time; at least one iteration is.
    """
    iterations = len(jax.tree.leaves(source)[0])
    fitting = max(1, int(budget // bytes_ahead(prepare, source)))
    turn = min(iterations, fitting, ops.form().turn)

    def some(carry, part):
        prepared, carry, seen = prepare(part), unpacked(carry), []
        for k in range(len(jax.tree.leaves(part)[0])):
            carry, found = update(carry, jax.tree.map(lambda p, k=k: p[k], prepared))
            seen.append(found)
        return packed(carry), jax.tree.map(lambda *found: jnp.stack(found), *seen)

    whole = iterations // turn * turn
    turns = jax.tree.map(lambda s: s[:whole].reshape(-1, turn, *s.shape[1:]), source)
    carry, seen = jax.lax.scan(some, packed(carry), turns)
    seen = jax.tree.map(lambda s: s.reshape(-1, *s.shape[2:]), seen)
    if whole < iterations:
        carry, last = some(carry, jax.tree.map(lambda s: s[whole:], source))
        seen = jax.tree.map(lambda *parts: jnp.concatenate(parts), seen, last)
    return unpacked(carry), seen


def bytes_ahead(prepare: Callable[[Any], Any], source: Any) -> int:
    """Of what is prepared of a single iteration."""
    one = jax.eval_shape(prepare, jax.tree.map(lambda s: s[:1], source))
    return sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(one))


def packed(tree: Any) -> Any:
    """A carry whose kernels lie as the loop's convolutions want them; see `ops.Form.kernels_out_first`.

    A loop keeps what it carries in the layout of its axes. Transposed at its ends, a kernel is already where
    a convolution would copy it to.
    """
    return _transposed(tree, (3, 0, 1, 2))


def unpacked(tree: Any) -> Any:
    """The inverse of `packed`; inside the loop it costs nothing."""
    return _transposed(tree, (1, 2, 3, 0))


def _transposed(tree: Any, axes: tuple[int, ...]) -> Any:
    if not ops.form().kernels_out_first:
        return tree
    return jax.tree.map(lambda a: a.transpose(axes) if jnp.ndim(a) == 4 else a, tree)
