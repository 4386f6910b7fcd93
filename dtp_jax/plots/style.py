"""What all pictures share: colours that colour-blind readers can tell apart, axes, files.

matplotlib is imported when something is drawn, and never opens a window.
"""

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, without its pale yellow."""
DASHES = ("-", "--", ":", "-.")
"""Once all colours are used, the next round has the next of these."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "h")
"""Their number shares no factor with that of the colours: 77 lines have looks of their own."""
HATCHES = ("", "///", "...", "xxx")
"""As `DASHES`, for areas."""
INK = "#555555"
"""Error bars and notes: visible on every colour, on light and on dark pages."""
DPI = 150
LINE_INCHES = 0.235
"""Of a legend."""


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> Any:
    """(figure, axes) as of `matplotlib.pyplot.subplots`, but that no window and no other figure knows of it.

    Args:
      size: (width, height) in inches.
      options: of `Figure.subplots`: sharex, sharey, squeeze, width_ratios, ...
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the line with this number."""
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": DASHES[number // len(COLORS) % len(DASHES)],
    }


def markers(number: int, points: int) -> dict[str, Any]:
    """Markers of the line with this number: at all points, or at about eight of many.

    They begin at another point in each line, so that lines that lie on each other both show.
    """
    step = max(1, round(points / 8)) if points > 20 else 1
    every = (number * step // 4 % step, step) if step > 1 else 1
    return {"marker": MARKERS[number % len(MARKERS)], "markersize": 5, "markevery": every}


def bar_style(number: int) -> dict[str, Any]:
    """Colour and hatch of the bars with this number."""
    return {
        "facecolor": COLORS[number % len(COLORS)],
        "hatch": HATCHES[number // len(COLORS) % len(HATCHES)],
        "edgecolor": "white",  # the hatch has this colour; there is no edge
        "linewidth": 0,
    }


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for the whole figure, under it, in as many columns as its width takes.

    The figure grows by what is more than two lines of it: what is drawn keeps its room.
    """
    width = figure.get_figwidth()
    labels = [textwrap.fill(label, int(10 * width)) for label in labels]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = int(width / (0.6 + 0.085 * longest))  # inches of a handle, a letter
    columns = min(max(1, columns), len(labels))
    entries = -(-len(labels) // columns)
    lines = max(
        sum(label.count("\n") + 1 for label in labels[first : first + entries])
        for first in range(0, len(labels), entries)
    )
    height = figure.get_figheight() + LINE_INCHES * max(0, lines - 2)
    figure.set_size_inches(width, height)
    found = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="medium",
    )
    as_written(found.get_texts())


def entitle(figure: Any, title: str) -> None:
    """A title at the left, in as many lines as it needs."""
    text = textwrap.fill(title, int(10.5 * figure.get_figwidth()))
    as_written([figure.suptitle(text, x=0.01, ha="left")])


def as_written(texts: Iterable[Any]) -> None:
    """Text of matplotlib that is no mathematics: a name may hold $."""
    for text in texts:
        text.set_parse_math(False)


def dress(axis: Any, x: str) -> None:
    """Label of the horizontal axis, a pale grid, no box."""
    axis.set_xlabel(x)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Any, *files: Path) -> None:
    """Writes the figure, in the format that each name ends with."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        # All at once: somebody may be about to read it, or to write it as well.
        temporary = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
        try:
            figure.savefig(temporary, dpi=DPI)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
