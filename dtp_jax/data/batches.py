"""What a compiled chunk of training steps and an evaluation are given, of data on the device.

`dtp_jax.data.stream` gives the same of data that stays on the host.
"""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from dtp_jax import fields
from dtp_jax.data.pipeline import epoch_permutation
from dtp_jax.data.spec import DatasetSpec, Split
from dtp_jax.ops import form
from dtp_jax.parallel.mesh import Mesh, put

Array = jax.Array | np.ndarray


class Chunk(NamedTuple):
    """Examples, and which of them each step takes."""

    images: Array  # uint8 [N, H, W, C], or [N, H * W * C]; see `resident`
    labels: Array  # int32 [N]
    batches: np.ndarray  # int32 [most steps, batch], indices into images and labels


class EvaluationBlock(NamedTuple):
    """Examples, which of them each batch has, and which count."""

    images: Array  # as in `Chunk`
    labels: Array  # int32 [N]
    batches: np.ndarray  # int32 [batches, batch], indices into images and labels
    weights: np.ndarray  # float32 [batches, batch]; 0 for the filling at the end, else 1


def check_split(name: str, split: Split, spec: DatasetSpec) -> None:
    """Raises ValueError, one line, where these are no examples of the data set.

    They would be scaled twice, scrambled, or met again and again, without a word.

    Args:
      name: of the split, with which the line begins. split: uint8 images [N, H, W, C], integer labels [N].
    """
    if not isinstance(spec, DatasetSpec):
        raise fields.error("spec", spec, "a data set, such as dtp_jax.data.DATASETS['mnist']")
    if not (hasattr(split, "images") and hasattr(split, "labels")):
        has_none = "; Splits.val is None where val_split is 0" if split is None else ""
        raise fields.error(name, split, f"a dtp_jax.data.Split of images and labels{has_none}")
    shape, dtype = np.shape(split.images), getattr(split.images, "dtype", None)
    wanted = f"uint8 images [N, {', '.join(map(str, spec.image_shape))}] of {spec.name}"
    if dtype != np.uint8 or shape[1:] != spec.image_shape:
        raise ValueError(f"{name} has images {dtype} {list(shape)}; allowed: {wanted}")
    labels = np.asarray(split.labels)
    if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        has = f"labels {labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{name} has {has}; allowed: integers [{shape[0]}], one for each image")
    if labels.size and not 0 <= labels.min() <= labels.max() < spec.classes:
        has = f"labels from {labels.min()} to {labels.max()}"
        raise ValueError(f"{name} has {has}; allowed: 0 to {spec.classes - 1}")


class PassOrders:
    """The orders of the examples `indices` in the passes asked for last; for several threads."""

    def __init__(self, indices: np.ndarray, seed: int):
        self._indices, self._seed = indices, seed
        self._known: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, pass_index: int) -> np.ndarray:
        """int32 [n], a permutation of the indices."""
        with self._lock:
            if pass_index not in self._known:
                order = epoch_permutation(self._seed, pass_index, len(self._indices))
                kept = {p: known for p, known in self._known.items() if p == pass_index - 1}
                self._known = kept | {pass_index: self._indices[order]}
            return self._known[pass_index]


class ResidentBatches:
    """The training batches of examples that are on the device as a whole."""

    def __init__(
        self,
        split: Split,
        indices: np.ndarray,
        *,
        batch_size: int,
        most_steps: int,
        seed: int,
    ):
        """`split`: on the device, or on all of a mesh; see `resident`.

        Args:
          indices: the examples of `split` to train on [n] (`Splits.train_indices`).
          most_steps: how many steps `read` gives at most.
        """
        self._split = split
        self.most_steps = most_steps
        self._batch_size, self._orders = batch_size, PassOrders(indices, seed)

    @property
    def like(self) -> Chunk:
        """Shapes and types of what `read` gives."""
        batches = jax.ShapeDtypeStruct((self.most_steps, self._batch_size), np.int32)
        shapes = (
            jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for array in self._split
        )
        return Chunk(*shapes, batches)

    def read(self, pass_index: int, position: int, count: int) -> Chunk:
        """The examples of `count` steps from step `position` of a pass on."""
        first, last = position * self._batch_size, (position + count) * self._batch_size
        batches = np.zeros((self.most_steps, self._batch_size), np.int32)
        batches[:count] = self._orders[pass_index][first:last].reshape(count, -1)
        return Chunk(*self._split, batches)

    def close(self) -> None:
        """Nothing to do."""


def resident(split: Split, mesh: Mesh | None = None) -> Split:
    """`split` on the device, or on all of a mesh, with images as `ops.Form.flat_images` says."""
    images = split.images.reshape(len(split.images), -1) if form().flat_images else split.images
    return Split(*put(mesh, (images, split.labels)))


def resident_evaluation(
    split: Split,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
    put_split: Callable[[Split, Mesh | None], Split] = resident,
) -> Iterable[EvaluationBlock]:
    """All examples of `split`, put on the device, or on all of a mesh, as one block.

    The last batch is filled up with copies of the last example, of weight zero.

    Args:
      put_split: puts images there, or finds them.
    """
    examples = len(split.labels)
    devices = 1 if mesh is None else mesh.size
    batch_size = min(batch_size, -(-examples // devices) * devices)
    batches, weights = batched(0, -(-examples // batch_size), batch_size, examples)
    return (EvaluationBlock(*put_split(split, mesh), batches, weights),)


def batched(first: int, count: int, batch_size: int, examples: int) -> tuple[np.ndarray, ...]:
    """The batches `first`, `first + 1`, ... of all examples in order: indices and weights.

    int32 and float32 [count, batch]; after the last example it comes again, with weight zero.
    """
    shape = (count, batch_size)
    indices = np.arange(first * batch_size, (first + count) * batch_size).reshape(shape)
    inside = indices < examples
    return np.where(inside, indices, examples - 1).astype(np.int32), inside.astype(np.float32)
