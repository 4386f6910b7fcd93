"""The learning curve of a run, from its files."""

from pathlib import Path

import numpy as np

from dtp_jax.plots.curves import Curve
from dtp_jax.run.results import Table, read_metrics
from dtp_jax.run.workdir import Workdir


def read(label: str, workdir: Path) -> Curve:
    """What is there of metrics.jsonl and summary.json; unfinished runs have shorter curves."""
    folder = Workdir(workdir)
    metrics = read_metrics(folder.metrics_file)
    curves = {split: _accuracies(metrics.of(split)) for split in ("train", "val")}
    return Curve(label, **curves, summary=folder.read_summary() or {})


def _accuracies(rows: Table) -> dict[int, float]:
    """Means in percent, by epoch from 1 on; numbers that were not finite do not count."""
    if "accuracy" not in rows:
        return {}
    epochs, accuracy = rows["epoch"], 100 * rows["accuracy"]
    known = (epochs >= 1) & np.isfinite(accuracy)
    return {
        int(epoch): float(accuracy[known & (epochs == epoch)].mean())
        for epoch in np.unique(epochs[known])
    }
