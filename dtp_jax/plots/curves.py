"""Learning curves of runs."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.plots.style import dress, line_style, subplots


class Curve(NamedTuple):
    """A run: accuracies in percent by epoch (1, 2, ...), and its summary ({} where it has none)."""

    label: str
    train: dict[int, float]
    """Mean over the steps of the epoch."""
    val: dict[int, float]
    """Empty where nothing was held out."""
    summary: dict[str, Any]


class Group(NamedTuple):
    """Runs of one config with several seeds: one line and its band."""

    label: str
    curves: list[Curve]
    note: str = ""
    """Shown after the label."""


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


def draw_groups(groups: list[Group], title: str) -> Any:
    """Figure of accuracy against epoch: means over seeds, with a band of one standard deviation.

    Of the validation images, or of the training images where no run held any out. A group whose runs
    have no epoch in common is left out.
    """
    is_val = any(curve.val for group in groups for curve in group.curves)
    size = (9, max(4.2, 0.7 + 0.5 * len(groups)))  # room for the legend
    figure, axis = subplots(size=size)
    ends = []
    for number, group in enumerate(groups):
        epochs, mean, spread = mean_and_spread(
            [curve.val if is_val else curve.train for curve in group.curves]
        )
        if not len(epochs):
            continue
        style = line_style(number)
        (line,) = axis.plot(epochs, mean, linewidth=2, **style)
        axis.plot(epochs[-1:], mean[-1:], marker="X" if group.note else "o", **style)
        axis.fill_between(
            epochs, mean - spread, mean + spread, color=style["color"], alpha=0.2, linewidth=0
        )
        text = f"{mean[-1]:.1f}" + (f" ± {spread[-1]:.1f}" if len(group.curves) > 1 else "")
        name = textwrap.fill(group.label, 30, break_on_hyphens=True)
        ends.append((mean[-1], line, f"{name}\n{text} %{group.note}"))
    ends.sort(key=lambda end: -end[0])
    figure.legend(
        [line for _, line, _ in ends],
        [text for _, _, text in ends],
        title="in the last epoch",
        loc="outside right upper",
        frameon=False,
        alignment="left",
    )
    figure.suptitle(title, x=0.01, ha="left")
    dress(axis, "epoch")
    axis.locator_params(axis="x", integer=True)
    axis.set_ylabel(f"{'validation' if is_val else 'training'} accuracy, %")
    return figure


def draw_runs(curves: list[Curve]) -> Any:
    """Figure of finished runs over epochs, and over minutes of wall time: validation thick, training thin."""
    figure, axes = subplots(1, 2, size=(10, 4), sharey=True)
    for number, curve in enumerate(curves):
        label = f"{curve.label}: {100 * curve.summary['test_accuracy']:.1f} % test"
        minutes_per_epoch = curve.summary["wall_seconds"] / 60 / max(curve.train)
        for axis, factor in zip(axes, (1, minutes_per_epoch), strict=True):
            for accuracy, look in (
                (curve.val, {"linewidth": 2, "label": label}),
                (curve.train, {"linewidth": 0.8, "alpha": 0.7}),
            ):
                x = factor * np.array(list(accuracy))
                axis.plot(x, list(accuracy.values()), **look, **line_style(number))
    for axis, name in zip(axes, ("epoch", "minutes"), strict=True):
        dress(axis, name)
    axes[0].locator_params(axis="x", integer=True)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(title="validation (thick), train (thin)", loc="lower right")
    summary = curves[0].summary
    axes[0].set_title(f"{summary['dataset']}, {summary['network']}", loc="left")
    return figure
