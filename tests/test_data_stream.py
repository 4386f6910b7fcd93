"""Streamed batches: those of a resident data set, from any step, shared by any processes."""

import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dtp_jax.data import DATASETS, DataError, Split, Splits, epoch_permutation, feed
from dtp_jax.data.batches import PassOrders
from dtp_jax.data.feeding import fits_device
from dtp_jax.data.stream import BatchStream, EvaluationStream, batch_positions, steps_per_chunk

SPEC = DATASETS["imagenet32"]
BATCH, MOST, SEED = 12, 4, 5
INDICES = np.delete(np.arange(150), [3, 77, 149]).astype(np.int32)
STEPS = len(INDICES) // BATCH  # 12, and three examples more


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """150 examples; the images memory-mapped, as from the cache."""
    random = np.random.RandomState(0)
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, random.randint(0, 256, (150, *SPEC.image_shape)).astype(np.uint8))
    labels = random.randint(0, 1_000, 150).astype(np.int32)
    return Split(np.load(path, mmap_mode="r"), labels)


@pytest.fixture
def make(split):
    """A function that makes a stream of the examples `INDICES`; it is closed after the test."""
    made = []

    def make(split=split, **options):
        fixed = {"batch_size": BATCH, "most_steps": MOST, "seed": SEED}
        made.append(BatchStream(SPEC, split, INDICES, **(fixed | options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def resident(split, pass_index, position):
    """The batch that the resident path takes in a step."""
    order = INDICES[epoch_permutation(SEED, pass_index, len(INDICES))]
    batch = order[position * BATCH : (position + 1) * BATCH]
    return split.images[batch], split.labels[batch]


def assert_steps(parts, split, pass_index, position, count):
    """What the compiled chunk picks from the parts of all processes is the resident batch."""
    batches = parts[0].batches
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    assert images.shape == (MOST * BATCH, *SPEC.image_shape) and images.dtype == np.uint8
    assert labels.shape == (MOST * BATCH,) and labels.dtype == np.int32
    for k in range(count):
        wanted = resident(split, pass_index, position + k)
        np.testing.assert_array_equal(images[batches[k]], wanted[0])
        np.testing.assert_array_equal(labels[batches[k]], wanted[1])
    assert not images[batches[count:]].any()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, None])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_two_passes_are_the_resident_batches(processes, ahead, workers, make, split):
    options = {"process_count": processes, "workers": workers, "ahead": ahead}
    streams = [make(process_index=p, **options) for p in range(processes)]
    assert streams[0].steps_per_pass == STEPS
    for pass_index in range(2):
        position = 0
        for count in (1, 4, 3, 4):  # chunks of all lengths
            parts = [s.read(pass_index, position, count) for s in streams]
            assert_steps(parts, split, pass_index, position, count)
            position += count
        assert position == STEPS


def test_orders_are_those_of_their_passes():
    """The images to train on alone, each once, in an order that (seed, pass) decides; asked for in any order."""
    orders = PassOrders(INDICES, SEED)
    for pass_index in (0, 1, 1, 3, 2, 0):
        wanted = INDICES[epoch_permutation(SEED, pass_index, len(INDICES))]
        np.testing.assert_array_equal(orders[pass_index], wanted)
        np.testing.assert_array_equal(np.sort(orders[pass_index]), INDICES)
    assert (orders[0] != orders[1]).mean() > 0.9


def test_resuming_and_jumping(make, split):
    batches = make()
    for pass_index, position, count in ((1, 7, 3), (1, 10, 2), (0, 2, 4), (0, 3, 4), (5, 0, 1)):
        found = batches.read(pass_index, position, count)
        assert_steps([found], split, pass_index, position, count)


def test_one_process_has_its_examples_in_order():
    np.testing.assert_array_equal(batch_positions(3, 4), np.arange(12).reshape(3, 4))
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    np.testing.assert_array_equal(batch_positions(3, 4, process_count=2), expected)


def test_chunks_are_never_overwritten(make):
    batches = make()
    first = batches.read(0, 0, 2)
    kept = first.images.copy()
    batches.read(0, 2, 4)
    np.testing.assert_array_equal(first.images, kept)


class Watched:
    """Images that count how many batches are read, and fail or wait where they are told to."""

    def __init__(self, images, fails_at=None):
        self.images, self.fails_at, self.reads, self.threads = images, fails_at, 0, set()

    def __getitem__(self, rows):
        self.reads += 1
        self.threads.add(threading.current_thread())
        if self.reads == self.fails_at:
            raise OSError("the disk is gone")
        return self.images[rows]


def test_batches_are_read_ahead_in_the_background(make, split):
    watched = Watched(split.images)
    make(split._replace(images=watched), ahead=5).read(0, 0, 1)
    deadline = time.monotonic() + 10
    while watched.reads < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watched.reads == 6  # and no more
    assert threading.main_thread() not in watched.threads


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_failing_worker_is_a_data_error(ahead, make, split):
    watched = Watched(split.images, fails_at=3)
    batches = make(split._replace(images=watched), ahead=ahead, workers=1)
    batches.read(0, 0, 2)
    with pytest.raises(DataError, match="imagenet32: the images of step 2 cannot be read: .*gone"):
        batches.read(0, 2, 2)
    assert_steps([batches.read(0, 2, 2)], split, 0, 2, 2)  # it was the only time
    watched = Watched(split.images, fails_at=2)
    with pytest.raises(DataError, match="imagenet32: the images of an evaluation .*disk is gone"):
        broken = split._replace(images=watched)
        list(EvaluationStream(SPEC, broken, batch_size=10, most_batches=2))


def test_impossible_streams(make):
    with pytest.raises(ValueError, match="batch_size=12 cannot be shared by 5 processes"):
        make(process_count=5)
    with pytest.raises(ValueError, match="batch_size=148: allowed are 1 to 147"):
        make(batch_size=148)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"count={count}: allowed are 1 to 4"):
            make().read(0, 0, count)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("size", "blocks"), [(150, 1), (200, 1), (10, 8), (50, 2), (8, 10)])
def test_an_evaluation_takes_every_example_once(size, blocks, processes, split):
    options = {"batch_size": size, "most_batches": 2, "process_count": processes}
    streams = [EvaluationStream(SPEC, split, process_index=p, **options) for p in range(processes)]
    most, used = min(2, -(-150 // size)), min(size, 150)
    for _ in range(2):  # they can be had again
        images, labels, count = [], [], 0
        for parts in zip(*streams, strict=True):
            count += 1
            whole = [np.concatenate([part[i] for part in parts]) for i in (0, 1)]
            assert whole[0].shape == (most * used, *SPEC.image_shape)
            for batch, weights in zip(parts[0].batches, parts[0].weights, strict=True):
                assert set(weights) <= {0, 1}
                images.append(whole[0][batch[weights == 1]])
                labels.append(whole[1][batch[weights == 1]])
        assert count == blocks
        np.testing.assert_array_equal(np.concatenate(images), split.images)
        np.testing.assert_array_equal(np.concatenate(labels), split.labels)


@pytest.mark.parametrize("val", [True, False])
def test_both_places_give_the_same_examples(val, split):
    part = Split(split.images[:33], split.labels[:33])
    splits = Splits(split, part if val else None, part, INDICES)
    options = {"batch_size": BATCH, "eval_batch_size": 10, "most_steps": MOST, "seed": SEED}
    device, host = (feed(SPEC, splits, place=place, **options) for place in ("device", "host"))
    for position, count in ((0, 4), (4, 1), (11, 1)):
        found = [fed.train.read(1, position, count) for fed in (device, host)]
        for fed, chunk in zip((device, host), found, strict=True):
            assert [a.shape for a in chunk] == [a.shape for a in fed.train.like]
            assert [a.dtype for a in chunk] == [a.dtype for a in fed.train.like]
        for k in range(count):
            picked = [(c.images[c.batches[k]], c.labels[c.batches[k]]) for c in found]
            for of_device, of_host in zip(*picked, strict=True):
                np.testing.assert_array_equal(of_device, of_host)
            np.testing.assert_array_equal(picked[0][0], resident(split, 1, position + k)[0])
    assert (
        device.evaluation.keys() == host.evaluation.keys() == ({"test", "val"} if val else {"test"})
    )
    for (of_device,), (of_host,) in zip(device.evaluation.values(), host.evaluation.values()):
        np.testing.assert_array_equal(of_device.weights, of_host.weights)
        for name in ("images", "labels"):
            picked = [getattr(b, name)[b.batches] for b in (of_device, of_host)]
            np.testing.assert_array_equal(*picked)
    host.train.close()


def test_what_fits(monkeypatch, split):
    splits = Splits(split, None, split, INDICES)
    needed = 2 * split.images.nbytes

    class Device:
        memory = {"bytes_limit": 2 * needed + 100, "bytes_in_use": 100}

        def memory_stats(self):
            return self.memory

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert fits_device(splits) and not fits_device(splits, fraction=0.49)
    Device.memory = {"bytes_limit": 2 * needed + 99, "bytes_in_use": 100}
    assert not fits_device(splits)
    Device.memory = None
    assert fits_device(splits)  # as it is not known
    assert steps_per_chunk(SPEC, 128) == 170  # 64 MiB
    assert steps_per_chunk(SPEC, 10**9) == 1


def test_grain_is_loaded_only_by_streams():
    code = "import sys, dtp_jax.data.stream; assert 'grain' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
