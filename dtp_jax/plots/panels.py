"""Panels of lines with a mean and a band, and one legend for all of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.style import (
    as_written,
    dress,
    entitle,
    legend_below,
    line_style,
    markers,
    subplots,
)


class Line(NamedTuple):
    """A line; those of one label look alike in all panels. It may end before the others."""

    label: str
    """In the legend; there is none where all are ""."""
    x: Sequence[float]
    mean: Sequence[float]
    """nan: a gap."""
    spread: Sequence[float] = ()
    """Standard deviations; (): no band."""


class Panel(NamedTuple):
    """One pair of axes."""

    y: str
    """What its axis measures, with its unit."""
    lines: Sequence[Line]
    title: str = ""
    log: bool = False
    """A logarithmic axis: what is not above 0 is left out."""
    limits: tuple[float | None, float | None] = (None, None)
    """Of the axis; None: as far as the means go (a band may be cut)."""


def draw_panels(
    panels: Sequence[Panel],
    x: str,
    *,
    columns: int = 0,
    band: float = 1.0,
    title: str = "",
    log_x: bool = False,
    integer_x: bool = False,
    numbers: dict[str, int] | None = None,
) -> Any:
    """Figure of panels, row by row, with one legend under them.

    Args:
      x: what the horizontal axes measure.
      columns: of panels; 0: up to four.
      band: it reaches so many standard deviations to both sides of the mean.
      log_x, integer_x: logarithmic horizontal axes; ticks at integers alone.
      numbers: label -> number of its look (`line_style`), where another picture has given it one.

    Raises:
      ValueError: one line; there are no panels, or a line's mean or spread is not as long as its x.
    """
    if not panels:
        raise ValueError("there are 0 panels; allowed: 1 or more")
    for panel in panels:
        for line in panel.lines:
            _check(line)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    looks = {label: (numbers or {}).get(label, n) for n, label in enumerate(labels)}
    columns = columns or min(4, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    size = (max(5.5, 1 + 3.4 * columns) if columns > 1 else 7.0, 0.9 + 3.0 * rows)
    figure, axes = subplots(rows, columns, size=size, sharex=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for number, (axis, panel) in enumerate(zip(axes.flat, panels)):
        is_lowest = number + columns >= len(panels)
        _draw(axis, panel, x if is_lowest else "", looks, band)
        if log_x:
            axis.set_xscale("log")
        if integer_x:
            axis.locator_params(axis="x", integer=True)
        axis.tick_params(labelbottom=is_lowest)
    entitle(figure, title)
    if any(labels):
        keys = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
        legend_below(figure, [keys[label] for label in labels], labels)
    return figure


def _check(line: Line) -> None:
    for name, values in (("mean", line.mean), ("spread", line.spread)):
        if len(values) != len(line.x) and (name == "mean" or len(values)):
            raise ValueError(
                f"{name} of {line.label!r} has {len(values)} values; allowed: {len(line.x)}, as x has"
            )


def _draw(axis: Any, panel: Panel, x: str, looks: dict[str, int], band: float) -> None:
    """One panel: means with their bands."""
    if panel.log:
        axis.set_yscale("log", nonpositive="mask")
    seen = []
    for line in panel.lines:
        xs, mean = np.asarray(line.x, float), np.asarray(line.mean, float)
        number = looks[line.label]
        style = line_style(number)
        shown = np.isfinite(mean) & (mean > 0 if panel.log else True)
        mean = np.where(shown, mean, np.nan)
        axis.plot(xs, mean, linewidth=1.8, label=line.label, **style, **markers(number, len(xs)))
        seen.append(mean[shown])
        if len(line.spread):
            reach = band * np.nan_to_num(np.asarray(line.spread, float), posinf=0.0)
            low, high = mean - reach, mean + reach
            if panel.log:  # a band that reaches below 0 goes to the end of the axis
                low = np.maximum(low, np.finfo(np.float32).tiny)
            axis.fill_between(xs, low, high, color=style["color"], alpha=0.2, linewidth=0)
    _limit(axis, np.concatenate([*seen, []]), panel)
    dress(axis, x)
    axis.set_ylabel(panel.y)
    as_written([axis.set_title(panel.title, loc="left", fontsize="medium")])


def _limit(axis: Any, values: np.ndarray, panel: Panel) -> None:
    """Limits of the panel's own, or those of its means with some room."""
    if values.size:
        ends = np.log10([values.min(), values.max()]) if panel.log else [values.min(), values.max()]
        room = 0.06 * (ends[1] - ends[0]) or 0.06 * (abs(ends[0]) or 1.0)
        low, high = ends[0] - room, ends[1] + room
        axis.set_ylim(*(10.0 ** np.array([low, high]) if panel.log else (low, high)))
    bottom, top = panel.limits
    axis.set_ylim(bottom=bottom, top=top)
