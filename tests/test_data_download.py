"""Downloading data sets from a server on this machine: whole, cut, wrong, or not there."""

import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import socket
import sys
import tarfile
import threading
import time

import data_files
import numpy as np
import pytest

from dtp_jax.data import DataError, download, load, load_splits, locate


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; of the one named `cut` only the first half, then it hangs up."""

    cut = None

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        is_cut = self.path.endswith(f"/{self.cut}")
        outputfile.write(data[: len(data) // 2] if is_cut else data)


@pytest.fixture
def server(tmp_path):
    """The address of a server of the folder `tmp_path / "web"`."""
    handler = functools.partial(Handler, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)


@pytest.fixture
def data():
    return data_files.fake("cifar10")


@pytest.fixture
def offer(monkeypatch, server, tmp_path):
    """A function that makes `server` the host of a small data set; it returns the folder there.

    `wrong` is the position of a file that has another checksum than promised.
    """

    def offer(name="cifar10", url=f"{server}/files", wrong=None):
        folder = tmp_path / "web" / "files"
        write = data_files.write_idx if "mnist" in name else data_files.write_cifar_archive
        write(folder, name, *data_files.fake(name))
        genuine = download.REMOTES[name]
        files = [promised(folder / file.name) for file in genuine.files]
        if wrong is not None:
            files[wrong] = files[wrong]._replace(sha256="0" * 64)
        remote = genuine._replace(url=url, files=tuple(files))
        monkeypatch.setattr(download, "REMOTES", {name: remote})
        return folder

    return offer


def promised(path):
    """What a registry says of a file."""
    content = path.read_bytes()
    return download.RemoteFile(path.name, len(content), hashlib.sha256(content).hexdigest())


# Of one file and of four, with the file of each that something happens to.
BOTH = pytest.mark.parametrize(
    ("name", "position", "file"),
    [("cifar10", 0, "cifar-10-binary.tar.gz"), ("mnist", 2, "t10k-images-idx3-ubyte.gz")],
)


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize("name", download.REMOTES)
def test_addresses_sizes_and_checksums_are_those_of_tfds(name):
    from tensorflow_datasets.core.download import checksums

    remote, registered = download.REMOTES[name], checksums.get_all_url_infos()
    assert len(remote.files) == (4 if "mnist" in name else 1)
    for file in remote.files:
        info = registered[remote.url_of(file)]
        assert (info.size, info.checksum) == (file.size, file.sha256)


def test_download_then_find_it_as_a_tfds_data_set(offer, data, tmp_path):
    import tensorflow_datasets as tfds

    offer()
    target = tmp_path / "new" / "data"
    source = locate("cifar10", target)
    assert source.format is None and source.description.startswith("download of http://127.0.0.1")
    assert not target.exists(), "locate only looks"

    heard = []

    def progress(what, done, total):
        heard.append((what, done / total))
        if not what.startswith("decoding"):
            assert not (target / "cifar10").exists(), "nothing is in place before all is there"

    data_files.assert_same(load(source, progress), data)
    for what in ("downloading cifar10", "preparing cifar10"):
        assert [fraction for name, fraction in heard if name == what][-1] == 1

    again = locate("cifar10", target)
    assert again.format.label == "tfds array_record"
    assert again.path == target / "cifar10" / "3.0.2"
    assert sorted(p.name for p in target.iterdir()) == ["cifar10"], "no temporary folder is left"
    data_files.assert_same(load(again), data)

    builder = tfds.builder("cifar10", data_dir=target, file_format="array_record")
    assert builder.is_prepared() and builder.info.features["label"].names[3] == "cat"
    first = builder.as_data_source("train")[0]
    index = int(first["id"].decode().removeprefix("train_"))
    np.testing.assert_array_equal(first["image"], data[0].images[index])
    assert first["label"] == data[0].labels[index]


def test_cifar100_is_prepared_with_both_its_labels(offer, tmp_path):
    import tensorflow_datasets as tfds

    offer("cifar100")
    data = data_files.fake("cifar100")
    data_files.assert_same(load(locate("cifar100", tmp_path / "data")), data)
    again = locate("cifar100", tmp_path / "data")
    assert again.path == tmp_path / "data" / "cifar100" / "3.0.2"
    data_files.assert_same(load(again), data)
    builder = tfds.builder("cifar100", data_dir=tmp_path / "data", file_format="array_record")
    names = [builder.info.features[kind].names[-1] for kind in ("label", "coarse_label")]
    assert names == ["fine_99", "coarse_19"]
    for example in builder.as_data_source("test"):
        index = int(example["id"].decode().removeprefix("test_"))
        assert example["label"] == data[1].labels[index]
        assert example["coarse_label"] == data_files.coarse(data[1].labels[index])
        np.testing.assert_array_equal(example["image"], data[1].images[index])


@pytest.mark.parametrize(
    ("name", "classes"),
    [("mnist", [str(digit) for digit in range(10)]), ("fashion_mnist", ["T-shirt/top", "Trouser"])],
)
def test_idx_files_are_prepared_as_tfds_would(name, classes, offer, server, tmp_path):
    """The oracles are the arrays in the files, and where TFDS's hash puts the first of them."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import hashing

    web = offer(name)
    target, data = tmp_path / "data", data_files.fake(name)
    source = locate(name, target)
    assert source.description == f"download of {server}/files/ (0 MB) to {target}"
    downloaded, heard = [], []

    def progress(what, done, total):
        if what == f"downloading {name}":
            heard.append((done, total))
            downloaded[:] = [p.name for p in target.glob(".incomplete-*/*.gz")]

    data_files.assert_same(load(source, progress), data)
    size = sum(path.stat().st_size for path in web.iterdir())
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
    assert heard[-1][0] == size and {total for _, total in heard} == {size}
    assert sorted(downloaded) == sorted(path.name for path in web.iterdir())

    builder = tfds.builder(name, data_dir=target, file_format="array_record")
    assert builder.is_prepared()
    as_written = tfds.builder_from_directory(target / name / "3.0.1").info.features
    for features in (as_written, builder.info.features):
        assert features["label"].names[: len(classes)] == classes
    for part, split in zip(("train", "test"), data, strict=True):
        stored = list(builder.as_data_source(part))
        first = min(range(len(stored)), key=hashing.Hasher(part).hash_key)
        np.testing.assert_array_equal(stored[0]["image"], split.images[first])
        assert stored[0]["label"] == split.labels[first]

    fashion_or_not = web.rename(tmp_path / name)
    shutil.rmtree(tmp_path / "web")
    again = locate(name, target)
    assert (again.format.label, again.path) == ("tfds array_record", target / name / "3.0.1")
    assert files_below(target)[0] == name, "no temporary folder is left"
    data_files.assert_same(load(again), data)
    here = load_splits(again, val_split=0.2, seed=3)
    there = load_splits(locate(name, fashion_or_not), val_split=0.2, seed=3)
    np.testing.assert_array_equal(here.train_indices, there.train_indices)
    data_files.assert_same(here[:2], there[:2])


def test_preparing_asks_no_other_host(offer, data, monkeypatch, tmp_path):
    from tensorflow_datasets.core.utils import gcs_utils

    def asked(*_):
        raise AssertionError("TFDS looked for a copy on Google's servers")

    monkeypatch.setattr(gcs_utils, "is_dataset_on_gcs", asked)
    offer()
    data_files.assert_same(load(locate("cifar10", tmp_path / "data")), data)


def test_what_preparing_needs_is_checked_before_the_download(offer, monkeypatch, tmp_path):
    offer()
    monkeypatch.setitem(sys.modules, "importlib_resources", None)
    with pytest.raises(DataError, match="not possible: needs the packages importlib_resources"):
        locate("cifar10", tmp_path)


@BOTH
def test_a_wrong_checksum_leaves_nothing(name, position, file, offer, server, tmp_path):
    offer(name, wrong=position)
    source = locate(name, tmp_path / "data")
    said = (
        f"{name}: the download of {server}/files/{file} failed: it has the SHA-256 [0-9a-f]{{64}}"
    )
    with pytest.raises(DataError, match=f"^{said} instead of {'0' * 64}\\. Nothing .*Run again"):
        load(source)
    assert files_below(tmp_path / "data") == []


@BOTH
def test_a_connection_cut_in_the_middle_leaves_nothing(
    name, position, file, offer, server, monkeypatch, tmp_path
):
    size = (offer(name) / file).stat().st_size
    monkeypatch.setattr(Handler, "cut", file)
    source = locate(name, tmp_path / "data")
    said = f"of {server}/files/{file} failed: it broke off after {size // 2:,} of {size:,} bytes"
    with pytest.raises(DataError, match=said):
        load(source)
    assert files_below(tmp_path / "data") == []
    monkeypatch.setattr(Handler, "cut", None)
    data_files.assert_same(load(source), data_files.fake(name))


@BOTH
def test_a_file_that_goes_away_after_the_probe(name, position, file, offer, server, tmp_path):
    folder = offer(name)
    source = locate(name, tmp_path / "data")
    (folder / file).unlink()
    with pytest.raises(DataError, match=rf"{server}/files/{file} .* broke off after 0 of .*404"):
        load(source)
    assert files_below(tmp_path / "data") == []


@BOTH
@pytest.mark.parametrize("moment", ["downloading", "preparing"])
def test_an_interruption_leaves_nothing(moment, name, position, file, offer, tmp_path):
    offer(name)
    there = []

    def interrupt(what, done, total):
        there[:] = files_below(tmp_path / "data")
        if what == f"{moment} {name}" and any(path.endswith(file) for path in there):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(locate(name, tmp_path / "data"), interrupt)
    assert any(path.endswith(file) for path in there)
    assert files_below(tmp_path / "data") == []


def test_what_a_killed_run_left_is_not_read_and_later_removed(offer, data, tmp_path):
    offer()
    leftovers = [tmp_path / "data" / f".incomplete-cifar10-{age}" for age in ("old", "new")]
    for leftover in leftovers:
        half_made = leftover / "prepared" / "cifar10" / "3.0.2"
        half_made.mkdir(parents=True)
        (half_made / "dataset_info.json").write_text("{}")
    os.utime(leftovers[0], (0, 0))
    source = locate("cifar10", tmp_path / "data")
    assert source.format is None
    data_files.assert_same(load(source), data)
    assert [leftover.exists() for leftover in leftovers] == [False, True]


def test_an_unreadable_copy_in_the_way_is_left_alone(offer, data, tmp_path):
    offer()
    taken = tmp_path / "data" / "cifar10" / "3.0.2"
    taken.mkdir(parents=True)
    (taken / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    data_files.assert_same(load(locate("cifar10", tmp_path / "data")), data)
    assert files_below(taken) == ["dataset_info.json"]
    again = locate("cifar10", tmp_path / "data")
    assert again.path == tmp_path / "data" / "array_record" / "cifar10" / "3.0.2"


def test_an_empty_folder_in_the_way_is_filled(offer, data, tmp_path):
    offer()
    (tmp_path / "data" / "cifar10" / "3.0.2").mkdir(parents=True)
    data_files.assert_same(load(locate("cifar10", tmp_path / "data")), data)
    assert locate("cifar10", tmp_path / "data").path == tmp_path / "data" / "cifar10" / "3.0.2"


def test_a_faster_run_wins(offer, data, tmp_path):
    offer()
    source = locate("cifar10", tmp_path / "data")
    load(source)
    info = tmp_path / "data" / "cifar10" / "3.0.2" / "dataset_info.json"
    before = info.stat().st_mtime_ns
    data_files.assert_same(load(source), data)  # downloads again, finds the place taken
    assert info.stat().st_mtime_ns == before
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["cifar10"]


def test_an_unwritable_folder(offer, tmp_path):
    offer()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cifar10: cannot be downloaded to .*file/data"):
        load(locate("cifar10", tmp_path / "file" / "data"))


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "address"), [("cifar10", "/cifar-10-binary.tar.gz"), ("mnist", "/")]
)
@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:{unused_port}/x", "refused"), ("http://no-such-host.invalid/x", "[A-Z]")],
)
def test_an_unreachable_host_is_a_fast_and_helpful_error(
    url, reason, name, address, offer, tmp_path
):
    url = url.format(unused_port=unused_port())
    offer(name, url=url)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        locate(name, tmp_path / "data")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert re.search(rf"Download of {url}{address} is not possible: .*{reason}", message)
    assert f"{name}.npz" in message and "array_record" in message
    assert not (tmp_path / "data").exists()


def test_a_silent_host_is_given_up_in_time(monkeypatch, offer, tmp_path):
    assert download.PROBE_SECONDS == 3
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        offer(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DataError, match=r"timed out|no answer within 0\.2 s"):
            locate("cifar10", tmp_path)
        assert time.monotonic() - start < 2


def test_a_name_server_that_hangs_is_given_up_in_time(monkeypatch, offer, tmp_path):
    release = threading.Event()
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)

    def hang(*_, **__):
        release.wait(10)
        raise OSError("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    offer()
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.2 s"):
        locate("cifar10", tmp_path)
    assert time.monotonic() - start < 2
    release.set()


def test_a_host_without_the_file_is_named(offer, tmp_path):
    shutil.rmtree(offer())
    with pytest.raises(DataError, match="not possible: the host answers 404"):
        locate("cifar10", tmp_path)


def test_members_with_paths_or_links_stay_inside_the_archive(data, tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    batches = data_files.cifar_batches(*data)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"../../{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    before = files_below(tmp_path.parent)
    data_files.assert_same(load(locate("cifar10", tmp_path)), data)
    written = set(files_below(tmp_path.parent)) - set(before)
    assert all("/cache" in name for name in written), written

    (tmp_path / "secret").write_bytes(batches["data_batch_1.bin"])
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            if name == "data_batch_1.bin":
                member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
                content = b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"data_batch_1.bin is missing"):
        load(locate("cifar10", tmp_path))
