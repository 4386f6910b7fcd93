"""A run as a sequence of passes over the training images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dtp_jax.fields import MOST, error
from dtp_jax.learning.learner import BOTH, FEEDBACK_ONLY, FORWARD_ONLY


class Pass(NamedTuple):
    """One pass over the training images."""

    epoch: int
    """0 before the first epoch of forward training, then 1, 2, ..."""
    trains: tuple[str, ...]
    """See `Learner.trains`."""


class Passes(Sequence[Pass]):
    """All passes of a run, in order. Each is computed when it is asked for: there may be billions."""

    def __init__(self, config: Mapping[str, Any]):
        self._before, self._epochs = config["pretrain_epochs"], config["epochs"]
        one = (FEEDBACK_ONLY, FORWARD_ONLY) if config["alternate"] else (BOTH,)
        self._of_an_epoch = (*one, FEEDBACK_ONLY) if config["feedback_pass"] else one

    def __len__(self) -> int:
        return self._before + self._epochs * len(self._of_an_epoch)

    def __getitem__(self, number: int) -> Pass:
        if not 0 <= number < len(self):
            raise IndexError(f"pass {number} of {len(self)}")
        if number < self._before:
            return Pass(0, FEEDBACK_ONLY)
        epoch, within = divmod(number - self._before, len(self._of_an_epoch))
        return Pass(epoch + 1, self._of_an_epoch[within])

    def ways(self, first: int, last: int) -> set[tuple[str, ...]]:
        """What the passes from number `first` to number `last` train, each way once."""
        every = len(self._of_an_epoch)
        # An epoch has every way; the feedback passes before the first one are all alike.
        some = (first, *range(max(first, self._before), max(first, self._before) + every), last)
        return {self[number].trains for number in some if first <= number <= last}


def passes(config: Mapping[str, Any]) -> Passes:
    """All passes of a run, in order.

    Every epoch trains everything at once, or with `alternate` first the feedback maps and then the
    forward weights (s-DDTP). `pretrain_epochs` passes come before, and with `feedback_pass` one comes
    after every epoch, that train the feedback maps alone.
    """
    return Passes(config)


def total_steps(config: Mapping[str, Any], train_examples: int) -> int:
    """Steps of a whole run: full batches only, and no more than config.max_steps.

    Raises:
      ValueError: one line; there are more than a run can count.
    """
    steps_per_epoch = train_examples // config["batch_size"]
    steps = len(passes(config)) * steps_per_epoch
    steps = min(steps, config["max_steps"]) if config["max_steps"] else steps
    if steps > MOST:
        name = max(("epochs", "pretrain_epochs"), key=config.__getitem__)
        raise error(
            f"config.{name}",
            config[name],
            f"less, for {steps} steps are more than {MOST}, to which JAX counts in 32 bits; or "
            f"--config.max_steps=N up to {MOST}, which ends the run before",
        )
    return steps
