"""A picture for each group: accuracies beside the published ones, or the alignment of deep networks."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.page import angles_of, results_of
from benchmarks.paper.rows import Group
from benchmarks.paper.store import Places
from dtp_jax.plots.panels import Line, Panel, draw_panels
from dtp_jax.plots.results import Result, draw_results
from dtp_jax.plots.style import save


def draw(group: Group, places: Places, file: Path) -> None:
    """Draws what there is of a group."""
    results = results_of(group, places)
    save((_depth if group.picture == "depth" else _bars)(group, results), file)


def _bars(group: Group, results: dict[str, Any]) -> Any:
    shown = []
    for row in group.rows:
        found = results.get(row.name)
        if found is None or found["test_accuracy"] is None:
            continue
        seeds = [one["test_accuracy"] for one in found["seeds"]]
        published = row.published
        shown.append(
            Result(
                row.label,
                [100 * value for value in seeds if value is not None],
                published.accuracy if published else math.nan,
                (published.spread or math.nan) if published else math.nan,
            )
        )
    return draw_results(shown, "test accuracy, %", title=group.title)


def _depth(group: Group, results: dict[str, Any]) -> Any:
    """Alignment of feedback weights and of updates, each kernel at its place in its network."""
    lines, updates = [], []
    for row in group.rows:
        found = results.get(row.name)
        if found is None:
            continue
        angles = angles_of(found)
        if angles:
            lines.append(
                _line(row.label, angles, first=1 / len(angles))
            )  # the first block has no map
        measured = angles_of(
            {**found, "seeds": [{**s, "angles": _kernels(s)} for s in found["seeds"]]}
        )
        if measured and found["rule"] != "backprop":
            updates.append(_line(row.label, measured, first=0.0))
    titles = {
        "feedback weights to forward weights": lines,
        "updates to backprop's gradients": updates,
    }
    panels = [
        Panel("degrees", shown, title, limits=(0, _top(shown)))
        for title, shown in titles.items()
        if shown
    ]
    x = "depth: first block 0, readout 1"
    return draw_panels(panels, x, columns=len(panels), title=f"{group.title}: alignment at the end")


def _top(lines: list[Line]) -> float:
    """Above all bands."""
    ends = np.concatenate([np.add(line.mean, np.nan_to_num(line.spread)) for line in lines])
    return 1.03 * float(np.nanmax(ends))


def _kernels(seed: dict[str, Any]) -> dict[str, float]:
    """The angles of updates of kernels, without biases."""
    found = seed.get("update_angles", {})
    return {name: angle for name, angle in found.items() if not name.endswith("bias")}


def _line(label: str, angles: dict[str, tuple[float, float]], first: float) -> Line:
    """Kernels in the order of the network, the last one at 1."""
    means, spreads = zip(*angles.values(), strict=True)
    places = np.linspace(first, 1, len(means)) if means[1:] else np.ones(1)
    return Line(label, places, means, spreads)
