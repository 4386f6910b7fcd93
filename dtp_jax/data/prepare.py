"""Writing a data set as TFDS itself would have prepared it, without TensorFlow.

TFDS's own preparation of the image data sets opens files through TensorFlow; only that part is
replaced here. Its builder still says what an example looks like, hashes the keys into TFDS's
order, and writes the array_record files and the metadata, so `tfds.builder(...)` finds the result.
"""

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.data.spec import Contents, Progress

_REPORT_EVERY = 1_000  # examples


class Recipe(NamedTuple):
    """Which TFDS builder's form the data is given."""

    name: str  # of the data set
    builder: str  # "module:class" of the TFDS builder
    id_format: str | None = None  # of the examples' `id`, where the builder has one


def prepare(
    recipe: Recipe, contents: Contents, folder: Path, progress: Progress | None = None
) -> Path:
    """Writes `contents` below `folder`, which must not hold the data set yet.

    Returns the version folder, `<folder>/<name>/<version>`.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    module, _, class_name = recipe.builder.partition(":")
    base: Any = getattr(importlib.import_module(module), class_name)
    before = {"train": 0, "test": len(contents.train.labels)}
    total = before["test"] + len(contents.test.labels)

    with registered.skip_registration():  # TFDS's own builder has the name already

        class Prepared(base):
            def _split_generators(self, dl_manager):
                for kind, names in contents.label_names.items():
                    if names:  # TFDS reads them from the archive, at this very point
                        self.info.features[kind].names = names
                return {part: self._generate(part) for part in before}

            def _log_download_bytes(self):
                pass  # prints to the terminal, past any progress bar

            _log_download_done = _log_download_bytes

            def _generate(self, part: str) -> Iterator[tuple[int, dict]]:
                for index, example in enumerate(_examples(contents, part, recipe.id_format)):
                    done = before[part] + index + 1
                    if progress and (done % _REPORT_EVERY == 0 or done == total):
                        progress(f"preparing {recipe.name}", done, total)
                    yield index, example  # the key that TFDS hashes is the original index

    Prepared.name, Prepared.__module__ = recipe.name, base.__module__
    builder = Prepared(data_dir=str(folder), file_format="array_record")
    # Without this, TFDS asks Google's servers for a copy first.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_config=config)
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_dir)


def _examples(contents: Contents, part: str, id_format: str | None) -> Iterator[dict]:
    images, labels = getattr(contents, part)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        example = {"image": encoded_png(image), "label": int(label)}
        if part in contents.coarse_labels:
            example["coarse_label"] = int(contents.coarse_labels[part][index])
        if id_format:
            example["id"] = id_format.format(part=part, index=index)
        yield example


def encoded_png(image: np.ndarray) -> bytes:
    """A uint8 image [H, W, C] with one or three channels as the bytes of a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
