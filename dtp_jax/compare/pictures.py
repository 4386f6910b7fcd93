"""The pictures of a comparison, with what must be known to read them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtp_jax.compare.reading import Reading, read
from dtp_jax.compare.runs import Result
from dtp_jax.plots.bars import Series, draw_bars
from dtp_jax.plots.curves import TRAINING_NOTE, Group, draw_groups, mean_and_spread
from dtp_jax.plots.labels import short_labels
from dtp_jax.plots.panels import Line, Panel, draw_panels
from dtp_jax.plots.style import save

NAMES = ("comparison", "comparison_time", "comparison_alignment", "comparison_updates")
"""Of all pictures; those that would be empty are not there."""
BAND = ", band: ± one standard deviation"
Drawn = tuple[Any, str, str]
"""(figure or None, what it is, caption)."""


class Picture(NamedTuple):
    """One of them, as the report shows it."""

    file: str
    """"": there is nothing to draw; the caption says what would make it."""
    alt: str
    caption: str


class Runs(NamedTuple):
    """What the pictures show of a config: its finished runs, or the others where there are none."""

    label: str
    number: int
    """Of its look, in all pictures."""
    readings: list[Reading]
    note: str
    """How its runs ended, where none finished."""


def draw_pictures(results: list[Result], folder: Path, *, training: bool) -> list[Picture]:
    """Draws what there is; pictures of an earlier comparison in the folder that are none of it go.

    Args:
      training: training accuracy in the learning curves, as thin lines.
    """
    common, labels = short_labels([result.entry.label for result in results])
    found = [_runs(result, label, n) for n, (result, label) in enumerate(zip(results, labels))]
    trained = [runs for runs in found if any(r.curve.train for r in runs.readings)]
    title = _title(results, trained, common)
    drawn = [
        _curves(trained, title, training),
        _times(trained, title),
        _alignment(trained, title),
        _updates(trained, title),
    ]
    pictures = []
    for name, (figure, alt, caption) in zip(NAMES, drawn, strict=True):
        file = folder / f"{name}.png"
        if figure is None:
            file.unlink(missing_ok=True)
        else:
            save(figure, file)
        if caption:
            pictures.append(Picture(file.name if figure is not None else "", alt, caption))
    return pictures


def _runs(result: Result, label: str, number: int) -> Runs:
    chosen = [run for run in result.runs if run.code == 0] or result.runs
    readings = [read(run.workdir, result.entry.config["batch_size"]) for run in chosen]
    return Runs(
        label,
        number,
        [one for one in readings if one.curve.train],
        "" if result.summaries or not result.failures else f": {result.failures[0]}",
    )


def _title(results: list[Result], trained: list[Runs], common: str) -> str:
    """What all configs have in common, and what lines and bands are."""
    configs = [result.entry.config for result in results]
    where = {f"{config['dataset']}, {config['network']}" for config in configs}
    most = max((len(runs.readings) for runs in trained), default=0)
    seeds = f"mean of {most} seeds{BAND}" if most > 1 else "one seed"
    shared = where.pop() if len(where) == 1 else ""
    name = common if shared.partition(",")[0] != common else ""  # digits: digits
    return "; ".join(filter(None, [": ".join(filter(None, [name, shared])), seeds]))


def _curves(trained: list[Runs], title: str, training: bool) -> Drawn:
    groups = [_group(runs) for runs in trained]
    figure = draw_groups(groups, title, training=training) if groups else None
    caption = "Accuracy after each epoch." + (f" {TRAINING_NOTE}" if training else "")
    without = [r.label for r, group in zip(trained, groups) if not any(c.val for c in group.curves)]
    if 0 < len(without) < len(groups):
        caption += f" Left out, for want of validation images: {', '.join(without)}."
    return figure, "Learning curves", caption if groups else ""


def _group(runs: Runs) -> Group:
    return Group(runs.label, [one.curve for one in runs.readings], runs.note, runs.number)


def _times(trained: list[Runs], title: str) -> Drawn:
    groups = [_group(runs) for runs in trained if all(r.curve.minutes for r in runs.readings)]
    figure = draw_groups(groups, title, against="minutes") if groups else None
    caption = (
        "Accuracy against minutes of training alone, without compilation and validation. Times of runs "
        "that shared a machine say little."
    )
    return figure, "Accuracy against time", caption if groups else ""


def _alignment(trained: list[Runs], title: str) -> Drawn:
    """A panel for every feedback kernel of any config."""
    kernels = dict.fromkeys(k for runs in trained for r in runs.readings for k in r.angles)
    panels = []
    for kernel in kernels:
        lines = []
        for runs in trained:
            angles = [r.angles[kernel] for r in runs.readings if kernel in r.angles]
            epochs, mean, deviation = mean_and_spread(angles) if angles else ((), (), ())
            if len(epochs):
                lines.append(Line(runs.label, epochs, mean, deviation))
        top = max([95.0, *(float(np.max(line.mean)) + 5 for line in lines)])
        panels.append(Panel("degrees", lines, kernel, limits=(-3, top)))
    without = [runs.label for runs in trained if not any(r.angles for r in runs.readings)]
    caption = (
        "Angle between every feedback kernel and the forward kernel that it mirrors: 0 is aligned, 90 is "
        "what random weights have."
    )
    if without:
        caption += (
            f" Left out, for want of such angles (feedback that mirrors no forward kernel, or "
            f"diagnostics=False): {', '.join(without)}."
        )
    if not panels:
        return None, "", ""
    numbers = {runs.label: runs.number for runs in trained}
    figure = draw_panels(panels, "epoch", title=title, numbers=numbers, integer_x=True)
    return figure, "Angles between feedback and forward weights", caption


def _updates(trained: list[Runs], title: str) -> Drawn:
    """A group of bars for every forward kernel of any config."""
    kernels = list(dict.fromkeys(k for runs in trained for r in runs.readings for k in r.updates))
    chosen = [runs for runs in trained if any(r.updates for r in runs.readings)]
    if not chosen:
        caption = (
            "For bars of the angle between every rule's update and backprop's gradient, train with "
            "`--config.diagnostics_updates=on`."
        )
        return None, "", caption if trained else ""
    series = []
    for runs in chosen:
        values = [[r.updates[k] for r in runs.readings if k in r.updates] for k in kernels]
        means = [np.mean(v) if v else np.nan for v in values]
        deviations = [np.std(v, ddof=1) if v[1:] else np.nan for v in values]
        series.append(Series(runs.label, means, deviations))
    figure = draw_bars(
        kernels,
        series,
        "angle to backprop's gradient, degrees",
        title=title.removesuffix(BAND),
        top=95,
        numbers={runs.label: runs.number for runs in trained},
    )
    without = [runs.label for runs in trained if runs not in chosen]
    caption = (
        "Angle between the update of every kernel and backprop's gradient, when last measured."
    )
    if without:
        caption += f" Not measured: {', '.join(without)}."
    return figure, "Angles between updates and backprop's gradients", caption
