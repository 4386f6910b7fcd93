"""What the rows of benchmarks/scaling.py say: exponents of growth, a cost model of a step, a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.work import Work
from dtp_jax.plots.style import COLORS

DEVICES = ("devices, data-parallel", "devices, layer-parallel")


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of the line of least squares through (log x, log y)."""
    return round(float(np.polyfit(np.log(xs), np.log(ys), 1)[0]), 9) + 0.0  # never -0


def lines_of(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows that are one panel of the picture, by name: devices in two ways."""
    sweeps = dict.fromkeys(r["sweep"] for r in rows)
    found = {s: [r for r in rows if r["sweep"] == s] for s in sweeps}
    devices = found.pop("devices", [])
    for name, other in zip(DEVICES, ("layers", "data")):
        found[name] = [r for r in devices if r["setting"][other] == 1]
    return {name: part for name, part in found.items() if part}


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of what grows with a sweep's x."""
    return {
        name: exponent([r["x"] for r in rows], [r[name] for r in rows])
        for name in ("seconds", "flops", "memory_bytes")
    }


class Load(NamedTuple):
    """What explains the time of a step on one device."""

    iterations: float
    flops: float
    normals: float


def load_of(work: Work, batch: int) -> Load:
    """Of a whole step."""
    return Load(sum(work.iterations), work.flops(batch), batch * sum(work.normals))


class Costs(NamedTuple):
    """Seconds on this machine: of a step, whatever it does, and of one unit of each load."""

    step: float
    iteration: float
    flop: float
    normal: float

    def seconds(self, load: Load) -> float:
        """Predicted time of a step."""
        return self.step + float(np.dot(self[1:], load))


def fit_costs(loads: Sequence[Load], seconds: Sequence[float]) -> Costs:
    """The costs, none below zero, with the least squares of relative errors of the times measured."""
    rows = np.array([(1.0, *load) for load in loads]) / np.array(seconds)[:, None]
    scale = rows.max(axis=0)  # the units differ by nine orders of magnitude
    return Costs(*(float(c) for c in nnls(rows / scale, np.ones(len(rows)))[0] / scale))


def draw(result: dict[str, Any], file: Path) -> None:
    """A panel per sweep: time and memory on logarithmic axes, with fitted and expected slopes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = lines_of(result["rows"])
    columns = min(4, len(lines))
    rows = math.ceil(len(lines) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1 + 3.2 * columns, 0.8 + 3.2 * rows),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(lines) :]:
        axis.set_axis_off()
    for axis, (name, part) in zip(axes.flat, lines.items()):
        _panel(axis, name, part, result["growth"][name])
    for axis in axes[:, 0]:
        axis.set_ylabel("ms, MiB")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    low, high = (10.0 ** f(np.log10(y)) for f, y in zip((np.floor, np.ceil), axes[0, 0].get_ylim()))
    axes[0, 0].set_ylim(low, high)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    virtual = "; virtual devices share its cores" if result["growth"].keys() & set(DEVICES) else ""
    figure.suptitle(f"One L-DRL step, {result['hardware']}{virtual}", x=0.01, ha="left")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _panel(axis: Any, name: str, rows: list[dict[str, Any]], slopes: dict[str, float]) -> None:
    """One sweep. All lines pass through the points' centre, so that slopes compare."""
    xs = np.array([r["x"] for r in rows], float)
    ms = np.array([1e3 * r["seconds"] for r in rows])
    mib = np.array([r["memory_bytes"] / 2**20 for r in rows])

    def line(ys: np.ndarray, slope: float) -> np.ndarray:
        return np.exp(np.log(ys).mean() + slope * (np.log(xs) - np.log(xs).mean()))

    axis.set(xscale="log", yscale="log")
    axis.plot(xs, ms, "o", color=COLORS[0], label="time of a step, ms")
    axis.plot(xs, line(ms, slopes["seconds"]), color=COLORS[0], label="fitted")
    axis.plot(xs, line(ms, slopes["flops"]), "k:", label="slope of the arithmetic")
    axis.plot(xs, mib, "s", color=COLORS[1], label="memory of a device, MiB")
    axis.plot(xs, line(mib, slopes["memory_bytes"]), "--", color=COLORS[1], label="fitted")
    axis.set_title(
        "time {:.2f} (arithmetic {:.2f}), memory {:.2f}".format(*slopes.values()),
        loc="left",
        fontsize=9,
    )
    axis.set_xticks(xs, [f"{x:g}" for x in xs])
    axis.set_xticks([], minor=True)
    axis.set_xlabel(name.replace("_", " "))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
