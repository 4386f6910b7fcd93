"""The compiled programs of a run: chunks of steps, and exact evaluation of a whole data set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, copied, cross_entropy_in_numpy, make_learner

from dtp_jax import blocks
from dtp_jax.data import DatasetSpec, Split
from dtp_jax.data.batches import resident_evaluation
from dtp_jax.data.stream import EvaluationStream
from dtp_jax.learning import learner
from dtp_jax.networks import mlp
from dtp_jax.rules import ldrl
from dtp_jax.run import program

pytestmark = pytest.mark.usefixtures("single_precision")

DATA = DatasetSpec(
    name="tiny",
    stored_as="tiny",
    image_shape=(4, 6, 2),
    classes=8,
    mean=(0.4, 0.6),
    std=(0.2, 0.5),
    train_examples=30,
    test_examples=23,
    flip=True,
    crop_padding=1,
)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (30, 4, 6, 2)).astype(np.uint8)
LABELS = RANDOM.integers(0, 8, 30).astype(np.int32)
BATCHES = RANDOM.permutation(30).reshape(5, 6).astype(np.int32)  # five steps of six images


def normalised(images):
    """(pixel / 255 - mean) / std by channel."""
    return ((images / 255.0 - np.array(DATA.mean)) / np.array(DATA.std)).astype(np.float32)


@pytest.fixture(scope="module")
def made():
    network = mlp(DATA.image_shape, DATA.classes, hidden=(7,))
    return make_learner(network, ldrl(noise=(0.2,), beta=0.7), forward_lr=0.02)


@pytest.fixture(scope="module")
def chunks(made):
    """The compiled chunk with and without augmentation."""
    return {
        augmented: program.train_chunk(made, DATA, augmented=augmented)
        for augmented in (False, True)
    }


@pytest.fixture
def state(made):
    return jax.jit(partial(learner.init, made))(jax.random.key(3))


def run(chunk, state, batches, count=None):
    """`count` steps on the rows of `batches`, filled up to five with rows that must not matter."""
    count = len(batches) if count is None else count
    filled = np.concatenate([batches, np.full((5 - len(batches), 6), 29, np.int32)])
    return chunk(copied(state), IMAGES, LABELS, filled, np.int32(count))


def assert_same_bits(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("lengths", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_the_length_of_a_chunk_changes_no_bit(chunks, state, augmented, lengths):
    """One chunk of five steps, and the same five in pieces: state and metrics."""
    chunk = chunks[augmented]
    whole, expected = run(chunk, state, BATCHES)
    pieces, found, first = state, [], 0
    for length in lengths:
        pieces, metrics = run(chunk, pieces, BATCHES[first : first + length])
        found.append(jax.tree.map(lambda leaf, n=length: np.asarray(leaf)[:n], metrics))
        first += length
    assert_same_bits(pieces, whole)
    assert_same_bits(jax.tree.map(lambda *leaves: np.concatenate(leaves), *found), expected)
    assert pieces.step == 5
    assert chunk._cache_size() == 1  # chunks of all lengths are one program


def test_metrics_past_the_count_are_zero(chunks, state):
    _, metrics = run(chunks[False], state, BATCHES, count=3)
    for leaf in jax.tree.leaves(metrics):
        assert leaf.shape == (5,) and not leaf[3:].any()
    assert metrics.loss[:3].all() and set(metrics.feedback_loss) == {"fc2"}


def test_a_chunk_without_steps_changes_nothing(chunks, state):
    found, _ = run(chunks[True], state, BATCHES, count=0)
    assert_same_bits(found, state)


def test_a_chunk_is_a_loop_of_train_steps(made, chunks, state):
    """On the normalised images, in the order of the indices."""
    whole, metrics = run(chunks[False], state, BATCHES)
    step = jax.jit(partial(learner.train_step, made))
    for k, batch in enumerate(BATCHES):
        state, expected = step(state, normalised(IMAGES[batch]), LABELS[batch])
        assert_close(jax.tree.map(lambda leaf, k=k: leaf[k], metrics), expected, 1e-5)
    assert_close((whole.forward, whole.feedback), (state.forward, state.feedback), 1e-5)
    assert_same_bits(whole.key, state.key)


@pytest.mark.parametrize("augmented", [False, True])
def test_augmentation_draws_anew_in_every_step(chunks, state, augmented):
    """The loss of one batch and the same parameters at five steps: constant without."""
    seen = [
        run(chunks[augmented], state.replace(step=jnp.int32(k)), BATCHES[:1])[1] for k in range(5)
    ]
    assert len({float(metrics.loss[0]) for metrics in seen}) == (5 if augmented else 1)
    # The feedback noise is another one in each step in any case.
    assert len({float(metrics.feedback_loss["fc2"][0]) for metrics in seen}) == 5


# Evaluation.


@pytest.fixture(scope="module")
def expected_evaluation(made):
    """(forward parameters, loss, accuracy, top-5 accuracy) of 23 images by numpy."""
    with jax.enable_x64(False):
        forward = jax.jit(partial(blocks.init_forward, made.network))(jax.random.key(1))
        logits = jax.jit(partial(blocks.logits, made.network))(forward, normalised(IMAGES[:23]))
    right = np.argsort(-np.asarray(logits), axis=1, kind="stable") == LABELS[:23, None]
    loss = cross_entropy_in_numpy(np.asarray(logits, np.float64), LABELS[:23]).mean()
    return forward, (loss, right[:, 0].mean(), right[:, :5].any(axis=1).mean())


@pytest.mark.parametrize("batch_size", [1, 5, 8, 22, 23, 500])
def test_every_example_counts_once(made, expected_evaluation, batch_size):
    """Whatever the last batch is filled up with, the means are those of the 23 images."""
    forward, expected = expected_evaluation
    evaluate = program.evaluator(made.network, DATA)
    split = Split(IMAGES[:23], LABELS[:23])
    found = evaluate(forward, resident_evaluation(split, batch_size=batch_size))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 0 < found.accuracy < found.top5_accuracy < 1
    assert all(type(value) is float for value in found)


def test_evaluation_does_not_augment(made, expected_evaluation):
    """The same images give the same numbers, mirrored ones others."""
    forward, _ = expected_evaluation
    evaluate = program.evaluator(made.network, DATA)
    once, again, mirrored = (
        evaluate(forward, resident_evaluation(Split(images, LABELS), batch_size=10))
        for images in (IMAGES, IMAGES, IMAGES[:, :, ::-1])
    )
    assert once == again and once.loss != mirrored.loss


@pytest.mark.parametrize("most_batches", [1, 2, 3])
def test_an_evaluation_in_blocks_changes_no_bit(made, expected_evaluation, most_batches):
    """Streamed images give the numbers of resident ones."""
    forward, _ = expected_evaluation
    split, evaluate = Split(IMAGES[:23], LABELS[:23]), program.evaluator(made.network, DATA)
    streamed = EvaluationStream(DATA, split, batch_size=5, most_batches=most_batches)
    assert evaluate(forward, streamed) == evaluate(
        forward, resident_evaluation(split, batch_size=5)
    )
