"""A closer look at one run of a config: what its last weights see, and where they are wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dtp_jax.plots.images import as_pixels, data_uri, mosaic
from dtp_jax.plots.matrix import draw_confusion
from dtp_jax.plots.svg import svg
from dtp_jax.report.drawing import Picture
from dtp_jax.report.folders import Group
from dtp_jax.report.predictions import (
    Mistake,
    Predictions,
    Weights,
    first_filters,
    predict,
    read_weights,
)
from dtp_jax.report.reading import Reading, attempt, shown
from dtp_jax.report.tables import MOST_CLASSES, Table
from dtp_jax.report.updates import IMAGES, update_angles
from dtp_jax.run.layout import NO_BREAK, counted

MOST_IN_A_MATRIX = 200
"""Classes; a matrix of more shows nothing."""
CONFUSIONS = 10


class Image(NamedTuple):
    """Pixels on a page."""

    uri: str
    width: int
    """As shown, in pixels of CSS."""
    height: int
    said: str
    """What it shows, for readers who cannot see it."""


class Mistaken(NamedTuple):
    """A test image taken for another class."""

    image: Image
    true: str
    predicted: str
    confidence: str


class Look(NamedTuple):
    """At one run. Parts that could not be had are empty, and `problems` say why."""

    label: str
    run: str
    """Which seed and step."""
    problems: Sequence[str] = ()
    accuracy: str = ""
    confusion: Picture | None = None
    classes: Table | None = None
    """Accuracy of each class, or of the worst and best of many."""
    confused: Table | None = None
    mistakes: Sequence[Mistaken] = ()
    filters: Image | None = None
    updates: dict[str, float] | None = None
    """Angles to backprop in degrees, by <block>/<parameter>."""


def look(group: Group, number: int, *, has_updates: bool) -> Look:
    """At the first finished run of a config, or its first one.

    Args:
      number: of the config, for the names of figures.
      has_updates: the run has update angles in its metrics, so that none need be computed.
    """
    run = group.counted[0]
    name = "" if run.seed is None else f"seed {run.seed}, "
    problems: list[str] = []
    weights = attempt("No look at its weights", lambda: read_weights(run), problems)
    if weights is None:
        return Look(group.label, name.rstrip(", "), problems)
    found = Look(group.label, f"{name}step {weights.step}")
    found = found._replace(filters=attempt("No filters", lambda: _filters(weights), problems))
    predicted = attempt(
        "No predictions", lambda: _with_predictions(found, weights, run, number), problems
    )
    found = predicted or found
    if not has_updates:
        updates = attempt("No update angles", lambda: update_angles(weights), problems)
        found = found._replace(updates=updates)
    return found._replace(problems=[*found.problems, *problems])


def _with_predictions(found: Look, weights: Weights, run: Reading, number: int) -> Look:
    predictions = predict(weights)
    names = weights.experiment.data.class_names
    problems = []
    told = (run.summary or {}).get("test_accuracy")
    if (
        told is not None
        and run.summary["steps"] == weights.step
        and abs(told - predictions.accuracy) > 1e-3
    ):
        problems = [
            f"The summary says {100 * told:.2f} %: these are other images "
            f"({shown(predictions.source)}), or other weights."
        ]
    return found._replace(
        problems=problems,
        accuracy=f"{100 * predictions.accuracy:.2f} % of {predictions.counts.sum():,} test images right",
        confusion=_confusion(predictions, names, number),
        classes=class_table(predictions.of_class, names),
        confused=_confused(predictions, names),
        mistakes=[_mistaken(one, names) for one in predictions.mistakes],
    )


def _confusion(predictions: Predictions, names: Sequence[str], number: int) -> Picture | None:
    if len(names) > MOST_IN_A_MATRIX:
        return None
    most = ", ".join(f"{names[t]} taken for {names[p]}" for t, p, _ in predictions.confusions(3))
    figure = draw_confusion(predictions.counts, names)
    said = f"confusion matrix; most frequent: {most or 'no mistake'}"
    return Picture(
        svg(figure, f"confusion-{number}", said), "Confusion matrix, % of each true class"
    )


def class_table(of_class: np.ndarray, names: Sequence[str]) -> Table:
    """Accuracy on each class, the worst first; of many classes the worst and the best ten."""
    order = np.argsort(np.where(np.isfinite(of_class), of_class, np.inf), kind="stable")
    order = [int(i) for i in order if np.isfinite(of_class[i])]
    title = "Accuracy by class, worst first"
    if len(order) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        order, title = [*order[:half], *order[-half:]], f"Worst and best {half} classes"
    rows = [[names[i], f"{100 * of_class[i]:.1f}"] for i in order]
    return Table(title, ("class", "accuracy, %"), "lr", rows)


def _confused(predictions: Predictions, names: Sequence[str]) -> Table:
    rows = [[names[t], names[p], str(n)] for t, p, n in predictions.confusions(CONFUSIONS)]
    return Table("Most frequent mistakes", ("true", "taken for", "images"), "llr", rows)


def _mistaken(one: Mistake, names: Sequence[str]) -> Mistaken:
    true, predicted = names[one.true], names[one.predicted]
    said = f"test image {one.number}: {true}, taken for {predicted}"
    return Mistaken(
        _shown(one.pixels, 72, said), true, predicted, f"{100 * one.confidence:.0f}{NO_BREAK}%"
    )


def _filters(weights: Weights) -> Image | None:
    filters = first_filters(weights)
    if filters is None:
        return None
    tiles = np.stack([as_pixels(one) for one in filters])
    name = shown(weights.experiment.network[0].name)
    said = f"{counted(len(tiles), 'filter')} of the first block, {name}"
    return _shown(mosaic(tiles, 16 if tiles.shape[2] < 12 else 8), 640, said)


def _shown(pixels: np.ndarray, width: int, said: str) -> Image:
    """In a whole multiple of its pixels, about so wide."""
    times = max(1, width // pixels.shape[1])
    return Image(data_uri(pixels), times * pixels.shape[1], times * pixels.shape[0], said)


def update_note(looks: Sequence[Look]) -> str:
    """How the update angles of those were found that had none in their metrics."""
    found = [one.label for one in looks if one.updates]
    if not found:
        return ""
    whose = "" if len(found) == len(looks) else f" for {', '.join(found)}"
    return (
        f"Computed from the last weights on {IMAGES} test images, one seed{whose}; "
        "--config.diagnostics_updates=on measures them in every epoch."
    )
