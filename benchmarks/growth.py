"""What the rows of benchmarks/scaling.py say: exponents of growth, a cost model of a step, a picture."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.work import Work
from dtp_jax.plots.style import COLORS, MARKERS, dress, legend_below, subplots

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


def draw(result: dict[str, Any]) -> Any:
    """Figure of all sweeps: time above, memory below, on logarithmic axes, with fitted exponents."""
    lines = lines_of(result["rows"])
    if not lines:
        raise ValueError("it has no rows")
    columns = min(4, len(lines))
    bands = math.ceil(len(lines) / columns)
    figure, axes = subplots(
        2 * bands,
        columns,
        size=(1 + 2.5 * columns, 1.5 + 4.4 * bands),
        squeeze=False,
        height_ratios=[1.2, 1] * bands,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (name, rows) in enumerate(lines.items()):
        band, column = divmod(number, columns)
        pair = axes[2 * band : 2 * band + 2, column]
        _panels(*pair, name.replace("_", " "), rows, result["growth"][name])
        for axis, unit in zip(pair, ("time of a step, ms", "memory of a device, MiB"), strict=True):
            axis.set_ylabel(unit if column == 0 else "")
    for kind in range(2):
        _share(axes[kind::2].flat)
    legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    virtual = "; virtual devices share its cores" if result["growth"].keys() & set(DEVICES) else ""
    figure.suptitle(
        f"One L-DRL step, {result['hardware']}{virtual}.\n"
        "$e$: exponent of the growth that was fitted, $x^e$, with $x$ as under the axes",
        x=0.01,
        ha="left",
    )
    return figure


def _panels(time: Any, memory: Any, name: str, rows: list[dict], slopes: dict[str, float]) -> None:
    """One sweep. Both lines of time pass through the points' centre, so that slopes compare."""
    xs = np.array([r["x"] for r in rows], float)
    ms = np.array([1e3 * r["seconds"] for r in rows])
    mib = np.array([r["memory_bytes"] / 2**20 for r in rows])

    def line(ys: np.ndarray, slope: float) -> np.ndarray:
        return np.exp(np.log(ys).mean() + slope * (np.log(xs) - np.log(xs).mean()))

    for axis, ys, of, number in ((time, ms, "seconds", 0), (memory, mib, "memory_bytes", 1)):
        style = {"color": COLORS[number]}
        axis.set_axis_on()
        axis.set(xscale="log", yscale="log")
        axis.plot(xs, ys, MARKERS[number], **style, label="measured")
        axis.plot(xs, line(ys, slopes[of]), **style, label="fitted")
        axis.set_xticks(xs, [f"{x:g}" for x in xs])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:g}")
    time.plot(xs, line(ms, slopes["flops"]), "k:", label="growth of the arithmetic")
    time.set_title(
        f"$e$ = {slopes['seconds']:.2f}; arithmetic: {slopes['flops']:.2f}", loc="left", fontsize=9
    )
    memory.set_title(f"$e$ = {slopes['memory_bytes']:.2f}", loc="left", fontsize=9)
    dress(time, "")
    dress(memory, name)


def _share(axes: Iterable[Any]) -> None:
    """One range for all that show anything, from one power of ten to another."""
    shown = [axis for axis in axes if axis.axison]
    ends = np.log10([axis.get_ylim() for axis in shown])
    for axis in shown:
        axis.set_ylim(10.0 ** np.floor(ends.min()), 10.0 ** np.ceil(ends.max()))
