"""The lines of metrics.jsonl, whose names TensorBoard has too."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dtp_jax.blocks import Block
from dtp_jax.learning.diagnostics import GROUPS
from dtp_jax.learning.learner import Learner, Metrics, TrainState

Row = dict[str, Any]


def in_network_order(found: Any, network: Sequence[Block]) -> Any:
    """The same, with what belongs to blocks in the order of the network.

    A compiled program returns dicts sorted by name: fc10 before fc2, a resnet's fc before its layer_1_0.

    Args:
      found: a dict, with dicts inside. Its names are "<kind>", "<block>", or "<kind>/<block>/<more>"; kinds
        stay in the order in which they come.
    """
    if not isinstance(found, Mapping):
        return found
    places = {block.name: place for place, block in enumerate(network)}

    def parted(name: str) -> tuple[str, int]:
        parts = name.split("/")
        n = next((n for n, part in enumerate(parts) if part in places), None)
        return (name, -1) if n is None else ("/".join(parts[:n]), places[parts[n]])

    kinds = {kind: n for n, kind in reversed([*enumerate(parted(name)[0] for name in found)])}
    ordered = sorted(found, key=lambda name: (kinds[parted(name)[0]], parted(name)[1]))
    return {name: in_network_order(found[name], network) for name in ordered}


def metrics_in_order(found: Metrics, network: Sequence[Block]) -> Metrics:
    """The same, with its dicts in the order of the network."""
    names = ("feedback_loss", "forward_loss", "guard")
    return found.replace(**{n: in_network_order(getattr(found, n), network) for n in names})


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


def feedback_row(curves: Mapping[str, np.ndarray], step: int, epoch: int) -> Row:
    """Where the curves of a look begin and end: "loss_first/<map>", "loss_last/<map>", ...

    Args:
      curves: "<kind>/<map>", (iterations,); of the batch that step `step` + 1 trains on.
    """
    row = {"step": step, "epoch": epoch, "split": "feedback"}
    for name, values in curves.items():
        kind, _, block = name.partition("/")
        row |= {
            f"{kind}_first/{block}": float(values[0]),
            f"{kind}_last/{block}": float(values[-1]),
        }
    return row


def numbers_row(numbers: Mapping[str, Any], step: int, epoch: int) -> Row:
    """The measures of a pass; see docs/diagnostics.md for their names."""
    row = {"step": step, "epoch": epoch, "split": "diagnostics"}
    return row | {name: float(value) for name, value in numbers.items()}


def weight_rows(learner: Learner, state: TrainState) -> dict[str, float]:
    """Angle (degrees), distance and norm ratio of every feedback kernel and its forward one: "angle/<kernel>"."""
    if GROUPS["weights"].refuses(learner):  # also where shapes happen to agree
        return {}
    found = GROUPS["weights"].measure(learner, state, None, None, None)
    found = in_network_order(found, learner.network)
    return {name: float(value) for name, value in found.items()}


def mean_update_angle(row: Mapping[str, Any]) -> float | None:
    """Degrees between updates and backprop's gradients, mean over parameters, for the screen."""
    angles = [value for name, value in row.items() if name.startswith("update_angle/")]
    angles = [value for value in angles if np.isfinite(value)]
    return sum(angles) / len(angles) if angles else None


def last_angle(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """(kernel, degrees) of the last feedback map in a row, for the screen."""
    found = [(key.removeprefix("angle/"), row[key]) for key in row if key.startswith("angle/")]
    return found[-1] if found and np.isfinite(found[-1][1]) else None
