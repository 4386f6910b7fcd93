"""Where the images of a run are: on the device, or on the host from where they are streamed."""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from dtp_jax.data.batches import EvaluationBlock, ResidentBatches, resident_evaluation
from dtp_jax.data.spec import DatasetSpec, Splits
from dtp_jax.data.stream import BatchStream, EvaluationStream, steps_per_chunk

PLACES = ("auto", "device", "host")


class Feed(NamedTuple):
    """What training and evaluation take their examples from."""

    train: ResidentBatches | BatchStream
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
) -> Feed:
    """Puts all images on the device, or prepares to stream them; the numbers are the same.

    Args:
      place: "device", "host", or "auto" for the device where they fit it.
      most_steps: how many steps a chunk has at most. Streamed chunks may have fewer: `train.most_steps`.
    """
    parts = {"val": splits.val, "test": splits.test}
    parts = {name: split for name, split in parts.items() if split is not None}
    train = (splits.train, splits.train_indices)
    options = {"batch_size": batch_size, "seed": seed}
    if place == "device" or (place == "auto" and fits_device(splits)):
        return Feed(
            ResidentBatches(*train, most_steps=most_steps, **options),
            {n: resident_evaluation(s, batch_size=eval_batch_size) for n, s in parts.items()},
        )
    most_steps = min(most_steps, steps_per_chunk(spec, batch_size))
    return Feed(
        BatchStream(spec, *train, most_steps=most_steps, **options),
        {n: EvaluationStream(spec, s, batch_size=eval_batch_size) for n, s in parts.items()},
    )


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
