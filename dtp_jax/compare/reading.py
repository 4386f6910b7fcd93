"""What pictures show of a run, from its metrics.jsonl."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax.plots.curves import Curve
from dtp_jax.run.results import Table, read_metrics
from dtp_jax.run.workdir import Workdir

KERNEL = "/kernel"


class Reading(NamedTuple):
    """What is there; unfinished runs have shorter curves."""

    curve: Curve
    angles: dict[str, dict[int, float]]
    """Feedback kernel -> epoch (0: pre-training) -> degrees to the forward kernel, in the end of it."""
    updates: dict[str, float]
    """Forward kernel -> degrees between the rule's last measured update and backprop's gradient."""


def read(workdir: Path, batch_size: int) -> Reading:
    """Reads a run. Numbers that are not finite do not count."""
    metrics = read_metrics(Workdir(workdir).metrics_file)
    accuracies = {split: _accuracies(metrics.of(split)) for split in ("train", "val")}
    updates = _columns(metrics.of("diagnostics"), "update_angle/", KERNEL)
    return Reading(
        Curve(**accuracies, minutes=_minutes(metrics.of("epoch"), batch_size)),
        _columns(metrics.of("train"), "angle/"),
        {name: by_epoch[max(by_epoch)] for name, by_epoch in updates.items()},
    )


def _columns(rows: Table, begin: str, end: str = "") -> dict[str, dict[int, float]]:
    """Of all columns begin + NAME + end that hold anything: NAME -> the last number by epoch."""
    found = {}
    for column in rows:
        if column.startswith(begin) and column.endswith(end):
            pairs = zip(rows["epoch"].tolist(), rows[column].tolist(), strict=True)
            known = {int(epoch): x for epoch, x in pairs if np.isfinite([epoch, x]).all()}
            if known:
                found[column.removeprefix(begin).removesuffix(end)] = known
    return found


def _accuracies(rows: Table) -> dict[int, float]:
    """Means in percent, by epoch from 1 on."""
    if "accuracy" not in rows:
        return {}
    epochs, accuracy = rows["epoch"], 100 * rows["accuracy"]
    known = (epochs >= 1) & np.isfinite(accuracy)
    return {
        int(epoch): float(accuracy[known & (epochs == epoch)].mean())
        for epoch in np.unique(epochs[known])
    }


def _minutes(rows: Table, batch_size: int) -> dict[int, float]:
    """Of training alone, up to the end of each epoch: from the images/s of every pass."""
    minutes, found, before = 0.0, {}, 0
    names = ("step", "epoch", "images_per_second")
    if not all(name in rows for name in names):
        return {}
    for step, epoch, speed in zip(*(rows[name].tolist() for name in names), strict=True):
        if not (np.isfinite([step, epoch]).all() and speed > 0):
            continue
        minutes += (step - before) * batch_size / speed / 60
        before, found[int(epoch)] = step, minutes
    return found
