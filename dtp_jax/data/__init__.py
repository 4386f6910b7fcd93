"""Data sets as uint8 arrays in their original order, and the path from there to batches.

The way of the examples:

    source = locate("cifar10", data_dir)  # fast: says where the images will come from
    train, val, test = load_splits(source, val_split=0.1, seed=0)  # decoded once, then cached
    order = epoch_permutation(seed, epoch, len(train.labels))
    images = train.images[order[:batch_size]]  # the rest happens inside the jitted step
    images = augment(key, images, flip=source.spec.flip, crop_padding=source.spec.crop_padding)
    x = prepare_images(images, source.spec, jnp.float32)
"""

from dtp_jax.data.pipeline import augment, epoch_permutation, prepare_images, split_train_val
from dtp_jax.data.sources import Source, load, load_splits, locate
from dtp_jax.data.spec import DATASETS, DataError, DatasetSpec, Split, Splits

__all__ = [
    "DATASETS",
    "DataError",
    "DatasetSpec",
    "Source",
    "Split",
    "Splits",
    "augment",
    "epoch_permutation",
    "load",
    "load_splits",
    "locate",
    "prepare_images",
    "split_train_val",
]
