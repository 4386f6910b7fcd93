"""What a data set is: its static facts, the arrays it becomes, and what may be wrong with it.

Nothing here reads a file; everything is known before a run starts.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from dtp_jax import broken

GENEROUS = 16
"""So many times the usual number of examples may be in a data set of a known name."""

CLASS_NAMES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "fashion_mnist": "T-shirt/top trouser pullover dress coat sandal shirt sneaker bag ankle-boot",
}
"""By `DatasetSpec.stored_as`, in the order of the labels."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while data is downloaded, prepared or decoded."""


class DataError(Exception):
    """Data is missing, unreachable or corrupt: which data set, what is wrong, what to do."""


class DatasetSpec(NamedTuple):
    """The static facts of a data set.

    `mean` and `std` are per channel, for pixels scaled to [0, 1] (`image / max_value`).
    `train_examples` counts the whole training set, before any validation split.
    """

    name: str
    stored_as: str  # name of its files and of its TFDS directory; variants share the data
    image_shape: tuple[int, int, int]  # height, width, channels
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int
    test_examples: int
    flip: bool = False  # train augmentation: horizontal flip with probability 1/2
    crop_padding: int = 0  # train augmentation: random crop after this much edge padding
    max_value: int = 255  # the stored uint8 value that means 1.0
    fixed_split: bool = False  # validation is the (stratified) tail of train, whatever the seed
    smallest_class: int = 0  # training examples of the class that has the fewest; 0: not known

    @property
    def most_examples(self) -> int:
        """So many in a part are believed, before any is read."""
        return GENEROUS * self.train_examples

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of every label; its number where this program knows no word for it."""
        known = CLASS_NAMES.get(self.stored_as)
        return tuple(known.split()) if known else tuple(map(str, range(self.classes)))

    @property
    def most_bytes(self) -> int:
        """Bytes of the pixels of so many examples: no array of a data set has more."""
        return self.most_examples * math.prod(self.image_shape)


class Split(NamedTuple):
    """Decoded examples in their original order."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]


Blocks = Iterable[Split]
"""A part of a data set in pieces of some thousand examples, in order."""


class Contents(NamedTuple):
    """All that the official files hold."""

    train: Split
    test: Split
    label_names: dict[str, list[str]]  # by kind of label ("label", "coarse_label"); may be [] or {}
    coarse_labels: dict[str, np.ndarray]  # "train" and "test", uint8 [N]; {} where there are none


class Splits(NamedTuple):
    """The three parts of an experiment; `val` is None where everything is trained on.

    `train_indices` are the positions in `train` of the examples that are trained on. Of a large
    data set, `train` is the whole training set, so that it need not be copied, validation
    examples included; of others it holds nothing but those examples.
    """

    train: Split
    val: Split | None
    test: Split
    train_indices: np.ndarray  # int32 [n]


_CIFAR10 = DatasetSpec(
    name="cifar10",
    stored_as="cifar10",
    image_shape=(32, 32, 3),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    train_examples=50_000,
    test_examples=10_000,
    flip=True,
    crop_padding=4,
    smallest_class=5_000,
)
_CIFAR100 = _CIFAR10._replace(
    name="cifar100",
    stored_as="cifar100",
    classes=100,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    smallest_class=500,
)
_IMAGENET32 = DatasetSpec(
    name="imagenet32",
    stored_as="imagenet32",
    image_shape=(32, 32, 3),
    classes=1_000,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    train_examples=1_281_167,
    test_examples=50_000,
    flip=True,
    crop_padding=4,
    smallest_class=732,
)
_MNIST = DatasetSpec(
    name="mnist",
    stored_as="mnist",
    image_shape=(28, 28, 1),
    classes=10,
    mean=(0.5,),
    std=(0.5,),
    train_examples=60_000,
    test_examples=10_000,
    crop_padding=4,
    smallest_class=5_421,
)
_DIGITS = DatasetSpec(
    name="digits",
    stored_as="digits",
    image_shape=(8, 8, 1),
    classes=10,
    # Of the first 1,257 training images, rounded to four digits; a test recomputes them.
    mean=(0.3062,),
    std=(0.3766,),
    train_examples=1_437,
    test_examples=360,
    max_value=16,  # scikit-learn's digits count 0..16 pixels: stored exactly as they are
    fixed_split=True,
    smallest_class=139,
)

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        _CIFAR10,
        # The normalisation of the original's legacy command: three times the usual deviation.
        _CIFAR10._replace(name="cifar10_3xstd", std=(3 * 0.2023, 3 * 0.1994, 3 * 0.2010)),
        _CIFAR100,
        _IMAGENET32,
        _MNIST,
        _MNIST._replace(name="fashion_mnist", stored_as="fashion_mnist", smallest_class=6_000),
        _DIGITS,
    )
}
"""The data sets that are known, by name: what `config.dataset` and `locate` take."""


def checked_split(
    spec: DatasetSpec, part: str, images: np.ndarray, labels: np.ndarray, origin: str
) -> Split:
    """Validates the arrays of one part ("train" or "test") and returns them as a `Split`.

    Grey images may lack the channel axis, labels may be a column; anything else that does not
    fit `spec` raises `DataError` naming `origin`, the file or folder the arrays come from.
    """
    height, width, channels = spec.image_shape
    images, labels = np.asarray(images), np.asarray(labels)
    if channels == 1 and images.shape[1:] == (height, width):
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    problem = None
    if images.dtype != np.uint8 or images.shape[1:] != spec.image_shape:
        problem = (
            f"images are {images.dtype} {list(images.shape)}, "
            f"expected uint8 [N, {height}, {width}, {channels}]"
        )
    elif not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        problem = f"labels are {labels.dtype} {list(labels.shape)}, expected integers [N]"
    elif len(images) != len(labels):
        problem = f"{len(images)} images but {len(labels)} labels"
    elif len(images) == 0:
        problem = "no examples"
    elif labels.min() < 0 or labels.max() >= spec.classes:
        problem = (
            f"labels go from {labels.min()} to {labels.max()}, allowed are 0 to {spec.classes - 1}"
        )
    if problem:
        raise corrupt(spec, origin, f"{part}: {problem}")
    return Split(images, labels.astype(np.int32))


def label_checksum(labels: np.ndarray) -> int:
    """The CRC-32 of labels [N] or [N, 1], each as one byte."""
    return zlib.crc32(np.ascontiguousarray(labels).astype(np.uint8))


def checked_count(spec: DatasetSpec, part: str, count: int, origin: object) -> int:
    """The number of examples that a header promises, if it is one that a data set can have."""
    if count == 0:
        name = "training" if part == "train" else part
        raise corrupt(spec, origin, f"it holds no {name} images")
    if not 0 <= count <= spec.most_examples:
        allowed = f"at most {spec.most_examples:,}"
        raise corrupt(spec, origin, f"{part}: it promises {count:.6g} examples; allowed: {allowed}")
    return count


@contextmanager
def reading(spec: DatasetSpec, origin: object, what: str = "") -> Iterator[None]:
    """What a broken file raises inside becomes `corrupt`. `what` is said before it."""
    with broken.reading(lambda problem: corrupt(spec, origin, f"{what}{problem}")):
        yield


def corrupt(spec: DatasetSpec, origin: object, problem: object) -> DataError:
    """The error for data that is there but cannot be used."""
    return DataError(
        f"{spec.name}: {origin} is corrupt or not what its name says: {problem}. "
        "Replace or remove it, or point --config.data_dir to another copy."
    )
