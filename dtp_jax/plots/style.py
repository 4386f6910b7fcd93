"""What all pictures share: colours that colour-blind readers can tell apart, axes, files.

matplotlib is imported when something is drawn, and never opens a window.
"""

import html
import io
import re
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


def svg(figure: Any, name: str, label: str) -> str:
    """The figure as one element of SVG for a page: no reference leads out of it, and it brings no font.

    Text stays text, in the page's own font. What is black takes the colour of the page's text, and nothing
    is painted behind the figure, so that it is at home on a light and on a dark page.

    Args:
      name: begins all ids of the element; letters, digits and hyphens. On a page no two figures have the same.
      label: what the figure shows, for readers who cannot see it.
    """
    import matplotlib

    clear = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata=clear)
    drawn = text.getvalue()
    for pattern, instead in SVG_CHANGES:
        drawn = pattern.sub(instead, drawn)
    drawn = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\1{name}-", drawn)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    _, box, content = re.split(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', drawn, maxsplit=1)
    return (
        f'<svg {box} width="{width}" height="{height}" role="img" aria-label="{html.escape(label)}" '
        'fill="currentColor" stroke-linejoin="round" stroke-linecap="butt">'
        f"<title>{html.escape(label)}</title>{content.strip()}"
    )


def unmarked(text: str) -> str:
    """Text of somebody else's as a figure shows it letter by letter: matplotlib sets $...$ as mathematics."""
    return text.replace("$", r"\$")


def _shorter(path: re.Match) -> str:
    """A path with hundredths of a point, and no more."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", "")


SVG_CHANGES = (
    (re.compile("<metadata>.*?</metadata>|<defs>\\s*<style.*?</defs>", re.S), ""),  # style: of the whole page
    (re.compile(r"font-family: [^;\"]*;? ?"), ""),
    (re.compile("#000000"), "currentColor"),
    (re.compile(r'\bd="[^"]*"'), _shorter),
)
"""(what matplotlib writes, what a page needs)."""
