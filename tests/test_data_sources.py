"""Finding and reading data: every form gives the same arrays."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import data_files
import numpy as np
import pytest

from dtp_jax.data import (
    DATASETS,
    DataError,
    download,
    epoch_permutation,
    load,
    load_splits,
    locate,
)
from dtp_jax.data.formats.tfds_folder import _order_of_hashes


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


CASES = [(name, form) for name in ("cifar10", "cifar100") for form in data_files.CIFAR_FORMS]
CASES += [(name, form) for name in ("mnist", "fashion_mnist") for form in data_files.MNIST_FORMS]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_form_gives_the_original_arrays_in_the_original_order(name, form, tmp_path):
    folder = tmp_path / "data" / f"{name}_files"  # one level down
    data, path = data_files.written(folder, name, form)
    source = locate(name, tmp_path / "data")
    assert (source.format.label, source.path) == (form, path)
    assert form in source.description and str(path) in source.description
    if form != "CIFAR binary archive":  # whose counts are known only once it is unpacked
        assert (source.train_examples, source.test_examples) == (data_files.TRAIN, data_files.TEST)
    data_files.assert_same(load(source), data)


def test_one_seed_gives_the_same_batches_whatever_the_source(tmp_path):
    batches = []
    for form in data_files.CIFAR_FORMS:
        folder = tmp_path / form.replace(" ", "_")
        data_files.written(folder, "cifar10", form)
        train, val = load_splits(locate("cifar10", folder), val_split=0.2, seed=3)[:2]
        order = epoch_permutation(3, 1, len(train.labels))
        batches.append((train.images[order[:8]], val.images))
    for batch, val in batches[1:]:
        np.testing.assert_array_equal(batch, batches[0][0])
        np.testing.assert_array_equal(val, batches[0][1])


def test_hash_order_is_that_of_the_genuine_tfds_data_set():
    # The first ids that TFDS stores of CIFAR-10: train_16399, train_01680, train_47917.
    np.testing.assert_array_equal(
        _order_of_hashes(50_000, "train")[[16_399, 1_680, 47_917]], [0, 1, 2]
    )


def test_variants_share_the_data(tmp_path):
    data, _ = data_files.written(tmp_path, "cifar10", "npz")
    source = locate("cifar10_3xstd", tmp_path)
    assert source.spec is DATASETS["cifar10_3xstd"]
    data_files.assert_same(load(source), data)


def test_the_two_cifars_are_told_apart(tmp_path):
    """Unpacked archives side by side, or under names of their own, which must not be mixed up."""
    data = {name: data_files.fake(name) for name in ("cifar10", "cifar100")}
    for name, splits in data.items():
        data_files.write_cifar_folder(tmp_path, name, *splits)
    for name, splits in data.items():
        data_files.assert_same(load(locate(name, tmp_path)), splits)
    (tmp_path / "cifar-10-batches-bin").rename(tmp_path / "ten")
    (tmp_path / "cifar-100-binary").rename(tmp_path / "hundred")
    for name, splits in data.items():
        data_files.assert_same(load(locate(name, tmp_path)), splits)
    (tmp_path / "ten" / "train.bin").write_bytes(b"of something else")
    assert locate("cifar100", tmp_path).path == tmp_path / "hundred"
    with pytest.raises(DataError, match="cifar100: no data found"):
        locate("cifar100", tmp_path / "ten")


def test_plain_idx_files_and_names_with_a_dot(tmp_path):
    data = data_files.fake("mnist")
    folder = data_files.write_idx(tmp_path / "MNIST" / "raw", "mnist", *data, zipped=False)
    data_files.assert_same(load(locate("mnist", tmp_path / "MNIST")), data)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    data_files.assert_same(load(locate("mnist", tmp_path / "MNIST")), data)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("mnist", "mnist"),
        ("images", "mnist"),
        ("Fashion-MNIST", "fashion_mnist"),
        ("FashionMNIST/raw", "fashion_mnist"),
        ("fashion_study/mnist", "mnist"),
    ],
)
def test_idx_files_are_told_apart_by_their_folder(folder, name, tmp_path):
    data_files.write_idx(tmp_path / folder, name, *data_files.fake(name))
    assert locate(name, tmp_path / folder).path == tmp_path / folder
    other = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}[name]
    with pytest.raises(DataError, match=f"{other}: no data found"):
        locate(other, tmp_path / folder)


def test_places_are_searched_in_their_order(monkeypatch, tmp_path):
    names = ("given", "dtp_jax_data", "tfds_data_dir", "home/tensorflow_datasets")
    folders = [tmp_path / name for name in names]
    for folder in folders:
        data_files.write_npz(folder, "mnist", *data_files.fake("mnist"))
    monkeypatch.setenv("DTP_JAX_DATA", str(folders[1]))
    monkeypatch.setenv("TFDS_DATA_DIR", str(folders[2]))
    for folder in folders:
        assert locate("mnist", folders[0]).path == folder / "mnist.npz"
        (folder / "mnist.npz").unlink()
    with pytest.raises(DataError, match="no data found"):
        locate("mnist", folders[0])


def test_unknown_name_is_a_config_error():
    with pytest.raises(ValueError, match=r"dataset='mnits' is unknown: allowed are cif.*digits"):
        locate("mnits")


def test_missing_data_says_where_it_looked_and_what_would_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DTP_JAX_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError) as caught:
        locate("cifar10", tmp_path)
    message = str(caught.value)
    for part in (
        f"{tmp_path} (--config.data_dir)",
        f"{tmp_path / 'elsewhere'} ($DTP_JAX_DATA): does not exist",
        "$TFDS_DATA_DIR",
        str(tmp_path / "home/tensorflow_datasets"),
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz is not possible: the tests have",
        "array_record",
        "cifar10.npz",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
    ):
        assert part in message
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as caught:
        locate("mnist", tmp_path)
    address = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    assert f"Download of {address} is not possible: the tests have" in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "said"), [(errno.EACCES, "may not be read"), (errno.EIO, "cannot be read")]
)
def test_folders_that_may_not_be_read_are_said(refusal, said, monkeypatch, tmp_path):
    """A place, and a folder in one; what is called as the data set is found there all the same."""
    place, below, listdir = tmp_path / "closed", tmp_path / "open" / "below", os.listdir
    place.mkdir()
    below.mkdir(parents=True)

    def closed(path="."):
        if Path(path) in (place, below):
            raise OSError(refusal, "says the test", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", closed)
    monkeypatch.setenv("DTP_JAX_DATA", str(below.parent))
    with pytest.raises(DataError) as caught:
        locate("cifar10", place)
    lines = str(caught.value).splitlines()
    assert f"  {place} (--config.data_dir): {said} (says the test)" in lines
    assert f"  {below.parent} ($DTP_JAX_DATA)" in lines
    assert f"    passed over {below}: it {said} (says the test)" in lines
    _, path = data_files.written(place, "cifar10", "npz")
    assert locate("cifar10", place).path == path


def test_tfrecord_directories_are_passed_over_and_mentioned(tmp_path):
    _, path = data_files.written(tmp_path, "cifar10", "tfds array_record")
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=f"passed over {path}: .*tfrecord"):
        locate("cifar10", tmp_path)
    data_files.written(tmp_path, "cifar10", "npz")
    assert locate("cifar10", tmp_path).format.label == "npz"


def test_files_are_read_where_tfds_is_not_installed(monkeypatch, tmp_path):
    data_files.written(tmp_path, "cifar10", "tfds array_record")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="tensorflow-datasets is not installed"):
        locate("cifar10", tmp_path)
    data, path = data_files.written(tmp_path, "cifar10", "jpeg npz")
    source = locate("cifar10", tmp_path)
    assert source.path == path
    data_files.assert_same(load(source), data)


def test_importing_and_locating_load_nothing_heavy_and_never_tensorflow(tmp_path):
    data_files.written(tmp_path, "cifar10", "tfds array_record")
    code = f"""
import sys
from dtp_jax.data import load, locate
source = locate("cifar10", {str(tmp_path)!r})
heavy = {{"tensorflow_datasets", "sklearn", "PIL", "array_record"}} & set(sys.modules)
assert not heavy, heavy
assert len(load(source)[0].labels) == {data_files.TRAIN}
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_progress_counts_up_to_all_images(tmp_path):
    data_files.written(tmp_path, "cifar10", "jpeg npz")
    heard = []
    load(locate("cifar10", tmp_path), lambda *call: heard.append(call))
    assert heard == [
        ("decoding cifar10", data_files.TRAIN, data_files.TRAIN),
        ("decoding cifar10", data_files.TEST, data_files.TEST),
    ]
