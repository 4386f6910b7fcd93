"""Which data set it is: names that say it, contents that decide, and what is said of a difference."""

import gzip
import hashlib
import json
import os
import shutil
import time
import zlib
from pathlib import Path

import data_files
import numpy as np
import pytest

from dtp_jax.data import DATASETS, DataError, Split, download, identity, load, locate
from dtp_jax.data.spec import label_checksum

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "npz"
FAMILY = ("mnist", "fashion_mnist")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


def unlike(name):
    """Fakes of another seed than those of `fake`."""
    parts = data_files.fake(name)
    return tuple(Split(255 - s.images, (s.labels + 1) % 10) for s in parts)


@pytest.fixture
def official(monkeypatch):
    """Small data sets that are the official ones of this test, by name."""
    found = {}
    for name in (*FAMILY, "cifar10", "cifar100"):
        spec = DATASETS[name]
        small = spec._replace(train_examples=data_files.TRAIN, test_examples=data_files.TEST)
        monkeypatch.setitem(DATASETS, name, small)
        found[name] = data_files.fake(name)
    sums = {}
    for name, parts in found.items():
        labels = {f"{p}_labels": label_checksum(s.labels) for p, s in zip(("train", "test"), parts)}
        sums[name] = labels
        if name in FAMILY:
            for part, split in zip(("train", "test"), parts):
                sums[name][f"{part}_images"] = zlib.crc32(split.images)
    monkeypatch.setattr(identity, "OFFICIAL", sums)
    return found


def found(name, place):
    """Path and remark of what is located."""
    source = locate(name, place)
    return source.path, source.remark


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *(
            (n, "mnist")
            for n in ("mnist", "MNIST", "mnist_data", "my-mnist", "mnist784", "mnist.bak")
        ),
        *((n, "fashion_mnist") for n in ("fmnist", "fashion", "FashionMNIST", "Fashion-MNIST")),
        *((n, "fashion_mnist") for n in ("fashion_mnist_files", "Fashion MNIST", "mnist-fashion")),
        *((n, identity.ANOTHER) for n in ("KMNIST", "kmnist", "EMNIST", "QMNIST", "notMNIST")),
        *(
            (n, identity.ANOTHER)
            for n in ("k-mnist", "kuzushiji_mnist", "mnist-c", "PermutedMNIST")
        ),
        *((n, None) for n in ("raw", "data", "images", "digits")),
    ],
)
@pytest.mark.parametrize("below", ["", "raw"])
def test_what_the_name_of_a_folder_says(name, said, below, tmp_path):
    assert identity.said(tmp_path / name / below) == said


def test_the_long_name_of_a_parent_says_nothing(tmp_path):
    assert identity.said(tmp_path / "a study of fashion and mnist" / "raw") is None


@pytest.mark.parametrize("others", [("fmnist",), ("fashion", "KMNIST"), ("a_mnist", "EMNIST", "k")])
@pytest.mark.parametrize("exact", ["mnist", "MNIST", "MNIST/raw"])
def test_the_exact_name_comes_first(others, exact, tmp_path):
    data = data_files.fake("mnist")
    for other in others:
        data_files.write_idx(tmp_path / other, "", *unlike("mnist"))
    data_files.write_idx(tmp_path / exact, "", *data)
    source = locate("mnist", tmp_path)
    assert source.path == tmp_path / exact
    data_files.assert_same(load(source), data)


@pytest.mark.parametrize("other", ["fmnist", "fashion", "FashionMNIST", "FashionMNIST/raw"])
def test_both_of_the_family_side_by_side(other, tmp_path):
    data = {"mnist": data_files.fake("mnist"), "fashion_mnist": unlike("mnist")}
    data_files.write_idx(tmp_path / "mnist", "", *data["mnist"])
    data_files.write_idx(tmp_path / other, "", *data["fashion_mnist"])
    for name, splits in data.items():
        data_files.assert_same(load(locate(name, tmp_path)), splits)


@pytest.mark.parametrize("folder", ["KMNIST", "KMNIST/raw", "kmnist", "EMNIST/raw", "QMNIST"])
@pytest.mark.parametrize("below", [True, False])
def test_relatives_are_not_taken_for_mnist(folder, below, tmp_path):
    data_files.write_idx(tmp_path / folder, "", *data_files.fake("mnist"))
    for name in FAMILY:
        with pytest.raises(DataError, match=f"{name}: no data found(.|\n)*passed over: .*another"):
            locate(name, tmp_path if below and "/" not in folder else tmp_path / folder)


# --- contents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "raw", "data", "fmnist", "x/mnist", "MNIST/raw"])
def test_contents_decide_whatever_the_name(folder, zipped, official, tmp_path):
    place = tmp_path / folder
    data_files.write_idx(place, "", *official["fashion_mnist"], zipped=zipped)
    with pytest.raises(
        DataError, match=f"mnist: {place} holds fashion_mnist by its checksums, not"
    ):
        locate("mnist", place)
    source = locate("fashion_mnist", place)
    named = folder in ("fmnist", "raw", "data")
    assert source.path == place and bool(source.remark) == (not named)
    data_files.assert_same(load(source), official["fashion_mnist"])


def test_another_one_of_a_silent_name_is_passed_over(official, tmp_path):
    data_files.write_idx(tmp_path / "a", "", *official["fashion_mnist"])
    with pytest.raises(
        DataError, match="no data found(.|\n)*passed over: .*/a holds fashion_mnist"
    ):
        locate("mnist", tmp_path)
    data_files.write_idx(tmp_path / "b", "", *official["mnist"])
    assert found("mnist", tmp_path) == (tmp_path / "b", "")


@pytest.mark.parametrize("write", [data_files.write_npz, data_files.write_encoded_npz])
@pytest.mark.parametrize(
    ("asked", "held"),
    [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist"), ("cifar100", "cifar10")],
)
def test_npz_files_that_hold_another_data_set(write, asked, held, official, tmp_path):
    path = write(tmp_path, asked, *official[held])
    with pytest.raises(DataError, match=f"{asked}: {path} holds {held} by its checksums"):
        locate(asked, tmp_path)


def test_cifar_folders_that_hold_another_order_are_remarked(official, tmp_path):
    data_files.write_cifar_folder(tmp_path, "cifar10", *official["cifar10"])
    assert found("cifar10", tmp_path)[1] == ""
    shutil.rmtree(tmp_path / "cifar-10-batches-bin")
    data_files.write_cifar_folder(tmp_path, "cifar10", *unlike("cifar10"))
    assert found("cifar10", tmp_path)[1] == "not the official labels"


def test_a_tfds_folder_says_itself_what_it_holds(tmp_path):
    path = data_files.write_tfds(tmp_path, "fashion_mnist", *data_files.fake("fashion_mnist"))
    (tmp_path / "fashion_mnist").rename(tmp_path / "mnist")
    with pytest.raises(DataError, match="holds fashion_mnist by its dataset_info.json, not mnist"):
        locate("mnist", tmp_path)
    path = tmp_path / "mnist" / path.name
    for place in (tmp_path, path, path.parent):
        assert locate("fashion_mnist", path).path == path, place


def test_labels_of_another_data_set_are_refused_when_they_are_read(official, tmp_path):
    """Where `locate` cannot see them without unpacking."""
    data_files.write_cifar_archive(tmp_path, "cifar10", *official["cifar10"])
    load(locate("cifar10", tmp_path))
    path = data_files.write_tfds(tmp_path, "mnist", *official["fashion_mnist"])
    with pytest.raises(DataError, match=f"mnist: {path} holds fashion_mnist by its labels, not"):
        load(locate("mnist", tmp_path))


def test_packed_labels_tell_a_data_set_that_is_not_read_here(monkeypatch, official, tmp_path):
    place = data_files.write_idx(tmp_path / "mnist", "", *unlike("mnist"))
    packed = (place / "t10k-labels-idx1-ubyte.gz").read_bytes()
    sums = {"test_packed": hashlib.sha256(packed).hexdigest()}
    monkeypatch.setitem(identity.OFFICIAL, "kmnist", sums)
    with pytest.raises(DataError, match="holds kmnist by its checksums, not mnist; point"):
        locate("mnist", tmp_path)


def test_checksums_of_kmnist_are_those_of_tfds():
    from tensorflow_datasets.core.download import checksums

    registered = checksums.get_all_url_infos()
    for part, stem in (("train", "train"), ("test", "t10k")):
        url = f"http://codh.rois.ac.jp/kmnist/dataset/kmnist/{stem}-labels-idx1-ubyte.gz"
        assert identity.OFFICIAL["kmnist"][f"{part}_packed"] == registered[url].checksum


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the repository")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist.npz"),
        ("fashion_mnist", "fashion_mnist.npz"),
        ("cifar10", "cifar10_jpeg_train_test.npz"),
    ],
)
def test_the_official_data_sets_are_known(name, file, tmp_path):
    start = time.monotonic()
    assert found(name, SHARED / file) == (SHARED / file, "")
    assert time.monotonic() - start < 5
    if name in FAMILY:
        other = FAMILY[1 - FAMILY.index(name)]
        shutil.copy(SHARED / file, tmp_path / f"{other}.npz")
        with pytest.raises(DataError, match=f"{other}: .* holds {name} by its checksums"):
            locate(other, tmp_path)


# --- what is said of a difference ---------------------------------------------------------------


@pytest.mark.parametrize("write", [data_files.write_npz, data_files.write_idx])
def test_differences_are_said(write, official, tmp_path):
    train, test = official["mnist"]
    pixels, labels = train.images.copy(), test.labels.copy()
    pixels[3, 4, 5] ^= 1
    labels[:2] = labels[1::-1] + (labels[0] == labels[1])
    for number, (data, said) in enumerate(
        [
            ((train, test), ""),
            ((train._replace(images=pixels), test), "not the official images"),
            ((train, test._replace(labels=labels)), "not the official labels"),
            (unlike("mnist"), "not the official labels and images"),
            (data_files.fake("mnist", 59), "not the official data: 59 + 25 images, not 60 + 25"),
        ]
    ):
        write(tmp_path / str(number) / "mnist", "mnist", *data)
        source = locate("mnist", tmp_path / str(number))
        assert source.remark == said
        assert source.description.endswith(f"({said})" if said else str(source.path))


def test_files_packed_in_pieces_have_the_same_checksum(official, tmp_path):
    place = data_files.write_idx(tmp_path / "mnist", "", *official["mnist"])
    path = place / "t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    assert found("mnist", place) == (place, "")


def test_a_difference_that_only_reading_shows_is_logged(official, tmp_path, caplog):
    data_files.write_cifar_archive(tmp_path, "cifar10", *unlike("cifar10"))
    source = locate("cifar10", tmp_path)
    assert source.remark == ""
    load(source)
    assert [r.getMessage() for r in caplog.records] == [
        f"cifar10: {source.path} (not the official labels)"
    ]


# --- what data_dir may be -----------------------------------------------------------------------


@pytest.mark.parametrize("root", ["MNIST", "", "MNIST/raw"])
def test_folders_of_torchvision(root, tmp_path):
    data = data_files.fake("mnist")
    place = data_files.write_idx(tmp_path / "MNIST" / "raw", "", *data)
    data_files.write_idx(tmp_path / "FashionMNIST" / "raw", "", *unlike("mnist"))
    assert found("mnist", tmp_path / root)[0] == place
    data_files.assert_same(load(locate("mnist", tmp_path / root)), data)
    if not root:
        assert found("fashion_mnist", tmp_path)[0] == tmp_path / "FashionMNIST" / "raw"


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_the_newest_version_of_a_tfds_folder_or_the_one_that_is_named(name, tmp_path):
    path = data_files.write_tfds(tmp_path, name, *data_files.fake(name))
    for place in (tmp_path, path.parent, path, path / "dataset_info.json"):
        assert locate(name, place).path == path
    old = path.with_name("1.0.0")
    shutil.copytree(path, old)
    for place in (tmp_path, path.parent):
        assert locate(name, place).path == path
    assert locate(name, old).path == old
    other = "cifar100" if name == "cifar10" else "fashion_mnist"
    with pytest.raises(DataError, match=f"{path} holds {name} by its dataset_info.json, not"):
        locate(other, path)


def test_versions_of_imagenet(tmp_path):
    path = data_files.write_tfds_imagenet(tmp_path, *data_files.fake("imagenet32"))
    for place in (tmp_path, path.parent.parent, path.parent, path):
        assert locate("imagenet32", place).path == path
    with pytest.raises(
        DataError, match="holds imagenet_resized by its dataset_info.json, not mnist"
    ):
        locate("mnist", path)


@pytest.mark.parametrize(
    ("name", "form", "file"),
    [
        ("mnist", "npz", ""),
        ("mnist", "jpeg npz", ""),
        ("cifar10", "CIFAR binary archive", ""),
        ("cifar10", "CIFAR binary files", "test_batch.bin"),
        ("mnist", "idx files", "train-images-idx3-ubyte.gz"),
        ("mnist", "idx files", "t10k-labels-idx1-ubyte.gz"),
        ("cifar10", "tfds array_record", "cifar10-train.array_record-00000-of-00001"),
    ],
)
def test_a_file_may_be_named(name, form, file, tmp_path):
    for other in ("npz", "jpeg npz"):  # better forms beside it, which are not meant
        if other != form:
            data_files.written(tmp_path, name, other)
    data, path = data_files.written(tmp_path, name, form)
    source = locate(name, path / file if file else path)
    assert (source.format.label, source.path) == (form, path)
    data_files.assert_same(load(source), data)


def test_files_that_are_no_data(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    data_files.written(tmp_path, "mnist", "npz")
    with pytest.raises(DataError, match="--config.data_dir is .*notes.txt; allowed: a folder, or"):
        locate("mnist", tmp_path / "notes.txt")


@pytest.mark.parametrize("form", ["npz", "tfds array_record", "idx files", "notes"])
def test_an_environment_variable_that_names_another_data_set(form, official, monkeypatch, tmp_path):
    """It is passed over, and so is it as a place for a download; as config.data_dir it is an error."""
    if form == "notes":
        place = tmp_path / "notes.txt"
        place.write_text("")
    else:
        _, place = data_files.written(tmp_path / "here", "fashion_mnist", form)
    monkeypatch.setenv("DTP_JAX_DATA", str(place))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    with pytest.raises(DataError, match="^mnist: no data found") as caught:
        locate("mnist")
    said = next(line for line in str(caught.value).splitlines() if str(place) in line)
    assert "$DTP_JAX_DATA" in said and ("no file of mnist" in said) == place.is_file()
    with monkeypatch.context() as online:
        online.setattr(download, "why_unreachable", lambda remote: None)
        assert found("mnist", None)[0] == (place if form == "idx files" else tmp_path / "there")
    _, path = data_files.written(tmp_path / "there", "mnist", "npz")
    assert found("mnist", None)[0] == path
    if form != "notes":
        assert locate("fashion_mnist").path == place
    with pytest.raises(DataError, match=f"^mnist: .*{place}"):
        locate("mnist", place)


def test_names_with_a_dot_and_packed(tmp_path):
    data = data_files.fake("mnist")
    folder = data_files.write_idx(tmp_path / "mnist", "", *data)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    data_files.assert_same(load(locate("mnist", tmp_path)), data)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", [True, False])
def test_pickles_are_seen_and_not_read(name, packed, below, tmp_path):
    ten = name == "cifar10"
    folder = "cifar-10-batches-py" if ten else "cifar-100-python"
    path = tmp_path / ("cifar-10-python.tar.gz" if ten else "cifar-100-python.tar.gz")
    if not packed:
        path = tmp_path / folder
        path.mkdir()
        (path / ("data_batch_1" if ten else "train")).write_bytes(b"a pickle")
    else:
        path.write_bytes(b"pickles")
    with pytest.raises(DataError) as caught:
        locate(name, tmp_path if below else path)
    message = str(caught.value)
    assert str(path) in message and "pickles, which can run any program" in message
    assert f"cifar-{10 if ten else 100}-binary.tar.gz" in message


@pytest.mark.parametrize(
    "place", ["gs://bucket/data", "file:///data", "~nobody_at_all/data", "a\0b"]
)
def test_what_is_no_path_is_refused(place, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="config.data_dir is .*; allowed: a ") as caught:
        locate("mnist", place)
    assert "\n" not in str(caught.value)
    if "\0" not in place:
        monkeypatch.setenv("TFDS_DATA_DIR", place)  # TFDS's own, which may be remote
        with pytest.raises(DataError, match=r"\(\$TFDS_DATA_DIR\): not searched: .* allowed: a "):
            locate("mnist", tmp_path)
        monkeypatch.setenv("DTP_JAX_DATA", place)
        with pytest.raises(ValueError, match=r"\$DTP_JAX_DATA is "):
            locate("mnist", tmp_path)


def test_paths_that_are_too_long_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^config.data_dir is .*; allowed: .*File name too long$"):
        locate("mnist", tmp_path / ("x" * 300))


def nobody(monkeypatch):
    """A user without a home, as under the number of no user in a container."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_a_user_without_a_home(monkeypatch, tmp_path):
    monkeypatch.delenv("DTP_JAX_CACHE")
    nobody(monkeypatch)
    with pytest.raises(DataError) as caught:
        locate("cifar10", None)
    assert "default folder" not in str(caught.value)
    data, path = data_files.written(tmp_path, "cifar10", "jpeg npz")
    data_files.assert_same(load(locate("cifar10", tmp_path)), data)
    for place in ("~nobody_at_all/cache", "gs://bucket/cache"):
        monkeypatch.setenv("DTP_JAX_CACHE", place)
        data_files.assert_same(load(locate("cifar10", tmp_path)), data)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: None)
    with pytest.raises(DataError, match="is not possible: there is no folder for it"):
        locate("mnist", None)


def test_a_json_file_that_is_none_of_tfds(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(["no object"]))
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(DataError, match="no data found"):
        locate("mnist", tmp_path)
