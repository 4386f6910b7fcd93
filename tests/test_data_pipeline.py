"""Splits, orders, augmentation and normalisation, against numpy and against counting."""

import itertools

import data_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dtp_jax.data import (
    DATASETS,
    Source,
    Split,
    augment,
    divide,
    epoch_permutation,
    load,
    load_splits,
    locate,
    prepare_images,
    split_train_val,
    splits,
    training_examples,
)
from dtp_jax.data.sources import FORMATS


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)


# --- splits -----------------------------------------------------------------------------------


def numbered(count):
    """Examples that carry their index in image and label."""
    index = np.arange(count)
    return Split(index.astype(np.uint8).reshape(-1, 1, 1, 1), index.astype(np.int32))


@pytest.mark.parametrize(("val_split", "held_out"), [(0.1, 20), (0.25, 50), (0.995, 199)])
@pytest.mark.parametrize("fixed", [False, True])
def test_the_parts_of_a_split_are_disjoint_complete_and_in_order(val_split, held_out, fixed):
    whole = numbered(200)
    train, val = split_train_val(whole, val_split, seed=1, fixed=fixed)
    assert len(val.labels) == held_out
    for part in (train, val):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
        assert np.all(np.diff(part.labels) > 0)
    np.testing.assert_array_equal(np.sort(np.r_[train.labels, val.labels]), whole.labels)


def test_the_cifar_split_has_the_usual_sizes():
    labels = np.zeros(50_000, np.int32)
    train, val = split_train_val(Split(labels[:, None, None, None], labels), 0.1, seed=0)
    assert (len(train.labels), len(val.labels)) == (45_000, 5_000)


def test_who_is_held_out_depends_on_the_seed_alone():
    held_out = [split_train_val(numbered(200), 0.2, seed)[1].labels for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(held_out[0], held_out[1])
    for a, b in itertools.combinations(held_out[1:], 2):
        assert len(np.intersect1d(a, b)) < 30  # 8 are expected of 40
    fixed = [split_train_val(numbered(200), 0.2, s, fixed=True)[1].labels for s in (0, 1)]
    for labels in fixed:
        np.testing.assert_array_equal(labels, np.arange(160, 200))


def test_no_validation_split():
    whole = numbered(20)
    train, val = split_train_val(whole, 0.0, seed=0)
    assert train is whole and val is None


@pytest.mark.parametrize("val_split", [-0.1, 1.0, 1.5, 0.01, 0.99, float("nan")])
def test_impossible_splits(val_split):
    with pytest.raises(ValueError, match=f"val_split={val_split} is not possible with 20"):
        split_train_val(numbered(20), val_split, seed=0)


@pytest.mark.parametrize("options", [(0.25, 0), (0.1, 2), (0.0, 0)], ids=["share", "class", "none"])
def test_copied_or_not_the_parts_are_the_same(options):
    """And nobody who is held out is trained on."""
    (share, per_class), index = options, np.arange(40)
    whole = Split(index.astype(np.uint8).reshape(-1, 1, 1, 1), (index % 4).astype(np.int32))
    parts = [
        divide(DATASETS["mnist"], whole, whole, share, 3, val_per_class=per_class, copied=copied)
        for copied in (True, False)
    ]
    of_each = [one.train.images[one.train_indices].ravel().tolist() for one in parts]
    assert of_each[0] == of_each[1]
    held = [[] if one.val is None else one.val.images.ravel().tolist() for one in parts]
    assert held[0] == held[1] and len(held[0]) == (4 * per_class or 40 * share)
    assert sorted(of_each[0] + held[0]) == index.tolist()


@pytest.mark.parametrize("val_split", [0.1, 0.26, 0.29])
def test_as_many_are_left_as_was_foretold(val_split):
    """Also where the share is no whole number of images, in either direction."""
    source = locate("digits")
    splits = load_splits(source, val_split, seed=0)
    assert training_examples(source, val_split) == len(splits.train_indices)
    assert len(splits.train_indices) + len(splits.val.labels) == source.train_examples


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("cifar100", form) for form in ("npz", "jpeg npz", "CIFAR binary files")),
        *(("mnist", form) for form in ("npz", "jpeg npz", "idx files", "tfds array_record")),
    ],
)
def test_too_many_of_a_class_are_seen_before_an_image_is_read(name, form, monkeypatch, tmp_path):
    """Wherever labels lie apart, also where there are as many examples as usual."""
    train, test = data_files.fake(name)
    labels, (scarce, other) = train.labels.copy(), np.unique(train.labels)[[3, 5]]
    labels[np.flatnonzero(labels == scarce)[:2]] = other  # 4 of 6 are left
    write = {**data_files.CIFAR_FORMS, **data_files.MNIST_FORMS}[form]
    write(tmp_path, name, train._replace(labels=labels), test)
    if form != "tfds array_record":  # whose labels are read where the size is another one
        usual = DATASETS[name]._replace(train_examples=data_files.TRAIN)
        monkeypatch.setitem(DATASETS, name, usual)
    source = locate(name, tmp_path)
    monkeypatch.setattr(splits, "load", lambda *_: pytest.fail("it reads images"))
    assert training_examples(source, 0.1, val_per_class=3) == data_files.TRAIN - 10 * 3
    said = (
        f"config.val_per_class is 4; allowed: 0 to 3, for {name} has 4 training images of its class"
    )
    with pytest.raises(ValueError, match=f"^{said} {scarce}$"):
        training_examples(source, 0.1, val_per_class=4)


def test_the_usual_classes_are_known_where_labels_take_long(digits, monkeypatch):
    """`spec.smallest_class` stands for them, also of what is yet to be downloaded."""
    spec = DATASETS["digits"]
    assert np.bincount(digits[0].labels).min() == spec.smallest_class
    for name, one in DATASETS.items():
        for form in (None, FORMATS[0]):
            source = Source(one, form, None, one.train_examples, one.test_examples)
            most = one.smallest_class - 1
            left = training_examples(source, 0.0, val_per_class=most)
            assert left == one.train_examples - one.classes * most > 0
            with pytest.raises(ValueError, match=f"val_per_class is .*: 0 to {most}, for {name}"):
                training_examples(source, 0.0, val_per_class=most + 1)


# --- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 1_000])
def test_an_epoch_visits_every_example_once(n):
    order = epoch_permutation(seed=5, epoch=2, n=n)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_orders_differ_between_epochs_seeds_and_the_split():
    orders = [epoch_permutation(s, e, 500) for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    val = split_train_val(numbered(500), 0.2, seed=0)[1].labels
    for a, b in itertools.combinations([*orders, val], 2):
        size = min(len(a), len(b))
        assert np.mean(a[:size] == b[:size]) < 0.05
    assert len(np.intersect1d(orders[0][:100], val)) < 45  # 20 are expected


def test_orders_are_uniform():
    # Every example is in every place equally often: 64 cells of 100 expected, chi-square.
    counts = np.zeros((8, 8))
    for epoch in range(800):
        counts[np.arange(8), epoch_permutation(0, epoch, 8)] += 1
    assert np.sum((counts - 100) ** 2 / 100) < 49 + 4 * np.sqrt(2 * 49)


def test_orders_never_change():
    """Recorded once: a change would break the continuation of every run ever started."""
    assert epoch_permutation(0, 0, 8).tolist() == [4, 6, 3, 5, 2, 1, 0, 7]
    assert split_train_val(numbered(16), 0.25, seed=0)[1].labels.tolist() == [1, 8, 12, 15]


# --- augmentation -----------------------------------------------------------------------------


def variants(image, flip, padding):
    """All that augmentation may make of `image` [H, W, C], by padding and cropping literally."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
    shifts = itertools.product(range(2 * padding + 1), repeat=2)
    crops = [padded[i : i + height, j : j + width] for i, j in shifts]
    return crops + [crop[:, ::-1] for crop in crops] if flip else crops


@pytest.mark.parametrize(
    ("flip", "padding", "shape"),
    [(True, 1, (4, 6, 3)), (False, 2, (6, 4, 1)), (True, 0, (3, 4, 3)), (True, 2, (8, 8, 3))],
)
def test_every_variant_comes_equally_often(flip, padding, shape):
    image = np.random.RandomState(0).permutation(np.arange(np.prod(shape))).astype(np.uint8)
    image = image.reshape(shape)
    expected = {v.tobytes(): i for i, v in enumerate(variants(image, flip, padding))}
    count = 200 * len(expected)
    images = jnp.broadcast_to(image, (count, *shape))
    made = np.asarray(augment(jax.random.key(1), images, flip=flip, crop_padding=padding))
    assert made.shape == images.shape and made.dtype == np.uint8
    seen = np.bincount([expected[m.tobytes()] for m in made], minlength=len(expected))
    freedom = len(expected) - 1
    assert np.sum((seen - 200) ** 2 / 200) < freedom + 4 * np.sqrt(2 * freedom)


def test_nothing_to_do_changes_nothing():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    assert augment(jax.random.key(0), images, flip=False, crop_padding=0) is images


@pytest.fixture
def images():
    return jnp.asarray(data_files.fake("cifar10", train=12)[0].images)


def test_an_image_does_not_depend_on_the_others(images):
    key = jax.random.key(3)
    whole = augment(key, images, flip=True, crop_padding=4)
    part = augment(key, images[:5], flip=True, crop_padding=4)
    np.testing.assert_array_equal(whole[:5], part)


def test_the_key_alone_decides(images):
    def make(seed):
        return np.asarray(augment(jax.random.key(seed), images, flip=True, crop_padding=4))

    np.testing.assert_array_equal(make(0), make(0))
    different = [np.any(make(0)[i] != make(1)[i]) for i in range(len(images))]
    assert sum(different) >= len(images) - 2


def test_augment_under_jit_scan_and_vmap(images):
    keys = jax.random.split(jax.random.key(0), 3)
    plain = np.stack([augment(key, images, flip=True, crop_padding=4) for key in keys])

    traces = []

    @jax.jit
    def jitted(key, images):
        traces.append(key)
        return augment(key, images, flip=True, crop_padding=4)

    np.testing.assert_array_equal(np.stack([jitted(key, images) for key in keys]), plain)
    assert len(traces) == 1
    vmapped = jax.vmap(lambda key: augment(key, images, flip=True, crop_padding=4))(keys)
    np.testing.assert_array_equal(vmapped, plain)
    _, scanned = jax.lax.scan(lambda carry, key: (carry, jitted(key, images)), 0, keys)
    np.testing.assert_array_equal(scanned, plain)


# --- normalisation ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DATASETS))
def test_normalisation_is_the_formula(name, optimised):
    spec = DATASETS[name]
    images = np.random.RandomState(0).randint(0, spec.max_value + 1, (4, *spec.image_shape))
    images = images.astype(np.uint8)
    expected = (images / spec.max_value - np.array(spec.mean)) / np.array(spec.std)
    prepare = jax.jit(prepare_images, static_argnums=(1, 2))
    result = prepare(images, spec, jnp.float32)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    half = prepare(images, spec, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, result.astype(jnp.bfloat16))
    with jax.enable_x64(True):
        double = prepare(images, spec, jnp.float64)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(double, expected, rtol=0, atol=1e-14)


def test_the_constants_of_the_experiments():
    assert DATASETS["cifar10"].std == (0.2470, 0.2435, 0.2616)
    np.testing.assert_allclose(DATASETS["cifar10_3xstd"].std, (0.6069, 0.5982, 0.6030))
    assert DATASETS["cifar10_3xstd"].mean == (0.4914, 0.4822, 0.4465)
    assert [DATASETS[name].flip for name in ("cifar10", "mnist", "digits")] == [True, False, False]
    padding = {name: spec.crop_padding for name, spec in DATASETS.items()}
    assert padding.pop("digits") == 0 and set(padding.values()) == {4}


# --- digits -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load(locate("digits"))


def test_digits_are_scikit_learns_own_pixels(digits):
    bunch = load_digits()

    def examples(images, labels):
        pairs = zip(images, labels, strict=True)
        return sorted((image.tobytes(), int(label)) for image, label in pairs)

    images = np.concatenate([part.images for part in digits])
    labels = np.concatenate([part.labels for part in digits])
    assert examples(images, labels) == examples(bunch.images.astype(np.uint8), bunch.target)
    np.testing.assert_array_equal(bunch.images, bunch.images.astype(np.uint8))


def test_digits_parts_have_their_sizes_and_are_stratified():
    source = locate("digits")
    assert source.description == "embedded in scikit-learn"
    train, val, test = load_splits(source, val_split=0.125, seed=0)[:3]
    other = load_splits(source, val_split=0.125, seed=1)
    np.testing.assert_array_equal(val.images, other.val.images)
    share = np.bincount(load_digits().target) / 1_797
    for part, count in ((train, 1_257), (val, 180), (test, 360)):
        assert len(part.labels) == count
        assert np.abs(np.bincount(part.labels) - count * share).max() <= 1.5
    everything, none = load_splits(source, val_split=0.0, seed=0)[:2]
    assert len(everything.labels) == 1_437 and none is None


def test_digits_constants_standardise_the_training_part():
    spec = DATASETS["digits"]
    train = load_splits(locate("digits"), val_split=0.125, seed=0).train
    pixels = train.images / spec.max_value
    assert pixels.max() == 1
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (spec.mean[0], spec.std[0])
