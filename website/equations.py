r"""Equations as pictures: TeX between $ and $ becomes an SVG while the site is built.

A page so needs no script and no font for its equations, and looks the same in every browser. The SVG has
the colour of the text around it, and the TeX for whoever cannot see it.
"""

import hashlib
import html
import re
from functools import cache
from typing import Any

import ziamath
from docutils import nodes
from latex2mathml.converter import convert

SIZE = 16.0
"""Pixels of the text around an equation, in which the SVG's lengths are given: here as em."""
DISPLAYED = 1.1
"""Equations on a line of their own are larger by this factor."""

ziamath.config.math.color = "currentColor"
ziamath.config.svg2 = True


@cache
def picture(tex: str, displayed: bool) -> str:
    """The HTML of one equation.

    Args:
      displayed: on a line of its own.

    Raises:
      ValueError: the equation is not understood.
    """
    try:
        if "\\" in convert(tex):
            raise ValueError("it has a command that is none")
        drawn = ziamath.Latex(
            tex, size=SIZE * (DISPLAYED if displayed else 1), inline=not displayed
        )
        svg, below = drawn.svg(), drawn.getyofst()
    except Exception as problem:  # of any kind: the library has none of its own
        raise ValueError(f"the equation {tex!r} is not understood: {problem}") from problem
    # Glyphs are drawn once in an equation; those of another one may have another size.
    own = hashlib.sha256(f"{tex}{displayed}".encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|href="#)', rf"\g<1>{own}_", svg)
    for side in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*? {side}=")([\d.]+)(?:px)?"', _in_em, svg, count=1)
    label = html.escape(" ".join(tex.split()), quote=True)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    if displayed:
        return f'<div class="equation" tabindex="0">{svg}</div>'
    return f'<span class="equation" style="vertical-align:{below / SIZE:.3f}em">{svg}</span>'


def _in_em(found: re.Match[str]) -> str:
    return f'{found[1]}{float(found[2]) / SIZE:.3f}em"'


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Of an equation in a line."""
    translator.body.append(picture(node.astext(), False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Of an equation on a line of its own."""
    translator.body.append(picture(node.astext(), True))
    raise nodes.SkipNode
