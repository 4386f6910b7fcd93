"""Downloading a data set and preparing it as TFDS would, without TensorFlow.

Everything happens in a temporary folder beside the destination, which a rename puts in place
when it is complete: a broken or killed download leaves no half-made data set behind.
"""

import hashlib
import http.client
import importlib.util
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dtp_jax.data.formats import cifar_binary, tfds_folder
from dtp_jax.data.prepare import Recipe, prepare
from dtp_jax.data.spec import Contents, DataError, DatasetSpec, Progress

PROBE_SECONDS = 3.0
_READ_TIMEOUT = 30.0  # seconds without a byte after which a download is given up
_BLOCK = 1 << 20  # bytes
_STALE = 24 * 3600  # seconds after which another run's temporary folder is rubbish
_NEEDED = ("tensorflow_datasets", "array_record", "importlib_resources", "PIL")


class Remote(NamedTuple):
    """An archive on the net, as in TFDS's registry of checksums, and how TFDS stores it."""

    url: str
    size: int  # bytes
    sha256: str
    read: Callable[[Path, DatasetSpec], Contents]
    recipe: Recipe


REMOTES: dict[str, Remote] = {
    "cifar10": Remote(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size=170_052_171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        read=cifar_binary.read_contents,
        recipe=Recipe(
            name="cifar10",
            builder="tensorflow_datasets.image_classification.cifar:Cifar10",
            id_format="{part}_{index:05d}",
        ),
    ),
    "cifar100": Remote(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size=168_513_733,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        read=cifar_binary.read_contents,
        recipe=Recipe(
            name="cifar100",
            builder="tensorflow_datasets.image_classification.cifar:Cifar100",
            id_format="{part}_{index:05d}",
        ),
    ),
}


def why_unreachable(remote: Remote) -> str | None:
    """Asks the host for the archive; None if it answers within `PROBE_SECONDS`, else the reason.

    The question runs in a thread of its own, for looking up a name cannot be timed out.
    """
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        return f"needs the packages {', '.join(missing)}"
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_probe(remote.url)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else f"no answer within {PROBE_SECONDS:g} s"


def _probe(url: str) -> str | None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        refused = error.code in (405, 501)  # the host is there, it only has no HEAD
        return None if refused else f"the host answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def fetch(spec: DatasetSpec, data_dir: Path, progress: Progress | None = None) -> Path:
    """Downloads `spec` into `data_dir` as a TFDS data set and returns its version folder.

    `progress` hears of bytes while downloading and of examples while preparing. Raises DataError
    where `data_dir` cannot be written, the transfer breaks or the checksum differs; nothing of
    the attempt is left then.
    """
    remote = REMOTES[spec.stored_as]
    prefix = f".incomplete-{spec.stored_as}-"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        for leftover in data_dir.glob(f"{prefix}*"):
            if time.time() - leftover.stat().st_mtime > _STALE:
                shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=data_dir))
    except OSError as error:
        raise DataError(
            f"{spec.name}: cannot be downloaded to {data_dir}: {error}. "
            "Give a folder that can be written with --config.data_dir."
        ) from error
    try:
        archive = work / remote.url.rsplit("/", 1)[-1]
        _transfer(remote, archive, spec, progress)
        contents = remote.read(archive, spec)
        prepared = prepare(remote.recipe, contents, work / "prepared", progress)
        return _put_in_place(prepared, spec, data_dir)
    except OSError as error:
        raise DataError(f"{spec.name}: preparing it in {data_dir} failed: {error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _transfer(remote: Remote, target: Path, spec: DatasetSpec, progress: Progress | None) -> None:
    """Streams the archive to `target` and checks its SHA-256."""
    digest, done, broke = hashlib.sha256(), 0, None
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=_READ_TIMEOUT) as answer,
            target.open("wb") as file,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    progress(f"downloading {spec.stored_as}", done, max(done, remote.size))
    except (OSError, http.client.HTTPException) as error:
        broke = error
    if digest.hexdigest() == remote.sha256 and not broke:
        return
    problem = f"it has the SHA-256 {digest.hexdigest()} instead of {remote.sha256}"
    if broke or done < remote.size:
        problem = f"it broke off after {done:,} of {remote.size:,} bytes"
    raise DataError(
        f"{spec.name}: the download of {remote.url} failed: {problem}"
        f"{f' ({broke})' if broke else ''}. Nothing is left of it. Run again to retry, or provide "
        "the data in a folder named by --config.data_dir."
    ) from broke


def _put_in_place(prepared: Path, spec: DatasetSpec, data_dir: Path) -> Path:
    """Renames the version folder `prepared` to where TFDS looks for it below `data_dir`.

    Where that place is taken, by a copy in a format that cannot be read here, the data goes to
    the subfolder "array_record" of `data_dir`, which `locate` searches as well.
    """
    if other := tfds_folder.find(data_dir, spec):
        return other  # another run was faster
    name_and_version = prepared.relative_to(prepared.parents[1])
    target = data_dir / name_and_version
    if target.exists() and any(target.iterdir()):  # TFDS leaves empty ones when it fails
        target = data_dir / "array_record" / name_and_version
    target.parent.mkdir(parents=True, exist_ok=True)
    prepared.rename(target)
    return target
