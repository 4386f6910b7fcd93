"""The feedback maps of a learner on one batch: what noise each is trained with, and on which devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dtp_jax.blocks import Activations, Params
from dtp_jax.learning import checks, recovery
from dtp_jax.learning.feedback import (
    Iteration,
    around,
    drawing,
    is_mean_of_parts,
    keys_per_iteration,
    random_bits,
    train_feedback_map,
    train_with_stale_steps,
)
from dtp_jax.parallel.mesh import DATA, axis_size, mean_of_parts, on_each_part
from dtp_jax.rules.rule import Normals

if TYPE_CHECKING:
    from dtp_jax.learning.learner import Learner, TrainState

Array = jax.Array


def random_bits_of(learner: Learner, state: TrainState) -> dict[str, Any]:
    """Of every trained map, by block name: what the noise of this step is made of.

    Keyed by step, map, iteration and sample, whatever the counts of these are. Keys 1, 2, ... of the step:
    the key folded with 0 belongs to augmentation.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    most = max(learner.feedback_iterations, default=0)

    def keys_of_map(n: Array) -> Array:
        key = jax.random.fold_in(step_key, n)
        return keys_per_iteration(key, most, learner.feedback_samples)

    keys = jax.vmap(keys_of_map)(jnp.arange(1, len(learner.trained) + 1))
    training, noise = learner.rule.feedback_training, learner.rule.feedback_training.draw_noise
    counts = list(enumerate(zip(learner.trained, learner.feedback_iterations)))
    arrays = {noise.count(b) if isinstance(noise, Normals) else 0 for b in learner.trained}
    if len(arrays) > 1:  # the noise of some maps has more arrays than that of others
        return {b.name: random_bits(training, keys[n, :count], b) for n, (b, count) in counts}
    bits = random_bits(training, keys, learner.trained[0])
    return {block.name: bits[n, :count] for n, (block, count) in counts}


def train_map(
    learner: Learner,
    n: int,
    observe: Callable[[int, Iteration], Any],
    is_recorded: bool,
    given: tuple[TrainState, Activations, dict[str, Any]],
) -> tuple[Params, Any, Any]:
    """Trains the n-th trained feedback map on one batch.

    Args:
      is_recorded: whether the noise is given, not drawn.
      given: the state, the activations, and by block name recorded noise or `random_bits_of`.

    Returns:
      (feedback parameters, optimizer state, observations) of this map.
    """
    state, activations, source = given
    network, training = learner.network, learner.rule.feedback_training
    i, optimizer = training.blocks(network)[n], learner.feedback_optimizers[n]
    block, parts = network[i], axis_size(learner.mesh, DATA)
    batch = activations.h[0].shape[0]
    dtype = jax.dtypes.canonicalize_dtype(activations.h[0].dtype)
    if is_recorded:
        checks.check_noise(
            source,
            block.name,
            lambda: training.draw_noise(jax.random.key(0), block, batch, dtype),
            (learner.feedback_iterations[n], learner.feedback_samples),
        )
    factor = state.guard["factor"][block.name] if learner.guard == "halve" else None
    train = partial(train_feedback_map, training, network, i)
    nearby, noise = around(activations, i), source[block.name]
    if parts > 1 and not is_recorded and is_mean_of_parts(training, network, i):
        whole = state.forward, noise, factor
        train = partial(_train_in_parts, learner, n, train, nearby, whole)
    else:
        train = partial(
            train,
            state.forward,
            optimizer=_at_rate(optimizer, factor),
            activations=nearby,
            source=noise,
            draw=_given if is_recorded else drawing(training, block, batch, dtype),
            # A batch that is divided among devices is not cut again: its parts would change hands.
            whole_batch=parts > 1,
            ahead_bytes=learner.ahead_mb * 2**20 * parts,
        )
    if learner.stale_gradients != "none":
        counts = _stale_counts(learner, n, state)
        stepped = _at_rate(optimizer, factor)
        train = partial(train_with_stale_steps, train, optimizer=stepped, **counts)
    with jax.named_scope(f"feedback.{block.name}"):
        return train(
            state.feedback[block.name], state.feedback_opt_state[block.name], observe=observe
        )


def _given(recorded: Any) -> Any:
    return recorded


def _at_rate(optimizer: Any, factor: Array | None) -> Any:
    return optimizer if factor is None else recovery.slowed(optimizer, factor)


def _train_in_parts(
    learner: Learner,
    n: int,
    train: Callable[..., tuple[Params, Any, Any]],
    activations: Activations,
    whole: tuple[dict[str, Params], Array, Array | None],
    omega: Params,
    opt_state: Any,
    *,
    observe: Callable[[int, Iteration], Any],
) -> tuple[Params, Any, Any]:
    """Each device trains the n-th map on its part of the batch: one mean of losses and gradients an iteration
    is all that they exchange.

    Args:
      train: `train_feedback_map` of this map.
      whole: what all devices have alike: forward parameters, random bits, the factor of the rate.
    """
    training, block = learner.rule.feedback_training, learner.trained[n]
    h = next(h for h in activations.h if h is not None)
    part, dtype = h.shape[0] // learner.mesh.shape[DATA], h.dtype

    def train_part(number: Array, activations: Activations, whole: Any):
        (forward, bits, factor), omega, opt_state = whole
        return train(
            forward,
            omega,
            opt_state,
            _at_rate(learner.feedback_optimizers[n], factor),
            activations,
            training.draw_noise.words_after(bits, block, number * part),
            draw=drawing(training, block, part, dtype),
            observe=observe,
            mean=mean_of_parts,
            ahead_bytes=learner.ahead_mb * 2**20,
        )

    return on_each_part(learner.mesh, train_part, activations, (whole, omega, opt_state))


def _stale_counts(learner: Learner, n: int, state: TrainState) -> dict[str, Any]:
    """How many steps without a fresh gradient the n-th trained map takes in a batch."""
    below = sum(learner.feedback_iterations[:n]) if learner.stale_gradients == "zeroed" else 0
    return {
        "zeros": jnp.where(state.step > 0, below, 0),
        "repeats": sum(learner.feedback_iterations[n + 1 :]),
    }
