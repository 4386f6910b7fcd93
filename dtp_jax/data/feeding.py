"""Where the images of a run are: on the device, or on the host from where they are streamed."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax

from dtp_jax import fields
from dtp_jax.data.batches import (
    Chunk,
    EvaluationBlock,
    ResidentBatches,
    resident,
    resident_evaluation,
)
from dtp_jax.data.spec import DatasetSpec, Split, Splits
from dtp_jax.data.stream import BatchStream, EvaluationStream, steps_per_chunk
from dtp_jax.parallel.mesh import Mesh, data_share, divided, put_share

PLACES = ("auto", "device", "host")
"""Where `feed` may put the images."""


class Feed(NamedTuple):
    """What training and evaluation take their examples from."""

    train: "ResidentBatches | BatchStream | BatchesOverMesh"
    evaluation: dict[str, Iterable[EvaluationBlock]]
    """The blocks of "test" and, where there is one, of "val"."""


def feed(
    spec: DatasetSpec,
    splits: Splits,
    *,
    place: str,
    batch_size: int,
    eval_batch_size: int,
    most_steps: int,
    seed: int,
    mesh: Mesh | None = None,
    put_split: Callable[[Split, Mesh | None], Split] = resident,
) -> Feed:
    """Puts all images on the device, or prepares to stream them; the numbers are the same.

    Args:
      splits: as `load_splits` gives them.
      batch_size, eval_batch_size: images at a time, in training and in evaluation.
      place: "device", "host", or "auto" for the device where they fit it and there is one process.
        On a mesh every device has a copy of resident images; of streamed ones each process reads
        only its share of every batch.
      most_steps: how many steps a chunk has at most. Streamed chunks may have fewer: `train.most_steps`.
      put_split: puts images on the device, or finds them there.

    Raises:
      ValueError: one line; a batch size is none.
    """
    sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
    fields.require(fields.AT_LEAST_1, **sizes)
    parts = {"val": splits.val, "test": splits.test}
    parts = {name: split for name, split in parts.items() if split is not None}
    train = (splits.train, splits.train_indices)
    options = {"batch_size": batch_size, "seed": seed}
    devices = 1 if mesh is None else mesh.size
    eval_batch_size = (
        -(-eval_batch_size // devices) * devices
    )  # each device has its part of a batch
    alone = jax.process_count() == 1
    if place == "device" or (place == "auto" and alone and fits_device(splits)):
        return Feed(
            ResidentBatches(
                put_split(splits.train, mesh),
                splits.train_indices,
                most_steps=most_steps,
                **options,
            ),
            {
                name: resident_evaluation(
                    split, batch_size=eval_batch_size, mesh=mesh, put_split=put_split
                )
                for name, split in parts.items()
            },
        )
    most_steps = min(most_steps, steps_per_chunk(spec, batch_size))
    share = dict(zip(("process_index", "process_count"), data_share(mesh), strict=True))
    stream = BatchStream(spec, *train, most_steps=most_steps, **share, **options)
    evaluation = {
        name: EvaluationStream(spec, split, batch_size=eval_batch_size, multiple=devices, **share)
        for name, split in parts.items()
    }
    if mesh is None:
        return Feed(stream, evaluation)
    return Feed(
        BatchesOverMesh(stream, mesh),
        {name: EvaluationOverMesh(part, mesh) for name, part in evaluation.items()},
    )


class BatchesOverMesh:
    """A stream's batches, divided among the devices of a mesh."""

    def __init__(self, stream: BatchStream, mesh: Mesh):
        self._stream, self._mesh, self.most_steps = stream, mesh, stream.most_steps

    @property
    def like(self) -> Chunk:
        """Shapes, types and shardings of what `read` gives."""
        images, labels, batches = self._stream.like
        examples, sharding = batches.shape[0] * batches.shape[1], divided(self._mesh)
        whole = (
            jax.ShapeDtypeStruct((examples, *part.shape[1:]), part.dtype, sharding=sharding)
            for part in (images, labels)
        )
        return Chunk(*whole, batches)

    def read(self, pass_index: int, position: int, count: int) -> Chunk:
        """See `BatchStream.read`; every process calls it alike."""
        images, labels, batches = self._stream.read(pass_index, position, count)
        return Chunk(*put_share(self._mesh, (images, labels)), batches)

    def close(self) -> None:
        """Stops reading ahead."""
        self._stream.close()


class EvaluationOverMesh(NamedTuple):
    """A stream's evaluation blocks, divided among the devices of a mesh."""

    blocks: EvaluationStream
    mesh: Mesh

    def __iter__(self) -> Iterator[EvaluationBlock]:
        for images, labels, batches, weights in self.blocks:
            yield EvaluationBlock(*put_share(self.mesh, (images, labels)), batches, weights)


def fits_device(splits: Splits, fraction: float = 0.5) -> bool:
    """Whether all images take no more than this part of the memory that is free on the device.

    True where the device does not say how much it has, as CPUs.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return True
    parts = (splits.train, splits.val, splits.test)
    needed = sum(split.images.nbytes for split in parts if split is not None)
    return needed <= fraction * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
