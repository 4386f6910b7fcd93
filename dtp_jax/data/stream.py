"""Batches of a data set that does not fit the device, read ahead in the background by grain.

The compiled chunk of training steps picks the examples `batches[k]` out of its `images` and
`labels`. A resident data set is given to it whole; of a streamed one, it is given the examples of
just those steps, in order, and the `batches` that find them there. The program is the same, the
order is `epoch_permutation` in both cases and augmentation is keyed by the step: so the results are
the same, bit for bit.

With several processes, each reads a contiguous slice of the rows of every batch. That is the
slice that `jax.make_array_from_process_local_data` gives to a process's devices where images and
labels are sharded along their first axis, in the usual order of devices; `batches` then indexes
the global arrays.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dtp_jax.data.batches import Chunk, EvaluationBlock, PassOrders, batched
from dtp_jax.data.spec import DataError, DatasetSpec, Split

CHUNK_BYTES = 1 << 26  # of images, that a chunk of steps has on the device
_FOREVER = 2**62  # steps


def steps_per_chunk(spec: DatasetSpec, batch_size: int) -> int:
    """How many steps' images fit in `CHUNK_BYTES`; at least 1."""
    return max(1, CHUNK_BYTES // (batch_size * int(np.prod(spec.image_shape))))


def batch_positions(most_steps: int, batch_size: int, process_count: int = 1) -> np.ndarray:
    """Where each step's examples are in the streamed images: int32 [most steps, batch].

    The images of a process are in order of steps, and within them of rows; the global array has
    those of process 0 first, then those of process 1. With one process: 0, 1, 2, ...
    """
    rows = batch_size // process_count
    step, (process, row) = np.arange(most_steps)[:, None], np.divmod(np.arange(batch_size), rows)
    return ((process * most_steps + step) * rows + row).astype(np.int32)


class BatchStream:
    """The training batches of one process, from any step on."""

    def __init__(
        self,
        spec: DatasetSpec,
        split: Split,
        indices: np.ndarray,
        *,
        batch_size: int,
        most_steps: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 2,
        ahead: int | None = None,
    ):
        """Reads nothing yet.

        Args:
          split: may be memory-mapped: only the rows of a batch are read, by the worker threads.
          indices: the examples of `split` to train on [n] (`Splits.train_indices`).
          batch_size: of all processes together; a multiple of their number.
          most_steps: how many steps `read` gives at most.
          workers: threads that read.
          ahead: how many batches are read before they are asked for; default `most_steps`.

        Raises ValueError where the processes cannot share a batch, or there is no full batch.
        """
        self._rows = _share(batch_size, process_index, process_count)
        self.steps_per_pass = len(indices) // batch_size
        if self.steps_per_pass == 0:
            raise ValueError(f"batch_size={batch_size}: allowed are 1 to {len(indices)}")
        self.most_steps = most_steps
        self._batches = batch_positions(most_steps, batch_size, process_count)
        self._spec, self._split, self._orders = spec, split, PassOrders(indices, seed)
        self._workers, self._ahead = workers, most_steps if ahead is None else ahead
        self._iterator: Any = None
        self._next = -1  # the step that the iterator stands at, of all passes

    @property
    def like(self) -> Chunk:
        """Shapes and types of what `read` gives."""
        examples = self.most_steps * (self._rows.stop - self._rows.start)
        images = jax.ShapeDtypeStruct((examples, *self._spec.image_shape), np.uint8)
        labels = jax.ShapeDtypeStruct((examples,), np.int32)
        return Chunk(images, labels, jax.ShapeDtypeStruct(self._batches.shape, np.int32))

    def read(self, pass_index: int, position: int, count: int) -> Chunk:
        """The examples of `count` steps from step `position` of a pass on.

        Reading where the last call ended finds them ready; anything else starts anew there.

        Returns images uint8 [most steps * rows, H, W, C] and labels [most steps * rows], `rows` being
        this process's share of a batch, with zeros after the last step, and always the same
        `batches`. Images and labels are new arrays: nothing writes to them later.

        Raises DataError where the images cannot be read.
        """
        rows = self._rows.stop - self._rows.start
        if not 0 < count <= self.most_steps:
            raise ValueError(f"count={count}: allowed are 1 to {self.most_steps}")
        first = pass_index * self.steps_per_pass + position
        if self._iterator is None or first != self._next:
            self.close()
            self._iterator = _read_ahead(self._batch, first, _FOREVER, self._workers, self._ahead)
        images, labels = (np.zeros(array.shape, array.dtype) for array in self.like[:2])
        for k in range(count):
            here = slice(k * rows, (k + 1) * rows)
            try:
                images[here], labels[here] = next(self._iterator)
            except Exception as error:  # whatever went wrong in a worker
                self.close()
                raise _unreadable(self._spec, f"step {position + k}", error) from error
        self._next = first + count
        return Chunk(images, labels, self._batches)

    def close(self) -> None:
        """Stops reading ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _batch(self, step: int) -> Split:
        """This process's rows of the batch of a step; runs in the worker threads."""
        pass_index, position = divmod(step, self.steps_per_pass)
        batch_size = self._batches.shape[1]
        batch = self._orders[pass_index][position * batch_size :][:batch_size]
        return _taken(self._split, batch[self._rows])


class EvaluationStream:
    """All examples of a part of a data set once, in order, for one process; may be iterated again."""

    def __init__(
        self,
        spec: DatasetSpec,
        split: Split,
        *,
        batch_size: int,
        most_batches: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
        multiple: int = 1,
        ahead: int = 1,
    ):
        """Reads nothing yet.

        Args:
          batch_size: of all processes together; a multiple of their number.
          multiple: of so many examples are the batches made, also where the data set has fewer.
          most_batches: how many a block has; default `steps_per_chunk`, or all where they are fewer.
          ahead: how many blocks are read before they are asked for.

        Raises ValueError where the processes cannot share a batch.
        """
        self._spec, self._split, self._ahead = spec, split, ahead
        self._examples = len(split.labels)
        multiple = math.lcm(multiple, process_count)
        self._batch_size = min(batch_size, -(-self._examples // multiple) * multiple)
        self._rows = _share(self._batch_size, process_index, process_count)
        all_batches = -(-self._examples // self._batch_size)
        most = min(most_batches or steps_per_chunk(spec, self._batch_size), all_batches)
        self._positions = batch_positions(most, self._batch_size, process_count)

    def __iter__(self) -> Iterator[EvaluationBlock]:
        """The blocks, all of the same shapes.

        Images are uint8 [most batches * rows, H, W, C], `rows` being this process's share of a
        batch; the last block is filled up with copies of the last example, of weight zero.

        Raises DataError where images cannot be read.
        """
        count = -(-self._examples // self._positions.size)
        blocks = _read_ahead(self._block, 0, count, 1, self._ahead)
        try:
            yield from blocks
        except Exception as error:  # whatever went wrong in the worker
            raise _unreadable(self._spec, "an evaluation", error) from error
        finally:
            blocks.close()

    def _block(self, number: int) -> EvaluationBlock:
        most = len(self._positions)
        indices, weights = batched(number * most, most, self._batch_size, self._examples)
        mine = _taken(self._split, indices[:, self._rows].ravel())
        return EvaluationBlock(*mine, self._positions, weights)


def _read_ahead(read: Callable[[int], Any], first: int, stop: int, workers: int, ahead: int) -> Any:
    """An iterator over read(first), read(first + 1), ..., which grain's threads compute."""
    import grain

    options = grain.ReadOptions(num_threads=min(workers, ahead), prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(first, stop).map(read).to_iter_dataset(options))


def _taken(split: Split, rows: np.ndarray) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of every batch that a process reads."""
    rows, rest = divmod(batch_size, process_count)
    if rest or not rows:
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {process_count} processes; "
            f"allowed: multiples of {process_count}"
        )
    return slice(process_index * rows, (process_index + 1) * rows)


def _unreadable(spec: DatasetSpec, what: str, error: Exception) -> DataError:
    return DataError(f"{spec.name}: the images of {what} cannot be read: {error}")
