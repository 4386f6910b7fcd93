"""Confusion matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtp_jax.plots.style import COLORS, as_written, subplots

MOST_NUMBERS = 20
"""Classes up to which the cells have their percentages, and the axes the names."""


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Any:
    """Figure of how often the images of a class (rows) were taken for each class (columns), in % of the row.

    The darker a cell, the larger its share. Colour is alpha over the page, so that cells are readable on
    light and dark ones. Zeros have no number.

    Args:
      counts: (classes, classes), true class first.
    """
    from matplotlib.colors import to_rgb

    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axis = subplots(size=(4.9, 4.5))
    pixels = np.empty((classes, classes, 4))
    pixels[..., :3], pixels[..., 3] = to_rgb(COLORS[0]), share
    axis.imshow(pixels, interpolation="nearest")
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if classes > MOST_NUMBERS:
        return figure
    aslant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(classes), names, **(aslant if max(map(len, names)) > 2 else {}))
    axis.set_yticks(range(classes), names)
    as_written([*axis.get_xticklabels(), *axis.get_yticklabels()])
    for true, predicted in zip(*np.nonzero(counts)):
        value = share[true, predicted]
        text = f"{100 * value:.0f}" if value >= 0.01 else "<1"
        color = "#ffffff" if value > 0.5 else "#000000"
        axis.text(predicted, true, text, ha="center", va="center", color=color, fontsize=8)
    return figure
