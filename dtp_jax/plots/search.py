"""Draws a search: accuracy by trial, what matters, and accuracy against every parameter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.style import COLORS, INK, as_written, dress, entitle, legend_below, subplots

BEST, PRUNED, NOTHING = COLORS[1], COLORS[5], COLORS[3]
LOOKS = {
    "complete": {"marker": "o", "s": 30, "facecolor": COLORS[0], "edgecolor": "white", "zorder": 4},
    "pruned": {"marker": "o", "s": 24, "facecolor": "white", "edgecolor": PRUNED, "zorder": 3},
    "unfinished": {"marker": "D", "s": 18, "facecolor": "white", "edgecolor": INK, "zorder": 3},
    "came to nothing": {"marker": "x", "s": 26, "color": NOTHING, "zorder": 3, "clip_on": False},
}
"""By state. What came to nothing has no accuracy: it lies at the bottom of the axis."""
COLUMNS = 4
CUT = 2.5
"""So many times as far below the median as the best is above it the axis ends; what lies below is at its end."""


class Trial(NamedTuple):
    """A point in every panel."""

    state: str
    """One of LOOKS."""
    accuracy: float
    """In percent; nan of what came to nothing."""
    values: Sequence[Any]
    """Of the parameters."""


class Parameter(NamedTuple):
    """A panel."""

    name: str
    log: bool = False
    choices: Sequence[Any] = ()
    """All values, where they have no order; else ()."""
    ends: tuple[float, float] = (0, 0)
    """Between which it was searched, where there are no choices."""


def draw_search(
    trials: Sequence[Trial],
    parameters: Sequence[Parameter],
    importances: Mapping[str, float],
    *,
    title: str = "",
) -> Any:
    """Figure: trials in their order with the best so far, shares of the parameters, a panel for each.

    Args:
      importances: share of each parameter, 0 to 1; {}: not known.

    Raises:
      ValueError: one line; there are no trials, or one has another number of values than there are parameters.
    """
    if not trials:
        raise ValueError("there are 0 trials; allowed: 1 or more")
    for number, one in enumerate(trials):
        if len(one.values) != len(parameters):
            raise ValueError(
                f"trial {number} has {len(one.values)} values; allowed: {len(parameters)}, one per parameter"
            )
    columns = min(COLUMNS, max(2, len(parameters)))
    lower = math.ceil(len(parameters) / columns)
    figure, _ = subplots(size=(3.1 * columns, 3.3 + 2.5 * lower))
    figure.clear()
    grid = figure.add_gridspec(1 + lower, columns, height_ratios=[1.25, *[1] * lower])
    wide = columns - 1 if columns > 2 else 1
    history, shares = figure.add_subplot(grid[0, :wide]), figure.add_subplot(grid[0, wide:])
    heights = _heights(trials)
    _history(history, trials, heights)
    _shares(shares, importances, [one.name for one in parameters])
    axes = []
    for number, one in enumerate(parameters):
        place = grid[1 + number // columns, number % columns]
        axes.append(figure.add_subplot(place, sharey=history))
        _panel(axes[-1], trials, number, one, heights)
        axes[-1].tick_params(labelleft=number % columns == 0)
        axes[-1].set_ylabel("validation, %" if number % columns == 0 else "")
    history.set_ylim(*_limits(trials, heights))
    entitle(figure, title)
    keys, labels = history.get_legend_handles_labels()
    legend_below(figure, keys, labels)
    return figure


def _floor(trials: Sequence[Trial]) -> float:
    """Where the axis ends below."""
    known = np.array([one.accuracy for one in trials if math.isfinite(one.accuracy)])
    if not known.size:
        return 0.0
    top, middle, low = known.max(), np.median(known), known.min()
    return max(low, min(middle, top - 1.0) - CUT * max(top - middle, 1.0))


def _heights(trials: Sequence[Trial]) -> np.ndarray:
    """Where each trial is drawn: at its accuracy, or at the end of the axis."""
    accuracies = np.array([one.accuracy for one in trials], float)
    floor = _floor(trials)
    return np.where(accuracies >= floor, accuracies, np.nan)


def _limits(trials: Sequence[Trial], heights: np.ndarray) -> tuple[float, float]:
    known = heights[np.isfinite(heights)]
    if not known.size:
        return 0.0, 100.0
    low, high = min(_floor(trials), known.min()), known.max()
    room = 0.07 * max(high - low, 0.5)
    return low - 2 * room, high + room


def _points(axis: Any, x: np.ndarray, trials: Sequence[Trial], heights: np.ndarray) -> None:
    """All trials; those below the end of the axis stand on it, with a mark of their own."""
    states = np.array([one.state for one in trials])
    below = ~np.isfinite(heights)
    on_edge = axis.get_xaxis_transform()
    for state, look in LOOKS.items():
        shown = (states == state) & ~below
        if shown.any():
            axis.scatter(x[shown], heights[shown], label=state, **look)
    nothing = states == "came to nothing"
    if nothing.any():
        axis.scatter(
            x[nothing],
            np.full(nothing.sum(), 0.02),
            label="came to nothing",
            transform=on_edge,
            **LOOKS["came to nothing"],
        )
    lower = below & ~nothing
    if lower.any():
        axis.scatter(
            x[lower],
            np.full(lower.sum(), 0.02),
            label="below the axis",
            transform=on_edge,
            **{"marker": "v", "s": 26, "color": PRUNED, "zorder": 3, "clip_on": False},
        )
    top = _best(trials)
    if top is not None:
        axis.scatter(
            x[[top]],
            heights[[top]],
            label="the best",
            **{"marker": "*", "s": 170, "facecolor": BEST, "edgecolor": "white", "zorder": 6},
        )


def _best(trials: Sequence[Trial]) -> int | None:
    complete = [n for n, one in enumerate(trials) if one.state == "complete"]
    return max(complete, key=lambda n: (trials[n].accuracy, -n)) if complete else None


def _history(axis: Any, trials: Sequence[Trial], heights: np.ndarray) -> None:
    """Accuracy by trial, and the best of all complete ones so far."""
    so_far = np.array([t.accuracy if t.state == "complete" else np.nan for t in trials], float)
    so_far = np.fmax.accumulate(so_far)
    numbers = np.arange(len(trials))
    if np.isfinite(so_far).any():
        axis.step(numbers, so_far, where="post", color=BEST, linewidth=1.6, label="the best so far")
    _points(axis, numbers, trials, heights)
    dress(axis, "trial")
    axis.set_ylabel("validation, %")
    axis.locator_params(axis="x", integer=True)


def _shares(axis: Any, importances: Mapping[str, float], names: Sequence[str]) -> None:
    """A bar for each parameter, the longest on top."""
    dress(axis, "share of the differences, %")
    axis.grid(axis="y", visible=False)
    if not importances:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "too few trials to say\nwhat matters", ha="center", color=INK)
        return
    fontsize = "medium" if len(names) <= 8 else "x-small"
    ordered = sorted(names, key=lambda name: importances.get(name, 0.0))
    values = [100 * importances.get(name, 0.0) for name in ordered]
    axis.barh(range(len(ordered)), values, color=COLORS[2], alpha=0.45, height=0.78)
    axis.set_yticks([])
    # Names stand on the bars: beside them they would push the panels below apart.
    words = [
        axis.text(
            0.02, place, name, va="center", fontsize=fontsize, transform=axis.get_yaxis_transform()
        )
        for place, name in enumerate(ordered)
    ]
    as_written(words)
    axis.set_title("what matters", loc="left", fontsize="medium")


def _panel(
    axis: Any, trials: Sequence[Trial], number: int, one: Parameter, heights: np.ndarray
) -> None:
    """Accuracy against a parameter."""
    values = [trial.values[number] for trial in trials]
    if one.choices:
        places = {choice: place for place, choice in enumerate(one.choices)}
        # Trials of one choice stand side by side.
        shift = 0.5 * (np.arange(len(trials)) / max(len(trials) - 1, 1) - 0.5)
        x = np.array([places[value] for value in values]) + shift
    else:
        x = np.array(values, float)
    _points(axis, x, trials, heights)
    dress(axis, "")
    as_written([axis.set_title(one.name, loc="left", fontsize="medium")])
    if one.log:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
    low, high = one.ends
    if one.log and high > low:
        room = (high / low) ** 0.04
        axis.set_xlim(low / room, high * room)
    elif high > low:
        axis.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    if one.choices:
        axis.set_xticks(range(len(one.choices)), [str(choice) for choice in one.choices])
        as_written(axis.get_xticklabels())
        axis.set_xlim(-0.6, len(one.choices) - 0.4)
