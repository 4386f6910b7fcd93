"""Downloading CIFAR, against a server on this machine: whole, cut, wrong, or not there."""

import functools
import hashlib
import http.server
import io
import json
import os
import socket
import sys
import tarfile
import threading
import time

import data_files
import numpy as np
import pytest

from dtp_jax.data import DataError, download, load, locate


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; of one called "cut" only the first half, then it hangs up."""

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[: len(data) // 2] if self.path.startswith("/cut/") else data)


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
    """A function that makes `server` the host of a small CIFAR; it returns the archive."""

    def offer(folder="kriz", name="cifar10", **changes):
        data = data_files.fake(name)
        archive = data_files.write_cifar_archive(tmp_path / "web" / folder, name, *data)
        content = archive.read_bytes()
        facts = {
            "url": f"{server}/{folder}/{archive.name}",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        genuine = download.REMOTES[name]
        remote = genuine._replace(**(facts | changes))
        monkeypatch.setattr(download, "REMOTES", {name: remote})
        return archive

    return offer


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_checksum_is_that_of_tfds(name):
    from tensorflow_datasets.core.download import checksums

    remote = download.REMOTES[name]
    registered = checksums.get_all_url_infos()[remote.url]
    assert (registered.size, registered.checksum) == (remote.size, remote.sha256)


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

    offer(name="cifar100")
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


def test_a_wrong_checksum_leaves_nothing(offer, tmp_path):
    offer(sha256="0" * 64)
    source = locate("cifar10", tmp_path / "data")
    with pytest.raises(DataError, match=f"SHA-256 [0-9a-f]{{64}} instead of {'0' * 64}.*Run again"):
        load(source)
    assert files_below(tmp_path / "data") == []


def test_a_connection_cut_in_the_middle_leaves_nothing(offer, tmp_path):
    size = offer("cut").stat().st_size
    source = locate("cifar10", tmp_path / "data")
    with pytest.raises(DataError, match=f"broke off after {size // 2:,} of {size:,} bytes"):
        load(source)
    assert files_below(tmp_path / "data") == []


def test_a_host_that_goes_away_after_the_probe(offer, tmp_path):
    archive = offer()
    source = locate("cifar10", tmp_path / "data")
    archive.unlink()
    with pytest.raises(DataError, match=r"broke off after 0 of .*404"):
        load(source)
    assert files_below(tmp_path / "data") == []


@pytest.mark.parametrize("moment", ["downloading cifar10", "preparing cifar10"])
def test_an_interruption_leaves_nothing(moment, offer, tmp_path):
    offer()

    def interrupt(what, done, total):
        if what == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(locate("cifar10", tmp_path / "data"), interrupt)
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
    ("url", "reason"),
    [
        ("http://127.0.0.1:{unused_port}/x.tar.gz", "refused"),
        ("http://no-such-host.invalid/x.tar.gz", "[A-Z]"),
    ],
)
def test_an_unreachable_host_is_a_fast_and_helpful_error(url, reason, offer, tmp_path):
    url = url.format(unused_port=unused_port())
    offer(url=url)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        locate("cifar10", tmp_path / "data")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert f"Download of {url} is not possible: " in message
    assert "cifar10.npz" in message and "array_record" in message
    assert not (tmp_path / "data").exists()


def test_a_silent_host_is_given_up_in_time(monkeypatch, offer, tmp_path):
    assert download.PROBE_SECONDS == 3
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        offer(url=f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
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
    offer().unlink()
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
