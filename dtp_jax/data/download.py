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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dtp_jax.data.formats import cifar_binary, idx, tfds_folder
from dtp_jax.data.prepare import Recipe, prepare
from dtp_jax.data.spec import Contents, DataError, DatasetSpec, Progress

PROBE_SECONDS = 3.0
_READ_TIMEOUT = 30.0  # seconds without a byte after which a download is given up
_BLOCK = 1 << 20  # bytes
_STALE = 24 * 3600  # seconds after which another run's temporary folder is rubbish
_NEEDED = ("tensorflow_datasets", "array_record", "importlib_resources", "PIL")


class RemoteFile(NamedTuple):
    """One file on the net."""

    name: str  # there and here
    size: int  # bytes
    sha256: str


class Remote(NamedTuple):
    """The files of a data set on the net and how TFDS stores what they hold."""

    url: str  # of the folder of the files
    files: tuple[RemoteFile, ...]
    read: Callable[[Path, DatasetSpec], Contents]  # from the folder with the downloaded files
    recipe: Recipe

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def address(self) -> str:
        """Of the file, or of the folder where there are several."""
        return self.url_of(self.files[0]) if len(self.files) == 1 else f"{self.url}/"

    def url_of(self, file: RemoteFile) -> str:
        """The whole URL of one of the files."""
        return f"{self.url}/{file.name}"


# Addresses, sizes and checksums are exactly those of TFDS's registry, which a test compares. TFDS
# has Fashion-MNIST by plain http, for its host serves nothing else; the checksums make up for it.
# MNIST's idx files could be kept as they are. Prepared like CIFAR, they need no second way: TFDS
# finds them too, and no folder's name has to tell MNIST from Fashion-MNIST.
REMOTES: dict[str, Remote] = {
    "cifar10": Remote(
        url="https://www.cs.toronto.edu/~kriz",
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        read=cifar_binary.read_contents,
        recipe=Recipe(
            name="cifar10",
            builder="tensorflow_datasets.image_classification.cifar:Cifar10",
            id_format="{part}_{index:05d}",
        ),
    ),
    "cifar100": Remote(
        url="https://www.cs.toronto.edu/~kriz",
        files=(
            RemoteFile(
                "cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        read=cifar_binary.read_contents,
        recipe=Recipe(
            name="cifar100",
            builder="tensorflow_datasets.image_classification.cifar:Cifar100",
            id_format="{part}_{index:05d}",
        ),
    ),
    "mnist": Remote(
        url="https://storage.googleapis.com/cvdf-datasets/mnist",
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        read=idx.read_contents,
        recipe=Recipe(
            name="mnist",
            builder="tensorflow_datasets.image_classification.mnist:MNIST",
        ),
    ),
    "fashion_mnist": Remote(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        read=idx.read_contents,
        recipe=Recipe(
            name="fashion_mnist",
            builder="tensorflow_datasets.image_classification.mnist:FashionMNIST",
        ),
    ),
}


def why_unreachable(remote: Remote) -> str | None:
    """Asks the host for the first file; None if it answers within `PROBE_SECONDS`, else the reason.

    One file stands for all, for they are in one folder. The question runs in a thread of its own,
    for looking up a name cannot be timed out.
    """
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        return f"needs the packages {', '.join(missing)}"
    answer: list[str | None] = []
    thread = threading.Thread(
        target=lambda: answer.append(_probe(remote.url_of(remote.files[0]))), daemon=True
    )
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
        done = 0
        for file in remote.files:
            for received in _transfer(remote.url_of(file), file, work / file.name, spec):
                done += received
                if progress:
                    progress(f"downloading {spec.stored_as}", done, max(done, remote.size))
        contents = remote.read(work, spec)
        prepared = prepare(remote.recipe, contents, work / "prepared", progress)
        return _put_in_place(prepared, spec, data_dir)
    except OSError as error:
        raise DataError(f"{spec.name}: preparing it in {data_dir} failed: {error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _transfer(url: str, file: RemoteFile, target: Path, spec: DatasetSpec) -> Iterator[int]:
    """Streams a file to `target`, gives the bytes of each block, and checks the SHA-256."""
    digest, done, broke = hashlib.sha256(), 0, None
    try:
        with (
            urllib.request.urlopen(url, timeout=_READ_TIMEOUT) as answer,
            target.open("wb") as out,
        ):
            while block := answer.read(_BLOCK):
                out.write(block)
                digest.update(block)
                done += len(block)
                yield len(block)
    except (OSError, http.client.HTTPException) as error:
        broke = error
    if digest.hexdigest() == file.sha256 and not broke:
        return
    problem = f"it has the SHA-256 {digest.hexdigest()} instead of {file.sha256}"
    if broke or done < file.size:
        problem = f"it broke off after {done:,} of {file.size:,} bytes"
    raise DataError(
        f"{spec.name}: the download of {url} failed: {problem}{f' ({broke})' if broke else ''}. "
        "Nothing that was downloaded is left. Run again to retry, or provide the data in a folder "
        "named by --config.data_dir."
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
