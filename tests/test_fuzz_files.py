"""Damaged files of every format: read correctly, or refused in one line, and never with much memory.

FUZZ=12 tries twelve times as many. FUZZ_REPORT names a file that gets a line of JSON at the end.
"""

import json
import os
import resource
import shutil
from pathlib import Path

import data_files
import numpy as np
import pytest
from helpers import GOLDEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dtp_jax.data import DataError, download, load, locate
from dtp_jax.data.cache import cache_folder
from dtp_jax.export.weights import WeightsError, read
from dtp_jax.parity import ParityError, open_case

FACTOR = int(os.environ.get("FUZZ", "1"))
HEADROOM = 2 << 30  # bytes of address space beyond what is taken at the start
NUMBERS = [
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\0" * 4,
    b"99999999",
    b"-1",
    b"[" * 64,
    b"1e999",
    b"\x89PNG",
]
tried = 0


@pytest.fixture(scope="module", autouse=True)
def _report():
    yield
    if name := os.environ.get("FUZZ_REPORT"):
        with open(name, "a") as file:
            file.write(json.dumps({"what": "files", "tried": tried}) + "\n")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    data_files.isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(download, "why_unreachable", lambda remote: "the tests have no network")


@pytest.fixture(autouse=True)
def _bounded():
    """No more address space than a small file may ask for."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def where(data, size):
    """A position; beginnings and ends, where the headers are, come up as often as all the rest."""
    ends = st.integers(0, min(size, 200)) | st.integers(max(0, size - 400), size)
    return min(data.draw(ends | st.integers(0, size)), size)


def mutated(data, content):
    """The content with some bytes flipped, cut, added, removed or replaced by numbers of a header."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = where(data, len(content))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "delete", "edit"])):
            case "flip":
                flip = data.draw(st.integers(1, 255))
                content = (
                    content[:at] + bytes(b ^ flip for b in content[at : at + 1]) + content[at + 1 :]
                )
            case "cut":
                content = content[:at]
            case "insert":
                content = content[:at] + data.draw(st.binary(min_size=1, max_size=8)) + content[at:]
            case "delete":
                content = content[:at] + content[at + data.draw(st.integers(1, 64)) :]
            case "edit":
                number = data.draw(st.sampled_from(NUMBERS))
                content = content[:at] + number + content[at + len(number) :]
    return content


def one_line(error):
    """Errors of readers are for users. (Of data that is not there, they list where it may be.)"""
    text = str(error)
    assert "no data found" in text or "\n" not in text, text
    assert len(text) < 2_000 and text.isprintable() or "no data found" in text, text


def fuzz(files, read_back, refusals, examples, is_exact, expected):
    """Reads after each mutation of one of the files, which are put back.

    Args:
      is_exact: a read that is not refused gives what was written.
    """
    contents = {file: file.read_bytes() for file in files}

    @settings(
        max_examples=examples * FACTOR,
        deadline=None,
        database=None,
        derandomize=FACTOR == 1,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        global tried
        tried += 1
        file = data.draw(st.sampled_from(files))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mutated(data, contents[file]))
        try:
            found = read_back()
        except refusals as error:
            one_line(error)
        else:
            if is_exact:
                data_files.assert_same(found, expected)
        finally:
            for other, content in contents.items():
                other.parent.mkdir(parents=True, exist_ok=True)
                other.write_bytes(content)

    run()


def small(name):
    return data_files.fake(name, train=12, test=10)


DATA = {
    "idx": (
        "mnist",
        lambda f, d: data_files.write_idx(f / "mnist", "", *d, zipped=False),
        60,
        False,
    ),
    "idx gz": ("mnist", lambda f, d: data_files.write_idx(f / "mnist", "", *d), 60, True),
    "npz": ("mnist", lambda f, d: data_files.write_npz(f, "mnist", *d), 60, True),
    "jpeg npz": ("cifar10", lambda f, d: data_files.write_encoded_npz(f, "cifar10", *d), 30, True),
    "cifar": ("cifar10", lambda f, d: data_files.write_cifar_folder(f, "cifar10", *d), 30, False),
    "cifar tar": (
        "cifar100",
        lambda f, d: data_files.write_cifar_archive(f, "cifar100", *d),
        40,
        True,
    ),
    "imagenet": ("imagenet32", lambda f, d: data_files.write_imagenet(f, *d), 20, True),
    "imagenet zip": (
        "imagenet32",
        lambda f, d: data_files.write_imagenet(f, *d, packed=True),
        20,
        True,
    ),
    "tfds": ("mnist", lambda f, d: data_files.write_tfds(f, "mnist", *d), 12, True),
}


@pytest.mark.parametrize("form", DATA)
def test_data(form, tmp_path, monkeypatch):
    name, write, examples, is_exact = DATA[form]
    folder, expected = tmp_path / "data", small(name)
    write(folder, expected)
    (tmp_path / "no_cache").write_text("")
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path / "no_cache" / "below"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    data_files.assert_same(load(locate(name, folder)), expected)
    fuzz(
        files,
        lambda: load(locate(name, folder)),
        DataError,
        examples,
        is_exact,
        expected,
    )


def test_the_cache(tmp_path):
    """Whatever happens to an entry, the images are right."""
    expected = small("mnist")
    data_files.write_encoded_npz(tmp_path, "mnist", *expected)

    def read_back():
        return load(locate("mnist", tmp_path))

    read_back()
    files = sorted(path for path in cache_folder().rglob("*") if path.is_file())
    assert len(files) == 5
    fuzz(files, read_back, (), 60, True, expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", "compressed.npz"])
def test_weights(suffix, tmp_path):
    file = tmp_path / f"w{suffix}"
    arrays = {
        "forward/fc/kernel": np.arange(64, dtype=np.float32).reshape(8, 8),
        "forward/fc/bias": np.zeros(8, np.float32),
    }
    if suffix == ".safetensors":
        save_file(arrays, file, {"config": json.dumps({"epochs": 1})})
    else:
        (np.savez_compressed if "compressed" in suffix else np.savez)(file, **arrays)
    assert read(file).arrays.keys() == arrays.keys()
    fuzz([file], lambda: read(file), WeightsError, 80, False, None)


def test_recorded_cases(tmp_path):
    file = tmp_path / "case.npz"
    shutil.copy(GOLDEN / "ldrl_multi_sample.npz", file)
    fuzz([file], lambda: open_case(str(file)), ParityError, 10, False, None)
