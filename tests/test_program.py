"""The compiled programs of a run: chunks of steps, and exact evaluation of a whole data set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, copied, cross_entropy_in_numpy, make_learner, slow

from dtp_jax import blocks, ops
from dtp_jax.data import DatasetSpec, Split
from dtp_jax.data.batches import resident, resident_evaluation
from dtp_jax.data.stream import EvaluationStream
from dtp_jax.learning import learner, optim
from dtp_jax.networks import mlp
from dtp_jax.parallel.mesh import make_mesh, put, replicated
from dtp_jax.rules import ldrl
from dtp_jax.run import program
from dtp_jax.run.checkpoints import Checkpoints

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


@pytest.mark.parametrize("augmented", [slow(False), True])
def test_flat_images_change_no_bit(made, state, augmented):
    """As they lie on a TPU: training, the loss of a batch, an evaluation."""
    chunk = program.train_chunk(made, DATA, augmented=augmented)
    split, batch = Split(IMAGES, LABELS), BATCHES[0]
    with ops.compiled_for("tpu"):
        flat, blocks_ = resident(split), resident_evaluation(split, batch_size=7)
    assert flat.images.shape == (len(IMAGES), IMAGES[0].size)
    first, second = (
        chunk(copied(state), *images, BATCHES, np.int32(2)) for images in (split, flat)
    )
    assert_same_bits(first, second)
    probe, evaluate = program.probe(made, DATA), program.evaluator(made.network, DATA)
    assert probe(state.forward, *split, batch) == probe(state.forward, *flat, batch)
    assert evaluate(state.forward, blocks_) == evaluate(
        state.forward, resident_evaluation(split, batch_size=7)
    )


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


# A guard that goes on where numbers go wrong.

BAD = 2
"""The number of the step in which they do."""
GUARDS = ("skip", "halve")


def once_infinite(rate, iterations=1):
    """A rate that is infinite in the step number BAD: the count of a schedule goes on."""
    return lambda count: jnp.where(count // iterations == BAD, jnp.inf, rate)


def guarded(guard, *, forward=0.02, feedback=0.01, mesh=None):
    """A learner with two feedback maps, the second of which has the rate `feedback`."""
    return learner.Learner(
        mlp(DATA.image_shape, DATA.classes, hidden=(7, 5)),
        ldrl(noise=(0.2, 0.2), beta=0.7),
        optim.sgd(forward, momentum=0.9),
        (optim.sgd(0.01, momentum=0.9), optim.sgd(feedback, momentum=0.9)),
        2,
        guard=guard,
        mesh=mesh,
    )


def bad_in_one_step(guard, **options):
    """The forward step is the bad one for "skip", the training of the second map for "halve"."""
    rates = (
        {"forward": once_infinite(0.02)}
        if guard == "skip"
        else {"feedback": once_infinite(0.01, 2)}
    )
    return guarded(guard, **rates, **options)


@pytest.fixture(scope="module", params=GUARDS)
def mended(request):
    """(guard, learner, its compiled chunk, its first state)."""
    made = bad_in_one_step(request.param)
    with jax.enable_x64(False):
        state = jax.jit(partial(learner.init, made))(jax.random.key(3))
        return request.param, made, program.train_chunk(made, DATA, augmented=True), state


def one_by_one(chunk, state, steps=5):
    for k in range(steps):
        state, _ = run(chunk, state, BATCHES[k : k + 1])
    return state


@pytest.mark.parametrize("lengths", [slow((1, 1, 1, 1, 1)), (2, 3), slow((3, 2))])
def test_a_bad_batch_is_the_same_in_chunks_of_all_lengths(mended, lengths):
    _, _, chunk, state = mended
    whole, expected = run(chunk, state, BATCHES)
    pieces, found, first = state, [], 0
    for length in lengths:
        pieces, metrics = run(chunk, pieces, BATCHES[first : first + length])
        found.append(jax.tree.map(lambda leaf, n=length: np.asarray(leaf)[:n], metrics))
        first += length
    assert_same_bits(pieces, whole)
    assert_same_bits(jax.tree.map(lambda *leaves: np.concatenate(leaves), *found), expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole.forward))


def test_what_the_guard_did_is_known(mended):
    guard, _, chunk, state = mended
    after, metrics = run(chunk, state, BATCHES)
    did = np.arange(5) == BAD
    skips = guard == "skip"
    np.testing.assert_array_equal(metrics.guard["skipped"], did if skips else np.zeros(5, bool))
    np.testing.assert_array_equal(metrics.guard["now"]["in_a_row"], did if skips else np.zeros(5))
    assert after.guard["skipped"] == (1 if skips else 0) and after.step == 5
    if skips:
        assert set(after.guard) == {"skipped", "in_a_row"} and metrics.guard["halved"] == {}
        return
    np.testing.assert_array_equal(metrics.guard["halved"]["fc3"], did)
    assert not metrics.guard["halved"]["fc2"].any()
    assert after.guard["halved"] == {"fc2": 0, "fc3": 1}
    assert after.guard["factor"] == {"fc2": 1, "fc3": 0.5}
    np.testing.assert_array_equal(metrics.guard["now"]["factor"]["fc3"], [1, 1, 0.5, 0.5, 0.5])


def test_a_skipped_batch_leaves_no_trace():
    """The run is the one that has not had it: but for its number, and the count of the schedule."""
    made = bad_in_one_step("skip")
    chunk = program.train_chunk(made, DATA, augmented=True)
    state = jax.jit(partial(learner.init, made))(jax.random.key(3))
    expected = one_by_one(chunk, state, BAD)
    momentum, schedule = expected.forward_opt_state
    schedule = schedule._replace(count=schedule.count + 1)
    expected = expected.replace(step=expected.step + 1, forward_opt_state=(momentum, schedule))
    for k in range(BAD + 1, 5):
        expected, _ = run(chunk, expected, BATCHES[k : k + 1])
    found = run(chunk, state, BATCHES)[0]
    assert found.guard["skipped"] == 1 and expected.guard["skipped"] == 0
    assert_same_bits(found.replace(guard={}), expected.replace(guard={}))


def test_a_skipped_batch_takes_its_statistics_with_it():
    """Running statistics are those of the batches that were trained on."""
    blocks_ = [
        blocks.conv_block("conv", channels=3, window=3, batch_norm=True),
        blocks.dense_block("fc", features=DATA.classes),
    ]
    made = learner.Learner(
        blocks.chain(DATA.image_shape, blocks_),
        ldrl(noise=0.2, beta=0.7),
        optim.sgd(once_infinite(0.02), momentum=0.9),
        optim.sgd(0.01, momentum=0.9),
        1,
        guard="skip",
    )
    chunk = program.train_chunk(made, DATA, augmented=False)
    states = [jax.jit(partial(learner.init, made))(jax.random.key(3))]
    for k in range(BAD + 2):
        states.append(run(chunk, states[-1], BATCHES[k : k + 1])[0])
    assert [int(state.guard["skipped"]) for state in states] == [0, 0, 0, 1, 1]
    means = [np.asarray(state.statistics["conv"]["bn"]["mean"]) for state in states]
    moved = [(before != after).any() for before, after in zip(means, means[1:])]
    assert moved == [True, True, False, True]


def test_a_halved_map_is_as_before_the_batch_and_slower_after_it():
    """By hand: the bad batch trains all but the second map; from then on its rate is half."""
    made = bad_in_one_step("halve")
    stop, slow = guarded("stop"), guarded("stop", feedback=0.005)
    state = jax.jit(partial(learner.init, stop))(jax.random.key(3))
    step = jax.jit(learner.train_step, static_argnums=0)
    data = [(normalised(IMAGES[batch]), LABELS[batch]) for batch in BATCHES]
    chunk = program.train_chunk(made, DATA, augmented=False)
    found, metrics = run(chunk, jax.jit(partial(learner.init, made))(jax.random.key(3)), BATCHES)
    for k in range(BAD):
        state, expected = step(stop, state, *data[k])
    maps, _ = step(stop._replace(trains=("feedback",)), state, *data[BAD])
    state = state.replace(
        feedback={**maps.feedback, "fc3": state.feedback["fc3"]},
        feedback_opt_state={**maps.feedback_opt_state, "fc3": state.feedback_opt_state["fc3"]},
    )
    state, _ = step(stop._replace(trains=("forward",)), state, *data[BAD])
    for k in range(BAD + 1, 5):
        state, expected = step(slow, state, *data[k])
    assert_close((found.forward, found.feedback), (state.forward, state.feedback), 1e-5)
    assert_close(metrics.loss[4], expected.loss, 1e-5)
    state, _ = step(stop, state, *data[4])  # the rate does matter
    found, _ = run(chunk, found, BATCHES[4:])
    with pytest.raises(AssertionError):
        assert_close(found.feedback, state.feedback, 1e-5)


@pytest.mark.slow
def test_where_nothing_goes_wrong_nothing_changes():
    after = {}
    for guard in ("stop", *GUARDS):
        made = guarded(guard)
        state = jax.jit(partial(learner.init, made))(jax.random.key(3))
        after[guard] = run(program.train_chunk(made, DATA, augmented=True), state, BATCHES)[0]
    for guard in GUARDS:
        assert_close(after[guard].forward, after["stop"].forward, 1e-6)
        assert_close(after[guard].feedback, after["stop"].feedback, 1e-6)
        assert after[guard].guard["skipped"] == 0
    assert after["stop"].guard == {}


@pytest.mark.slow
def test_seeds_are_judged_each_on_its_own():
    """The first of two runs has weights beyond hope: all its batches are skipped, none of the other's."""
    made = guarded("skip")
    states = jax.jit(jax.vmap(partial(learner.init, made)))(jax.random.split(jax.random.key(3), 2))
    bias = states.forward["fc3"]["bias"].at[0, 0].set(1e9)
    forward = {**states.forward, "fc3": {**states.forward["fc3"], "bias": bias}}
    states = states.replace(forward=forward)
    chunk = program.train_chunk(made, DATA, augmented=False, seeds=True)
    after, _ = chunk(copied(states), IMAGES, LABELS, np.stack([BATCHES] * 2), np.int32(5))
    assert list(after.guard["skipped"]) == list(after.guard["in_a_row"]) == [5, 0]
    moved = after.forward["fc1"]["kernel"] != states.forward["fc1"]["kernel"]
    assert not moved[0].any() and moved[1].any()


def test_devices_decide_alike():
    """Over a mesh the guard does what it does on one device."""
    results = []
    for mesh in (None, make_mesh(2, 2)):
        made = bad_in_one_step("halve", mesh=mesh)
        start = jax.jit(partial(learner.init, made), out_shardings=replicated(mesh))
        chunk = program.train_chunk(made, DATA, augmented=False)
        given = put(mesh, (IMAGES, LABELS))
        results.append(chunk(start(jax.random.key(3)), *given, BATCHES, np.int32(5)))
    (alone, seen), (divided, metrics) = jax.device_get(results)
    assert_same_bits(divided.guard, alone.guard)
    assert_same_bits(metrics.guard, seen.guard)
    assert_close((divided.forward, divided.feedback), (alone.forward, alone.feedback), 1e-4)


def test_a_guarded_state_survives_a_checkpoint(tmp_path, mended):
    """Its counters go on where they were; without a guard, there are none."""
    _, _, chunk, state = mended
    middle = one_by_one(chunk, state, BAD + 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, middle, {})
    restored, _ = checkpoints.restore(3, jax.eval_shape(lambda: middle))
    assert_same_bits(restored, middle)
    assert_same_bits(*(run(chunk, s, BATCHES[3:])[0] for s in (restored, middle)))
    names = {path[0].name for path, _ in jax.tree.leaves_with_path(guarded("stop").state_shapes)}
    every = "step key forward feedback forward_opt_state feedback_opt_state statistics"
    assert names <= set(every.split())


# Evaluation.


def test_the_probe_is_the_loss_of_the_next_step(made, chunks, state):
    after, _ = run(chunks[False], state, BATCHES[:1])
    found = program.probe(made, DATA)(after.forward, IMAGES, LABELS, BATCHES[1])
    expected = run(chunks[False], after, BATCHES[1:2])[1].loss[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


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


def test_memory_of_a_program():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert program.memory_bytes(kept) == 8000 and program.memory_bytes(donated) == 4000
    # A product that is kept for another one is in between.
    square = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    between = jax.jit(lambda a: jnp.cos(a @ a) @ a).lower(square).compile()
    assert program.memory_bytes(between) >= 3 * 40_000
