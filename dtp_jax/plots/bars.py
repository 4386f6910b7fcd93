"""Grouped bars with error bars, beside what others have published."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.style import INK, as_written, bar_style, dress, entitle, legend_below, subplots

TINY = 0.03
"""Bars below this share of the axis have their value above them."""
ERROR_BAR = {"ecolor": INK, "elinewidth": 1.2, "capsize": 2.5, "zorder": 5}
REFERENCE = {"marker": "D", "markersize": 5, "mfc": "white", "mec": INK, "zorder": 6}


class Series(NamedTuple):
    """The bars of one colour: one for each group, in the order of the groups. nan: no bar there."""

    label: str
    means: Sequence[float]
    spreads: Sequence[float] = ()
    """Half the length of each error bar; nan, or () for all: none."""
    published: Sequence[float] = ()
    """A reference value for each bar; nan, or () for all: none."""
    published_spreads: Sequence[float] = ()


def draw_bars(
    groups: Sequence[str],
    series: Sequence[Series],
    y: str,
    *,
    title: str = "",
    top: float = 0.0,
    log: bool = False,
    error_bars: str = "± one standard deviation",
    reference: str = "published",
    numbers: dict[str, int] | None = None,
) -> Any:
    """Figure of one bar per series in every group. Twelve series can be told apart, by colour and hatch.

    A bar of length 0 is a line at the bottom; short ones have their value above them. A missing bar is
    a gap.

    Args:
      groups: names under the axis.
      y: what the axis measures, with its unit.
      top: the axis reaches at least so far (95 for angles to backprop's gradient).
      log: a logarithmic axis; it starts at a power of ten below all bars.
      error_bars: what they are; the legend says so.
      reference: what the markers beside the bars are.
      numbers: label -> number of its look (`bar_style`), where another picture has given it one.

    Raises:
      ValueError: one line; there is nothing to draw, two series have one label, or one is not as long
        as there are groups.
    """
    if not (groups and series):
        raise ValueError(f"{len(groups)} groups, {len(series)} series; allowed: 1 or more of both")
    if len({one.label for one in series}) < len(series):
        raise ValueError("two series have the same label; allowed: a label for each")
    tables = [_table(one, len(groups)) for one in series]
    every = np.concatenate(tables, axis=1)
    width = 0.84 / len(series)
    size = (min(10.0, max(6.0, 1.6 + len(groups) * (0.5 + 0.22 * len(series)))), 4.6)
    figure, axis = subplots(size=size)
    if log:
        axis.set_yscale("log")
    axis.set_ylim(*_limits(every, top, log))
    looks = {
        one.label: bar_style((numbers or {}).get(one.label, n)) for n, one in enumerate(series)
    }
    for number, (look, table) in enumerate(zip(looks.values(), tables, strict=True)):
        x = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        _series(axis, x, table, width, look)
        _write_short(axis, x, table)
    _name_groups(axis, groups, figure.get_figwidth())
    axis.set_ylabel(y)
    entitle(figure, title)
    has_errors, has_references = np.isfinite(every[1:3]).any(axis=1)
    _legend(figure, looks, error_bars if has_errors else "", reference if has_references else "")
    return figure


def _name_groups(axis: Any, groups: Sequence[str], inches: float) -> None:
    """Names under the axis, aslant where there is no room."""
    aslant = max(map(len, groups)) * len(groups) > 12 * inches  # letters of an inch
    dress(axis, "")
    axis.grid(axis="x", visible=False)
    axis.set_axisbelow(True)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.set_xticks(range(len(groups)), groups)
    as_written(axis.get_xticklabels())
    if aslant:
        axis.tick_params(axis="x", rotation=30)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right")


def _legend(figure: Any, looks: dict[str, Any], error_bars: str, reference: str) -> None:
    """One entry per series, and for what else is drawn; none where there is one thing."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = {label: Patch(**look) for label, look in looks.items()}
    if error_bars:
        keys[error_bars] = Line2D([], [], color=INK, marker="|", linestyle="", markersize=11)
    if reference:
        keys[reference] = Line2D([], [], linestyle="", **REFERENCE)
    if len(keys) > 1:
        legend_below(figure, list(keys.values()), list(keys))


def _table(one: Series, count: int) -> np.ndarray:
    """Means, spreads, published means, their spreads: an array (4, count); what is not finite is nan."""
    rows = np.full((4, count), np.nan)
    for row, (name, values) in zip(rows, list(one._asdict().items())[1:], strict=True):
        if len(values) != (count if name == "means" or len(values) else 0):
            raise ValueError(
                f"{name} of {one.label!r} has {len(values)} values; allowed: {count}, one per group"
            )
        if len(values):
            row[:] = values
    return np.where(np.isfinite(rows), rows, np.nan)


def _limits(tables: np.ndarray, top: float, log: bool) -> tuple[float, float]:
    """Of the axis: room for all bars with their error bars, for references, and above them."""
    means, spreads = tables[::2], np.nan_to_num(tables[1::2])
    ends = (means + spreads)[np.isfinite(means)]
    high = max([top, *1.03 * ends])
    if not log:  # an error bar may be cut at 0, no bar may
        lowest = min((means - spreads)[np.isfinite(means)]) if (means < 0).any() else 0.0
        return 1.03 * lowest, high or 1.0
    positive = means[means > 0]
    low = 10.0 ** np.floor(np.log10(positive.min()) - 0.01) if positive.size else 0.1
    return low, max(2 * high, 10 * low)


def _series(
    axis: Any, x: np.ndarray, table: np.ndarray, width: float, look: dict[str, Any]
) -> None:
    """The bars of one series, with error bars and references."""
    means, spreads, published, published_spreads = table
    is_log = axis.get_yscale() == "log"
    base = axis.get_ylim()[0] if is_log else 0.0
    there = np.isfinite(means)
    height = np.maximum(means[there] - base, 0 if is_log else -np.inf)
    axis.bar(x[there], height, width=0.92 * width, bottom=base, **look)
    half = 0.46 * width
    axis.hlines(  # a bar of length 0 is seen; above the line of the axis
        *(np.full(there.sum(), base), x[there] - half, x[there] + half),
        **{"color": look["facecolor"], "linewidth": 2.5, "clip_on": False, "zorder": 4},
    )
    shift = 0.2 * width * np.isfinite(published)  # so that both error bars are seen
    for at, values, errors in (
        (x - shift, means, spreads),
        (x + shift, published, published_spreads),
    ):
        drawn = np.isfinite(values) & np.isfinite(errors)
        axis.errorbar(at[drawn], values[drawn], errors[drawn], fmt="none", **ERROR_BAR)
    axis.plot(x + shift, published, linestyle="", clip_on=False, **REFERENCE)


def _write_short(axis: Any, x: np.ndarray, table: np.ndarray) -> None:
    """Values of the bars that are too short to be read, above all that is drawn there."""
    means, spreads, published, published_spreads = table
    to_data = (axis.transAxes + axis.transData.inverted()).transform
    low, high = to_data((0, 0))[1], to_data((0, TINY))[1]
    is_log = axis.get_yscale() == "log"
    longest = high if is_log else high - low
    # To a thousandth of the axis: beside 90 degrees, 1e-5 is 0.0.
    digits = max(0, 2 - math.floor(math.log10(axis.get_ylim()[1])))
    ends = np.array([means + np.nan_to_num(spreads), published + np.nan_to_num(published_spreads)])
    ends = np.nan_to_num(ends, nan=low).max(axis=0)
    for at, mean, end in zip(x, means, ends, strict=True):
        if abs(mean) < longest:  # never of nan
            axis.annotate(
                f"{mean:.2g}" if is_log else f"{mean:.{digits}f}",
                (at, max(end, low)),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=INK,
            )
