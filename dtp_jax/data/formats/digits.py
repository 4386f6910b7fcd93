"""The handwritten digits inside scikit-learn's wheel: no files, no network.

The 1,797 images are put in one fixed stratified order, in which every contiguous piece holds
the classes in proportion. The last 360 are the test set; the 1,437 before them are the training
set, whose tail serves as validation (0.125 of it: 1,257 / 180 / 360).
"""

from pathlib import Path

import numpy as np

from dtp_jax.data.spec import DatasetSpec, Progress, Split, checked_split

_ORDER_SEED = 0  # of the order, hence of the split; no configuration changes it


def read_digits(
    _path: Path | None, spec: DatasetSpec, _progress: Progress | None = None
) -> tuple[Split, Split]:
    """Returns (train, test) of the digits; pixel values are scikit-learn's own, 0 to 16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = stratified_order(bunch.target)
    train, test = order[: spec.train_examples], order[spec.train_examples :]
    images = bunch.images.astype(np.uint8)
    origin = "scikit-learn's digits"
    return (
        checked_split(spec, "train", images[train], bunch.target[train], origin),
        checked_split(spec, "test", images[test], bunch.target[test], origin),
    )


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """An order of the examples [N] in which every contiguous piece is stratified.

    The members of a class of size n get the positions (rank + 1/2) / n on [0, 1] in random rank
    order; sorting by position interleaves the classes evenly. The random stream is numpy's
    frozen legacy one, so that the order never changes with a release.
    """
    random = np.random.RandomState(_ORDER_SEED)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks = random.permutation(len(members))
        position[members] = (ranks + 0.5) / len(members)
    tie_breaker = random.permutation(len(labels))
    return np.lexsort((tie_breaker, position))
