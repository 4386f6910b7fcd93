"""Learning curves of runs: accuracy against epochs, or against minutes of training."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.ends import LINE_INCHES, End, write_ends
from dtp_jax.plots.gaps import split_at_gap
from dtp_jax.plots.style import dress, entitle, line_style, markers, subplots

NO_BREAK = "\u00a0"
TRAINING_NOTE = (
    "Thin: training accuracy. It is that of the weights while they move, on augmented images, which are harder: "
    "hence below validation."
)
"""For captions."""


class Curve(NamedTuple):
    """A run, by epoch (1, 2, ...)."""

    train: dict[int, float]
    """Accuracy in percent, mean over the steps of the epoch that move the weights."""
    val: dict[int, float]
    """Likewise, of the weights after it; empty where nothing was held out."""
    minutes: dict[int, float] = {}
    """Of training, up to the end of the epoch."""


class Group(NamedTuple):
    """Runs of one config with several seeds: one line and its band."""

    label: str
    curves: list[Curve]
    note: str = ""
    """Shown after the label."""
    number: int | None = None
    """Of its look (`line_style`); None: its place among the groups."""


class _Line(NamedTuple):
    """What is drawn of a group."""

    number: int
    group: Group
    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    thin: np.ndarray
    """Training accuracy, or nothing."""


def mean_and_spread(
    curves: Sequence[dict[int, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, mean, standard deviation) over the epochs that all curves have.

    The standard deviation is that of a sample (n - 1), and 0 for one curve.
    """
    epochs = sorted(set.intersection(*map(set, curves)))
    values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
    return np.array(epochs), values.mean(axis=0), spread


def draw_groups(
    groups: list[Group], title: str, *, against: str = "epoch", training: bool = False
) -> Any:
    """Figure of accuracy: means over seeds, with a band of one standard deviation.

    Of the validation images, or of the training images where no run held any out. At the right margin
    every line has its name and last value. Where a gap that no line crosses would take most of the
    axis (one rule at chance, ten others at 80 %), the axis is cut there. A group whose runs have no
    epoch in common is left out.

    Args:
      against: "epoch" or "minutes" of training, then on a logarithmic axis where runs differ by much.
      training: training accuracy too, as thin lines.
    """
    is_val = any(curve.val for group in groups for curve in group.curves)
    lines = [
        _line(n if group.number is None else group.number, group, is_val, against, training)
        for n, group in enumerate(groups)
    ]
    lines = [line for line in lines if np.isfinite(line.mean).any()]
    parts = _parts(lines)
    figure, axes = _axes(parts)
    for axis, part in zip(axes, parts, strict=True):
        for line in part:
            _draw(axis, line)
    _limit(axes, parts)
    _label_x(axes, lines, against)
    for axis, part in zip(axes, parts, strict=True):
        write_ends(axis, [_end(line) for line in part], strokes=against == "epoch")
    last = "at the end" if against == "minutes" else "in the last epoch"
    axes[0].annotate(
        f"{last}, %", (1, 1), xytext=(14, 3), xycoords="axes fraction", textcoords="offset points"
    )
    axes[0].set_ylabel(f"{'validation' if is_val else 'training'} accuracy, %")
    if training and is_val:
        figure.supxlabel(textwrap.fill(TRAINING_NOTE, 110), x=0.01, ha="left", fontsize="small")
    entitle(figure, title)
    return figure


def _line(number: int, group: Group, is_val: bool, against: str, training: bool) -> _Line:
    """Its points are at the epochs that all its runs have everything of that is drawn."""
    wanted = [curve.val if is_val else curve.train for curve in group.curves]
    if against == "minutes":
        known = set.intersection(*(set(curve.minutes) for curve in group.curves))
        wanted = [{e: value for e, value in one.items() if e in known} for one in wanted]
    x, mean, spread = mean_and_spread(wanted)
    epochs = x.tolist()
    if against == "minutes":
        x = np.array([np.mean([curve.minutes[e] for curve in group.curves]) for e in epochs])
    thin = np.array(
        [np.mean([curve.train.get(e, np.nan) for curve in group.curves]) for e in epochs]
    )
    return _Line(number, group, x, mean, spread, thin if training and is_val else thin[:0])


def _parts(lines: list[_Line]) -> list[list[_Line]]:
    """The lines above the widest gap between lines and those below, where it takes most of the axis."""
    values = [np.concatenate([line.mean, line.thin]) for line in lines]
    parts = split_at_gap([(np.nanmin(one), np.nanmax(one)) for one in values])
    return [[lines[i] for i in part] for part in parts if part] or [[]]


def _axes(parts: list[list[_Line]]) -> tuple[Any, list[Any]]:
    """A figure with room for the names in every part, and its axes from the top."""
    needed = [LINE_INCHES * sum(_text(line).count("\n") + 1.4 for line in part) for part in parts]
    inches = [max(0.6 if number else 3.4, height) for number, height in enumerate(needed)]
    if len(parts) > 1 and len(parts[0]) < len(parts[1]):  # most are below
        inches[1] = max(3.4 - inches[0], inches[1])
    figure, axes = subplots(
        len(parts), 1, size=(9, sum(inches) + 0.9), squeeze=False, height_ratios=inches, sharex=True
    )
    if len(parts) > 1:
        figure.get_layout_engine().set(hspace=0.03)
        _mark_cut(*axes[:, 0])
    return figure, list(axes[:, 0])


def _mark_cut(upper: Any, lower: Any) -> None:
    """Two slanted strokes where the vertical axis is cut."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", which="both", length=0)
    stroke = {"marker": [(-1, -0.5), (1, 0.5)], "markersize": 10, "mec": "black", "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, linestyle="", **stroke)
    lower.plot([0], [1], transform=lower.transAxes, linestyle="", **stroke)


def _draw(axis: Any, line: _Line) -> None:
    """The line of a group, its band, and a thin line of training accuracy."""
    style = line_style(line.number)
    look = markers(line.number, len(line.x))
    if line.group.note:  # it ended before it should
        axis.plot(line.x[-1:], line.mean[-1:], marker="x", markersize=11, mew=2.5, **style)
    axis.plot(line.x, line.mean, linewidth=2, label=line.group.label, **style, **look)
    low, high = line.mean - line.spread, line.mean + line.spread
    axis.fill_between(line.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if len(line.thin):
        axis.plot(line.x, line.thin, linewidth=0.8, **style)


def _limit(axes: list[Any], parts: list[list[_Line]]) -> None:
    """The smaller part of a cut axis has the scale of the larger one, where its lines fit."""
    if len(axes) == 1:
        return
    main = int(len(parts[1]) > len(parts[0]))
    large, small = axes[main], axes[1 - main]
    heights = axes[0].get_gridspec().get_height_ratios()
    low, high = large.get_ylim()
    bottom, top = small.get_ylim()
    reach = max((high - low) * heights[1 - main] / heights[main], top - bottom)
    middle = (bottom + top) / 2
    small.set_ylim(middle - reach / 2, middle + reach / 2)
    small.locator_params(axis="y", nbins=3)


def _label_x(axes: list[Any], lines: list[_Line], against: str) -> None:
    """Label and ticks of the lowest axis; those above it have none."""
    from matplotlib.ticker import LogLocator

    for axis in axes[:-1]:
        dress(axis, "")
        axis.spines["bottom"].set_visible(False)
    dress(axes[-1], "epoch" if against == "epoch" else "minutes of training")
    if against == "epoch":
        axes[-1].locator_params(axis="x", integer=True)
        return
    ends = [line.x[-1] for line in lines]
    if ends and max(ends) > 5 * min(ends) > 0:
        axes[-1].set_xscale("log")
        axes[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[-1].xaxis.set_major_formatter("{x:g}")
        axes[-1].xaxis.set_minor_formatter("")


def _text(line: _Line) -> str:
    """The name of a line with its last value, which is never parted."""
    value = f"{line.mean[-1]:.1f}"
    if len(line.group.curves) > 1:
        value += f"{NO_BREAK}±{NO_BREAK}{line.spread[-1]:.1f}"
    return textwrap.fill(f"{line.group.label}{line.group.note}  {value}", 34)


def _end(line: _Line) -> End:
    """Its name at the margin."""
    look = line_style(line.number) | {"marker": markers(line.number, 1)["marker"]}
    return End(_text(line), line.x[-1], line.mean[-1], look)
