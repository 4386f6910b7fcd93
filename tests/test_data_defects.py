"""Damaged and foreign files: every defect is one clear error."""

import gzip

import data_files
import numpy as np
import pytest

from dtp_jax.data import DataError, download, load, locate


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


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
    _, path = data_files.written(tmp_path, name, form)
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
    _, path = data_files.written(tmp_path, "cifar10", "CIFAR binary files")
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
            "it holds no test images",
            True,
        ),
        (
            {"x_train": np.zeros((0, 32, 32, 3), np.uint8), "y_train": np.zeros(0, int)},
            "it holds no training images",
            True,
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
    with pytest.raises(DataError, match=r"train.*image 7 is none of JPEG, PNG"):
        load(locate("cifar10", tmp_path))
    small = [split._replace(images=split.images[:, :30]) for split in data]
    data_files.write_encoded_npz(tmp_path, "cifar10", *small)
    with pytest.raises(DataError, match="image 0 is 30x32, expected 32x32"):
        load(locate("cifar10", tmp_path))


def test_tfds_directories_with_missing_or_foreign_parts(tmp_path):
    _, path = data_files.written(tmp_path, "cifar10", "tfds array_record")
    info = (path / "dataset_info.json").read_text()
    shard = path / "cifar10-train.array_record-00000-of-00001"
    shard.rename(tmp_path / "aside")
    with pytest.raises(DataError, match="train: 0 of 1 files are there"):
        locate("cifar10", tmp_path)
    (tmp_path / "aside").rename(shard)
    (path / "dataset_info.json").write_text(info[:100])
    with pytest.raises(DataError, match=r"dataset_info.json is corrupt"):
        locate("cifar10", tmp_path)
    (path / "dataset_info.json").write_text(info.replace('"60"', '"0"'))
    with pytest.raises(DataError, match="dataset_info.json .*it holds no training images"):
        locate("cifar10", tmp_path)
    (path / "dataset_info.json").write_text(info.replace('"60"', '"59"'))
    with pytest.raises(DataError, match="ids are not train_00000 to train_00058"):
        load(locate("cifar10", tmp_path))
