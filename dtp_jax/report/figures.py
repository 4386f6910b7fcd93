"""What a report draws: one small figure for each thing, so that a phone shows them one below the other."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax import broken
from dtp_jax.plots.bars import Series, draw_bars
from dtp_jax.plots.curves import mean_and_spread
from dtp_jax.plots.feedback import draw_feedback
from dtp_jax.plots.panels import Line, Panel, draw_panels
from dtp_jax.plots.style import line_style, markers, subplots
from dtp_jax.plots.svg import svg
from dtp_jax.report import words
from dtp_jax.report.folders import Group
from dtp_jax.report.reading import Reading, shown
from dtp_jax.report.series import ACCURACY, LEARNING, MEASURES, measured

SIZE = (4.6, 3.1)
"""Inches of a figure: beside another one on a desktop, alone on a phone."""
MOST_BANDS = 6
"""In a figure: those of more lines cover each other."""
MOST_BARS = 12
"""Of a figure that fits a phone."""


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
    lines = plot.lines if few else [line._replace(spread=()) for line in plot.lines]
    figure = draw_panels(
        [
            Panel(
                plot.y,
                [line._replace(label=f"{numbers[line.label]}") for line in lines],
                limits=_limits(lines),
            )
        ],
        plot.x,
        integer_x=plot.x != "minutes",
        numbers={f"{number}": number for number in numbers.values()},
    )
    for legend in figure.legends:
        legend.remove()
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
    room = max(high - low, 1e-3 * max(abs(high), abs(low)), 1e-12)
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


def curves(groups: Sequence[Group]) -> Section:
    """Accuracy and loss over the epochs, of validation and training images; accuracy against time."""
    plots = [Plot(one.name, one.title, _lines(groups, one.of), one.unit) for one in LEARNING]
    lines = _lines(groups, ACCURACY.of, _minutes)
    caption = "accuracy against time of training"
    plots.append(Plot("minutes", caption, lines, ACCURACY.unit, "minutes"))
    note = (
        "Training accuracy and loss are those of the weights while they move, on augmented images."
    )
    if any(len(group.runs) > 1 for group in groups):
        note += " Lines are means over the seeds"
        note += ", bands one standard deviation." if len(groups) <= MOST_BANDS else "."
    return section("curves", "Learning curves", plots, _labels(groups), note)


def _minutes(run: Reading) -> dict[int, float]:
    """Epoch -> minutes of training alone up to its end."""
    size = run.config.get("batch_size")
    return run.metrics.minutes(size) if size else {}


def alignment(groups: Sequence[Group]) -> list[Section]:
    """One section for every measure that was taken of weights, updates or Jacobians.

    Of several configs with a figure for each kernel, block or parameter; of one config in one figure.
    """
    found = []
    for measure, (title, unit) in MEASURES.items():
        name, measures = measure.replace("_", "-"), measured(groups, measure)
        if len(groups) > 1:
            plots = [Plot(one.name, one.title, _lines(groups, one.of), unit) for one in measures]
            made = section(name, title, plots, _labels(groups))
        else:
            together = [
                line._replace(label=one.title)
                for one in measures
                for line in _lines(groups, one.of)
            ]
            plots = [Plot("all", title, together, unit)]
            made = section(name, title, plots, [one.title for one in measures])
        if made.pictures:
            found.append(made)
    return found


def update_bars(
    labels: Sequence[str], angles: Mapping[str, Mapping[str, Sequence[float]]]
) -> Section | None:
    """Bars of update angles of kernels, or of all parameters where none is called so.

    Args:
      angles: label -> <block>/<parameter> -> degrees, one for each run.
    """
    names = list(dict.fromkeys(name for one in angles.values() for name in one))
    kernels = [name for name in names if name.endswith("/kernel")] or names
    if not kernels:
        return None

    def over(label: str, what: Callable[[Sequence[float]], float]) -> list[float]:
        return [what(angles[label].get(name, ())) for name in kernels]

    drawn = [
        Series(
            f" {label}"
            if label.startswith("_")
            else label,  # which matplotlib leaves out of a legend
            over(label, lambda v: round(float(np.mean(v)), 1) if len(v) else np.nan),
            over(label, lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else np.nan),
        )
        for label in labels
        if label in angles
    ]
    groups = [name.removesuffix("/kernel") for name in kernels]
    figure = draw_bars(groups, drawn, "degrees", top=95)
    figure.set_figheight(3.6)
    is_small = len(kernels) * len(drawn) <= MOST_BARS
    if is_small:
        figure.set_figwidth(SIZE[0])
    label = f"angles of updates to backprop's gradient, of {words.several(len(drawn), 'config')}"
    caption = "Kernels, after the last epoch; 0 is backprop's direction, 90 at right angles to it."
    picture = Picture(svg(figure, "update-bars", label), caption)
    return Section("update-bars", "Update angles", [picture], wide=not is_small)


def feedback(run: Reading, name: str, title: str) -> tuple[Section | None, str]:
    """The feedback training of one batch, the last one that was looked into: (figure, why there is none)."""
    steps = {
        int(m[1]): f for f in _files(run) if (m := re.fullmatch(r"feedback_(\d+)\.npz", f.name))
    }
    if not steps:
        return (
            None,
            "nobody has looked into the feedback training; --config.diagnostics_iterations=on does",
        )
    step = max(steps)
    try:
        arrays = broken.npz_arrays(steps[step])
        curves = {
            shown(n): np.asarray(values, float)
            for n, values in arrays.items()
            if values.ndim == 1 and values.size
        }
        figure = draw_feedback(curves)
    except broken.UNREADABLE as error:
        return None, shown(f"{steps[step].name} cannot be read: {broken.first_line(error)}")
    ends = ", ".join(f"{n} {v[0]:.3g} to {v[-1]:.3g}" for n, v in curves.items())
    caption = f"{title}, before step {step + 1}: loss, angle and distance over the iterations of one batch"
    return Section(
        name, title, [Picture(svg(figure, name, f"{caption}: {ends}"), caption)], wide=True
    ), ""


def _files(run: Reading) -> Iterable[Any]:
    try:
        return [file for file in (run.path / "figures").iterdir() if file.is_file()]
    except OSError:
        return []


def _labels(groups: Sequence[Group]) -> list[str]:
    return [group.label for group in groups]


def _lines(
    groups: Sequence[Group],
    read: Callable[[Reading], dict[int, float]],
    across: Callable[[Reading], dict[int, float]] | None = None,
) -> list[Line]:
    """One line for each config that has any numbers: the mean over its runs, in the epochs that all have.

    Args:
      across: epoch -> place on the horizontal axis, meaned as well; None: the epoch itself.
    """
    lines = []
    for group in groups:
        values = [found for run in group.runs if (found := read(run))]
        places = [across(run) for run in group.runs if read(run)] if across else values
        shared = [y.keys() & x.keys() for y, x in zip(values, places, strict=True)]
        if not shared or not set.intersection(*shared):
            continue
        values, places = (
            [
                {epoch: one[epoch] for epoch in known}
                for one, known in zip(side, shared, strict=True)
            ]
            for side in (values, places)
        )
        epochs, mean, spread = mean_and_spread(values)
        x = mean_and_spread(places)[1] if across else epochs
        lines.append(Line(group.label, x, mean, spread if len(values) > 1 else ()))
    return lines
