"""Training of the feedback maps: a scan over iterations, a vmap over noise samples."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dtp_jax import ops
from dtp_jax.blocks import Activations, Block, Network, Params
from dtp_jax.blocks import count as count_parameters
from dtp_jax.learning import iterations
from dtp_jax.learning.checks import check_gradient
from dtp_jax.rules.rule import FeedbackTraining, Normals

Array = jax.Array


class Iteration(NamedTuple):
    """One feedback iteration as an observer sees it: before the update that it causes."""

    loss: Array
    gradient: Params
    omega: Params


def only_loss(block_index: int, iteration: Iteration) -> Any:
    """The default observer: what training logs, the scalar loss of the iteration of any block_index."""
    del block_index
    return iteration.loss


def literal(training: FeedbackTraining) -> FeedbackTraining:
    """The same training by the written-out loss: nothing is prepared, autodiff does the rest."""

    def prepare(network, forward, i, activations, clean, noise):
        del clean
        return forward, activations, noise

    def gradient(network, omega, i, prepared):
        forward, activations, noise = prepared
        return jax.value_and_grad(training.loss, argnums=2)(
            network, forward, omega, i, activations, noise
        )

    return training._replace(prepare=prepare, gradient=gradient)


def train_feedback_map(
    training: FeedbackTraining,
    network: Network,
    i: int,
    forward: dict[str, Params],
    omega: Params,
    opt_state: Any,
    optimizer: optax.GradientTransformation,
    activations: Activations,
    source: Any,
    *,
    draw: Callable[[Any], Any],
    observe: Callable[[int, Iteration], Any] = only_loss,
    whole_batch: bool = False,
    mean: Callable[[Any], Any] = lambda found: found,
    ahead_bytes: float = 2**30,
) -> tuple[Params, Any, Any]:
    """Trains the feedback map of block i on one batch; theta and activations stay as they are.

    Args:
      omega, opt_state, optimizer: feedback parameters of block i, and their own optimizer.
      source: pytree with leading axis = iterations; `draw` makes each slice into the noise of that
        iteration, a pytree with leading axis = samples. Training draws from keys, a replay reads
        recorded noise.
      observe: (i, Iteration) -> pytree; its values come back stacked over iterations.
      whole_batch: never go through the batch in slices, as a CPU may; see `cache_slices` and
        `FeedbackTraining.divides`.
      mean: (loss, gradient) of the batch -> those that are used: where it is part of a larger one.
      ahead_bytes: of what may be prepared of later iterations at a time, where that is done.

    Returns:
      (omega, opt_state, observations).
    """
    form, block = ops.form(), network[i]
    is_split = training.prepare is not None and block.features is not None
    if not is_split:
        training = literal(training)
    clean = block.features(activations.h[i + 1], activations.residuals[i]) if is_split else None
    data = (around(activations, i), ops.kept(clean))
    is_whole = whole_batch or not training.divides(network, i)
    count = 1 if is_whole else cache_slices(block, activations.h[i].shape[0])

    def prepare(activations, clean, noise):
        return training.prepare(network, forward, i, activations, clean, noise)

    def gradient(omega, prepared):
        return training.gradient(network, omega, i, prepared)

    def whole_gradient(omega, noise):
        return mean_over_slices(lambda data: gradient(omega, prepare(*data)), (*data, noise), count)

    def update(of_sample, carry, given):
        """One iteration. of_sample: (omega, entry of `given`) -> loss and gradient of a noise sample."""
        omega, opt_state = carry
        samples = over_samples(partial(of_sample, omega), given)
        loss, gradient = mean(jax.tree.map(lambda s: s.mean(axis=0), samples))
        check_gradient(block.name, gradient, omega)
        updates, opt_state = optimizer.update(gradient, opt_state, omega)
        seen = observe(i, Iteration(loss, gradient, omega))
        return (optax.apply_updates(omega, updates), opt_state), seen

    def prepare_many(source):
        with ops.in_form(form._replace(computed_per_use=False)):  # it is stored
            many = jax.vmap(jax.vmap(partial(prepare, *data)))(jax.vmap(draw)(source))
        return ops.as_operands(many)

    def update_prepared(carry, operands):
        as_before = jax.tree.map(lambda a: a.astype(activations.h[i].dtype), operands)
        return update(gradient, carry, as_before)

    carry, rest = (omega, opt_state), partial(update, whole_gradient)
    if is_split and form.ahead and iterations.bytes_ahead(prepare_many, source) <= form.ahead:
        carry, seen = iterations.ahead(
            prepare_many, update_prepared, carry, source, budget=ahead_bytes
        )
    elif form.noise_carried:
        carry, seen = iterations.carried(draw, rest, carry, source)
    else:
        carry, seen = iterations.inside(draw, rest, carry, source)
    return *carry, seen


SLICE_BYTES = 9 * 2**20
"""Of what the convolution of a slice of the batch multiplies: about what the caches of two cores keep close."""


def cache_slices(block: Block, batch: int) -> int:
    """Number of equal slices in which a CPU goes through the batch in each iteration; 1 elsewhere.

    Slices of 16 images instead of all 128 take 104 ms instead of 141 in the largest block of the default
    network; of 32 images two slices take longer than one. In LeNet slices of 32 images instead of all 128
    take 85 ms instead of 109. They cost a sum of kernel gradients, so kernels larger than a slice are not
    worth it.
    """
    omega = jax.eval_shape(block.init_feedback, jax.random.key(0))
    windows = [leaf.shape[0] for leaf in jax.tree.leaves(omega) if leaf.ndim == 4]
    image = 4 * math.prod(block.input_shape)
    most = max(1, int(SLICE_BYTES / (image * ops.pixel_copies(max(windows, default=1)))))
    if not ops.form().batch_slices or 4 * count_parameters(omega) > most * image:
        return 1
    if batch <= 2 * most:
        return 1
    return batch // max(n for n in range(1, most + 1) if batch % n == 0)


def is_mean_of_parts(training: FeedbackTraining, network: Network, i: int) -> bool:
    """Whether loss and gradient of a batch, for the map of block i, are the means of those of its parts, with
    noise that can be drawn for a part: so for the difference form, unless batch norm sees the batch."""
    is_split = training.prepare is not None and network[i].features is not None
    is_mean = is_split and training.divides(network, i)
    return is_mean and isinstance(training.draw_noise, Normals)


def over_samples(f: Callable[[Any], Any], samples: Any) -> Any:
    """f of each entry of the leading axis of `samples`, which all results have too; see `ops.Form.sample_axis`."""
    if len(jax.tree.leaves(samples)[0]) > 1 or ops.form().sample_axis:
        return jax.vmap(f)(samples)
    found = f(jax.tree.map(lambda a: a[0], samples))
    return jax.tree.map(lambda a: a[None], found)


def mean_over_slices(f: Callable[[Any], Any], data: Any, count: int) -> Any:
    """Mean of f over `count` equal slices of the batch, the leading axis of all arrays of `data`."""
    if count == 1:
        return f(data)
    sliced = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), data)
    first = jax.tree.map(lambda a: a[0], sliced)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, first))
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, f(part)), None), zero, sliced
    )
    return jax.tree.map(lambda a: a / count, total)


def around(activations: Activations, i: int) -> Activations:
    """Only what block i sees: its input, its output, its residual and the logits; None elsewhere."""
    seen = (i, i + 1, len(activations.h) - 1)
    return Activations(
        tuple(h if n in seen else None for n, h in enumerate(activations.h)),
        tuple(r if n == i else None for n, r in enumerate(activations.residuals)),
    )


def train_with_stale_steps(
    train: Callable[..., tuple[Params, Any, Any]],
    omega: Params,
    opt_state: Any,
    *,
    optimizer: optax.GradientTransformation,
    observe: Callable[[int, Iteration], Any],
    zeros: int | Array,
    repeats: int,
) -> tuple[Params, Any, Any]:
    """`train`, between optimizer steps whose gradient nobody renewed; see `fields.STALE_GRADIENTS`.

    Args:
      train: `train_feedback_map` but for omega, opt_state and observe.
      zeros: number of steps on a gradient of zero, before: a scalar.
      repeats: number of steps on the last iteration's gradient, after: a scalar.
    """

    def observe_both(i: int, iteration: Iteration):
        return observe(i, iteration), iteration.gradient

    nothing = jax.tree.map(jnp.zeros_like, omega)
    omega, opt_state = repeat_step(optimizer, nothing, zeros, (omega, opt_state))
    omega, opt_state, (seen, gradients) = train(omega, opt_state, observe=observe_both)
    last = jax.tree.map(lambda g: g[-1], gradients)
    return *repeat_step(optimizer, last, repeats, (omega, opt_state)), seen


def repeat_step(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    count: int | Array,
    carry: tuple[Params, Any],
) -> tuple[Params, Any]:
    """The carry, (omega, optimizer state), after `count` more steps on one and the same gradient."""

    def one(_, carry):
        updates, opt_state = optimizer.update(gradient, carry[1], carry[0])
        return optax.apply_updates(carry[0], updates), opt_state

    return jax.lax.fori_loop(0, count, one, carry)


def keys_per_iteration(key: Array, iterations: int, samples: int) -> Array:
    """Keys (iterations, samples): entry (k, s) depends on key, k and s alone, not on the counts."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    per_iteration = fold(key, jnp.arange(iterations))
    return jax.vmap(fold, in_axes=(0, None))(per_iteration, jnp.arange(samples))


def random_bits(training: FeedbackTraining, keys: Array, block: Block) -> Any:
    """What `drawing` makes noise of, from keys (..., samples): the keys, or the random bits of all of them.

    In the loop over iterations, deriving those would be some tiny kernels each time.
    """
    noise = training.draw_noise
    if not isinstance(noise, Normals):
        return keys
    words = jax.vmap(lambda key: noise.words(key, block))(keys.ravel())
    return words.reshape(*keys.shape, *words.shape[1:])


def drawing(
    training: FeedbackTraining, block: Block, batch: int, dtype: Any
) -> Callable[[Any], Any]:
    """The `draw` of `train_feedback_map` for `random_bits`: those of an iteration -> its noise.

    Args:
      batch: number of examples.
    """
    noise = training.draw_noise
    if not isinstance(noise, Normals):
        return jax.vmap(lambda key: noise(key, block, batch, dtype))
    terms = ops.kept(noise.index_terms(block, batch)) if ops.form().computed_per_use else None
    return jax.vmap(lambda words: noise.drawn(words, block, batch, dtype, terms))
