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
from dtp_jax.plots.svg import svg, unmarked
from dtp_jax.report import words
from dtp_jax.report.folders import Group
from dtp_jax.report.reading import Reading, shown

SIZE = (4.6, 3.1)
"""Inches of a figure: beside another one on a desktop, alone on a phone."""
MEASURES = {
    "angle": ("Weight angle", "degrees"),
    "distance": ("Weight distance", "relative to the forward weights"),
    "norm_ratio": ("Norm ratio", "feedback over forward weights"),
    "update_angle": ("Update angle to backprop", "degrees"),
    "update_distance": ("Update distance to backprop", "relative"),
    "jacobian_distance": ("Distance of Jacobians", "relative"),
    "gauss_newton_angle": ("Angle to Gauss-Newton targets", "degrees"),
    "null_space_share": ("Share in the null space", "of the update"),
    "eigenvalue_trace": ("Trace of eigenvalues", "of J_F J_G"),
    "eigenvalue_positive": ("Positive eigenvalues", "share of J_F J_G's"),
}
"""What comes before the slash of a name in metrics.jsonl: its title, and its unit."""
AT_A_GLANCE = 8
"""Figures of a section; further ones are folded."""


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


def section(name: str, title: str, plots: Iterable[Plot], labels: Sequence[str], note: str = "") -> Section:
    """Draws the plots that have lines, and their one legend.

    Args:
      labels: of all lines; the number of one gives it its look.
    """
    plots = [plot for plot in plots if plot.lines]
    seen = {line.label for plot in plots for line in plot.lines}
    numbers = {label: number for number, label in enumerate(labels)}
    keys = [Key(_swatch(f"{name}-key-{numbers[label]}", numbers[label]), label) for label in labels if label in seen]
    pictures = [Picture(_draw(f"{name}-{plot.name}", plot, numbers), plot.caption) for plot in plots]
    return Section(name, title, pictures, keys if len(labels) > 1 else (), note)


def _draw(name: str, plot: Plot, numbers: Mapping[str, int]) -> str:
    """One panel of lines, without the legend that its section has."""
    lines = [line._replace(label=unmarked(line.label)) for line in plot.lines]
    looks = {unmarked(label): number for label, number in numbers.items()}
    figure = draw_panels([Panel(plot.y, lines)], plot.x, numbers=looks)
    for legend in figure.legends:
        legend.remove()
    figure.set_size_inches(*SIZE)
    if plot.x != "minutes":
        figure.axes[0].locator_params(axis="x", integer=True)
    ends = "; ".join(f"{line.label}: {words.significant(line.mean[-1])}" for line in plot.lines)
    return svg(figure, name, f"{plot.caption}: {plot.y} against {plot.x}. Last values: {ends}")


def _swatch(name: str, number: int) -> str:
    """What a line of this number looks like."""
    figure, axis = subplots(size=(0.5, 0.18))
    look = {**line_style(number), **markers(number, 3), "markevery": [1]}
    axis.plot([0, 1, 2], [0, 0, 0], linewidth=1.8, **look)
    axis.set_axis_off()
    return svg(figure, name, "")


def curves(groups: Sequence[Group]) -> Section:
    """Accuracy and loss over the epochs, of validation and training images; accuracy against time."""
    plots = []
    for split, images in (("val", "validation"), ("train", "training")):
        for name, factor, y in (("accuracy", 100, "accuracy, %"), ("loss", 1, "loss")):
            lines = _lines(groups, lambda run: _scaled(run.metrics.of(split).by_epoch(name), factor))
            plots.append(Plot(f"{split}-{name}", f"{images} {name}", lines, y))
    lines = _lines(groups, _over_minutes)
    plots.append(Plot("minutes", "accuracy against time", lines, "accuracy, %", "minutes"))
    note = "Training accuracy and loss are those of the weights while they move, on augmented images."
    if any(len(group.runs) > 1 for group in groups):
        note += " Lines are means over the seeds, bands one standard deviation."
    return section("curves", "Learning curves", plots, _labels(groups), note)


def _over_minutes(run: Reading) -> dict[float, float]:
    """Minutes -> accuracy in percent, of validation images, or else training images; of finished runs."""
    found = run.metrics.of("val").by_epoch("accuracy") or run.metrics.of("train").by_epoch("accuracy")
    if run.summary is None or not found:
        return {}
    per_epoch = run.summary["wall_seconds"] / 60 / max(found)
    return {epoch: (epoch * per_epoch, 100 * value) for epoch, value in found.items()}


def alignment(groups: Sequence[Group]) -> list[Section]:
    """One section for every measure of metrics.jsonl that compares weights, updates or Jacobians."""
    found = []
    for measure, (title, unit) in MEASURES.items():
        names = measured(groups, measure)
        if names:
            found.append(_over_epochs(groups, measure, names, title, unit))
    return found


def measured(groups: Sequence[Group], measure: str) -> list[str]:
    """What a measure was taken of, such as kernels: the part of the names after the slash."""
    names = [name for g in groups for run in g.runs for name in run.metrics]
    return [n.partition("/")[2] for n in dict.fromkeys(names) if n.startswith(f"{measure}/")]


def _over_epochs(
    groups: Sequence[Group], measure: str, names: Sequence[str], title: str, unit: str
) -> Section:
    """Of several configs a plot for each name; of one config all names in one plot."""
    lines = {
        name: _lines(groups, lambda run, name=name: series(run, f"{measure}/{name}"))
        for name in names
    }
    if len(groups) > 1:
        plots = [Plot(str(number), name, lines[name], unit) for number, name in enumerate(names)]
        return section(measure.replace("_", "-"), title, plots, _labels(groups))
    together = [line._replace(label=name) for name in names for line in lines[name]]
    return section(measure.replace("_", "-"), title, [Plot("all", title, together, unit)], names)


def series(run: Reading, name: str) -> dict[int, float]:
    """A measure by epoch, in whichever rows it is."""
    for split in ("diagnostics", "train"):
        if found := run.metrics.of(split).by_epoch(name):
            return found
    return {}


def last_values(group: Group, name: str) -> list[float]:
    """A measure after the last epoch, of every run that has it."""
    found = [series(run, name) for run in group.runs]
    return [one[max(one)] for one in found if one]


def update_bars(labels: Sequence[str], angles: Mapping[str, Mapping[str, Sequence[float]]]) -> Section | None:
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
            unmarked(label),
            over(label, lambda v: float(np.mean(v)) if len(v) else np.nan),
            over(label, lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else np.nan),
        )
        for label in labels
        if label in angles
    ]
    groups = [unmarked(name.removesuffix("/kernel")) for name in kernels]
    figure = draw_bars(groups, drawn, "degrees", top=95)
    label = f"angles of updates to backprop's gradient, of {words.several(len(drawn), 'config')}"
    caption = "Kernels, after the last epoch; 0 is backprop's direction, 90 at right angles to it."
    return Section("update-bars", "Update angles", [Picture(svg(figure, "update-bars", label), caption)], wide=True)


def feedback(run: Reading, name: str, title: str) -> tuple[Section | None, str]:
    """The feedback training of one batch, the last one that was looked into: (figure, why there is none)."""
    steps = {int(m[1]): f for f in _files(run) if (m := re.fullmatch(r"feedback_(\d+)\.npz", f.name))}
    if not steps:
        return None, "nobody has looked into the feedback training; --config.diagnostics_iterations=on does"
    step = max(steps)
    try:
        arrays = broken.npz_arrays(steps[step])
        curves = {
            shown(n): np.asarray(values, float) for n, values in arrays.items() if values.ndim == 1 and values.size
        }
        figure = draw_feedback(curves)
    except broken.UNREADABLE as error:
        return None, shown(f"{steps[step].name} cannot be read: {broken.first_line(error)}")
    ends = ", ".join(f"{n} {v[0]:.3g} to {v[-1]:.3g}" for n, v in curves.items())
    caption = f"{title}, before step {step + 1}: loss, angle and distance over the iterations of one batch"
    return Section(name, title, [Picture(svg(figure, name, f"{caption}: {ends}"), caption)], wide=True), ""


def _files(run: Reading) -> Iterable[Any]:
    try:
        return [file for file in (run.path / "figures").iterdir() if file.is_file()]
    except OSError:
        return []


def _labels(groups: Sequence[Group]) -> list[str]:
    return [group.label for group in groups]


def _scaled(values: Mapping[int, float], factor: float) -> dict[int, float]:
    return {epoch: factor * value for epoch, value in values.items()}


def _lines(groups: Sequence[Group], read: Callable[[Reading], dict[int, Any]]) -> list[Line]:
    """One line for each config that has any numbers: the mean over its runs, in the epochs that all have."""
    lines = []
    for group in groups:
        values = [found for run in group.runs if (found := read(run))]
        if not values:
            continue
        xs = [{e: v[0] if isinstance(v, tuple) else e for e, v in one.items()} for one in values]
        ys = [{e: v[1] if isinstance(v, tuple) else v for e, v in one.items()} for one in values]
        epochs, mean, spread = mean_and_spread(ys)
        if len(epochs):
            x = mean_and_spread(xs)[1]
            lines.append(Line(group.label, x, mean, spread if len(values) > 1 else ()))
    return lines
