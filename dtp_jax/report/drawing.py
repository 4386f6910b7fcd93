"""Sections of small figures, each with one legend: a phone shows them one below the other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dtp_jax.plots.gaps import split_at_gap
from dtp_jax.plots.panels import Line, Panel, draw_panels
from dtp_jax.plots.style import line_style, markers, subplots
from dtp_jax.plots.svg import svg
from dtp_jax.report import words

SIZE = (4.6, 3.1)
"""Inches of a figure: beside another one on a desktop, alone on a phone."""
MOST_BANDS = 6
"""In a figure: those of more lines cover each other."""


class Picture(NamedTuple):
    """A figure of the page."""

    svg: str
    caption: str


class Key(NamedTuple):
    """An entry of a legend."""

    svg: str
    label: str


class Section(NamedTuple):
    """Figures that share a legend."""

    name: str
    title: str
    pictures: Sequence[Picture]
    keys: Sequence[Key] = ()
    note: str = ""
    wide: bool = False
    """Its figures keep their width, and a reader scrolls."""


class Plot(NamedTuple):
    """A figure that is still to be drawn."""

    name: str
    caption: str
    lines: Sequence[Line]
    y: str
    x: str = "epoch"


def section(
    name: str, title: str, plots: Iterable[Plot], labels: Sequence[str], note: str = ""
) -> Section:
    """Draws the plots that have lines, and their one legend.

    Args:
      labels: of all lines; the number of one gives it its look.
    """
    plots = [plot for plot in plots if plot.lines]
    seen = {line.label for plot in plots for line in plot.lines}
    numbers = {label: number for number, label in enumerate(labels)}
    keys = [
        Key(_swatch(f"{name}-key-{numbers[label]}", numbers[label]), label)
        for label in labels
        if label in seen
    ]
    pictures = [_picture(f"{name}-{plot.name}", plot, numbers) for plot in plots]
    return Section(name, title, pictures, keys if len(labels) > 1 else (), note)


def _picture(name: str, plot: Plot, numbers: Mapping[str, int]) -> Picture:
    """Lines far from most of the others, which would press these together, stand in the caption."""
    above, below = split_at_gap([_ends(line) for line in plot.lines])
    most, others = (above, below) if len(above) >= len(below) else (below, above)
    caption = plot.caption
    if others:
        far = "above" if others is above else "below"
        caption += f"; far {far}: {_last([plot.lines[i] for i in others])}"
    drawn = plot._replace(lines=[plot.lines[i] for i in most])
    return Picture(_draw(name, drawn, numbers, caption), caption)


def _ends(line: Line) -> tuple[float, float]:
    """Lowest and highest value; of a line without any, everything."""
    values = [value for value in line.mean if np.isfinite(value)]
    return min(values, default=-np.inf), max(values, default=np.inf)


def _last(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.label}: {words.significant(line.mean[-1])}" for line in lines)


def _draw(name: str, plot: Plot, numbers: Mapping[str, int], caption: str) -> str:
    """One panel of lines, without the legend that its section has."""
    few = len(plot.lines) <= MOST_BANDS
    lines = [
        line._replace(label=str(numbers[line.label]), spread=line.spread if few else ())
        for line in plot.lines
    ]
    figure = draw_panels(
        [Panel(plot.y, lines, limits=_limits(lines))],
        plot.x,
        integer_x=plot.x != "minutes",
        numbers={str(number): number for number in numbers.values()},
    )
    for legend in figure.legends:
        legend.remove()
    places = {float(x) for line in lines for x in line.x}
    if len(places) == 1:  # one epoch
        (place,) = places
        figure.axes[0].set_xlim(place - max(1, place / 100), place + max(1, place / 100))
    figure.set_size_inches(*SIZE)
    ends = _last(plot.lines)
    return svg(figure, name, f"{caption}: {plot.y} against {plot.x}. Last values: {ends}")


def _limits(lines: Sequence[Line]) -> tuple[float | None, float | None]:
    """Of the axis: room for the bands, as far as they do not press the means together."""
    means = np.concatenate([np.asarray(line.mean, float) for line in lines])
    spreads = np.concatenate(
        [line.spread if len(line.spread) else np.zeros(len(line.x)) for line in lines]
    )
    low, high = means.min(), means.max()
    room = max(high - low, 0.05 * max(abs(high), abs(low)), 1e-12)
    ends = (
        max((means - spreads).min(), low - room / 2),
        min((means + spreads).max(), high + room / 2),
    )
    return ends[0] - 0.06 * room, ends[1] + 0.06 * room


def _swatch(name: str, number: int) -> str:
    """What a line of this number looks like."""
    figure, axis = subplots(size=(0.5, 0.18))
    look = {**line_style(number), **markers(number, 3), "markevery": [1]}
    axis.plot([0, 1, 2], [0, 0, 0], linewidth=1.8, **look)
    axis.set_axis_off()
    return svg(figure, name, "")
