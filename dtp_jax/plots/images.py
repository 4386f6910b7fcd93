"""Pixels as pictures of a page: PNG files in data: addresses."""

import base64
import io

import numpy as np


def data_uri(pixels: np.ndarray) -> str:
    """The picture as an address that an `img` of a page shows without a file.

    Args:
      pixels: uint8 (height, width, channels): grey or red, green, blue; one more is how far it covers the page.
    """
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def as_pixels(kernel: np.ndarray) -> np.ndarray:
    """A kernel as uint8: 0 is middle grey, the largest absolute value black or white; nan is middle grey.

    Args:
      kernel: any shape; the scale is its own.
    """
    kernel = np.nan_to_num(np.asarray(kernel, float), posinf=0, neginf=0)
    largest = np.abs(kernel).max(initial=0) or 1
    return np.round(127.5 + 127.5 * kernel / largest).astype(np.uint8)


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles side by side; between them and in places that stay empty the page shows through.

    Args:
      tiles: uint8 (count, height, width, channels).

    Returns:
      uint8 (height, width, channels + 1); the last channel is 255 in the tiles and 0 between them.
    """
    count, height, width, channels = tiles.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (rows * (height + 1) - 1, columns * (width + 1) - 1, channels + 1)
    canvas = np.zeros(shape, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        y, x = row * (height + 1), column * (width + 1)
        canvas[y : y + height, x : x + width, :-1] = tile
        canvas[y : y + height, x : x + width, -1] = 255
    return canvas
