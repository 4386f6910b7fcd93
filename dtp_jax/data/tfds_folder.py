"""Data sets prepared by TensorFlow Datasets in the array_record format, without TensorFlow.

TFDS stores examples in the order of a fixed hash of their keys. For the data sets here the keys
are the original indices, so the original order comes back exactly: from the examples' `id`
where they have one (CIFAR-10: `train_00017`), else by sorting the hashes of 0, 1, ... as TFDS
did (MNIST, Fashion-MNIST).
"""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax.data.decode import decode_images
from dtp_jax.data.spec import DatasetSpec, Progress, Split, checked_split, corrupt

_CHUNK = 1_000  # examples fetched at once: twice as fast as one by one


def find(folder: Path, spec: DatasetSpec) -> Path | None:
    """The newest prepared array_record version of `spec` in `folder`."""
    versions = [
        path
        for path in (folder / spec.stored_as).glob("[0-9]*.[0-9]*.[0-9]*")
        if (path / "dataset_info.json").is_file()
    ]
    readable = [path for path in versions if why_unreadable(path) is None]
    return max(readable, key=_version, default=None)


def why_unreadable(path: Path) -> str | None:
    """Why a version folder is passed over: None where it can be read (or is corrupt)."""
    try:
        file_format = json.loads((path / "dataset_info.json").read_text()).get("fileFormat")
    except (OSError, ValueError, AttributeError):
        return None
    if file_format != "array_record":
        return f"it is in the format {file_format}, which only TensorFlow reads"
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return "tensorflow-datasets is not installed"
    return None


def count(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the metadata; checks that the files exist."""
    try:
        info = json.loads((path / "dataset_info.json").read_text())
        lengths = {split["name"]: split["shardLengths"] for split in info["splits"]}
        counts = tuple(sum(map(int, lengths[part])) for part in ("train", "test"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(spec, path / "dataset_info.json", repr(error)) from error
    for part in ("train", "test"):
        shards = len(list(path.glob(f"*-{part}.array_record-*-of-*")))
        if shards != len(lengths[part]):
            raise corrupt(spec, path, f"{part}: {shards} of {len(lengths[part])} files are there")
    return counts


def read(path: Path, spec: DatasetSpec, progress: Progress | None = None) -> tuple[Split, Split]:
    """Reads and decodes (train, test) in the original order.

    All records are fetched, and with that checked by their checksums, before any is decoded.
    """
    parts = ("train", "test")
    records = {part: _fetch(path, spec, part) for part in parts}
    return tuple(_decode(path, spec, part, records[part], progress) for part in parts)


class _Records(NamedTuple):
    """The examples of one part as they are stored."""

    files: list[bytes]
    labels: np.ndarray
    ids: list[bytes]  # empty where the data set has none
    hashed: bool  # whether TFDS stored them in the order of their keys' hashes


def _fetch(path: Path, spec: DatasetSpec, part: str) -> _Records:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(path))
        decoders = {"image": tfds.decode.SkipDecoding()}
        source = builder.as_data_source(part, decoders=decoders)
        size = len(source)
        chunks = (range(i, min(i + _CHUNK, size)) for i in range(0, size, _CHUNK))
        examples = [e for chunk in chunks for e in source.__getitems__(list(chunk))]
        files = [example["image"] for example in examples]
        labels = np.array([int(example["label"]) for example in examples])
        ids = [example["id"] for example in examples if "id" in example]
    except Exception as error:  # malformed files raise anything in TFDS, protobuf or riegeli
        raise corrupt(spec, path, f"{part}: {error}") from error
    return _Records(files, labels, ids, not builder.info.disable_shuffling)


def _decode(
    path: Path, spec: DatasetSpec, part: str, records: _Records, progress: Progress | None
) -> Split:
    size = len(records.files)
    order = np.arange(size)
    if records.ids:
        order = _order_of_ids(records.ids, part)
        if order is None:
            raise corrupt(spec, path, f"{part}: ids are not {part}_00000 to {part}_{size - 1:05d}")
    elif records.hashed:
        order = _order_of_hashes(size, part)
    files = (records.files[i] for i in order)
    images = decode_images(files, size, spec, f"{path} ({part})", progress)
    return checked_split(spec, part, images, records.labels[order], str(path))


def _order_of_ids(ids: list[bytes], part: str) -> np.ndarray | None:
    """Where the examples 0, 1, ... are stored, from ids such as b"train_00017"."""
    try:
        original = np.array([int(i.decode().removeprefix(f"{part}_")) for i in ids])
    except ValueError:
        return None
    order = np.argsort(original, kind="stable")
    return order if np.array_equal(original[order], np.arange(len(ids))) else None


def _order_of_hashes(size: int, part: str) -> np.ndarray:
    """Where the examples 0, 1, ... are stored when their keys are their indices."""
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher(part)
    stored = sorted(range(size), key=hasher.hash_key)
    order = np.empty(size, np.int64)
    order[stored] = np.arange(size)
    return order


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) if number.isdigit() else -1 for number in path.name.split("."))
