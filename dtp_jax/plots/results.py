"""Accuracies of several experiments: each seed, mean, standard deviation, and what others have published."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.bars import REFERENCE
from dtp_jax.plots.gaps import split_at_gap
from dtp_jax.plots.labels import plus_minus
from dtp_jax.plots.style import COLORS, INK, as_written, dress, entitle, legend_below, subplots

ROW_INCHES = 0.36
ROOM = 0.06
"""Left and right of all that is drawn, as a share of it."""
BELOW = 0.26
"""Of a line seeds are drawn, where the mean does not hide them."""
LEAST = 1.0
"""Width of the axis, at the least: what differs by less should not look as if it did."""


class Result(NamedTuple):
    """One experiment, a line of the picture."""

    label: str
    values: Sequence[float]
    """Of each seed."""
    published: float = math.nan
    published_spread: float = math.nan
    """Standard deviation; nan: none is known."""


def draw_results(results: Sequence[Result], x: str, *, title: str = "") -> Any:
    """Figure with a line for each experiment, the first on top; its mean in words at the right.

    The axis reaches over what is close together. Where most is (nine rules above 70 %, one at chance), what is
    far below stands at the left end as an arrow, with its value beside it.

    Args:
      x: what the axis measures, with its unit.

    Raises:
      ValueError: one line; there is nothing to draw, or an experiment has no values.
    """
    if not results:
        raise ValueError("there are 0 results; allowed: 1 or more")
    for one in results:
        if not len(one.values):
            raise ValueError(f"{one.label!r} has 0 values; allowed: 1 or more")
    figure, axis = subplots(size=(8.0, 1.3 + ROW_INCHES * len(results)))
    low, high = _limits(results)
    axis.set_xlim(low, high)
    for place, one in enumerate(results):
        _draw(axis, place, one, low)
    axis.set_ylim(len(results) - 0.4, -0.6)
    axis.set_yticks(range(len(results)), [one.label for one in results])
    as_written(axis.get_yticklabels())
    dress(axis, x)
    axis.grid(axis="y", visible=False)
    _write_means(axis, results)
    entitle(figure, title)
    keys, labels = axis.get_legend_handles_labels()
    found = dict(zip(labels, keys, strict=True))
    legend_below(figure, list(found.values()), list(found))
    return figure


def _limits(results: Sequence[Result]) -> tuple[float, float]:
    """Of the axis: all seeds and published values of the larger part, where a gap parts them in two."""
    spans = [_reach(one) for one in results]
    above, below = split_at_gap(spans)
    shown = above if len(above) >= len(below) else range(len(spans))
    low, high = min(spans[i][0] for i in shown), max(spans[i][1] for i in shown)
    if high - low < LEAST:
        low, high = (low + high - LEAST) / 2, (low + high + LEAST) / 2
    room = ROOM * (high - low)
    return low - room, high + room


def _reach(one: Result) -> tuple[float, float]:
    """From the lowest to the highest of all that is drawn of an experiment."""
    values = np.asarray(one.values, float)
    spread, known = _spread(values), np.nan_to_num(one.published_spread)
    ends = [*values, values.mean() - spread, values.mean() + spread]
    ends += [one.published - known, one.published + known]
    return float(np.nanmin(ends)), float(np.nanmax(ends))


def _spread(values: np.ndarray) -> float:
    """Standard deviation of a sample; 0 of one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _draw(axis: Any, place: int, one: Result, low: float) -> None:
    values, color = np.asarray(one.values, float), COLORS[0]
    mean = values.mean()
    axis.axhline(place, color=INK, linewidth=0.4, alpha=0.35, zorder=1)
    if mean < low:
        axis.plot(low, place, "<", color=color, markersize=8, clip_on=False, zorder=5)
        where = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{mean:.1f}", (low, place), fontsize="small", color=INK, **where)
    else:
        axis.errorbar(
            mean,
            place,
            xerr=_spread(values),
            fmt="|",
            color=color,
            markersize=15,
            markeredgewidth=2.5,
            elinewidth=2,
            capsize=4,
            zorder=5,
            label="mean ± one standard deviation",
        )
        axis.plot(
            values,
            np.full(len(values), place + BELOW),
            linestyle="",
            marker="o",
            markersize=5,
            color=COLORS[5],
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
            label="each seed",
        )
    if math.isfinite(one.published):
        if math.isfinite(one.published_spread):
            look = {"ecolor": INK, "elinewidth": 1.2, "capsize": 2.5, "fmt": "none", "zorder": 3}
            axis.errorbar(one.published, place, xerr=one.published_spread, **look)
        axis.plot(one.published, place, linestyle="", label="published", **REFERENCE)


def _write_means(axis: Any, results: Sequence[Result]) -> None:
    """Mean and standard deviation of each line, at the right of it."""
    right = axis.secondary_yaxis("right")
    texts = []
    for one in results:
        values = np.asarray(one.values, float)
        texts.append(plus_minus(values.mean(), _spread(values) if len(values) > 1 else None))
    right.set_yticks(range(len(results)), texts)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
