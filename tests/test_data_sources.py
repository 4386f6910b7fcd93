"""Finding and reading data: every form gives the same arrays, every defect one clear error."""

import gzip
import json
import subprocess
import sys

import data_files
import numpy as np
import pytest

from dtp_jax.data import DATASETS, DataError, download, epoch_permutation, load, load_splits, locate
from dtp_jax.data.tfds_folder import _order_of_hashes


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


CIFAR_FORMS = {
    "tfds array_record": data_files.write_tfds,
    "npz": data_files.write_npz,
    "jpeg npz": data_files.write_encoded_npz,
    "CIFAR binary files": data_files.write_cifar_folder,
    "CIFAR binary archive": data_files.write_cifar_archive,
}
MNIST_FORMS = {
    "tfds array_record": data_files.write_tfds,
    "npz": data_files.write_npz,
    "jpeg npz": data_files.write_encoded_npz,
    "idx files": data_files.write_idx,
}
CASES = [("cifar10", form) for form in CIFAR_FORMS]
CASES += [(name, form) for name in ("mnist", "fashion_mnist") for form in MNIST_FORMS]


def written(folder, name, form):
    """Writes the fake data set `name` in the form with this label; returns it and the path."""
    data = data_files.fake(name)
    write = (CIFAR_FORMS if name == "cifar10" else MNIST_FORMS)[form]
    return data, write(folder, name, *data)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_form_gives_the_original_arrays_in_the_original_order(name, form, tmp_path):
    folder = tmp_path / "data" / f"{name}_files"  # one level down
    data, path = written(folder, name, form)
    source = locate(name, tmp_path / "data")
    assert (source.format.label, source.path) == (form, path)
    assert form in source.description and str(path) in source.description
    if form != "CIFAR binary archive":  # whose counts are known only once it is unpacked
        assert (source.train_examples, source.test_examples) == (data_files.TRAIN, data_files.TEST)
    data_files.assert_same(load(source), data)


def test_one_seed_gives_the_same_batches_whatever_the_source(tmp_path):
    batches = []
    for form in CIFAR_FORMS:
        folder = tmp_path / form.replace(" ", "_")
        written(folder, "cifar10", form)
        train, val, _ = load_splits(locate("cifar10", folder), val_split=0.2, seed=3)
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
    data, _ = written(tmp_path, "cifar10", "npz")
    source = locate("cifar10_3xstd", tmp_path)
    assert source.spec is DATASETS["cifar10_3xstd"]
    data_files.assert_same(load(source), data)


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
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        locate("mnist", tmp_path)


def test_tfrecord_directories_are_passed_over_and_mentioned(tmp_path):
    _, path = written(tmp_path, "cifar10", "tfds array_record")
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=f"passed over {path}: .*tfrecord"):
        locate("cifar10", tmp_path)
    written(tmp_path, "cifar10", "npz")
    assert locate("cifar10", tmp_path).format.label == "npz"


def test_files_are_read_where_tfds_is_not_installed(monkeypatch, tmp_path):
    written(tmp_path, "cifar10", "tfds array_record")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="tensorflow-datasets is not installed"):
        locate("cifar10", tmp_path)
    data, path = written(tmp_path, "cifar10", "jpeg npz")
    source = locate("cifar10", tmp_path)
    assert source.path == path
    data_files.assert_same(load(source), data)


def test_importing_and_locating_load_nothing_heavy_and_never_tensorflow(tmp_path):
    written(tmp_path, "cifar10", "tfds array_record")
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


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("defect", [truncate, damage, empty])
@pytest.mark.parametrize(
    ("name", "form", "file"),
    [
        ("cifar10", "tfds array_record", "cifar10-test.array_record-00000-of-00001"),
        ("cifar10", "npz", ""),
        ("cifar10", "jpeg npz", ""),
        ("cifar10", "CIFAR binary archive", ""),
        ("mnist", "idx files", "train-images-idx3-ubyte.gz"),
        ("mnist", "idx files", "t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_damaged_files_are_named(name, form, file, defect, tmp_path):
    _, path = written(tmp_path, name, form)
    if form == "tfds array_record" and defect is damage:
        hit = (path / file).read_bytes().index(b"PNG")  # the middle of the file is padding
        with (path / file).open("r+b") as stream:
            stream.seek(hit + 20)
            stream.write(b"????")
    else:
        defect(path / file if file else path)
    with pytest.raises(DataError, match=f"{name}: {path}.* is corrupt .*--config.data_dir"):
        load(locate(name, tmp_path))


@pytest.mark.parametrize("size", [0, 3_073 * 12 - 1])
def test_cifar_batches_of_the_wrong_size(size, tmp_path):
    _, path = written(tmp_path, "cifar10", "CIFAR binary files")
    data = (path / "data_batch_3.bin").read_bytes()
    (path / "data_batch_3.bin").write_bytes(data[:size])
    with pytest.raises(DataError, match=rf"data_batch_3.bin .*{size} bytes are no multiple"):
        locate("cifar10", tmp_path)
    (path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        locate("cifar10", tmp_path)


def test_idx_files_that_do_not_fit(tmp_path):
    train, test = data_files.fake("mnist")
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    data_files.write_idx(tmp_path, "mnist", train, test)
    good = gzip.decompress(labels.read_bytes())
    labels.write_bytes(gzip.compress(good[:-1]))
    with pytest.raises(DataError, match="promises 60 bytes, it holds 59"):
        load(locate("mnist", tmp_path))
    labels.write_bytes(gzip.compress(good[:7] + bytes([59]) + good[8:-1]))
    with pytest.raises(DataError, match="train: 60 images of 28x28 and 59 labels"):
        locate("mnist", tmp_path)
    labels.write_bytes(gzip.compress(b"\0\0\x0d\1" + good[4:]))
    with pytest.raises(DataError, match="does not begin like an idx1 file"):
        locate("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.* is missing"):
        locate("mnist", tmp_path)


TRAIN_X, TRAIN_Y = (60, 32, 32, 3), (60,)


@pytest.mark.parametrize(
    ("changes", "problem", "seen_by_locate"),
    [
        ({"y_train": None}, "it holds no y_train", True),
        ({"x_train": np.zeros((60, 28, 28), np.uint8)}, r"x_train is \[60, 28, 28\]", True),
        ({"y_train": np.zeros(59, np.uint8)}, "60 images but 59 labels", True),
        ({"x_train": np.array([None] * 60)}, "Python objects", True),
        ({"x_train": np.array(3)}, "size its header promises", True),
        ({"x_train": np.zeros(TRAIN_X, np.float32)}, "images are float32", False),
        ({"y_train": np.zeros(TRAIN_Y, np.float32)}, "labels are float32", False),
        ({"y_train": np.full(TRAIN_Y, 10)}, "labels go from 10 to 10, allowed are 0 to 9", False),
        ({"y_test": np.full(25, -1)}, "test: labels go from -1", False),
        (
            {"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, int)},
            "test: no examples",
            False,
        ),
    ],
)
def test_npz_with_wrong_arrays(changes, problem, seen_by_locate, tmp_path):
    path = data_files.write_npz(tmp_path, "cifar10", *data_files.fake("cifar10"), **changes)
    with pytest.raises(DataError, match=f"cifar10: {path} .*{problem}"):
        source = locate("cifar10", tmp_path)
        assert not seen_by_locate
        load(source)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_bytes": None}, "it holds no train_bytes"),
        ({"train_labels": np.zeros(59, np.uint8)}, r"train_offsets \[61\] is not one longer"),
        ({"train_offsets": np.arange(61)}, "train_offsets does not rise from 0 to"),
        ({"train_offsets": np.zeros(61)}, "train_offsets float64"),
        ({"test_bytes": np.zeros((2, 3), np.uint8)}, r"test_bytes is uint8 \[2, 3\]"),
        ({"test_labels": np.full(25, 10)}, "test: labels go from 10"),
    ],
)
def test_encoded_npz_with_wrong_arrays(changes, problem, tmp_path):
    data_files.write_encoded_npz(tmp_path, "cifar10", *data_files.fake("cifar10"), **changes)
    with pytest.raises(DataError, match=problem):
        load(locate("cifar10", tmp_path))


def test_encoded_images_that_cannot_be_used(tmp_path):
    data = data_files.fake("cifar10")
    path = data_files.write_encoded_npz(tmp_path, "cifar10", *data)
    arrays = dict(np.load(path))
    broken = arrays["train_bytes"].copy()
    broken[arrays["train_offsets"][7] : arrays["train_offsets"][8]] = 0
    data_files.write_encoded_npz(tmp_path, "cifar10", *data, train_bytes=broken)
    with pytest.raises(DataError, match=r"train.*image 7 cannot be decoded"):
        load(locate("cifar10", tmp_path))
    small = [split._replace(images=split.images[:, :30]) for split in data]
    data_files.write_encoded_npz(tmp_path, "cifar10", *small)
    with pytest.raises(DataError, match="image 0 is 30x32, expected 32x32"):
        load(locate("cifar10", tmp_path))


def test_tfds_directories_with_missing_or_foreign_parts(tmp_path):
    _, path = written(tmp_path, "cifar10", "tfds array_record")
    info = (path / "dataset_info.json").read_text()
    shard = path / "cifar10-train.array_record-00000-of-00001"
    shard.rename(tmp_path / "aside")
    with pytest.raises(DataError, match="train: 0 of 1 files are there"):
        locate("cifar10", tmp_path)
    (tmp_path / "aside").rename(shard)
    (path / "dataset_info.json").write_text(info[:100])
    with pytest.raises(DataError, match=r"dataset_info.json is corrupt"):
        locate("cifar10", tmp_path)
    (path / "dataset_info.json").write_text(info.replace('"60"', '"59"'))
    with pytest.raises(DataError, match="ids are not train_00000 to train_00058"):
        load(locate("cifar10", tmp_path))


def test_progress_counts_up_to_all_images(tmp_path):
    written(tmp_path, "cifar10", "jpeg npz")
    heard = []
    load(locate("cifar10", tmp_path), lambda *call: heard.append(call))
    assert heard == [
        ("decoding cifar10", data_files.TRAIN, data_files.TRAIN),
        ("decoding cifar10", data_files.TEST, data_files.TEST),
    ]
