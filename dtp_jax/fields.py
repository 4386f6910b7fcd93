"""What the value of a hyper-parameter may be, and the words that refuse another one.

The one place for these rules: the config (`run/config.py`) and the library (rules, networks, the
learner) check by them and say the same.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

ABC = {int: numbers.Integral, float: numbers.Real}
"""Numbers of other libraries pass for Python's own."""


class Field(NamedTuple):
    """Type of a field, and which values it takes."""

    kind: type
    allowed: str
    """In words, as they stand in an error."""
    accepts: Callable[[Any], bool] = lambda value: True
    is_tuple: bool = False
    """A tuple of such values; one value alone is taken for a tuple of length 1."""
    per_block: bool = False
    """The tuple has one value for each trained feedback map, or one for all."""
    default: Any = None
    """Of a field that a registered rule or network brings; the others have theirs in configs/default.py."""


def choice(names: Iterable[str]) -> Field:
    """One of these names, asked for when a value is checked: a table may grow."""
    return Field(str, "one of " + ", ".join(names), lambda value: value in names)


def positive(value: float) -> bool:
    """Finite and above 0."""
    return 0 < value < math.inf


def not_negative(value: float) -> bool:
    """Finite, 0 or more."""
    return 0 <= value < math.inf


COUNT = Field(int, "a whole number, 0 or more", not_negative)
AT_LEAST_1 = Field(int, "a whole number, 1 or more", positive)
RATE = Field(float, "a finite number above 0", positive)
FACTOR = Field(float, "a finite number, 0 or more", not_negative)
BELOW_1 = Field(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
WIDTHS = Field(int, "() or whole numbers, 1 or more", positive, is_tuple=True)
FLAG = Field(bool, "True or False")
NOISE = Field(float, "finite numbers above 0", positive, is_tuple=True, per_block=True)
RATES = NOISE
ITERATIONS = Field(int, "whole numbers, 1 or more", positive, is_tuple=True, per_block=True)


def checked(name: str, value: Any, field: Field) -> Any:
    """The value in the field's type. Whole numbers pass for floats; True is no number.

    Raises:
      ValueError: one line with the name, the value and what is allowed.
    """
    entries = tuple(value) if field.is_tuple and isinstance(value, (tuple, list)) else (value,)
    kind = ABC.get(field.kind, field.kind)
    for entry in entries:
        is_flag = isinstance(entry, bool) and field.kind is not bool
        if is_flag or not isinstance(entry, kind) or not field.accepts(entry):
            raise error(name, value, field.allowed)
    try:
        entries = tuple(field.kind(entry) for entry in entries)
    except OverflowError as problem:  # a whole number beyond every float
        raise error(name, value, field.allowed) from problem
    return entries if field.is_tuple else entries[0]


def full_length(name: str, value: tuple, blocks: Sequence[str]) -> tuple:
    """The tuple with one value for each of these blocks; one value stands for all.

    Raises:
      ValueError: one line; it has another number of values.
    """
    if len(value) not in (1, len(blocks)):
        raise error(name, value, f"1 value, or {len(blocks)}: one for each of {', '.join(blocks)}")
    return value * len(blocks) if len(value) == 1 else value


def error(name: str, value: Any, allowed: str) -> ValueError:
    """The line that every refusal is."""
    return ValueError(f"{name} is {value!r}; allowed: {allowed}")
