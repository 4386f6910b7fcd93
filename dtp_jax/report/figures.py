"""What a report draws of its runs."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax import broken
from dtp_jax.plots.bars import Series, draw_bars
from dtp_jax.plots.curves import mean_and_spread
from dtp_jax.plots.feedback import draw_feedback
from dtp_jax.plots.panels import Line
from dtp_jax.plots.svg import svg
from dtp_jax.report import words
from dtp_jax.report.drawing import MOST_BANDS, SIZE, Picture, Plot, Section, section
from dtp_jax.report.folders import Group, seeds_of
from dtp_jax.report.reading import Reading, shown
from dtp_jax.report.series import ACCURACY, LARGEST, LEARNING, MEASURES, measured
from dtp_jax.report.tables import CURVES, Table, feedback_ends
from dtp_jax.run.layout import counted

NOT_LOOKED_INTO = (
    "nobody has looked into the feedback training; --config.diagnostics_iterations=on does"
)
MOST_BARS = 12
"""Of a figure that fits a phone."""


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
        note += f" Lines, here and below, are means over {seeds_of(groups)}"
        note += ", bands one standard deviation." if len(groups) <= MOST_BANDS else "."
    return section("curves", "Learning curves", plots, _labels(groups), note)


def _minutes(run: Reading) -> dict[int, float]:
    """Epoch -> minutes of training alone up to its end."""
    size = run.config.get("batch_size")
    found = run.metrics.minutes(size) if size else {}
    return {epoch: minutes for epoch, minutes in found.items() if abs(minutes) < LARGEST}


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
            _in_legend(label),
            over(label, lambda v: round(float(np.mean(v)), 1) if len(v) else np.nan),
            over(label, lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else np.nan),
        )
        for label in labels
        if label in angles
    ]
    groups = [name.removesuffix("/kernel") for name in kernels]
    looks = {_in_legend(label): number for number, label in enumerate(labels)}
    figure = draw_bars(groups, drawn, "degrees", top=95, numbers=looks)
    figure.set_figheight(figure.get_figheight() - 1.0)
    is_small = len(kernels) * len(drawn) <= MOST_BARS
    if is_small:
        figure.set_figwidth(SIZE[0])
    label = f"angles of updates to backprop's gradient, of {counted(len(drawn), 'config')}"
    caption = "Kernels, after the last epoch; 0 is backprop's direction, 90 at right angles to it."
    picture = Picture(svg(figure, "update-bars", label), caption)
    return Section("update-bars", "Update angles", [picture], wide=not is_small)


def _in_legend(label: str) -> str:
    """The label so that matplotlib does not take it for one of its own, which it leaves out."""
    return f" {label}" if label.startswith("_") else label


class Inside(NamedTuple):
    """The feedback training of one batch."""

    section: Section | None
    """None where no pictures are drawn."""
    ends: Table


def feedback(
    run: Reading, name: str, title: str, *, pictures: bool = True
) -> tuple[Inside | None, str]:
    """The feedback training of one batch, the last one that was looked into: (it, why there is none)."""
    steps = {
        int(m[1]): f for f in _files(run) if (m := re.fullmatch(r"feedback_(\d+)\.npz", f.name))
    }
    if not steps:
        return None, NOT_LOOKED_INTO
    step = max(steps)
    try:
        arrays = broken.npz_arrays(steps[step])
        curves = {
            shown(n): np.asarray(values, float)
            for n, values in arrays.items()
            if values.ndim == 1 and values.size and n.partition("/")[0] in CURVES
        }
        if not curves:
            raise ValueError("it holds no curves")
        what = f"Feedback training in one batch, {title}, before step {step + 1}"
        table = feedback_ends(curves, what)
        section = _iterations(curves, step, name, title) if pictures else None
    except broken.UNREADABLE as error:
        return None, shown(f"{steps[step].name} cannot be read: {broken.first_line(error)}")
    return Inside(section, table), ""


def _iterations(curves: Mapping[str, np.ndarray], step: int, name: str, title: str) -> Section:
    ends = ", ".join(f"{n} {words.ends(v[0], v[-1])}" for n, v in curves.items())
    caption = f"Before step {step + 1}: loss, angle and distance over the iterations of one batch"
    drawn = svg(draw_feedback(curves), name, f"{title}. {caption}: {ends}")
    return Section(name, title, [Picture(drawn, caption)], wide=True)


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
    """One line for each config that has any numbers: the mean over its seeds, in the epochs that all have.

    Args:
      across: epoch -> place on the horizontal axis, meaned as well; None: the epoch itself.
    """
    lines = []
    for group in groups:
        runs = [one for run in group.counted if (one := _points(run, read, across))]
        if runs and set.intersection(*map(set, runs)):
            x, y = ([{n: at[side] for n, at in one.items()} for one in runs] for side in (0, 1))
            _, mean, spread = mean_and_spread(y)
            spread = spread if len(runs) > 1 else ()
            lines.append(Line(group.label, mean_and_spread(x)[1], mean, spread))
    return lines


def _points(
    run: Reading, read: Callable[..., dict], across: Callable[..., dict] | None
) -> dict[int, tuple[float, float]]:
    """Epoch -> place and number, in the epochs that have both."""
    numbers = read(run)
    places = across(run) if across else {epoch: epoch for epoch in numbers}
    return {n: (places[n], number) for n, number in numbers.items() if n in places}
