"""Decoding JPEG or PNG files to arrays, the same way for every source."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dtp_jax.broken import first_line
from dtp_jax.data.spec import DatasetSpec, Progress, Split, checked_split, corrupt

CHUNK = 1_000  # images that are decoded at a time
FORMATS = ("JPEG", "PNG")  # Pillow has fifty more, each with ways of its own to be misused


def decoded(
    chunks: Iterable[tuple[Sequence[bytes], np.ndarray]],
    count: int,
    spec: DatasetSpec,
    part: str,
    origin: str,
    progress: Progress | None = None,
) -> Iterator[Split]:
    """Decodes encoded images chunk by chunk (about 10,000 images a second).

    Takes pairs of encoded images and their labels [n], `count` examples in all; gives one `Split`
    for each pair. Raises DataError naming `origin` and the first image that cannot be decoded or
    has another shape than `spec` says.
    """
    if count == 0:
        raise corrupt(spec, origin, f"{part}: no examples")
    done = 0
    for files, labels in chunks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes and of odd metadata
            images = _decode(files, spec, f"{origin} ({part})", first=done)
        done += len(files)
        if progress:
            progress(f"decoding {spec.stored_as}", done, count)
        yield checked_split(spec, part, images, labels, origin)


def _decode(files: Sequence[bytes], spec: DatasetSpec, origin: str, first: int) -> np.ndarray:
    """uint8 [n, H, W, C] of n encoded images, which errors count from `first`."""
    from PIL import Image, UnidentifiedImageError

    images = np.empty((len(files), *spec.image_shape), np.uint8)
    mode = "L" if spec.image_shape[2] == 1 else "RGB"
    for index, file in enumerate(files):
        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                width, height = image.size  # from the header: a large one is never decoded
                if (height, width) == spec.image_shape[:2]:
                    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        except UnidentifiedImageError as error:
            problem = f"image {first + index} is none of {', '.join(FORMATS)}"
            raise corrupt(spec, origin, problem) from error
        except Exception as error:  # Pillow raises whatever its plugins raise
            problem = f"image {first + index} cannot be decoded ({first_line(error)})"
            raise corrupt(spec, origin, problem) from error
        if (height, width) != spec.image_shape[:2]:
            raise corrupt(
                spec,
                origin,
                f"image {first + index} is {height}x{width}, "
                f"expected {spec.image_shape[0]}x{spec.image_shape[1]}",
            )
        images[index] = pixels.reshape(spec.image_shape)
    return images
