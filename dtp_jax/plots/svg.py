"""Figures as SVG inside a page."""

import html
import io
import re
import warnings
from typing import Any

from dtp_jax.plots.style import INK


def _shorter(path: re.Match) -> str:
    """A path with hundredths of a point, and no more."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", "")


CHANGES = (
    (
        re.compile(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", re.S),
        "",
    ),  # styles of the whole page
    (re.compile(r"font-family: [^;\"]*;? ?"), ""),
    (re.compile(rf"(?i)#000000|{INK}"), "currentColor"),
    (re.compile(r'\bd="[^"]*"'), _shorter),
)
"""(what matplotlib writes, what a page needs)."""


def svg(figure: Any, name: str, label: str) -> str:
    """The figure as one element of SVG for a page: no reference leads out of it, and it brings no font.

    Text stays text, in the page's own font. What is black takes the colour of the page's text, and nothing
    is painted behind the figure, so that it is at home on a light and on a dark page.

    Args:
      name: begins all ids of the element; letters, digits and hyphens. On a page no two figures have the same.
      label: what the figure shows, for readers who cannot see it; "": the text beside it says that.
    """
    import matplotlib

    clear = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of letters that its font lacks, and a browser's may have
        figure.savefig(text, format="svg", transparent=True, metadata=clear)
    drawn = text.getvalue()
    for pattern, instead in CHANGES:
        drawn = pattern.sub(instead, drawn)
    drawn = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\1{name}-", drawn)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    _, box, content = re.split(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', drawn, maxsplit=1)
    said = html.escape(label)
    role = f'role="img" aria-label="{said}"' if label else 'aria-hidden="true"'
    title = f"<title>{said}</title>" if label else ""
    return (
        f'<svg {box} width="{width}" height="{height}" {role} fill="currentColor" '
        f'stroke-linejoin="round" stroke-linecap="butt">{title}{content.strip()}'
    )
