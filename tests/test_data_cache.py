"""The cache of decoded images: used when right, rebuilt when wrong, done without when it fails."""

import os
import resource
from pathlib import Path

import data_files
import numpy as np
import pytest

from dtp_jax.data import DataError, Split, cache, load, locate
from dtp_jax.data.cache import cache_folder
from dtp_jax.data.formats import npz as npz_module


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)


@pytest.fixture
def decoded(monkeypatch):
    """The number of times that a part was decoded, as a list of calls."""
    calls, decoded = [], npz_module.decoded

    def counting(*args):
        for block in decoded(*args):
            calls.append(args)
            yield block

    monkeypatch.setattr(npz_module, "decoded", counting)
    return calls


@pytest.fixture
def encoded(tmp_path):
    """A data set of encoded images: its arrays and its file."""
    data = data_files.fake("cifar10")
    return data, data_files.write_encoded_npz(tmp_path / "data", "cifar10", *data)


def load_cifar(path):
    return load(locate("cifar10", path.parent))


def entries():
    return sorted(cache_folder().iterdir())


def test_the_second_load_decodes_nothing(encoded, decoded):
    data, path = encoded
    data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 2  # train and test
    again = load_cifar(path)
    data_files.assert_same(again, data)
    assert len(decoded) == 2
    assert isinstance(again[0].images, np.memmap) and not again[0].images.flags.writeable


def test_a_changed_file_is_decoded_again_and_replaces_its_entry(encoded, decoded):
    data, path = encoded
    load_cifar(path)
    old = entries()
    flipped = [split._replace(images=split.images[:, :, ::-1]) for split in data]
    data_files.write_encoded_npz(path.parent, "cifar10", *flipped)
    os.utime(path, ns=(0, 0))  # whatever the resolution of the clock
    data_files.assert_same(load_cifar(path), flipped)
    assert len(decoded) == 4
    assert len(entries()) == 1 and entries() != old


def test_two_sources_have_two_entries(encoded, tmp_path):
    data, path = encoded
    other = data_files.fake("cifar10", train=30, test=10)
    other_path = data_files.write_encoded_npz(tmp_path / "other", "cifar10", *other)
    for _ in range(2):
        data_files.assert_same(load_cifar(path), data)
        data_files.assert_same(load_cifar(other_path), other)
    assert len(entries()) == 2


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy", "meta.json"])
@pytest.mark.parametrize("defect", ["cut", "flip", "empty", "gone"])
def test_a_damaged_entry_is_decoded_again(file, defect, encoded, decoded):
    data, path = encoded
    load_cifar(path)
    target = entries()[0] / file
    content = target.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    match defect:
        case "cut":
            target.write_bytes(content[:-10])
        case "flip":
            target.write_bytes(flipped)
        case "empty":
            target.write_bytes(b"")
        case "gone":
            target.unlink()
    data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 4
    data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 4, "the entry was not repaired"


@pytest.fixture
def entry(tmp_path):
    """A small entry and what it holds; loading it gives None where it is damaged."""
    data = data_files.fake("mnist", train=12, test=10)
    assert cache.store("mnist-a-b", lambda: tuple([split] for split in data))
    return data, cache_folder() / "mnist-a-b"


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_every_byte_of_a_header_counts(part, kind, entry, caplog):
    """A digit of the shape too: other examples would be trained on."""
    data, folder = entry
    file = folder / f"{part}_{kind}.npy"
    content = file.read_bytes()
    end = content.index(b"\n") + 1
    assert end % 64 == 0
    kept = {f: f.read_bytes() for f in folder.iterdir()}
    for at in range(end + 2):
        for flip in (1, 0xFF):
            file.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            assert cache.load("mnist-a-b") is None and not folder.exists(), (at, flip)
            folder.mkdir()
            for path, saved in kept.items():
                path.write_bytes(saved)
    data_files.assert_same(cache.load("mnist-a-b"), data)
    assert len(caplog.records) == 2 * (end + 2)
    assert max(len(r.getMessage()) for r in caplog.records) < 300 + len(str(folder))
    assert all("\n" not in r.getMessage() for r in caplog.records)


def test_every_byte_of_the_meta_file_counts(entry):
    data, folder = entry
    kept = {f: f.read_bytes() for f in folder.iterdir()}
    file, content = folder / "meta.json", kept[folder / "meta.json"]
    changed = [
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))
    ]
    for wrong in (
        *changed,
        content[:-1],
        content + b" ",
        b"[" * 100_000,
        b"\0" * 5,
        b"{}",
        b"null",
    ):
        file.write_bytes(wrong)
        assert cache.load("mnist-a-b") is None, wrong[:200]
        folder.mkdir()
        for path, saved in kept.items():
            path.write_bytes(saved)
    data_files.assert_same(cache.load("mnist-a-b"), data)


def test_an_entry_of_another_shape_or_number_is_not_taken(entry):
    data, _ = entry
    data_files.assert_same(cache.load("mnist-a-b", (28, 28, 1), (12, 10)), data)
    assert cache.load("mnist-a-b", (28, 28, 1), (12, 11)) is None
    assert cache.store("mnist-a-b", lambda: tuple([split] for split in data))
    assert cache.load("mnist-a-b", (32, 32, 3), (12, 10)) is None


@pytest.mark.parametrize("file", ["train_images.npy", "meta.json"])
def test_a_damaged_entry_that_cannot_be_removed_is_done_without(
    file, encoded, decoded, monkeypatch, caplog
):
    data, path = encoded
    load_cifar(path)
    target = entries()[0] / file
    target.write_bytes(target.read_bytes()[:-3] + b"\0\0\0")
    monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
    for number in (1, 2):
        data_files.assert_same(load_cifar(path), data)
        assert len(decoded) == 2 + 2 * number, "decoded once each time"
        (said,) = [record.getMessage() for record in caplog.records]
        assert "is damaged, and cannot be removed (" in said and "\n" not in said
        caplog.clear()


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_something_else_in_the_place_of_an_entry(what, encoded, decoded, tmp_path):
    data, path = encoded
    load_cifar(path)
    (entry,) = entries()
    aside = entry.rename(tmp_path / "aside")
    if what == "file":
        entry.write_bytes(b"")
    elif what == "link":
        entry.symlink_to(tmp_path / "nowhere")
    else:
        (entry / "meta.json").mkdir(parents=True)
    for _ in range(2):
        data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 4 and sorted(p.name for p in entries()[0].iterdir()) == sorted(
        p.name for p in aside.iterdir()
    )


def test_objects_in_a_planted_entry_are_not_unpickled(encoded, decoded, tmp_path):
    data, path = encoded
    load_cifar(path)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.save(entries()[0] / "train_labels.npy", np.array([Trap()]), allow_pickle=True)
    data_files.assert_same(load_cifar(path), data)
    assert not (tmp_path / "sprung").exists()


def test_an_unwritable_cache_is_done_without(encoded, decoded, monkeypatch, tmp_path):
    data, path = encoded
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 4


def test_a_full_disk_leaves_no_half_entry(encoded):
    data, path = encoded
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # of 60 x 3,072 bytes
    try:
        data_files.assert_same(load_cifar(path), data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries() == []


def test_what_a_killed_run_left_is_removed_the_day_after(encoded):
    leftovers = [cache_folder() / f".incomplete-{age}" for age in ("old", "new")]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
    os.utime(leftovers[0], (0, 0))
    load_cifar(encoded[1])
    assert [leftover.exists() for leftover in leftovers] == [False, True]


def test_an_entry_that_another_run_puts_there_first_is_used(encoded, decoded):
    data, path = encoded
    load_cifar(path)
    (name,) = [entry.name for entry in entries()]
    assert cache.store(name, lambda: tuple([split] for split in data))
    data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 2 and [entry.name for entry in entries()] == [name]


def test_pieces_become_one_array(tmp_path):
    whole = data_files.fake("mnist", train=70, test=7)

    def pieces(split, size):
        for i in range(0, len(split.labels), size):
            yield Split(split.images[i : i + size], split.labels[i : i + size])

    assert cache.store("mnist-a-b", lambda: (pieces(whole[0], 32), pieces(whole[1], 1)))
    data_files.assert_same(cache.load("mnist-a-b"), whole)


@pytest.mark.parametrize("write", [data_files.write_npz, data_files.write_cifar_folder])
def test_raw_pixels_are_not_cached(write, tmp_path):
    write(tmp_path, "cifar10", *data_files.fake("cifar10"))
    load(locate("cifar10", tmp_path))
    assert not cache_folder().exists()


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DTP_JAX_CACHE")
    assert cache_folder() == tmp_path / "home" / ".cache" / "dtp_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dtp_jax"


def test_one_source_under_several_names_has_one_entry(encoded, decoded, monkeypatch, tmp_path):
    data, path = encoded
    (tmp_path / "link").symlink_to(path.parent)
    monkeypatch.chdir(tmp_path)
    for folder in (path.parent, Path("data"), Path("link"), Path("../") / tmp_path.name / "data"):
        data_files.assert_same(load(locate("cifar10", folder)), data)
    assert len(decoded) == 2 and len(entries()) == 1


def test_a_link_to_itself_among_the_files_is_one_line(tmp_path):
    path = data_files.write_tfds(tmp_path, "cifar10", *data_files.fake("cifar10"))
    (path / "loop").symlink_to(path / "loop")
    with pytest.raises(DataError, match=f"^cifar10: {path} is corrupt .*symbolic links.*copy.$"):
        load(locate("cifar10", tmp_path))


def test_an_entry_has_the_rights_that_others_need(encoded):
    """A cache may be shared: the umask says with whom."""
    before = os.umask(0o027)
    try:
        load_cifar(encoded[1])
    finally:
        os.umask(before)
    (entry,) = entries()
    assert entry.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in entry.iterdir()} == {0o640}


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError("a test")])
def test_an_intact_entry_that_cannot_be_read_now_stays(
    error, encoded, decoded, monkeypatch, caplog
):
    data, path = encoded
    load_cifar(path)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_intact", fail)
        data_files.assert_same(load_cifar(path), data)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "cannot be read now (" in said and "decoding without it" in said
    assert len(decoded) == 4
    data_files.assert_same(load_cifar(path), data)
    assert len(decoded) == 4, "it is still there"
