"""What all pictures share: colours that colour-blind readers can tell apart, axes, files.

matplotlib is imported when something is drawn, and never opens a window.
"""

from pathlib import Path
from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, without its pale yellow."""
DASHES = ("-", "--", ":", "-.")
"""Once all colours are used, the next round has the next of these."""
DPI = 150


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


def dress(axis: Any, x: str) -> None:
    """Label of the horizontal axis, a pale grid, no box."""
    axis.set_xlabel(x)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Any, *files: Path) -> None:
    """Writes the figure, in the format that each name ends with."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=DPI)
