"""Data sets as uint8 arrays in their original order, and the path from there to batches.

The way of the examples:

    source = locate("cifar10", data_dir)  # fast: says where the images will come from
    splits = load_splits(source, val_split=0.1, seed=0)  # decoded once, then cached
    fed = feed(source.spec, splits, place="auto", ...)  # on the device, or streamed
    images, labels, batches = fed.train.read(epoch, step, 1)  # the rest happens inside the step
    images = augment(key, images[batches[0]], flip=True, crop_padding=source.spec.crop_padding)
    x = prepare_images(images, source.spec, jnp.float32)
"""

from dtp_jax.data.batches import Chunk, EvaluationBlock, check_split
from dtp_jax.data.feeding import PLACES, Feed, feed
from dtp_jax.data.iterate import iterate
from dtp_jax.data.pipeline import augment, epoch_permutation, prepare_images
from dtp_jax.data.sources import Source, load, locate
from dtp_jax.data.spec import DATASETS, DataError, DatasetSpec, Split, Splits
from dtp_jax.data.splits import divide, held_out, load_splits, split_train_val, training_examples

__all__ = [
    "DATASETS",
    "PLACES",
    "Chunk",
    "DataError",
    "DatasetSpec",
    "EvaluationBlock",
    "Feed",
    "Source",
    "Split",
    "Splits",
    "augment",
    "check_split",
    "divide",
    "epoch_permutation",
    "feed",
    "held_out",
    "iterate",
    "load",
    "load_splits",
    "locate",
    "prepare_images",
    "split_train_val",
    "training_examples",
]
