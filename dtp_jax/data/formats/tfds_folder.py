"""Data sets prepared by TensorFlow Datasets in the array_record format, without TensorFlow.

TFDS stores examples in the order of a fixed hash of their keys. Where the keys are the original
indices, the original order comes back exactly: from the examples' `id` where they have one
(CIFAR: `train_00017`), else by sorting the hashes of 0, 1, ... as TFDS did (MNIST,
Fashion-MNIST). The keys of ImageNet 32x32 are names of files, which are not stored: its order is
the stored one, in which the classes are mixed.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtp_jax import broken
from dtp_jax.data.formats.decode import CHUNK, decoded
from dtp_jax.data.spec import Blocks, DatasetSpec, Progress, checked_count, corrupt, reading


class _Layout(NamedTuple):
    """How TFDS stores a data set."""

    folder: str  # below the data folder; the versions are in it
    test: str = "test"  # name of the part that is for testing
    keyed_by_index: bool = True

    def stored_part(self, part: str) -> str:
        return self.test if part == "test" else part


_LAYOUTS = {
    "imagenet32": _Layout("imagenet_resized/32x32", test="validation", keyed_by_index=False)
}


def _layout(spec: DatasetSpec) -> _Layout:
    return _LAYOUTS.get(spec.stored_as) or _Layout(spec.stored_as)


def versions(folder: Path, spec: DatasetSpec) -> list[Path]:
    """The prepared versions of `spec` in `folder`, readable or not, oldest first.

    The folder may also be that of the versions, or a version itself, if the files say so.
    """
    below = "[0-9]*.[0-9]*.[0-9]*"
    named = [*(folder / _layout(spec).folder).glob(below)]
    told = [p for p in (folder, *folder.glob(below)) if holds(p, spec)]
    found = dict.fromkeys([*named, *told])
    return sorted((p for p in found if (p / "dataset_info.json").is_file()), key=_version)


def holds(path: Path, spec: DatasetSpec) -> bool:
    """Whether a version folder says of itself that it holds `spec`."""
    name, _, config = _layout(spec).folder.partition("/")
    return _told(path, "name") == name and (not config or _told(path, "configName") == config)


def told_name(path: Path) -> str:
    """The data set that a version folder says it holds; empty where it says nothing."""
    name = _told(path, "name")
    return name if isinstance(name, str) else ""


def _told(path: Path, key: str) -> Any:
    """An entry of the metadata; None where there is none that can be read."""
    try:
        return broken.json_of(path / "dataset_info.json").get(key)
    except broken.UNREADABLE:
        return None


def find(folder: Path, spec: DatasetSpec) -> Path | None:
    """The newest prepared array_record version of `spec` in `folder`."""
    readable = [path for path in versions(folder, spec) if why_unreadable(path) is None]
    return readable[-1] if readable else None


def expected(spec: DatasetSpec) -> str:
    """What `find` looks for, in words."""
    return f"{_layout(spec).folder}/<version>/ as prepared by TFDS in the array_record format"


def why_unreadable(path: Path) -> str | None:
    """Why a version folder is passed over: None where it can be read (or is corrupt)."""
    try:
        file_format = broken.json_of(path / "dataset_info.json").get("fileFormat")
    except broken.UNREADABLE:
        return None
    if file_format != "array_record":
        name = broken.first_line(file_format)
        return f"it is in the format {name}, which only TensorFlow reads"
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return "tensorflow-datasets is not installed"
    return None


def count(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """The numbers of train and test examples, from the metadata; checks that the files exist."""
    parts = ("train", _layout(spec).test)
    with reading(spec, path / "dataset_info.json"):
        info = broken.json_of(path / "dataset_info.json")
        lengths = {split["name"]: split["shardLengths"] for split in info["splits"]}
        counts = tuple(sum(map(int, lengths[part])) for part in parts)
    counts = tuple(
        checked_count(spec, part, count, path / "dataset_info.json")
        for part, count in zip(parts, counts, strict=True)
    )
    for part in parts:
        shards = len(list(path.glob(f"*-{part}.array_record-*-of-*")))
        if shards != len(lengths[part]):
            raise corrupt(spec, path, f"{part}: {shards} of {len(lengths[part])} files are there")
    return counts


def read(path: Path, spec: DatasetSpec, progress: Progress | None = None) -> tuple[Blocks, Blocks]:
    """Reads and decodes (train, test).

    In the original order, for which all records are fetched, and with that checked by their
    checksums, before any is decoded; in the stored order chunk by chunk.
    """
    parts = ("train", "test")
    if _layout(spec).keyed_by_index:
        records = [_original_order(path, spec, part) for part in parts]
    else:
        records = [_stored_order(path, spec, part) for part in parts]
    return tuple(
        decoded(chunks, count, spec, part, str(path), progress)
        for part, (count, chunks) in zip(parts, records, strict=True)
    )


def train_labels(path: Path, spec: DatasetSpec) -> np.ndarray:
    """The labels [N] of the training examples, in the stored order; decodes no image."""
    _, chunks = _stored_order(path, spec, "train")
    return np.concatenate([labels for _, labels in chunks])


class _Records(NamedTuple):
    """Examples as they are stored."""

    files: list[bytes]
    labels: np.ndarray
    ids: list[bytes]  # empty where the data set has none


Chunks = Iterator[tuple[Sequence[bytes], np.ndarray]]
"""Encoded images and their labels, `CHUNK` at a time."""


def _stored_order(path: Path, spec: DatasetSpec, part: str) -> tuple[int, Chunks]:
    """The number of examples of a part, and the examples in the order of the files."""
    source, _ = _open(path, spec, part)
    starts = range(0, len(source), CHUNK)
    chunks = (_fetch(source, path, spec, part, range(i, i + CHUNK)) for i in starts)
    return len(source), ((chunk.files, chunk.labels) for chunk in chunks)


def _original_order(path: Path, spec: DatasetSpec, part: str) -> tuple[int, Chunks]:
    """The number of examples of a part, and the examples in the order of their indices."""
    source, shuffled = _open(path, spec, part)
    size = len(source)
    records = _fetch(source, path, spec, part, range(size))
    order = _order_of_hashes(size, part) if shuffled else np.arange(size)
    if records.ids:
        order = _order_of_ids(records.ids, part)
        if order is None:
            raise corrupt(spec, path, f"{part}: ids are not {part}_00000 to {part}_{size - 1:05d}")
    chunks = (order[i : i + CHUNK] for i in range(0, size, CHUNK))
    return size, (([records.files[i] for i in chunk], records.labels[chunk]) for chunk in chunks)


def _open(path: Path, spec: DatasetSpec, part: str) -> tuple[Any, bool]:
    """TFDS's source of the records of a part, and whether they are in the order of hashes."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(path))
        decoders = {"image": tfds.decode.SkipDecoding()}
        source = builder.as_data_source(_layout(spec).stored_part(part), decoders=decoders)
        return source, not builder.info.disable_shuffling
    except Exception as error:  # malformed files raise anything in TFDS, protobuf or riegeli
        raise corrupt(spec, path, f"{part}: {broken.first_line(error)}") from error


def _fetch(source: Any, path: Path, spec: DatasetSpec, part: str, which: range) -> _Records:
    """The examples `which`, as far as there are so many; by the chunk, which is twice as fast."""
    which = which[: max(0, len(source) - which.start)]
    try:
        chunks = (which[i : i + CHUNK] for i in range(0, len(which), CHUNK))
        examples = [e for chunk in chunks for e in source.__getitems__(list(chunk))]
        files = [example["image"] for example in examples]
        labels = np.array([int(example["label"]) for example in examples])
        ids = [example["id"] for example in examples if "id" in example]
    except Exception as error:  # see _open
        raise corrupt(spec, path, f"{part}: {broken.first_line(error)}") from error
    return _Records(files, labels, ids)


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
