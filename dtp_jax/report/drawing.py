"""Sections of small figures, each with one legend: a phone shows them one below the other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

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
    pictures = [
        Picture(_draw(f"{name}-{plot.name}", plot, numbers), plot.caption) for plot in plots
    ]
    return Section(name, title, pictures, keys if len(labels) > 1 else (), note)


def _draw(name: str, plot: Plot, numbers: Mapping[str, int]) -> str:
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
    ends = "; ".join(f"{line.label}: {words.significant(line.mean[-1])}" for line in plot.lines)
    return svg(figure, name, f"{plot.caption}: {plot.y} against {plot.x}. Last values: {ends}")


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
