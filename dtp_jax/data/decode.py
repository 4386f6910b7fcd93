"""Decoding JPEG or PNG files to arrays, the same way for every source."""

import io
from collections.abc import Iterable

import numpy as np

from dtp_jax.data.spec import DatasetSpec, Progress, corrupt

_REPORT_EVERY = 1_000  # images


def decode_images(
    files: Iterable[bytes],
    count: int,
    spec: DatasetSpec,
    origin: str,
    progress: Progress | None = None,
) -> np.ndarray:
    """Decodes `count` encoded images to uint8 [count, H, W, C] (about 10,000 a second).

    Raises DataError naming `origin` and the first image that cannot be decoded or has another
    shape than `spec` says.
    """
    from PIL import Image

    images = np.empty((count, *spec.image_shape), np.uint8)
    mode = "L" if spec.image_shape[2] == 1 else "RGB"
    for index, file in enumerate(files):
        try:
            with Image.open(io.BytesIO(file)) as image:
                pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        except Exception as error:  # Pillow raises whatever its plugins raise
            raise corrupt(spec, origin, f"image {index} cannot be decoded ({error})") from error
        if pixels.shape[:2] != spec.image_shape[:2]:
            raise corrupt(
                spec,
                origin,
                f"image {index} is {pixels.shape[0]}x{pixels.shape[1]}, "
                f"expected {spec.image_shape[0]}x{spec.image_shape[1]}",
            )
        images[index] = pixels.reshape(spec.image_shape)
        if progress and ((index + 1) % _REPORT_EVERY == 0 or index + 1 == count):
            progress(f"decoding {spec.stored_as}", index + 1, count)
    return images
