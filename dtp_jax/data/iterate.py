"""The batches of an epoch, for a loop of your own."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dtp_jax import fields
from dtp_jax.data.batches import check_split
from dtp_jax.data.pipeline import augment, epoch_permutation, prepare_images
from dtp_jax.data.spec import DatasetSpec, Split


def iterate(
    split: Split,
    spec: DatasetSpec,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    augmented: bool = False,
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The training batches of an epoch, in an order that (seed, epoch) alone decides.

    It is the order of `dtp train`, whose epochs count from 0 here. The last partial batch is dropped.

    Args:
      split: the examples, uint8.
      batch_size: examples of a batch.
      epoch: its number, from 0.
      augmented: flip and crop at random, as far as the data set has it.

    Yields:
      images: float32 [batch, H, W, C], normalised. labels: int32 [batch].

    Raises:
      ValueError: (at once) one line; there is no full batch, the examples are not of this data set, or a
        number is none.
    """
    check_split("split", split, spec)
    examples = len(split.labels)
    allowed = f"a whole number from 1 to {examples}, the examples"
    size = fields.Field(int, allowed, lambda value: 1 <= value <= examples)
    batch_size = fields.checked("batch_size", batch_size, size)
    fields.require(fields.COUNT, seed=seed, epoch=epoch)
    order = epoch_permutation(seed, epoch, examples)
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    flip, crop_padding = (spec.flip, spec.crop_padding) if augmented else (False, 0)

    def batches() -> Iterator[tuple[jax.Array, jax.Array]]:
        for k in range(examples // batch_size):
            rows = order[k * batch_size : (k + 1) * batch_size]
            images = _prepared(
                jax.random.fold_in(key, k), split.images[rows], spec, flip, crop_padding
            )
            yield images, jnp.asarray(split.labels[rows], np.int32)

    return batches()


@partial(jax.jit, static_argnums=(2, 3, 4))
def _prepared(
    key: jax.Array, images: jax.Array, spec: DatasetSpec, flip: bool, crop_padding: int
) -> jax.Array:
    images = augment(key, images, flip=flip, crop_padding=crop_padding)
    return prepare_images(images, spec, jnp.float32)
