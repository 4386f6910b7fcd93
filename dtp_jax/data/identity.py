"""Which data set it is: what the name of a folder says, and what the checksums of its arrays say.

MNIST, Fashion-MNIST and KMNIST have the same files, the two CIFARs nearly so. Where the arrays are
those of a known data set, that decides, whatever the names; else a name that says something does.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from dtp_jax.data.spec import DATASETS, DataError, DatasetSpec, Split, label_checksum

OFFICIAL: dict[str, dict[str, int | str]] = {
    "mnist": {
        "train_labels": 0xBA07E8EF,
        "test_labels": 0xEE8604D9,
        "train_images": 0xF3639B56,
        "test_images": 0xE4CA5F57,
    },
    "fashion_mnist": {
        "train_labels": 0x2ED6E46A,
        "test_labels": 0x242BC73F,
        "train_images": 0xAE65DCCD,
        "test_images": 0x12728439,
    },
    "kmnist": {
        "train_packed": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "test_packed": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    },
    "cifar10": {"train_labels": 0x4EE6AC62, "test_labels": 0xBADA58C9},
}
"""The CRC-32 of official labels, and of images, as uint8 in the original order; the SHA-256 of
packed official labels. Images are left out where copies of a data set may be encoded anew."""

EXACT = {"mnist": ("mnist",), "fashion_mnist": ("fashionmnist", "fmnist", "fashion")}
"""Names of folders, in small letters and digits alone."""
RELATIVES = (
    *(
        "k",
        "e",
        "q",
        "c",
        "m",
        "not",
        "k49",
        "kuzushiji",
        "kannada",
        "extended",
        "affine",
        "moving",
    ),
    *("permuted", "rotated", "rot", "binarized", "colored", "coloured", "noisy", "oracle"),
)
"""Words beside "mnist" in the names of its many relatives."""
ANOTHER = "another data set"


def said(folder: Path) -> str | None:
    """The data set of the MNIST family that the name of a folder says, or else that of its parent.

    ANOTHER is one of its relatives that are not known here; None says nothing.
    """
    return _said(_telling(folder))


def is_exact(folder: Path, spec: DatasetSpec) -> bool:
    """Whether the folder, or its parent where its own name says nothing, is called as the data set."""
    return "".join(_words(_telling(folder))) in EXACT.get(spec.stored_as, ())


def _telling(folder: Path) -> str:
    """The name that speaks of the data: the folder's, or its parent's, as in FashionMNIST/raw.

    A parent with a longer name than that of a data set speaks of other things.
    """
    own, parent = folder.resolve().name, folder.resolve().parent.name
    return own if _said(own) or len(_words(parent)) > 3 else parent


def _said(name: str) -> str | None:
    words = _words(name)
    if any("fashion" in word or word == "fmnist" for word in words):
        return "fashion_mnist"
    if any("mnist" in word and not re.fullmatch(r"mnist\d*", word) for word in words):
        return ANOTHER
    if not any("mnist" in word for word in words):
        return None
    return ANOTHER if set(words) & set(RELATIVES) else "mnist"


def _words(name: str) -> list[str]:
    """FashionMNIST, fashion-mnist and "Fashion MNIST" are the same two; KMNIST is one."""
    apart = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z\d]+", apart.lower())


def known(found: Mapping[str, int | str], spec: DatasetSpec) -> str | None:
    """The data set that one of these checksums is of; rather another one than the one that is asked."""
    names = [
        name
        for name, official in OFFICIAL.items()
        if any(key in official and official[key] == value for key, value in found.items())
    ]
    return min(names, key=lambda name: name == spec.stored_as, default=None)


def difference(found: Mapping[str, int | str], spec: DatasetSpec, counts: tuple[int, int]) -> str:
    """What is not as in the official data set, in some words; empty where nothing is."""
    official = (spec.train_examples, spec.test_examples)
    if counts != official:
        here, there = (" + ".join(f"{n:,}" for n in pair) for pair in (counts, official))
        return f"not the official data: {here} images, not {there}"
    differ = [
        kind
        for kind in ("labels", "images")
        for part in ("train", "test")
        if (key := f"{part}_{kind}") in found
        and found[key] != OFFICIAL.get(spec.stored_as, {}).get(key, found[key])
    ]
    kinds = " and ".join(dict.fromkeys(differ))
    return f"not the official {kinds}" if kinds else ""


def of_arrays(splits: tuple[Split, Split]) -> dict[str, int]:
    """The checksums of labels that were read."""
    parts = zip(("train", "test"), splits, strict=True)
    return {f"{part}_labels": label_checksum(split.labels) for part, split in parts}


def wrong(spec: DatasetSpec, path: object, found: str, by: str) -> DataError:
    """The error for data that is another data set than the one that is asked."""
    ask = f"ask for it with --config.dataset={found}, or " if found in DATASETS else ""
    return DataError(
        f"{spec.name}: {path} holds {found} by {by}, not {spec.stored_as}; "
        f"{ask}point --config.data_dir to a copy of {spec.stored_as}"
    )
