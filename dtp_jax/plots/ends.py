"""Names at the right margin, beside the ends of lines."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.style import INK, as_written

LINE_INCHES = 0.19
"""Height of a line of text."""
MARGIN_INCHES = 0.2
PLAIN = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "handlelength": 2.6}
NEAR = 0.1
"""A line ends near the margin where less than this share of the axis is right of it."""


class End(NamedTuple):
    """Where a line ends, in data coordinates, and what is written there."""

    text: str
    x: float
    y: float
    look: dict[str, Any]
    """Of the line."""


def write_ends(axis: Any, ends: Sequence[End], *, strokes: bool = True) -> None:
    """Writes every text at the margin, as near to its line's end as the others allow.

    Each has a piece of its line before it. The limits of the axis must be final.

    Args:
      strokes: from the lines that end near the margin to their texts.
    """
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    ends = sorted(ends, key=lambda end: -end.y)
    figure = axis.get_figure()
    ratios = axis.get_gridspec().get_height_ratios()
    share = ratios[axis.get_subplotspec().rowspan.start] / sum(ratios)
    inches = (figure.get_figheight() - 0.9) * share  # 0.9 for title and labels
    heights = [LINE_INCHES * (1.4 + end.text.count("\n")) / inches for end in ends]
    to_axis = axis.transData + axis.transAxes.inverted()
    points = [to_axis.transform((end.x, end.y)) for end in ends]
    places = spread([y for _, y in points], heights)
    margin = axis.transAxes + ScaledTranslation(MARGIN_INCHES, 0, figure.dpi_scale_trans)
    for end, (x, _), place in zip(ends, points, places, strict=True):
        if strokes and x > 1 - NEAR:
            stroke = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 3, "shrinkB": 4}
            where = {"xytext": (1, place), "textcoords": margin}
            axis.annotate("", (end.x, end.y), **where, arrowprops=stroke, annotation_clip=False)
        key = Line2D([], [], linewidth=2, markersize=6, **end.look)
        # A legend for each: it keeps its distances when the layout changes the width of the axes.
        anchor = {"loc": "center left", "bbox_to_anchor": (1, place), "bbox_transform": margin}
        name = axis.add_artist(Legend(axis, [key], [end.text], **anchor, **PLAIN))
        as_written(name.get_texts())
        name.set_clip_on(False)  # else the layout leaves no room for it


def spread(wanted: Sequence[float], heights: Sequence[float]) -> np.ndarray:
    """Places near the wanted ones, from 1 down to 0, at which things of these heights do not overlap.

    Args:
      wanted: descending.
    """
    places = np.clip(np.array(wanted, float), 0.0, 1.0)
    apart = [(a + b) / 2 for a, b in zip(heights, heights[1:], strict=False)]
    for i, distance in enumerate(apart):
        places[i + 1] = min(places[i + 1], places[i] - distance)
    if len(places):
        places[-1] = max(places[-1], 0.0)
    for i, distance in reversed(list(enumerate(apart))):
        places[i] = max(places[i], places[i + 1] + distance)
    return places
