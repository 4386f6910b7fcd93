"""Learning curves of finished or running runs, as a picture.

    python -m benchmarks.curves OUT.png "L-DRL=runs/small_dtp" backprop=runs/small_backprop

Train (thin, mean per epoch) and validation accuracy (thick) over epochs and over training time, read from
the runs' metrics.jsonl; the test accuracy of the final weights stands in the legend.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


class Curve(NamedTuple):
    """A run: per epoch mean train accuracy and validation accuracy, percent; and its summary."""

    label: str
    train: np.ndarray
    val: np.ndarray
    summary: dict


def read(label: str, workdir: Path) -> Curve:
    """Reads metrics.jsonl and summary.json of a finished run."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train: dict[int, list[float]] = {}
    for row in rows:
        if row["split"] == "train":
            train.setdefault(row["epoch"], []).append(row["accuracy"])
    val = [100 * row["accuracy"] for row in rows if row["split"] == "val"]
    summary = json.loads((workdir / "summary.json").read_text())
    return Curve(
        label, np.array([100 * np.mean(train[e]) for e in sorted(train)]), np.array(val), summary
    )


def draw(curves: list[Curve], file: Path) -> None:
    """One panel over epochs, one over minutes of wall time."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for curve, color in zip(
        curves, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False
    ):
        epochs = np.arange(1, len(curve.train) + 1)
        minutes = epochs / len(epochs) * curve.summary["wall_seconds"] / 60
        label = f"{curve.label}: {100 * curve.summary['test_accuracy']:.1f} % test"
        for axis, x in zip(axes, (epochs, minutes), strict=True):
            axis.plot(x, curve.val, color=color, linewidth=2, label=label)
            axis.plot(x, curve.train, color=color, linewidth=0.8, alpha=0.7)
    for axis, name in zip(axes, ("epoch", "minutes"), strict=True):
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(title="validation (thick), train (thin)", loc="lower right")
    axes[0].set_title(f"{curves[0].summary['dataset']}, {curves[0].summary['network']}", loc="left")
    figure.savefig(file, dpi=130)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="LABEL=WORKDIR")
    args = parser.parse_args(argv)
    draw(
        [read(label, Path(folder)) for label, folder in (run.split("=", 1) for run in args.runs)],
        args.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
