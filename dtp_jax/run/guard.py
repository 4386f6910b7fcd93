"""Watching for numbers that are not finite, and naming the suspect."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dtp_jax.learning.learner import Learner, Metrics, TrainState

EXPLODED = 1e6
"""A cross-entropy from which no run comes back, though every number may stay finite."""


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
    losses = {
        "loss": found.loss,
        **{f"feedback loss of {k}": v for k, v in found.feedback_loss.items()},
        **{f"local loss of {k}": v for k, v in found.forward_loss.items()},
    }
    bad = ~np.isfinite(np.stack(list(losses.values())))
    bad[0] |= found.loss > EXPLODED
    if not bad.any():
        return
    k = int(bad.any(axis=0).argmax())
    name = list(losses)[int(bad[:, k].argmax())]
    if name.startswith("feedback loss of "):
        suspect = _feedback_suspect(name.removeprefix("feedback loss of "), config, learner)
    else:
        # The forward weights went wrong before this step: blame the block furthest from its target then.
        local = {block: values[max(k - 1, 0)] for block, values in found.forward_loss.items()}
        worst = (
            max(local, key=lambda b: np.nan_to_num(local[b], nan=np.inf))
            if local
            else learner.network[0].name
        )
        suspect = f"block {worst}, config.forward_lr {config['forward_lr']}"
    what = f"is {losses[name][k]:.1e}" if np.isfinite(losses[name][k]) else "is not finite"
    raise Diverged(f"step {first + k + 1}: the {name} {what}; suspect: {suspect}; {last_good}")


def check_parameters(
    state: TrainState, config: Mapping[str, Any], learner: Learner, last_good: str
) -> None:
    """Raises Diverged if any parameter or optimizer state is not finite."""

    def diverged(what: str, suspect: str) -> Diverged:
        return Diverged(
            f"step {int(state.step)}: {what} is not finite; suspect: {suspect}; {last_good}"
        )

    for block in learner.network:
        if not _all_finite(state.forward[block.name]):
            raise diverged(
                "a forward parameter",
                f"block {block.name}, config.forward_lr {config['forward_lr']}",
            )
        if not _all_finite(
            (state.feedback.get(block.name), state.feedback_opt_state.get(block.name))
        ):
            raise diverged("a feedback parameter", _feedback_suspect(block.name, config, learner))
    if not _all_finite(state.forward_opt_state):
        raise diverged("an optimizer state", f"config.forward_lr {config['forward_lr']}")


def _all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def _feedback_suspect(name: str, config: Mapping[str, Any], learner: Learner) -> str:
    i = [block.name for block in learner.trained].index(name)
    return f"block {name}, config.feedback_lr {config['feedback_lr'][i]}"
