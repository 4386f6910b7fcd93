"""The feedback training of one batch: loss, angle and distance of every map over its iterations."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dtp_jax.plots.style import COLORS, dress, subplots

ROWS = {"loss": "loss", "angle": "angle, °", "distance": "distance"}
MOST_COLUMNS = 6
"""Of maps beside each other; further ones stand below, in rows of their own."""
PANEL = (1.9, 1.35)
"""Inches."""
NO_ANGLE = "direct maps mirror no forward weights: no angle, no distance"


def draw_feedback(curves: Mapping[str, np.ndarray], title: str = "") -> Any:
    """Figure with a column for every map; rows loss, angle and distance to the forward weights.

    Every panel has its own scale, for maps differ by orders of magnitude, and says where its line starts
    and ends. Numbers that are not finite leave a gap.

    Args:
      curves: "loss/<map>", "angle/<map>", "distance/<map>", each (iterations,): what
        figures/feedback_<step>.npz holds. Without angles there is only the row of losses, and it says so.
    """
    maps = list(dict.fromkeys(name.partition("/")[2] for name in curves))
    kinds = [kind for kind in ROWS if any(f"{kind}/{one}" in curves for one in maps)]
    columns = min(len(maps), MOST_COLUMNS)
    bands = -(-len(maps) // columns)
    size = (max(4.5, 0.9 + PANEL[0] * columns), 0.9 + PANEL[1] * bands * len(kinds))
    figure, axes = subplots(bands * len(kinds), columns, size=size, squeeze=False)
    for number in range(bands * columns):
        band, column = divmod(number, columns)
        for row, kind in enumerate(kinds):
            axis = axes[band * len(kinds) + row, column]
            if number >= len(maps):
                axis.remove()
                continue
            _panel(axis, curves.get(f"{kind}/{maps[number]}", np.zeros(0)), COLORS[row])
            axis.set_xlabel("iteration" if row == len(kinds) - 1 else "")
            if row == 0:
                _name(axis, maps[number])
            if column == 0:
                axis.set_ylabel(ROWS[kind])
    figure.align_ylabels(list(axes[:, 0]))
    notes = [title, NO_ANGLE if kinds == ["loss"] else ""]
    figure.suptitle(
        "\n".join(filter(None, notes)), x=0.01, ha="left", fontsize="medium", parse_math=False
    )
    return figure


def _name(axis: Any, text: str) -> None:
    """Above a column; a name may hold anything."""
    options = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axis.annotate(text, (0, 1), (0, 15), weight="bold", annotation_clip=False, **options)


def _panel(axis: Any, values: np.ndarray, color: str) -> None:
    """One line, with its first and last value above it."""
    dress(axis, "")
    axis.tick_params(labelsize="small")
    axis.locator_params(axis="x", integer=True, nbins=4)
    axis.locator_params(axis="y", nbins=4)
    values = np.asarray(values, float)
    axis.plot(np.arange(1, len(values) + 1), values, color=color, marker="." * (len(values) == 1))
    if len(values):
        text = f"{values[0]:.3g} → {values[-1]:.3g}"
        axis.set_title(text, loc="left", fontsize="small", color="#555555", pad=2)
