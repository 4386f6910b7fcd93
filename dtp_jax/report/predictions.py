"""What the last checkpoint of a run does with the test images: right, wrong, how surely."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dtp_jax import ops
from dtp_jax.blocks import Network
from dtp_jax.data import DataError, DatasetSpec, Source, Split, load, locate, prepare_images
from dtp_jax.learning.evaluation import infer
from dtp_jax.report.reading import Reading
from dtp_jax.run.build import Experiment
from dtp_jax.run.results import checkpoint, experiment_of, learner_of

MISTAKES = 12
"""Images shown."""


class Weights(NamedTuple):
    """The newest good checkpoint of a run."""

    experiment: Experiment
    learner: Any
    state: Any
    step: int


class Mistake(NamedTuple):
    """A test image that was taken for another class."""

    pixels: np.ndarray
    """uint8 (height, width, channels)."""
    number: int
    """Among the test images, from 0 on."""
    true: int
    predicted: int
    confidence: float
    """The softmax of the predicted class."""


class Predictions(NamedTuple):
    """Of all test images."""

    counts: np.ndarray
    """(classes, classes): how often images of a class (first axis) were taken for each class."""
    mistakes: list[Mistake]
    """Those of the highest confidence, in falling order."""
    source: str
    """Where the images are from."""

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))

    @property
    def of_class(self) -> np.ndarray:
        """(classes,): accuracy on the images of each class; nan where there are none."""
        total = self.counts.sum(axis=1)
        return np.where(total > 0, np.diag(self.counts) / np.maximum(total, 1), np.nan)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """(true, predicted, images) of the most frequent mistakes."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(flat), len(wrong)) for flat in order]
        return [
            (true, taken, int(wrong[true, taken])) for true, taken in pairs if wrong[true, taken]
        ]


def read_weights(run: Reading) -> Weights:
    """The newest good checkpoint.

    Raises:
      ValueError: one line; the config cannot be used here, or no version of this age reads it.
      NoCheckpoint: none can be read.
    """
    experiment = experiment_of(run.path)
    step, state = checkpoint(run.path, experiment)
    return Weights(experiment, learner_of(experiment)[0], state, step)


@lru_cache(maxsize=4)
def test_images(dataset: str, data_dir: str) -> tuple[Source, Split]:
    """The test images of a data set; nothing is downloaded.

    Raises:
      DataError: they are not on this machine, or corrupt.
    """
    source = locate(dataset, data_dir)
    if source.format is None:
        raise DataError(f"{dataset} is not on this machine; a report downloads nothing")
    return source, load(source)[1]


def predict(weights: Weights) -> Predictions:
    """What the network says of every test image.

    Raises:
      DataError: they are not on this machine, or corrupt. ValueError: data_dir is no path.
    """
    config, data = weights.experiment.config, weights.experiment.data
    source, test = test_images(config["dataset"], config["data_dir"])
    size = min(config["eval_batch_size"], len(test.labels))
    probabilities = _predictor(weights.experiment.network, data, config["precision"])
    taken, confidence = np.empty(len(test.labels), np.int64), np.empty(len(test.labels))
    for start in range(0, len(test.labels), size):
        images = test.images[start : start + size]
        padded = np.concatenate(
            [images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)]
        )
        found = probabilities(weights.state.forward, weights.state.statistics, padded)
        taken[start : start + size], confidence[start : start + size] = (
            np.asarray(part)[: len(images)] for part in found
        )
    counts = np.zeros((data.classes, data.classes), np.int64)
    np.add.at(counts, (test.labels, taken), 1)
    wrong = np.flatnonzero(taken != test.labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES]]
    brightest = np.uint8(255 // data.max_value)
    mistakes = [
        Mistake(
            brightest * test.images[i],
            int(i),
            int(test.labels[i]),
            int(taken[i]),
            float(confidence[i]),
        )
        for i in surest
    ]
    return Predictions(counts, mistakes, source.description)


def _predictor(network: Network, data: DatasetSpec, precision: str) -> Callable[..., Any]:
    """(forward, statistics, uint8 images) -> (class, its softmax), both (batch,)."""

    @jax.jit
    def predict(forward: dict, statistics: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        with ops.products_in(precision):
            logits = infer(network, forward, prepare_images(images, data, jnp.float32), statistics)
        return jnp.argmax(logits, axis=1), jnp.max(jax.nn.softmax(logits), axis=1)

    return predict


def first_filters(weights: Weights, most: int = 64) -> np.ndarray | None:
    """The first kernels of the network as pictures, (filters, height, width, channels); None where
    they see no pixels. Of a dense block, every unit is one.
    """
    block = weights.experiment.network[0]
    kernel = _first_kernel(weights.state.forward[block.name])
    if kernel is None:
        return None
    shape = weights.experiment.data.image_shape
    if kernel.ndim == 2 and kernel.shape[0] == np.prod(shape):
        kernel = kernel.reshape(*shape, -1)
    if kernel.ndim != 4 or kernel.shape[2] != shape[2]:
        return None
    return np.moveaxis(kernel, -1, 0)[:most]


def _first_kernel(parameters: dict[str, Any]) -> np.ndarray | None:
    if "kernel" in parameters:
        return np.asarray(parameters["kernel"])
    inner = (_first_kernel(part) for part in parameters.values() if isinstance(part, dict))
    return next((kernel for kernel in inner if kernel is not None), None)


def size_of(run: Reading) -> dict[str, tuple[int, int]]:
    """What memory a run takes at least: part -> (numbers, bytes), by shapes alone.

    Raises:
      ValueError: one line; the config cannot be used here.
    """
    like = learner_of(experiment_of(run.path))[1]
    parts = {"forward": like.forward, "feedback": like.feedback, "state": like}
    return {name: _size(tree) for name, tree in parts.items()}


def _size(tree: Any) -> tuple[int, int]:
    leaves = [
        leaf
        for leaf in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    ]
    return sum(leaf.size for leaf in leaves), sum(
        leaf.size * leaf.dtype.itemsize for leaf in leaves
    )
