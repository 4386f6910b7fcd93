"""Training of the feedback maps: a scan over iterations, a vmap over noise samples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dtp_jax.blocks import Activations, Network, Params
from dtp_jax.rules.rule import FeedbackTraining

Array = jax.Array


class Iteration(NamedTuple):
    """One feedback iteration as an observer sees it: before the update that it causes."""

    loss: Array
    gradient: Params
    omega: Params


def only_loss(block_index: int, iteration: Iteration) -> Any:
    """The default observer: what training logs."""
    del block_index
    return iteration.loss


def literal(training: FeedbackTraining) -> FeedbackTraining:
    """The same training by the written-out loss: nothing is prepared, autodiff does the rest."""

    def prepare(network, forward, i, activations, noise):
        return forward, activations, noise

    def gradient(network, omega, i, prepared):
        forward, activations, noise = prepared
        return jax.value_and_grad(training.loss, argnums=2)(network, forward, omega, i, activations, noise)

    return training._replace(prepare=prepare, gradient=gradient)


def train_feedback_map(
    training: FeedbackTraining, network: Network, i: int, forward: dict[str, Params], omega: Params,
    opt_state: Any, optimizer: optax.GradientTransformation, activations: Activations, source: Any, *,
    draw: Callable[[Any], Any], observe: Callable[[int, Iteration], Any] = only_loss,
) -> tuple[Params, Any, Any]:
    """Trains the feedback map of block i on one batch; theta and activations stay as they are.

    Args:
      omega, opt_state, optimizer: feedback parameters of block i, and their own optimizer.
      source: pytree with leading axis = iterations; `draw` makes each slice into the noise of that
        iteration, a pytree with leading axis = samples. Training draws from keys, a replay reads
        recorded noise.
      observe: (i, Iteration) -> pytree; its values come back stacked over iterations.

    Returns:
      (omega, opt_state, observations).
    """
    if training.prepare is None or network[i].features is None:
        training = literal(training)

    def one_sample(omega, noise):
        prepared = training.prepare(network, forward, i, activations, noise)
        return training.gradient(network, omega, i, prepared)

    def iteration(carry, slice_of_source):
        omega, opt_state = carry
        samples = jax.vmap(one_sample, in_axes=(None, 0))(omega, draw(slice_of_source))
        loss, gradient = jax.tree.map(lambda s: s.mean(axis=0), samples)
        updates, opt_state = optimizer.update(gradient, opt_state, omega)
        seen = observe(i, Iteration(loss, gradient, omega))
        return (optax.apply_updates(omega, updates), opt_state), seen

    (omega, opt_state), seen = jax.lax.scan(iteration, (omega, opt_state), source)
    return omega, opt_state, seen


def keys_per_iteration(key: Array, iterations: int, samples: int) -> Array:
    """Keys (iterations, samples): entry (k, s) depends on key, k and s alone, not on the counts."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    per_iteration = fold(key, jnp.arange(iterations))
    return jax.vmap(fold, in_axes=(0, None))(per_iteration, jnp.arange(samples))
