"""Where a data set comes from: finding it fast, reading it once.

`locate` looks through the folders a user may have named and decodes nothing, so that a start-up
screen can say where the images will come from, or an error what is missing; `load` reads.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax import broken, fields
from dtp_jax.data import cache, download, identity
from dtp_jax.data.formats import cifar_binary, digits, idx, imagenet_npz, npz, tfds_folder
from dtp_jax.data.spec import (
    DATASETS,
    Blocks,
    DataError,
    DatasetSpec,
    Progress,
    Split,
    corrupt,
)


class Format(NamedTuple):
    """One form in which data sets are stored."""

    label: str
    find: Callable[[Path, DatasetSpec], Path | None]  # in exactly this folder
    count: Callable[[Path, DatasetSpec], tuple[int, int]]  # fast; (train, test)
    read: Callable[[Path, DatasetSpec, Progress | None], tuple[Blocks, Blocks]]
    cached: bool  # whether reading takes so long that the result is kept
    files: Callable[[Path], list[Path]] = lambda path: (
        [path] if path.is_file() else list(path.iterdir())
    )
    train_labels: Callable[[Path, DatasetSpec], np.ndarray] | None = None  # without the images
    labels_at_once: bool = False  # whether they lie apart, so that reading them takes a moment
    checksums: Callable[..., dict[str, int | str]] | None = None  # see `idx.checksums`; fast
    counts: bool = True  # whether `count` looks, rather than taking the usual numbers
    is_named_by_folder: bool = False  # the files have the same names in several data sets


def _whole(reader: Callable[..., tuple[Split, Split]]) -> Callable[..., tuple[Blocks, Blocks]]:
    def read(*args) -> tuple[Blocks, Blocks]:
        train, test = reader(*args)
        return [train], [test]

    return read


TFDS = Format(
    "tfds array_record",
    tfds_folder.find,
    tfds_folder.count,
    tfds_folder.read,
    cached=True,
    train_labels=tfds_folder.train_labels,
)
_KERAS_NPZ = Format(
    "npz",
    npz.find_pixels,
    npz.count_pixels,
    _whole(npz.read_pixels),
    cached=False,
    train_labels=npz.train_labels_of_pixels,
    labels_at_once=True,
    checksums=npz.checksums_of_pixels,
)
_JPEG_NPZ = Format(
    "jpeg npz",
    npz.find_encoded,
    npz.count_encoded,
    npz.read_encoded,
    cached=True,
    train_labels=npz.train_labels_of_encoded,
    labels_at_once=True,
    checksums=npz.checksums_of_encoded,
)
_IDX = Format(
    "idx files",
    idx.find,
    idx.count,
    _whole(idx.read),
    cached=False,
    files=idx.files,
    train_labels=idx.train_labels,
    labels_at_once=True,
    checksums=idx.checksums,
    is_named_by_folder=True,
)
_CIFAR_FOLDER = Format(
    "CIFAR binary files",
    cifar_binary.find_folder,
    cifar_binary.count_folder,
    _whole(cifar_binary.read_folder),
    cached=False,
    files=cifar_binary.files,
    train_labels=cifar_binary.train_labels,
    labels_at_once=True,
    checksums=cifar_binary.checksums_of_folder,
)
_CIFAR_ARCHIVE = Format(
    "CIFAR binary archive",
    cifar_binary.find_archive,
    cifar_binary.count_archive,
    _whole(cifar_binary.read_archive),
    cached=True,
    counts=False,
)
_IMAGENET_NPZ = Format(
    "ImageNet npz",
    imagenet_npz.find,
    imagenet_npz.count,
    imagenet_npz.read,
    cached=True,
    files=imagenet_npz.files,
    train_labels=imagenet_npz.train_labels,
)
_EMBEDDED = Format(
    "embedded in scikit-learn",
    lambda folder, spec: None,
    lambda path, spec: (spec.train_examples, spec.test_examples),
    _whole(digits.read_digits),
    cached=False,
)
FORMATS = (  # best first
    TFDS,
    _KERAS_NPZ,
    _JPEG_NPZ,
    _IDX,
    _CIFAR_FOLDER,
    _CIFAR_ARCHIVE,
    _IMAGENET_NPZ,
)


_PICKLES = (
    "which can run any program and are not read; the binary version of the archive holds the same"
)

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where the examples of a data set will be read from."""

    spec: DatasetSpec
    format: Format | None  # None: not there yet, `load` downloads it
    path: Path | None  # the file or folder; of a download, the folder that will hold it
    train_examples: int  # before any validation split
    test_examples: int
    remark: str = ""  # how the data differs from the official one

    @property
    def description(self) -> str:
        """One line for the start-up screen: the form and the place, and a remark."""
        if self.format is None:
            remote = download.REMOTES[self.spec.stored_as]
            return f"download of {remote.address} ({remote.size / 1e6:.0f} MB) to {self.path}"
        place = f"{self.format.label}, {self.path}" if self.path else self.format.label
        return f"{place} ({self.remark})" if self.remark else place


class _Place(NamedTuple):
    """Where a user may have data."""

    label: str  # as the user knows it
    path: Path
    problem: str = ""  # why it is not searched
    is_asked: bool = False  # named for this very data set, by a flag or an argument

    @property
    def file(self) -> Path | None:
        """The one file that the user has named."""
        return self.path if os.path.isfile(self.path) else None

    @property
    def takes_more(self) -> bool:
        """Whether a download may go there: it is no file, and no folder of one prepared data set."""
        return not (self.problem or self.file or tfds_folder.told_name(self.path))

    @property
    def folders(self) -> list[Path]:
        """The folders to search: the named one and those below it, or the one of the file."""
        if self.problem:
            return []
        return [self.path.parent] if self.file else _with_subfolders(self.path)


def locate(name: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Finds the data set `name` without decoding anything; takes 5 s at most.

    Looks in `data_dir`, `$DTP_JAX_DATA`, `$TFDS_DATA_DIR` and TFDS's default folder, and in the
    immediate subfolders of each; each may also name one file of a data set. Folders that are
    called as the data set come first. What is known to be another data set is never taken for
    this one: in `data_dir` it is an error, what an environment variable names is passed over.
    What is found nowhere will be downloaded by `load`, where that is possible and the host
    answers within 3 s.

    Raises ValueError for an unknown name, or where `data_dir` is no path on this machine;
    DataError where there is no data, or where what was found is seen to be corrupt or another
    data set.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset={name!r} is unknown: allowed are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    if spec.stored_as == "digits":
        return Source(spec, _EMBEDDED, None, spec.train_examples, spec.test_examples)
    places, passed_over = _places(data_dir), []
    for place in places:
        if source := _found(place, spec, passed_over):
            return source
        if place.file and place.is_asked:
            raise _not_its_file(place, spec)
    remote = download.REMOTES.get(spec.stored_as)
    reason = download.why_unreachable(remote) if remote else None
    target = next((place.path for place in places if place.takes_more), None)
    if remote and reason is None:
        if target is not None:
            return Source(spec, None, target, spec.train_examples, spec.test_examples)
        reason = "there is no folder for it"
    raise DataError(_missing(spec, places, passed_over, reason))


def load(source: Source, progress: Progress | None = None) -> tuple[Split, Split]:
    """Returns the decoded (train, test) of `source`, from the cache where they are there.

    Images are uint8 [N, H, W, C] and labels int32 [N], both in the original order; arrays from
    the cache are read-only maps of its files. A source that is not there yet is downloaded
    first. Raises DataError where the download breaks or the data is corrupt or another data set.
    """
    spec, form, path = source.spec, source.format, source.path
    if form is None:
        form, path = TFDS, download.fetch(spec, path, progress)
        source = Source(spec, form, path, *form.count(path, spec))
    splits = _read(source, progress)
    checksums = identity.of_arrays(splits)
    found = identity.known(checksums, spec)
    if found not in (None, spec.stored_as):
        raise identity.wrong(spec, path, found, "its labels")
    counts = tuple(len(split.labels) for split in splits)
    remark = identity.difference(checksums, spec, counts)
    if remark and not source.remark and path is not None:
        logger.warning("%s: %s (%s)", spec.name, path, remark)
    return splits


def _read(source: Source, progress: Progress | None) -> tuple[Split, Split]:
    """The arrays, from the cache or from the files."""
    spec, form, path = source.spec, source.format, source.path
    counts = source.train_examples, source.test_examples
    if form.cached:
        try:
            entry = cache.entry_name(spec.stored_as, path, form.files(path))
        except OSError as error:
            raise corrupt(spec, path, error) from error
        known = spec.image_shape, counts if form.counts else None
        if (cached := cache.load(entry, *known)) is not None:
            return cached
        if not cache.exists(entry):  # a damaged one that cannot be removed
            stored = cache.store(entry, lambda: form.read(path, spec, progress))
            if stored and (cached := cache.load(entry)) is not None:
                return _as_promised(cached, known[1], spec, path)
    blocks = form.read(path, spec, progress)
    splits = tuple(_joined(*part, spec, path) for part in zip(blocks, counts, strict=True))
    return _as_promised(splits, counts if form.counts else None, spec, path)


def _as_promised(
    splits: tuple[Split, Split],
    counts: tuple[int, int] | None,
    spec: DatasetSpec,
    path: Path | None,
) -> tuple[Split, Split]:
    """The arrays, if they have the numbers of examples that `locate` has found."""
    for split, count in zip(splits, counts or (None, None), strict=True):
        if count is not None and len(split.labels) != count:
            raise corrupt(spec, path, f"it does not hold the {count} examples that it promises")
    return splits


def _found(place: _Place, spec: DatasetSpec, passed_over: list[str]) -> Source | None:
    """The best form of the data set in a place; `passed_over` learns what was not taken, and why."""
    told = tfds_folder.told_name(place.path)
    if told and not tfds_folder.holds(place.path, spec):
        told = broken.first_line(told)
        wrong = identity.wrong(spec, place.path, told, "its dataset_info.json")
        if place.is_asked:
            raise wrong
        passed_over.append(_said(wrong, spec))
        return None
    for form in FORMATS:
        found = (_find(form, folder, spec) for folder in place.folders)
        paths = [path for path in dict.fromkeys(found) if path is not None]
        if place.file:
            paths = [path for path in paths if place.file in form.files(path)]
        if form.is_named_by_folder:
            paths.sort(key=lambda path: _rank(path, spec))
        for path in paths:
            judged = _judged(form, path, spec)
            if isinstance(judged, Source):
                return judged
            is_named = place.file or path in (place.path, place.path / "raw")
            is_meant = (
                (is_named and place.is_asked)
                or not form.is_named_by_folder
                or identity.is_exact(path, spec)
            )
            if is_meant and isinstance(judged, DataError):
                raise judged
            passed_over.append(_said(judged, spec))
    return None


def _said(problem: DataError | str, spec: DatasetSpec) -> str:
    """What is wrong with a place, as it stands in a list of them."""
    return str(problem).removeprefix(f"{spec.name}: ")


def _rank(path: Path, spec: DatasetSpec) -> int:
    """Folders that are called as the data set first, those that are called as another one last."""
    if identity.is_exact(path, spec):
        return 0
    said = identity.said(path)
    return 1 if said == spec.stored_as else 2 if said is None else 3


def _judged(form: Format, path: Path, spec: DatasetSpec) -> Source | DataError | str:
    """The source, or why it is none of this data set: an error where it is known to be another.

    Checksums decide, then the name of the folder, where the files' names do not tell. Raises
    DataError where it is corrupt.
    """
    said = identity.said(path) if form.is_named_by_folder else spec.stored_as
    by_name = said or "mnist"  # in a folder of another name
    try:
        counts = form.count(path, spec)
        checksums = _checksums(form, path, spec, counts)
    except DataError as error:
        if by_name == spec.stored_as:
            raise
        return str(error)
    found = identity.known(checksums, spec)
    if found not in (None, spec.stored_as):
        return identity.wrong(spec, path, found, "its checksums")
    if form is TFDS and not tfds_folder.holds(path, spec) and tfds_folder.told_name(path):
        told = broken.first_line(tfds_folder.told_name(path))
        return identity.wrong(spec, path, told, "its dataset_info.json")
    if found is None and by_name != spec.stored_as:
        names = f"its name says {said}" if said else "its name does not say so"
        return f"{path}: its checksums are not those of {spec.stored_as}, and {names}"
    remark = identity.difference(checksums, spec, counts)
    if found and said not in (None, spec.stored_as):
        remark = remark or f"{spec.stored_as} by its checksums, not by its name"
    return Source(spec, form, path, *counts, remark)


def _checksums(form: Format, path: Path, spec: DatasetSpec, counts: tuple[int, int]) -> dict:
    """Those of the parts that have the official size: others are of no official data set."""
    if form.checksums is None:
        return {}
    sizes = zip(("train", "test"), counts, (spec.train_examples, spec.test_examples), strict=True)
    parts = [part for part, count, official in sizes if count == official]
    kinds = ["labels", "packed"]
    if "test_images" in identity.OFFICIAL.get(spec.stored_as, ()):
        kinds.append("images")
    return form.checksums(path, spec, [f"{part}_{kind}" for part in parts for kind in kinds])


def _joined(blocks: Blocks, count: int, spec: DatasetSpec, path: Path | None) -> Split:
    """One array of all pieces, which are written into their places as they come."""
    pieces: Iterator[Split] = iter(blocks)
    first, second = next(pieces), next(pieces, None)
    if second is None:
        return first
    whole = Split(np.empty((count, *spec.image_shape), np.uint8), np.empty(count, np.int32))
    done = 0
    for piece in itertools.chain((first, second), pieces):
        here = slice(done, done + len(piece.labels))
        if here.stop > count:
            break
        whole.images[here], whole.labels[here] = piece
        done = here.stop
    if done != count:
        raise corrupt(spec, path, f"it does not hold the {count} examples that it promises")
    return whole


def _places(data_dir: str | os.PathLike | None) -> list[_Place]:
    """The places to search, in their order.

    Raises ValueError where one that is ours to understand is no path on this machine.
    """
    found = [
        _Place(f"{prefix}{name}", fields.local_path(name, value), is_asked=bool(prefix))
        for prefix, name, value in (
            ("--", "config.data_dir", data_dir),
            ("", "$DTP_JAX_DATA", os.environ.get("DTP_JAX_DATA")),
        )
        if value
    ]
    # TFDS itself reads from remote storage.
    if value := os.environ.get("TFDS_DATA_DIR"):
        try:
            found.append(_Place("$TFDS_DATA_DIR", fields.local_path("$TFDS_DATA_DIR", value)))
        except ValueError as error:
            found.append(_Place("$TFDS_DATA_DIR", Path(value), f"not searched: {error}"))
    with contextlib.suppress(ValueError):  # the user's home is not known
        default = fields.local_path("TFDS's default folder", "~/tensorflow_datasets")
        found.append(_Place("TFDS's default folder", default))
    return found


def _find(form: Format, folder: Path, spec: DatasetSpec) -> Path | None:
    try:
        return form.find(folder, spec)
    except OSError:  # a folder that may be listed but not entered
        return None


def _with_subfolders(root: Path) -> list[Path]:
    try:
        below = sorted(p for p in root.iterdir() if os.path.isdir(p) and p.name[0] != ".")
    except OSError:  # files in it may be found by their names
        return [root]
    return [root, *below]


def _why_closed(folder: Path) -> str:
    """Why a folder cannot be searched; empty where it can."""
    try:
        os.stat(os.path.join(folder, "."))  # whether it may be entered
        os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except PermissionError as error:
        return f"may not be read ({error.strerror})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def _not_its_file(place: _Place, spec: DatasetSpec) -> DataError:
    """The error for a place that is a file, but none of this data set."""
    is_pickles = cifar_binary.find_pickles(place.path.parent, spec) in (
        place.path,
        place.path.parent,
    )
    known = f" (pickles, {_PICKLES})" if is_pickles else ""
    return DataError(
        f"{spec.name}: {place.label} is {place.path}{known}; "
        f"allowed: a folder, or one file of {'; '.join(_ways(spec))}"
    )


def _missing(
    spec: DatasetSpec, places: list[_Place], passed_over: list[str], reason: str | None
) -> str:
    """The error for data that is nowhere: where it was looked for, how to provide it."""
    lines = [f"{spec.name}: no data found", "Looked in (and one level below):"]
    for place in places:
        lines += _looked_in(place, spec)
    lines += [f"  passed over: {problem}" for problem in passed_over]
    unset = [name for name in ("DTP_JAX_DATA", "TFDS_DATA_DIR") if not os.environ.get(name)]
    if unset:
        lines.append(f"  not set: {', '.join('$' + name for name in unset)}")
    lines += [*_download_note(spec, reason), "Any of these in one of those folders will do:"]
    lines += [f"  {way}" for way in _ways(spec)]
    return "\n".join(lines)


def _looked_in(place: _Place, spec: DatasetSpec) -> list[str]:
    """A place where the data is not: why it was not searched, or what in it was passed over."""
    is_other = f"no file of {spec.stored_as} that is read here" if place.file else ""
    problem = place.problem or is_other or _why_closed(place.path)
    lines = [f"  {place.path} ({place.label})" + (f": {problem}" if problem else "")]
    for folder in place.folders:
        if why := _why_closed(folder):
            lines += [f"    passed over {folder}: it {why}"] if folder != place.path else []
            continue
        for version in tfds_folder.versions(folder, spec):
            if why := tfds_folder.why_unreadable(version):
                lines.append(f"    passed over {version}: {why}")
        if pickles := cifar_binary.find_pickles(folder, spec):
            lines.append(f"    passed over {pickles}: pickles, {_PICKLES}")
    return lines


def _download_note(spec: DatasetSpec, reason: str | None) -> list[str]:
    if spec.stored_as == "imagenet32":
        return ["It is not downloaded: image-net.org gives it to registered users only."]
    remote = download.REMOTES.get(spec.stored_as)
    return [f"Download of {remote.address} is not possible: {reason}."] if remote else []


def _ways(spec: DatasetSpec) -> list[str]:
    name = spec.stored_as
    if name == "imagenet32":
        archives = " and ".join(imagenet_npz.ARCHIVES.values())
        return [tfds_folder.expected(spec), f"{archives} of image-net.org, or what they hold"]
    ways = [
        tfds_folder.expected(spec),
        f"{name}.npz with x_train, y_train, x_test, y_test",
        f"{name}_jpeg_train_test.npz with encoded images",
    ]
    if layout := cifar_binary.LAYOUTS.get(name):
        ways.append(f"{layout.archive}, or its unpacked {layout.folder}/")
    elif name in idx.STORED:
        ways.append(
            f"a folder {name}/ with train-images-idx3-ubyte[.gz] and the other three idx files"
        )
    return ways
