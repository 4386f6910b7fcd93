"""Which examples are trained on, and which are held out of the training set for validation."""

import numpy as np

from dtp_jax import fields
from dtp_jax.data.pipeline import SPLIT_STREAM, permutation
from dtp_jax.data.sources import Source, load
from dtp_jax.data.spec import DataError, DatasetSpec, Progress, Split, Splits

COPIED_BYTES = 1 << 30
"""Of larger training images, a run copies only what is held out for validation."""


def load_splits(
    source: Source,
    val_split: float,
    seed: int,
    progress: Progress | None = None,
    *,
    val_per_class: int = 0,
    copied: bool | None = True,
) -> Splits:
    """`load`, then sets the validation examples aside that `held_out` chooses.

    Args:
      source: as `locate` has found it.
      val_split: share of the training examples that is set aside, 0 to below 1.
      val_per_class: instead of it, so many examples of every class.
      copied: False: `Splits.train` is the whole training set as it is on the disk, and only
        `Splits.train_indices` leaves the validation examples out. None: so with more than COPIED_BYTES.

    Raises:
      DataError: a class has no more than `val_per_class` examples, which only the data tells.
      ValueError: as `held_out`.
    """
    train, test = load(source, progress)
    if copied is None:
        copied = train.images.nbytes <= COPIED_BYTES
    return divide(
        source.spec, train, test, val_split, seed, val_per_class=val_per_class, copied=copied
    )


def divide(
    spec: DatasetSpec,
    train: Split,
    test: Split,
    val_split: float,
    seed: int,
    *,
    val_per_class: int,
    copied: bool,
) -> Splits:
    """What `load` gives, with the validation examples set aside.

    Args:
      train, test: the examples, as `load` gives them.
      val_split, val_per_class: see `load_splits`.
      copied: the examples that are left are copied; else `Splits.train` is `train` as it is, and
        `Splits.train_indices` says which of them are trained on. Batches are the same.

    Raises:
      DataError, ValueError: see `load_splits`.
    """
    options = {"val_per_class": val_per_class, "fixed": spec.fixed_split}
    try:
        in_val = held_out(train.labels, val_split, seed, **options)
    except ValueError as error:
        if not val_per_class:
            raise
        raise DataError(f"{spec.name}: {error}") from error
    if copied:
        train, val = split_train_val(train, val_split, seed, **options)
        return Splits(train, val, test, np.arange(len(train.labels), dtype=np.int32))
    val = Split(train.images[in_val], train.labels[in_val]) if in_val.any() else None
    return Splits(train, val, test, np.flatnonzero(~in_val).astype(np.int32))


def training_examples(source: Source, val_split: float, *, val_per_class: int = 0) -> int:
    """How many examples `load_splits` will leave for training; decodes no image.

    Of a `source` and a `val_split` as `load_splits` takes them. May be 0 or less, where that raises. With
    `val_per_class` the classes count: labels are read where that takes a moment, or where the data set has
    another size than the usual one; else its classes are taken to be the usual ones.

    Raises:
      ValueError: one line; a class has no more than `val_per_class` examples.
    """
    spec, count, form = source.spec, source.train_examples, source.format
    read = form.train_labels if form else None
    if not val_per_class:
        return count - round(val_split * count)
    classes, smallest, scarce = spec.classes, spec.smallest_class, "its smallest class"
    if read and (form.labels_at_once or count != spec.train_examples):
        found, sizes = np.unique(read(source.path, spec), return_counts=True)
        classes, smallest = len(found), int(sizes.min())
        scarce = f"its class {found[sizes.argmin()]}"
    if smallest and val_per_class >= smallest:
        has = f"{spec.name} has {smallest:,} training images of {scarce}"
        raise fields.error("config.val_per_class", val_per_class, f"0 to {smallest - 1}, for {has}")
    return count - val_per_class * classes


def split_train_val(
    train: Split, val_split: float, seed: int, *, val_per_class: int = 0, fixed: bool = False
) -> tuple[Split, Split | None]:
    """Copies `train` into the examples to train on and those that `held_out` sets aside.

    `val_split`, `val_per_class` and `fixed` as of `held_out`.

    Both keep the original order of their examples. Where none are set aside: `(train, None)`.
    """
    in_val = held_out(train.labels, val_split, seed, val_per_class=val_per_class, fixed=fixed)
    if not in_val.any():
        return train, None
    train_part = Split(train.images[~in_val], train.labels[~in_val])
    return train_part, Split(train.images[in_val], train.labels[in_val])


def held_out(
    labels: np.ndarray, val_split: float, seed: int, *, val_per_class: int = 0, fixed: bool = False
) -> np.ndarray:
    """Which of the training examples with these labels [N] are for validation: bool [N].

    With `val_per_class`, so many of every class that occurs, whatever `val_split`; else
    `round(val_split * N)` in all. Which ones depends on `seed`, N and, with `val_per_class`, the
    labels alone. With `fixed` (`DatasetSpec.fixed_split`) they are the last ones, whatever the
    seed.

    Raises ValueError where `val_split` is outside [0, 1) or leaves one part empty, or where a
    class has no more than `val_per_class` examples.
    """
    count = len(labels)
    if val_per_class:
        order = np.arange(count)[::-1] if fixed else permutation(count, seed, SPLIT_STREAM)
        return _first_of_each_class(labels, val_per_class, order)
    size = round(val_split * count) if 0 <= val_split < 1 else -1
    if not 0 <= size < count or (size == 0 and val_split > 0):
        raise ValueError(
            f"val_split={val_split} is not possible with {count} training examples: "
            "allowed are 0 (no validation) or a fraction below 1 that leaves both parts some"
        )
    in_val = np.arange(count) >= count - size
    return in_val if fixed else in_val[permutation(count, seed, SPLIT_STREAM)]


def _first_of_each_class(labels: np.ndarray, per_class: int, order: np.ndarray) -> np.ndarray:
    """The first `per_class` examples of every class in this order: bool [N]."""
    by_class = order[np.argsort(labels[order], kind="stable")]  # classes one after the other
    classes, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    if not 0 < per_class < sizes.min():
        scarce = sizes.argmin()
        raise ValueError(
            f"val_per_class={per_class} is not possible: class {classes[scarce]} has "
            f"{sizes[scarce]} training examples; allowed are 0 to {sizes[scarce] - 1}"
        )
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[(starts[:, None] + np.arange(per_class)).ravel()]] = True
    return chosen
