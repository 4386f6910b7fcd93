"""A run as a sequence of passes over the training images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dtp_jax.learning.learner import BOTH, FEEDBACK_ONLY, FORWARD_ONLY


class Pass(NamedTuple):
    """One pass over the training images."""

    epoch: int
    """0 before the first epoch of forward training, then 1, 2, ..."""
    trains: tuple[str, ...]
    """See `Learner.trains`."""


def passes(config: Mapping[str, Any]) -> tuple[Pass, ...]:
    """All passes of a run, in order.

    Every epoch trains everything at once, or with `alternate` first the feedback maps and then the
    forward weights (s-DDTP). `pretrain_epochs` passes come before, and with `feedback_pass` one comes
    after every epoch, that train the feedback maps alone.
    """
    one = (FEEDBACK_ONLY, FORWARD_ONLY) if config["alternate"] else (BOTH,)
    if config["feedback_pass"]:
        one = (*one, FEEDBACK_ONLY)
    before = tuple(Pass(0, FEEDBACK_ONLY) for _ in range(config["pretrain_epochs"]))
    return before + tuple(Pass(e + 1, trains) for e in range(config["epochs"]) for trains in one)


def total_steps(config: Mapping[str, Any], train_examples: int) -> int:
    """Steps of a whole run: full batches only, and no more than config.max_steps."""
    steps = len(passes(config)) * (train_examples // config["batch_size"])
    return min(steps, config["max_steps"]) if config["max_steps"] else steps
