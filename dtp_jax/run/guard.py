"""Watching for numbers that are not finite, and naming the suspect.

With `config.guard` "stop" a bad number ends the run. Else the compiled step has dealt with it (see
`dtp_jax/learning/recovery.py`): it is told here, and the run ends where that helps no more.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dtp_jax.learning.learner import Learner, Metrics, TrainState
from dtp_jax.learning.recovery import EXPLODED

PATIENCE = 100
"""So many batches left out one after the other, or so many halvings of one rate, and a run is given up."""


class Diverged(Exception):
    """A number is not finite or beyond hope: which one, at which step, the learning rate to suspect."""


def check_losses(
    found: Metrics, first: int, config: Mapping[str, Any], learner: Learner, last_good: str
) -> None:
    """Looks through the metrics of a chunk of steps.

    Args:
      found: host arrays with leading axis = steps, the first of which is number `first` + 1.
      last_good: what to say of the last good checkpoint.

    Raises:
      Diverged: naming the first step with a loss that is not finite, or a cross-entropy above EXPLODED.
    """
    bad = np.stack([is_bad(found, name) for name in _losses(found)]).any(axis=0)
    if bad.any():
        k = int(bad.argmax())
        what, suspect = _reason(found, k, config, learner)
        raise Diverged(f"step {first + k + 1}: {what}; suspect: {suspect}; {last_good}")


def check_recovery(
    found: Metrics,
    first: int,
    total: int,
    config: Mapping[str, Any],
    learner: Learner,
    last_good: str,
) -> list[str]:
    """What the guard of a learner did in a chunk of steps; nothing with "stop". See `check_losses`.

    Args:
      total: steps of the run. One that has left out all its batches is given up at its end.

    Returns:
      Lines for the user.

    Raises:
      Diverged: naming the step at which PATIENCE was at its end.
    """
    if not found.guard:
        return []
    now, most = found.guard["now"], min(PATIENCE, total)
    hopeless = {None: now["in_a_row"] >= most}
    hopeless |= {block: times > PATIENCE for block, times in now.get("halved", {}).items()}
    ends = {block: int(there.argmax()) for block, there in hopeless.items() if there.any()}
    if not ends:
        return [*_skipped(found, first, config, learner), *_halved(found, first)]
    block = min(ends, key=ends.get)
    if block is None:
        reason, suspect = _reason(found, ends[block], config, learner)
        what = f"{most} batches in a row were skipped, the last because {reason}"
    else:
        what = f"the feedback rate of {block} was halved {PATIENCE} times and is still too large"
        suspect = _feedback_suspect(block, config, learner)
    raise Diverged(f"step {first + ends[block] + 1}: {what}; suspect: {suspect}; {last_good}")


def _skipped(found: Metrics, first: int, config: Mapping[str, Any], learner: Learner) -> list[str]:
    steps = np.flatnonzero(found.guard["skipped"])
    if not len(steps):
        return []
    what = _reason(found, int(steps[0]), config, learner)[0]
    so_far = f"({found.guard['now']['skipped'][steps[-1]]} so far)"
    if len(steps) == 1:
        return [f"step {first + steps[0] + 1}: batch skipped: {what} {so_far}"]
    span = f"steps {first + steps[0] + 1} to {first + steps[-1] + 1}"
    return [f"{span}: {len(steps)} batches skipped, the first because {what} {so_far}"]


def _halved(found: Metrics, first: int) -> list[str]:
    lines = []
    for block, did in found.guard["halved"].items():
        steps = np.flatnonzero(did)
        if len(steps):
            k = steps[-1]
            bad = is_bad(found, f"feedback loss of {block}")[k]
            what = "its feedback loss is not finite" if bad else "its parameters explode"
            factor = found.guard["now"]["factor"][block][k]
            lines.append(
                f"step {first + k + 1}: the feedback rate of {block} is halved, to {factor:.3g} of "
                f"what it was: {what}"
            )
    return lines


def _losses(found: Metrics) -> dict[str, np.ndarray]:
    return {
        "loss": found.loss,
        **{f"feedback loss of {k}": v for k, v in found.feedback_loss.items()},
        **{f"local loss of {k}": v for k, v in found.forward_loss.items()},
    }


def is_bad(found: Metrics, name: str) -> np.ndarray:
    """By step, whether that loss is not finite, or the cross-entropy above EXPLODED."""
    values = _losses(found)[name]
    return ~np.isfinite(values) | ((name == "loss") & (values > EXPLODED))


def _reason(found: Metrics, k: int, config: Mapping[str, Any], learner: Learner) -> tuple[str, str]:
    """(what is wrong in the k-th step, the suspect)."""
    losses, halved = _losses(found), found.guard.get("halved", {})
    for block in halved:  # what a map lost is taken back, and no reason to skip a batch
        del losses[f"feedback loss of {block}"]
    name = next((name for name in losses if is_bad(found, name)[k]), None)
    if name is None:
        suspect = _forward_suspect(found, k, config, learner)
        if found.feedback_loss and not halved:
            suspect += f" or config.feedback_lr {config['feedback_lr']}"
        return "parameters explode", suspect
    what = f"the {name} {_told(losses[name][k])}"
    if name.startswith("feedback loss of "):
        return what, _feedback_suspect(name.removeprefix("feedback loss of "), config, learner)
    # The forward weights went wrong before this step.
    return what, _forward_suspect(found, max(k - 1, 0), config, learner)


def _told(value: float) -> str:
    return f"is {value:.1e}" if np.isfinite(value) else "is not finite"


def counts(found: Metrics) -> np.ndarray:
    """By step, whether its batch was trained on: not skipped."""
    return ~found.guard.get("skipped", np.zeros(len(found.loss), bool))


def check_loss(
    what: str,
    loss: float,
    step: int,
    config: Mapping[str, Any],
    learner: Learner,
    last_good: str,
    *,
    most: float = EXPLODED,
    found: Metrics | None = None,
) -> None:
    """Looks at a cross-entropy of the weights after a step.

    Args:
      what: which one, in words. most: above that there is no hope.
      found: metrics of the steps before, for the suspect; see `check_losses`.

    Raises:
      Diverged: it is not finite, or above `most`.
    """
    if np.isfinite(loss) and loss <= most:
        return
    suspect = (
        _forward_rate(config, learner)
        if found is None
        else _forward_suspect(found, -1, config, learner)
    )
    raise Diverged(f"step {step}: {what} {_told(loss)}; suspect: {suspect}; {last_good}")


def check_parameters(
    state: TrainState, config: Mapping[str, Any], learner: Learner, last_good: str
) -> None:
    """Raises Diverged if any parameter or optimizer state is not finite, or a feedback map exploded.

    The forward weights may be large where their loss is not: see `check_loss`.
    """

    def diverged(what: str, suspect: str, value: float = np.nan) -> Diverged:
        return Diverged(
            f"step {int(state.step)}: {what} {_told(value)}; suspect: {suspect}; {last_good}"
        )

    for block in learner.network:
        if not _all_finite(state.forward[block.name]):
            raise diverged(
                "a forward parameter",
                f"block {block.name}, {_forward_rate(config, learner, block.name)}",
            )
        suspect = _feedback_suspect(block.name, config, learner)
        if not _all_finite(
            (state.feedback.get(block.name), state.feedback_opt_state.get(block.name))
        ):
            raise diverged("a feedback parameter", suspect)
        if (most := _largest(state.feedback.get(block.name))) > EXPLODED:
            raise diverged("a feedback parameter", suspect, most)
    if not _all_finite(state.forward_opt_state):
        raise diverged("an optimizer state", _forward_rate(config, learner))


def _all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def _forward_suspect(found: Metrics, k: int, config: Mapping[str, Any], learner: Learner) -> str:
    """The block furthest from its target in the k-th step."""
    local = {block: values[k] for block, values in found.forward_loss.items()}
    worst = (
        max(local, key=lambda b: np.nan_to_num(local[b], nan=np.inf))
        if local
        else learner.network[0].name
    )
    return f"block {worst}, {_forward_rate(config, learner, worst)}"


def _forward_rate(config: Mapping[str, Any], learner: Learner, block: str | None = None) -> str:
    """The field that sets the forward learning rate, and its value: of one block, or of all."""
    name, value = "forward_lr", config["forward_lr"]
    if config["block_forward_lr"]:
        name, value = "block_forward_lr", config["block_forward_lr"]
        if block is not None:
            value = value[[one.name for one in learner.network].index(block)]
    divided = f" / config.beta {config['beta']}" if config["normalize_lr"] else ""
    return f"config.{name} {value}{divided}"


def _largest(tree: Any) -> float:
    return max((float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)), default=0.0)


def _feedback_suspect(name: str, config: Mapping[str, Any], learner: Learner) -> str:
    trained = [block.name for block in learner.trained]
    if name not in trained:
        return f"block {name}"
    return f"block {name}, config.feedback_lr {config['feedback_lr'][trained.index(name)]}"
