"""What a config file says of a search: where the values of its fields are looked for.

    from dtp_jax.sweep.space import Choice, LogUniform, PerMap, Uniform

    space = {
        "beta": Uniform(0.01, 1),
        "feedback_lr": PerMap(LogUniform(1e-4, 1e-1)),
        "batch_size": Choice(64, 128, 256),
    }

Nothing is checked here: `dtp sweep` does so, before it starts anything, and says what is wrong in a line.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Numbers between two ends, all alike."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """Numbers between two ends above 0, all orders of magnitude alike."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class IntUniform:
    """Whole numbers between two ends, both of which are among them.

    Args:
      log: all orders of magnitude alike, instead of all numbers.
    """

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of these values, which have no order: numbers, texts, True and False, tuples."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)


@dataclasses.dataclass(frozen=True, init=False)
class PerMap:
    """A value for each feedback map that is trained, each looked for by itself.

    Args:
      of: one of the above for all maps, or one for each, in the order of the network.
    """

    of: "tuple[Uniform | LogUniform | IntUniform | Choice, ...]"

    def __init__(self, *of: "Uniform | LogUniform | IntUniform | Choice"):
        object.__setattr__(self, "of", of)


Distribution = Uniform | LogUniform | IntUniform | Choice
