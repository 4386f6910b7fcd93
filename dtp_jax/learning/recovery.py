"""What a step does with numbers that went wrong, where it is to go on: the learner's `guard`.

"skip" leaves the batch out. "halve" takes back what it did to a feedback map whose training went wrong,
and halves the rate of that map from the next batch on; the rest of the step goes on with the map as it
was. Where anything else is wrong, "halve" leaves the batch out too. All of it is decided inside the
compiled step, so that it does not depend on the length of a chunk, and all devices decide alike.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array

EXPLODED = 1e6
"""A cross-entropy from which no run comes back, though every number may stay finite."""
GROWTH = 3.0
"""The parameters of a block have exploded where one batch makes the largest more than so many times what
it was, and what the largest forward weight of the network was. A feedback rate that is somewhat too large
would else spoil the forward weights before any number is infinite; a good one takes many batches for that."""


def fresh(guard: str, maps: Sequence[str]) -> dict[str, Any]:
    """What a state remembers before the first batch, all scalars.

    Args:
      guard: "skip" or "halve". maps: the trained feedback blocks.

    Returns:
      `skipped`: int32, how many batches were left out; `in_a_row`: how many of them since the last good
      one. With "halve" also, by trained feedback block, `factor`: float32, of its rate; `halved`: int32,
      how often that was halved.
    """

    def none() -> Array:  # each a buffer of its own: a state may be donated
        return jnp.zeros((), jnp.int32)

    counters = {"skipped": none(), "in_a_row": none()}
    if guard == "skip":
        return counters
    factors = {name: jnp.ones((), jnp.float32) for name in maps}
    return {**counters, "factor": factors, "halved": {name: none() for name in maps}}


def report(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What a step did, from what the states before and after it remember; see `Metrics.guard`."""
    if not after:
        return {}
    did = jax.tree.map(jnp.greater, after, before)
    return {"skipped": did["skipped"], "halved": did.get("halved", {}), "now": after}


def with_loss(observe: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
    """An observer of feedback iterations that sees the loss beside what another one sees."""
    return lambda i, iteration: (iteration.loss, observe(i, iteration))


def slowed(optimizer: optax.GradientTransformation, factor: Array) -> optax.GradientTransformation:
    """The optimizer at `factor` times its rate: its memory is the same, its updates are smaller."""

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradient, state, params)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(optimizer.init, update)


def is_good_map(
    losses: Array, after: tuple[Any, Any], before: tuple[Any, Any], forward: Any
) -> Array:
    """Whether the training of a feedback map on a batch went well.

    Args:
      losses: (iterations,). after, before: (parameters, optimizer state).
      forward: the forward parameters of the network.
    """
    sane = is_sane(after[0], before[0], largest(forward))
    return jnp.isfinite(losses.mean()) & sane & is_finite(after[1])


def judged(
    guard: str,
    before: Any,
    after: Any,
    loss: Array,
    local_losses: dict[str, Array],
    good_maps: dict[str, Array],
) -> Any:
    """The state after a batch, or the one before it where the batch is left out; the step is counted.

    Args:
      before, after: TrainState; with "halve" the maps of `after` are taken back where they are not good.
      loss: cross-entropy of the batch. good_maps: see `is_good_map`, by trained feedback block.
    """
    # Where the forward weights are spoilt, everything is; that is no fault of a map.
    usable = jnp.isfinite(loss) & (loss <= EXPLODED)
    floor = largest(before.forward)
    new = [(after.forward[name], before.forward[name]) for name in after.forward] + [
        (after.feedback[name], before.feedback[name])
        for name in after.feedback
        if name not in good_maps
    ]
    verdicts = [
        usable,
        *(is_sane(own, old, floor) for own, old in new if own is not old),
        is_finite(list(local_losses.values())),
        is_finite((after.forward_opt_state, after.statistics)),
        *(good_maps.values() if guard == "skip" else ()),
    ]
    good = reduce(and_, verdicts)
    kept = {
        name: select(good, getattr(after, name), getattr(before, name))
        for name in (
            "forward",
            "feedback",
            "forward_opt_state",
            "feedback_opt_state",
            "statistics",
        )
    }
    now = dict(before.guard)
    now["skipped"] += ~good
    now["in_a_row"] = jnp.where(good, 0, now["in_a_row"] + 1)
    if guard == "halve":
        for name, good_map in good_maps.items():
            wrong = usable & ~good_map
            now["factor"] = now["factor"] | {
                name: jnp.where(wrong, now["factor"][name] / 2, now["factor"][name])
            }
            now["halved"] = now["halved"] | {name: now["halved"][name] + wrong}
    return after.replace(**kept, guard=now)


def select(good: Array, new: Any, old: Any) -> Any:
    """`new` where it is good, else `old`. But the count of a schedule goes on: which rate an epoch has
    does not depend on what was left out before."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def one(new: Any, old: Any) -> Any:
        return new if new is old or is_schedule(new) else jnp.where(good, new, old)

    return jax.tree.map(one, new, old, is_leaf=is_schedule)


def is_finite(tree: Any) -> Array:
    """Whether every floating-point number of a tree is."""
    return reduce(and_, [jnp.isfinite(leaf).all() for leaf in _floats(tree)], jnp.bool_(True))


def is_sane(after: Any, before: Any, floor: Array) -> Array:
    """Whether parameters are finite, and have not exploded in a batch; see GROWTH.

    Args:
      floor: the largest forward weight.
    """
    return largest(after) <= GROWTH * jnp.maximum(largest(before), floor)


def largest(tree: Any) -> Array:
    """Largest magnitude in a tree, 0 where it is empty; nan where there is one."""
    return reduce(jnp.maximum, [jnp.abs(leaf).max() for leaf in _floats(tree)], jnp.float32(0))


def _floats(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
