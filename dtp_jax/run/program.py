"""The compiled programs of a run: a chunk of training steps, looks at it, the evaluation of a data set.

Images stay on the device as uint8; picking a batch, augmentation and normalisation happen inside.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dtp_jax import ops
from dtp_jax.blocks import Network, Params, forward_all
from dtp_jax.data import DatasetSpec, EvaluationBlock, augment, prepare_images
from dtp_jax.learning.diagnostics import Measure, Numbers
from dtp_jax.learning.evaluation import evaluate_batch
from dtp_jax.learning.learner import Learner, Metrics, TrainState, step, train_step
from dtp_jax.learning.observers import with_alignment
from dtp_jax.parallel.mesh import (
    DATA,
    LAYERS,
    Mesh,
    on_shares_of_seeds,
    replicated,
    split_batch,
)
from dtp_jax.rules.rule import cross_entropy

Array = jax.Array


class Evaluation(NamedTuple):
    """Means over a data set: cross-entropy, and fractions of images."""

    loss: float
    accuracy: float
    top5_accuracy: float


def train_chunk(
    learner: Learner,
    data: DatasetSpec,
    *,
    augmented: bool,
    seeds: bool = False,
    among: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles a run of training steps.

    Args:
      seeds: train several runs of the learner at once: the leading axis of `state` and `batches`, and
        of all results, is that of the runs. Each run is the one that its key and batches give on their
        own, up to rounding.
      among: devices (see `seeds_mesh`) among which that axis is divided; they have nothing to say to each
        other. One that has a single run trains it as if it were alone.

    Returns:
      A function (state, images, labels, batches, count) -> (state, metrics) that takes `count` steps
      on the images whose indices are batches[0], batches[1], ... `batches` has shape (most steps,
      batch); so have the metrics a leading axis of most steps, zero after `count`. As `count` is no
      static number, chunks of all lengths are one program, and give the same bits. `state` is
      donated.
    """
    batch_of = _batches(learner, data, augmented)

    def chunk(state: TrainState, images: Array, labels: Array, batches: Array, count: Array):
        def one(state: TrainState, batch: Array):
            return train_step(learner, state, *batch_of(state, images, labels, batch))

        def body(k, carry):
            state, log = carry
            state, metrics = one(state, batches[k])
            return state, jax.tree.map(lambda entries, new: entries.at[k].set(new), log, metrics)

        shapes = jax.eval_shape(one, state, batches[0])[1]
        log = jax.tree.map(lambda s: jnp.zeros((len(batches), *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, log))

    if not seeds:
        return jax.jit(chunk, donate_argnums=0, out_shardings=replicated(learner.mesh))

    def several(state: TrainState, images: Array, labels: Array, batches: Array, count: Array):
        if len(batches) > 1:
            return jax.vmap(chunk, in_axes=(0, None, None, 0, None))(
                state, images, labels, batches, count
            )
        alone = chunk(jax.tree.map(lambda a: a[0], state), images, labels, batches[0], count)
        return jax.tree.map(lambda a: a[None], alone)

    if among is not None:
        several = on_shares_of_seeds(among, several, (True, False, False, True, False))
    return jax.jit(several, donate_argnums=0)


def memory_bytes(compiled: Any) -> int:
    """What a compiled program takes of a device at its worst: what goes in and comes out, and in between.

    0 where the compiler does not say.
    """
    found = compiled.memory_analysis()
    if found is None:
        return 0
    in_and_out = found.argument_size_in_bytes + found.output_size_in_bytes
    return in_and_out - found.alias_size_in_bytes + found.temp_size_in_bytes


def _taken(images: Array, indices: Array, data: DatasetSpec) -> Array:
    """[B, H, W, C] of images [N, H, W, C] or [N, H * W * C]."""
    return images[indices].reshape(-1, *data.image_shape)


def _batches(
    learner: Learner, data: DatasetSpec, augmented: bool
) -> Callable[..., tuple[Array, Array]]:
    """A function (state, images, labels, batch) -> the images and labels of the state's next step."""
    flip, crop_padding = (data.flip, data.crop_padding) if augmented else (False, 0)

    def batch_of(state: TrainState, images: Array, labels: Array, batch: Array):
        # Feedback noise uses the same key folded with the block indices 1, 2, ...
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        x, y = split_batch(learner.mesh, (_taken(images, batch, data), labels[batch]))
        x = augment(key, x, flip=flip, crop_padding=crop_padding)
        return prepare_images(x, data, jnp.float32), y

    return batch_of


def look(learner: Learner, data: DatasetSpec, *, augmented: bool) -> Callable[..., Any]:
    """Compiles a look into the feedback training of the next step of `train_chunk`: the same function,
    state, batch and noise. Nothing is donated, and of what is computed only this comes back.

    Returns:
      A function (state, images, labels, batch) -> what `observers.with_alignment` sees, by trained feedback
      block, stacked over iterations; `batch` is batches[0] of the chunk.
    """
    batch_of = _batches(learner, data, augmented)

    @partial(jax.jit, out_shardings=replicated(learner.mesh))
    def seen(state: TrainState, images: Array, labels: Array, batch: Array):
        observe = with_alignment(learner.network, state.forward, state.feedback)
        given = batch_of(state, images, labels, batch)
        return step(learner, state, *given, observe=observe)[1].observations

    return seen


PROBES = 2**31 - 1
"""Folded into the key of a step for the probes of measures; 0, 1, 2, ... are augmentation and noise."""


def measured(learner: Learner, data: DatasetSpec, measure: Measure) -> Callable[..., Numbers]:
    """Compiles a measure (see `learning/diagnostics.py`) of a state on a batch that is not augmented.

    On a mesh each process computes all of it on one device, given what `on_own_device` returns: programs of
    several devices may wait for each other without end where LAPACK is called in them.

    Returns:
      A function (state, images, labels) -> scalars by name; images are uint8.
    """
    alone = learner.replace(mesh=None)

    @jax.jit
    def numbers(state: TrainState, images: Array, labels: Array) -> Numbers:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), PROBES)
        return measure(alone, state, prepare_images(images, data, jnp.float32), labels, key)

    return numbers


def probe(learner: Learner, data: DatasetSpec) -> Callable[..., Array]:
    """Compiles the loss of one batch as the next training step would find it: see `train_chunk`.

    Returns:
      A function (forward parameters, images, labels, batch) -> mean cross-entropy of the images with the
      indices `batch`, not augmented. Batch norms see this batch, not the running statistics, which say
      little of the first steps.
    """

    @partial(jax.jit, out_shardings=replicated(learner.mesh))
    def loss(forward: dict[str, Params], images: Array, labels: Array, batch: Array) -> Array:
        x, y = split_batch(learner.mesh, (_taken(images, batch, data), labels[batch]))
        with ops.products_in(learner.precision):
            x = prepare_images(x, data, jnp.float32)
            return cross_entropy(forward_all(learner.network, forward, x).h[-1], y).mean()

    return loss


def evaluator(
    network: Network, data: DatasetSpec, mesh: Mesh | None = None, precision: str = "tf32"
) -> Callable[..., Evaluation]:
    """Compiles the evaluation of a whole data set; on a mesh every device has its part of each batch.

    Returns:
      A function (forward parameters, blocks, statistics) -> Evaluation, the blocks being those of a
      whole data set. Into how many blocks it is divided changes no number. For `statistics` see
      `TrainState`.
    """

    @partial(jax.jit, out_shardings=replicated(mesh))
    def sums(
        forward: dict[str, Params],
        statistics: dict[str, Any],
        total: dict[str, Array],
        block: EvaluationBlock,
    ):
        def one(total, batch):
            indices, weight = batch
            examples = (_taken(block.images, indices, data), block.labels[indices], weight)
            x, labels, weight = split_batch(mesh, examples, (DATA, LAYERS))
            x = prepare_images(x, data, jnp.float32)
            with ops.products_in(precision):
                found = evaluate_batch(network, forward, x, labels, weight, statistics)
            return jax.tree.map(jnp.add, total, found), None

        return jax.lax.scan(one, total, (block.batches, block.weights))[0]

    def evaluate(
        forward: dict[str, Params],
        blocks: Iterable[EvaluationBlock],
        statistics: dict[str, Any] | None = None,
    ) -> Evaluation:
        total = dict.fromkeys(("loss", "correct", "correct_top5", "examples"), np.float32(0))
        for block in blocks:
            total = sums(forward, statistics or {}, total, block)
        sums_of = {name: float(value) for name, value in jax.device_get(total).items()}
        return Evaluation(
            *(sums_of[name] / sums_of["examples"] for name in ("loss", "correct", "correct_top5"))
        )

    return evaluate
