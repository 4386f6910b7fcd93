"""Small files that promise much, and what broken files raise: bounded, and one line."""

import gzip
import io
import json
import re
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import data_files
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dtp_jax import broken
from dtp_jax.data import DataError, download, load, locate, spec
from dtp_jax.export.weights import WeightsError, read
from dtp_jax.parity import ParityError, open_case

MUCH = 300_000_000  # bytes that a bomb unfolds to
LITTLE = 150_000_000  # bytes that reading one may take at its peak
PIECE = 10_000_000


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


def refused(error, action, *words):
    """One line with these words, and little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught, warnings.catch_warnings():
            warnings.simplefilter("error")
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1_000 and text.isprintable(), text[:2_000]
    assert all(word in text for word in words), text
    assert peak < LITTLE, f"{peak:,} bytes"


def read_data(name, folder):
    return lambda: load(locate(name, folder))


def packed(head, size):
    """A gzip file of these bytes and then zeros."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(size // PIECE):
            file.write(bytes(PIECE))
    return out.getvalue()


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_an_idx_file_that_unfolds_beyond_its_header(file, tmp_path):
    folder = data_files.write_idx(tmp_path / "mnist", "", *data_files.fake("mnist"))
    content = gzip.decompress((folder / file).read_bytes())
    (folder / file).write_bytes(packed(content, MUCH))
    refused(DataError, read_data("mnist", tmp_path), file, "it holds more")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("count", [960_001, 2**32 - 1])
def test_an_idx_header_that_promises_too_much(zipped, count, tmp_path):
    folder = data_files.write_idx(tmp_path / "mnist", "", *data_files.fake("mnist"), zipped=zipped)
    for stem in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        path = folder / (stem + ".gz" * zipped)
        content = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        content = content[:4] + struct.pack(">I", count) + content[8:]
        path.write_bytes(gzip.compress(content) if zipped else content)
    refused(DataError, read_data("mnist", tmp_path), "promises", "allowed: at most 960,000")


def write_tar(path, members):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for header, size in members:
            file.write(header)
            for _ in range(size // PIECE):
                file.write(bytes(PIECE))
    return path


def tar_header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("batches.meta.txt", tarfile.REGTYPE),
        ("pax", tarfile.XHDTYPE),
        ("long", tarfile.GNUTYPE_LONGNAME),
    ],
)
def test_a_tar_archive_with_a_large_member(name, kind, tmp_path):
    write_tar(tmp_path / "cifar-10-binary.tar.gz", [(tar_header(name, MUCH, kind), MUCH)])
    refused(DataError, read_data("cifar10", tmp_path), "cifar-10-binary.tar.gz is corrupt")


def test_a_tar_archive_of_many_members(tmp_path):
    members = [(b"".join(tar_header(f"f{i}", 0) for i in range(2_000)), 0)]
    write_tar(tmp_path / "cifar-10-binary.tar.gz", members)
    refused(DataError, read_data("cifar10", tmp_path), "it has more than 100 members")


def test_a_tar_archive_with_an_absurd_size(tmp_path):
    header = tar_header("data_batch_1.bin", 2**60)
    write_tar(tmp_path / "cifar-10-binary.tar.gz", [(header, 0)])
    refused(DataError, read_data("cifar10", tmp_path), "data_batch_1.bin promises")


def test_a_tail_that_never_ends(monkeypatch, tmp_path):
    data = data_files.fake("cifar10")
    path = data_files.write_cifar_archive(tmp_path, "cifar10", *data)
    content = gzip.decompress(path.read_bytes())
    write_tar(path, [(content, 20 * PIECE)])
    monkeypatch.setattr(spec.DatasetSpec, "most_examples", property(lambda self: 20_000))
    refused(DataError, read_data("cifar10", tmp_path), "it holds more than the 122,920,000 bytes")


def test_a_folder_with_a_batch_of_no_real_size(tmp_path):
    path = data_files.write_cifar_folder(tmp_path, "cifar10", *data_files.fake("cifar10"))
    with (path / "data_batch_1.bin").open("r+b") as file:
        file.truncate(3_073 * 10**7)  # takes no room on the disk
    refused(DataError, read_data("cifar10", tmp_path), "promises 1e+07 examples")


def npy(shape, descr="|u1", version=(1, 0), extra=""):
    """The header of an array file."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, {extra}}}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    """Members of a beginning and so many zeros."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, (head, size) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(head)
                for _ in range(size // PIECE):
                    file.write(bytes(PIECE))
                file.write(bytes(size % PIECE))
    return path


DEEP = "[" * 5_000 + "]" * 5_000
HEADERS = {
    "negative": npy("(-1,)"),
    "huge": npy("(" + "9" * 100 + ",)"),
    "many digits": npy("(" + "9" * 5_000 + ",)"),
    "deep": npy(DEEP),
    "no shape": npy("'a'"),
    "no type": npy("(1,)", "nonsense"),
    "objects": npy("(1,)", "|O"),
    "half": npy("(1,)")[:20],
    "long": npy("(1,)", extra=" " * 9_999),
    "version 9": npy("(1,)").replace(b"\x01\x00", b"\x09\x00", 1),
    "no code": npy("(1,)").replace(b"{", b"(", 1),
    "no end": npy("(1,").replace(b"}", b"", 1),
    "not UTF-8": npy(
        "(1,)",
        version=(2, 0),
        extra="'\udcff': 1".encode("utf-8", "surrogateescape").decode("latin-1"),
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("header", HEADERS)
def test_absurd_headers_of_arrays(header, tmp_path):
    head = HEADERS[header]
    keys = ("x_train", "y_train", "x_test", "y_test")
    write_zip(tmp_path / "mnist.npz", {key: (head, 0) for key in keys})
    refused(DataError, read_data("mnist", tmp_path), "mnist.npz is corrupt")
    path = write_zip(tmp_path / "w.npz", {"a": (head, 0)})
    refused(WeightsError, lambda: read(path), "w.npz cannot be read")
    case = write_zip(tmp_path / "case.npz", {"meta/spec": (head, 0)})
    refused(ParityError, lambda: open_case(str(case)), "case.npz: not a recorded case")


def test_a_header_of_gigabytes(tmp_path):
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", MUCH)
    path = write_zip(tmp_path / "w.npz", {"a": (head, MUCH)})
    refused(WeightsError, lambda: read(path), "header of 300,000,000 bytes")


def test_arrays_of_weights_that_unfold(tmp_path):
    shape = MUCH // 4
    path = write_zip(tmp_path / "w.npz", {"a": (npy(f"({shape},)", "<f4"), MUCH)})
    assert path.stat().st_size < MUCH / 64
    refused(WeightsError, lambda: read(path), "promise 300,000,000 bytes; allowed: 268,435,456")
    refused(ParityError, lambda: open_case(str(path)), "promise 300,000,000 bytes")


def test_arrays_of_a_data_set_that_unfold(monkeypatch, tmp_path):
    monkeypatch.setattr(spec, "GENEROUS", 1)
    count = 60_001
    arrays = {"x_train": (npy(f"({count}, 28, 28)"), 0), "y_train": (npy(f"({count},)"), count)}
    arrays |= {"x_test": (npy("(1, 28, 28)"), 784), "y_test": (npy("(1,)"), 1)}
    arrays["x_train"] = (arrays["x_train"][0], count * 784)
    write_zip(tmp_path / "mnist.npz", arrays)
    refused(
        DataError, read_data("mnist", tmp_path), "promises 60001 examples; allowed: at most 60,000"
    )


def test_bytes_of_images_that_unfold(tmp_path):
    data = data_files.fake("cifar10")
    path = data_files.write_encoded_npz(tmp_path, "cifar10", *data)
    with zipfile.ZipFile(path) as archive:
        members = {n.removesuffix(".npy"): (archive.read(n), 0) for n in archive.namelist()}
    members["train_bytes"] = (npy(f"({MUCH},)", "<f8"), 8 * PIECE)
    write_zip(path, members)
    refused(DataError, read_data("cifar10", tmp_path), "size its header promises")


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_every_byte_of_weights_may_be_flipped(savez, tmp_path):
    path = tmp_path / "w.npz"
    arrays = {"a": np.arange(8, dtype=np.float32), "b": np.ones((2, 2), np.float32)}
    savez(path, **arrays)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        try:
            found = read(path).arrays
        except WeightsError as error:
            assert "\n" not in str(error)
        else:
            for name in found.keys() & arrays.keys():
                np.testing.assert_array_equal(found[name], arrays[name])


def test_every_byte_of_a_safetensors_header_may_be_flipped(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.arange(8, dtype=np.float32)}, path, {"config": "{}"})
    content = path.read_bytes()
    for at in range(len(content) - 32):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            try:
                read(path)
            except WeightsError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"{}",
        b"null",
        b"[1]",
        b'{"splits": 3}',
        b"\xff\xfe",
        b'{"splits": [[]]}',
        b"1" * 9_999,
    ],
)
def test_metadata_of_tfds_that_is_none(content, tmp_path):
    path = data_files.write_tfds(tmp_path, "mnist", *data_files.fake("mnist", 12, 10))
    (path / "dataset_info.json").write_bytes(content)
    with pytest.raises(DataError, match="dataset_info.json is corrupt|in the format None"):
        locate("mnist", tmp_path)


@pytest.mark.parametrize(
    "lengths", [["9" * 30], [-5], [str(2**62)], ["1e999"], [None], "12", [[1]]]
)
def test_metadata_of_tfds_that_promises_too_much(lengths, tmp_path):
    path = data_files.write_tfds(tmp_path, "mnist", *data_files.fake("mnist", 12, 10))
    info = json.loads((path / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["shardLengths"] = lengths
    (path / "dataset_info.json").write_text(json.dumps(info))
    refused(DataError, read_data("mnist", tmp_path), "is corrupt")


def test_large_and_foreign_images_are_not_decoded(tmp_path):
    data = data_files.fake("cifar10")
    for kind, size, said in (
        ("PNG", 9_000, "image 0 is 9000x9000, expected 32x32"),
        ("PNG", 12_000, "image 0 is 12000x12000, expected 32x32"),  # Pillow warns of it
        ("PNG", 50_000, "image 0 cannot be decoded"),  # and refuses this
        ("GIF", 32, "image 0 is none of JPEG, PNG"),
        ("BMP", 32, "image 0 is none of JPEG, PNG"),
        ("TIFF", 32, "image 0 is none of JPEG, PNG"),
    ):
        out = io.BytesIO()
        Image.new("RGB", (32, 32)).save(out, kind)
        content = out.getvalue()
        if kind == "PNG":
            header = b"IHDR" + struct.pack(">2I", size, size) + content[24:29]
            content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        one = np.frombuffer(content, np.uint8)
        changes = {
            "train_bytes": np.tile(one, 60),
            "train_offsets": np.arange(61) * len(one),
        }
        data_files.write_encoded_npz(tmp_path, "cifar10", *data, **changes)
        refused(DataError, read_data("cifar10", tmp_path), said)


# --- the list, the line -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", broken.UNREADABLE)
def test_what_a_broken_file_raises_becomes_a_line(kind):
    with (
        pytest.raises(DataError, match="^refused: .+$") as caught,
        broken.reading(lambda problem: DataError(f"refused: {problem}")),
    ):
        raise kind("one\ntwo")
    assert isinstance(caught.value.__cause__, kind) and "two" not in str(caught.value)


def test_what_is_no_fault_of_the_file_passes():
    for kind in (KeyboardInterrupt, DataError, SystemExit):
        with pytest.raises(kind, match="stop"), broken.reading(DataError):
            raise kind("stop")


def test_lines_are_short_and_printable():
    line = broken.first_line(ValueError("\x1b[2J" + "x" * 10_000))
    assert len(line) < 300 and line.isprintable() and line.endswith("...")
    assert broken.first_line(ValueError()) == "ValueError"
    assert broken.first_line(KeyError("a")) == "'a' is missing"
    assert re.match("no JSON: ", broken.first_line(json.JSONDecodeError("x", "y", 0)))


def test_the_checksum_of_the_rest():
    random = np.random.default_rng(0)
    for size in (0, 1, 1_000):
        head, rest = random.bytes(80), random.bytes(size)
        assert broken.crc_of_rest(head, zlib.crc32(head + rest), size) == zlib.crc32(rest)
