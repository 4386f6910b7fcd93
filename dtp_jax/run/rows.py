"""The lines of metrics.jsonl, whose names TensorBoard has too."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Metrics, TrainState

Row = dict[str, Any]


def step_rows(found: Metrics, first: int, epoch: int, every: int, *, last: bool) -> list[Row]:
    """One row for every step whose number `every` divides, and for those with which the guard had to do.

    Args:
      found: host arrays with leading axis = steps, the first of which is number `first` + 1.
      last: the last of these steps has a row in any case.
    """
    count, rows = len(found.loss), []
    for k in range(count):
        step = first + k + 1
        acted = any(did[k] for did in jax.tree.leaves(_did(found.guard)))
        if step % every and not acted and not (last and k == count - 1):
            continue
        row = {"step": step, "epoch": epoch, "split": "train"}
        row |= {"loss": float(found.loss[k]), "accuracy": float(found.accuracy[k])}
        for kind in ("feedback_loss", "forward_loss"):
            losses = getattr(found, kind)
            row |= {f"{kind}/{name}": float(values[k]) for name, values in losses.items()}
        rows.append(row | (guard_row(found, k) if acted else {}))
    return rows


def guard_row(found: Metrics, k: int) -> dict[str, float]:
    """What the guard has done up to the k-th of these steps; nothing with "stop".

    Returns:
      "guard/skipped", how many batches; by feedback block "guard/halved/<block>", how often its rate was
      halved, and "guard/factor/<block>", what it is multiplied by since.
    """
    now = found.guard.get("now", {})
    row = {"guard/skipped": int(now["skipped"][k])} if now else {}
    for name, times in now.get("halved", {}).items():
        row |= {f"guard/halved/{name}": int(times[k])}
        row |= {f"guard/factor/{name}": float(now["factor"][name][k])}
    return row


def _did(guard: Mapping[str, Any]) -> dict[str, Any]:
    return {name: guard[name] for name in ("skipped", "halved") if guard}


def weight_rows(state: TrainState) -> dict[str, float]:
    """Distance and angle (degrees) of every feedback kernel and its forward one, by "angle/<kernel>"."""
    row = {}
    for name, value in metrics.weight_alignment(state.forward, state.feedback).items():
        row |= {f"distance/{name}": float(value.distance), f"angle/{name}": float(value.angle)}
    return row


def last_angle(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """(kernel, degrees) of the last feedback map in a row, for the screen."""
    found = [(key.removeprefix("angle/"), row[key]) for key in row if key.startswith("angle/")]
    return found[-1] if found and np.isfinite(found[-1][1]) else None
