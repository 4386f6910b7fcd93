"""What pictures show of a run, from its metrics.jsonl."""

from pathlib import Path
from typing import NamedTuple

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
    accuracies = {
        split: {n: 100 * share for n, share in metrics.of(split).by_epoch("accuracy").items()}
        for split in ("train", "val")
    }
    updates = _columns(metrics.of("diagnostics"), "update_angle/", KERNEL)
    return Reading(
        Curve(**accuracies, minutes=metrics.minutes(batch_size)),
        _columns(metrics.of("train"), "angle/"),
        {name: by_epoch[max(by_epoch)] for name, by_epoch in updates.items()},
    )


def _columns(rows: Table, begin: str, end: str = "") -> dict[str, dict[int, float]]:
    """Of all columns begin + NAME + end that hold anything: NAME -> its numbers by epoch, 0 among them."""
    found = {
        column.removeprefix(begin).removesuffix(end): rows.by_epoch(column, first=0)
        for column in rows
        if column.startswith(begin) and column.endswith(end)
    }
    return {name: by_epoch for name, by_epoch in found.items() if by_epoch}
