"""ImageNet 32x32: both its forms, in pieces and without copies, and what is held out per class."""

import time
import zipfile

import data_files
import numpy as np
import pytest

from dtp_jax.data import (
    DATASETS,
    DataError,
    held_out,
    load,
    load_splits,
    locate,
    splits,
    training_examples,
)
from dtp_jax.data.cache import cache_folder
from dtp_jax.data.formats import imagenet_npz, tfds_folder


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)


@pytest.fixture
def data():
    return data_files.fake("imagenet32")


def examples(split):
    """The examples in an order of their own, to compare sets of them."""
    return sorted((i.tobytes(), int(label)) for i, label in zip(*split, strict=True))


# --- the prepared TFDS data set -----------------------------------------------------------------


def test_the_tfds_data_set_has_its_own_order_and_its_validation_part_is_the_test_set(
    data, tmp_path
):
    import tensorflow_datasets as tfds

    path = data_files.write_tfds_imagenet(tmp_path, *data)
    source = locate("imagenet32", tmp_path)
    assert source.path == path and source.format.label == "tfds array_record"
    assert (source.train_examples, source.test_examples) == (data_files.TRAIN, data_files.TEST)
    found = load(source)
    for got, wanted, part in zip(found, data, ("train", "validation"), strict=True):
        assert examples(got) == examples(wanted)
        stored = tfds.builder_from_directory(str(path)).as_data_source(part)
        np.testing.assert_array_equal(got.images, [example["image"] for example in stored])
        np.testing.assert_array_equal(got.labels, [example["label"] for example in stored])


def test_tfds_records_are_decoded_in_pieces_straight_into_the_cache(data, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds_folder, "CHUNK", 16)
    data_files.write_tfds_imagenet(tmp_path, *data)
    source, heard = locate("imagenet32", tmp_path), []
    found = load(source, lambda *call: heard.append(call))
    train = [("decoding imagenet32", done, 60) for done in (16, 32, 48, 60)]
    assert heard == train + [("decoding imagenet32", done, 25) for done in (16, 25)]
    assert isinstance(found[0].images, np.memmap) and not found[0].images.flags.writeable
    assert examples(found[0]) == examples(data[0])
    again = load(source, lambda *call: pytest.fail("it decodes again"))
    data_files.assert_same(again, found)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path / "file" / "cache"))
    in_memory = load(source)
    assert not isinstance(in_memory[0].images, np.memmap)
    data_files.assert_same(in_memory, found)


# --- the official archives ----------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_official_files_in_their_order(packed, savez, data, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet_npz, "_BLOCK", 4)  # of 6 images per batch, and of 25
    folder = data_files.write_imagenet(tmp_path / "data" / "im", *data, packed=packed, savez=savez)
    source, heard = locate("imagenet32", tmp_path / "data"), []
    assert (source.format.label, source.path) == ("ImageNet npz", folder)
    assert (source.train_examples, source.test_examples) == (data_files.TRAIN, data_files.TEST)
    found = load(source, lambda *call: heard.append(call))
    data_files.assert_same(found, data)
    assert isinstance(found[0].images, np.memmap)
    assert heard[:3] == [("reading imagenet32", done, 60) for done in (4, 6, 10)]
    assert heard[-1] == ("reading imagenet32", 25, 25)
    heard.clear()
    data_files.assert_same(load(source, lambda *call: heard.append(call)), data)
    assert not heard


def test_files_beside_each_other_and_changed_ones(data, tmp_path):
    folder = data_files.write_imagenet(tmp_path, *data)
    for path in list(folder.glob("*/*.npz")):
        path.rename(folder / path.name)
    data_files.assert_same(load(locate("imagenet32", folder)), data)
    changed = np.full((6, 3_072), 9, np.uint8)
    arrays = dict(np.load(folder / "train_data_batch_1.npz"))
    np.savez(folder / "train_data_batch_1.npz", **(arrays | {"data": changed}))
    assert (load(locate("imagenet32", folder))[0].images[:6] == 9).all()
    assert len(list(cache_folder().iterdir())) == 1


def test_the_size_of_the_official_archives_tells_their_counts(data, monkeypatch, tmp_path):
    folder = data_files.write_imagenet(tmp_path, *data, packed=True)
    sizes = {part: (folder / name).stat().st_size for part, name in imagenet_npz.ARCHIVES.items()}
    monkeypatch.setattr(imagenet_npz, "_OFFICIAL_SIZES", sizes)
    monkeypatch.setattr(imagenet_npz, "_opened", lambda *_: pytest.fail("it looks inside"))
    source = locate("imagenet32", tmp_path)
    assert (source.train_examples, source.test_examples) == (1_281_167, 50_000)
    assert training_examples(source, 0.0, val_per_class=50) == 1_231_167


def test_official_sizes_are_those_that_tfds_checks():
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder

    infos = imagenet_resized_dataset_builder.Builder.url_infos or checksums.get_all_url_infos()
    sizes = {url.rsplit("/", 1)[-1]: info.size for url, info in infos.items()}
    for part, archive in imagenet_npz.ARCHIVES.items():
        assert sizes[archive] == imagenet_npz._OFFICIAL_SIZES[part]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": None}, "data.npy"),
        ({"labels": np.arange(1, 6)}, r"data is \[6, 3072\] and labels \[5\]"),
        ({"data": np.zeros((6, 3_071), np.uint8)}, r"data is \[6, 3071\]"),
        ({"data": np.zeros((6, 3_072), np.float32)}, "data is float32, expected uint8"),
        ({"data": np.zeros((6, 3_072), np.uint8, order="F")}, "by columns"),
        ({"labels": np.full(6, 1.0)}, "labels are float64, expected integers"),
        ({"labels": np.arange(6)}, "labels go from -1 to 4, allowed are 0 to 999"),
        ({"labels": np.full(6, 1_001)}, "labels go from 1000 to 1000"),
        ({"labels": np.array([None] * 6)}, "Python objects"),
    ],
)
def test_official_files_with_wrong_arrays(changes, problem, data, tmp_path):
    data_files.write_imagenet(tmp_path, *data, **changes)
    with pytest.raises(DataError, match=f"imagenet32: .*train_data_batch_1.npz .*{problem}"):
        load(locate("imagenet32", tmp_path))
    assert not cache_folder().exists() or not list(cache_folder().iterdir())


def test_damaged_and_missing_official_files(data, tmp_path):
    folder = data_files.write_imagenet(tmp_path, *data)
    path = folder / "Imagenet32_train_npz" / "train_data_batch_7.npz"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("data.npy").header_offset + 5_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="train_data_batch_7.npz is corrupt .*Bad CRC-32"):
        load(locate("imagenet32", tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="train_data_batch_7.npz is corrupt .*No such file"):
        locate("imagenet32", tmp_path)
    (folder / "Imagenet32_val_npz" / "val_data.npz").unlink()
    path.write_bytes(content)
    with pytest.raises(DataError, match="Imagenet32_val_npz.zip is missing"):
        locate("imagenet32", tmp_path)


def test_missing_imagenet_names_the_two_ways_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        locate("imagenet32", tmp_path)
    assert time.monotonic() - start < 1
    message = str(caught.value)
    assert "imagenet_resized/32x32/<version>/ as prepared by TFDS" in message
    assert "Imagenet32_train_npz.zip and Imagenet32_val_npz.zip of image-net.org" in message
    assert "not downloaded" in message and "idx" not in message


# --- what is held out ---------------------------------------------------------------------------


def test_so_many_of_every_class_are_held_out(data):
    labels = np.random.RandomState(0).permutation(np.repeat([3, 7, 500, 999], [40, 30, 20, 10]))
    chosen = [held_out(labels, 0.0, seed, val_per_class=5) for seed in (0, 0, 1)]
    for mask in chosen:
        classes, counts = np.unique(labels[mask], return_counts=True)
        assert classes.tolist() == [3, 7, 500, 999] and counts.tolist() == [5] * 4
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] & chosen[2]).sum() < 12  # 4 x 25 / 25 are expected
    tail = held_out(labels, 0.0, 0, val_per_class=5, fixed=True)
    for label in (3, 7, 500, 999):
        members = np.flatnonzero(labels == label)
        np.testing.assert_array_equal(np.flatnonzero(tail & (labels == label)), members[-5:])
    for too_many in (10, 11):
        with pytest.raises(ValueError, match=f"val_per_class={too_many} .*class 999 has 10 .*to 9"):
            held_out(labels, 0.0, 0, val_per_class=too_many)


def test_a_large_training_set_stays_whole(data, monkeypatch, tmp_path):
    data_files.write_imagenet(tmp_path, *data)
    source = locate("imagenet32", tmp_path)
    small = load_splits(source, 0.3, seed=4, val_per_class=2)
    monkeypatch.setattr(splits, "COPIED_BYTES", 0)
    large = load_splits(source, 0.3, seed=4, val_per_class=2, copied=None)
    assert isinstance(large.train.images, np.memmap)
    data_files.assert_same([large.train, large.test], data)  # whole, not copied
    data_files.assert_same([large.val, large.test], [small.val, small.test])
    for name in ("images", "labels"):
        chosen = getattr(large.train, name)[large.train_indices]
        np.testing.assert_array_equal(
            chosen, getattr(small.train, name)[small.train_indices], err_msg=name
        )
    assert len(small.train_indices) == 40 == training_examples(source, 0.3, val_per_class=2)
    everything = load_splits(source, 0.0, seed=4, copied=None)
    assert everything.val is None and len(everything.train_indices) == 60


@pytest.mark.parametrize("write", [data_files.write_tfds_imagenet, data_files.write_imagenet])
def test_the_training_examples_are_counted_without_images(write, data, monkeypatch, tmp_path):
    write(tmp_path, *data)
    source = locate("imagenet32", tmp_path)
    monkeypatch.setattr("dtp_jax.data.formats.decode._decode", lambda *_: pytest.fail("it decodes"))
    monkeypatch.setattr(imagenet_npz, "_images", lambda *_: pytest.fail("it reads images"))
    assert training_examples(source, 0.1) == 54
    assert training_examples(source, 0.1, val_per_class=3) == 30  # 10 of the 1000 classes
    genuine = source._replace(train_examples=DATASETS["imagenet32"].train_examples)
    assert training_examples(genuine, 0.0, val_per_class=50) == 1_281_167 - 50_000


def test_too_many_per_class_is_a_data_error(data, tmp_path):
    data_files.write_imagenet(tmp_path, *data)
    source = locate("imagenet32", tmp_path)
    with pytest.raises(DataError, match="imagenet32: val_per_class=6 is not possible: class 0"):
        load_splits(source, 0.0, seed=0, val_per_class=6)
