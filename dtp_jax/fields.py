"""What the value of a hyper-parameter may be, and the words that refuse another one.

The one place for these rules: the config (`run/config.py`) and the library (rules, networks, the
learner) check by them and say the same.
"""

import math
import numbers
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNSPEAKABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of characters that a path of a run must not have: control characters such as the null and the
end of a line, and bytes that are no UTF-8."""

ABC = {int: numbers.Integral, float: numbers.Real}
"""Numbers of other libraries pass for Python's own."""

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How gs://bucket/run and file:///run begin."""
FOLDER = "a writable folder"
LONGEST = 500
"""Characters of a value in an error."""
MOST = 2**31 - 1
"""JAX counts in 32 bits."""
SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Of the numbers of float32 above 0 that keep all their digits."""


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


PARTS = ("feedback", "forward")
"""Of the parameters: what a step may change."""
PRECISIONS = ("float32", "tf32", "bfloat16")
"""Of products; see `ops.PRECISIONS`."""
GUARDS = ("stop", "skip", "halve")
"""What a run does where numbers go wrong: it ends; it leaves the batch out; it halves the rate of the
feedback map whose training went wrong. See `dtp_jax/learning/recovery.py`."""
STALE_GRADIENTS = ("none", "kept", "zeroed")
"""The original's DRL has one Adam for all feedback maps, which it steps after every iteration of every
block, while it clears their gradients once per batch only. "kept": blocks below the one in training go
on stepping on their last gradient. "zeroed", as under torch 1.8: blocks above it step on zeros as well,
from the second batch on. "none" is the clean algorithm: every step on a fresh gradient."""


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
SIZES = Field(int, "whole numbers, 1 or more", positive, is_tuple=True)
FLAG = Field(bool, "True or False")
NAME = Field(str, "text, one character or more", bool)
NOISE = Field(float, "finite numbers above 0", positive, is_tuple=True, per_block=True)
RATES = NOISE
ITERATIONS = SIZES._replace(per_block=True)
OPTIMIZER = choice(("sgd", "adam"))
PRECISION = choice(PRECISIONS)
STALE = choice(STALE_GRADIENTS)
GUARD = choice(GUARDS)
SWITCH = choice(("auto", "on", "off"))
NOTHING_TO_HALVE = "stop or skip, for no feedback map is trained"
TRAINS = Field(
    str, f"one or both of {', '.join(PARTS)}", lambda value: value in PARTS, is_tuple=True
)

UNTRAINED = {
    "feedback_optimizers": (),
    "feedback_iterations": (),
    "feedback_samples": 1,
    "stale_gradients": "none",
}
"""The options of a learner that say nothing: its only ones where the rule trains no feedback maps."""

AN_OPTIMIZER = "an optimizer, such as dtp_jax.optim.sgd(0.1, momentum=0.9)"
A_LEARNER = "a dtp_jax.Learner"
A_RULE = "a rule, such as dtp_jax.ldrl(noise=0.1, beta=0.7)"
BLOCKS = "blocks, as dtp_jax.chain(input_shape, factories) returns them"


def checked(name: str, value: Any, field: Field) -> Any:
    """The value in the field's type. Whole numbers pass for floats; True is no number.

    Arrays are taken for the numbers in them. Where JAX does not know those yet, as under `jit` and
    `vmap`, they pass unseen.

    Raises:
      ValueError: one line with the name, the value and what is allowed.
    """
    value = plain(value)
    several = isinstance(value, (tuple, list)) or (is_traced(value) and value.ndim > 0)
    entries = tuple(value) if field.is_tuple and several else (value,)
    kind = ABC.get(field.kind, field.kind)
    for entry in entries:
        is_flag = isinstance(entry, bool) and field.kind is not bool
        known = not is_traced(entry)
        if known and (is_flag or not isinstance(entry, kind) or not field.accepts(entry)):
            raise error(name, value, field.allowed)
        if known and field.kind is int and entry > MOST:
            raise error(name, value, f"no more than {MOST}, for JAX counts in 32 bits")
    try:
        entries = tuple(e if is_traced(e) else field.kind(e) for e in entries)
    except OverflowError as problem:  # a whole number beyond every float
        raise error(name, value, field.allowed) from problem
    return entries if field.is_tuple else entries[0]


def single(name: str, value: Any, field: Field) -> None:
    """Raises ValueError, one line, for a number that float32 does not have: it would compute with another.

    Args:
      value: of a field of numbers, checked.
    """
    for number in value if isinstance(value, tuple) else (value,):
        here = float(np.float32(min(max(number, -LARGEST), LARGEST)))
        if number and not SMALLEST <= abs(number) <= LARGEST:
            raise error(
                name, value, f"{field.allowed}, from 1.2e-38 to 3.4e+38: it is computed in float32"
            )
        if not field.accepts(here):
            raise error(name, value, f"{field.allowed}, also in float32, where it is {here}")


def require(field: Field, **values: Any) -> None:
    """Raises ValueError, one line, where one of these named values is none of the field's."""
    for name, value in values.items():
        checked(name, value, field)


def full_length(name: str, value: tuple, blocks: Sequence[str], otherwise: str = "") -> tuple:
    """The tuple with one value for each of these blocks; one value stands for all.

    Args:
      otherwise: what else is allowed, for the error.

    Raises:
      ValueError: one line; it has another number of values.
    """
    if len(value) not in (1, len(blocks)):
        each = f"1 value, or {len(blocks)}: one for each of {', '.join(blocks)}"
        raise error(name, value, (each if blocks else "(), or 1 value") + otherwise)
    return value * len(blocks) if len(value) == 1 else value


def for_no_maps(name: str, value: Any, rule: str) -> ValueError:
    """The error for an option of feedback training that has a value, where the rule trains no maps."""
    neutral = UNTRAINED.get(name.removeprefix("config."), type(value)())
    return error(name, value, f"{neutral!r} for the rule {rule}, which trains no feedback maps")


def error(name: str, value: Any, allowed: str) -> ValueError:
    """The line that every refusal is."""
    return ValueError(f"{name} is {described(value)}; allowed: {allowed}")


def local_path(name: str, value: str | os.PathLike, kind: str = "a path that can be used") -> Path:
    """The path that a user has given, with ~ spelt out.

    Raises:
      ValueError: one line; it is the address of something remote, nobody's home, or no name that a file
        can have and a line can show.
    """
    text = os.fspath(value)
    if ADDRESS.match(text):
        raise error(name, text, "a local path; mount remote storage, and give its folder")
    if not text:
        raise error(name, text, "a path, one character or more")
    if any(unicodedata.category(character) in UNSPEAKABLE for character in text):
        raise error(name, text, "a path of characters that can be shown, in UTF-8")
    try:
        path = Path(text).expanduser()
    except RuntimeError as problem:
        raise error(name, text, "a path without ~, for that home folder is not known") from problem
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # to be made, or said by whoever looks for it
    except OSError as problem:
        raise error(name, text, f"{kind}; {problem.strerror}") from problem
    return path


def local_folder(name: str, value: str | os.PathLike) -> Path:
    """The folder that a user has given to write to; it may be yet to be made.

    Raises:
      ValueError: one line; see `local_path`, or something else is there.
    """
    path = local_path(name, value, FOLDER)
    for place in (path, *path.parents):
        if os.path.islink(place) and not os.path.exists(place):
            raise error(name, str(value), f"{FOLDER}; {str(place)!r} is a link that leads nowhere")
        if os.path.exists(place) and not os.path.isdir(place):
            raise error(name, str(value), f"{FOLDER}; {str(place)!r} is a file")
    return path


def first_line(error: BaseException) -> str:
    """Of what an error says, or its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def shown(name: str) -> str:
    """A name that a user has made up, as it stands in an error."""
    return name if name.isprintable() and len(name) <= LONGEST else described(name)


def described(value: Any) -> str:
    """A value as it stands in an error: its `repr`, or what it is where that is no short line.

    Arrays are described by type and shape: uint8[32, 8, 8, 1].
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    is_sequence = type(value) in (tuple, list)
    if is_sequence and len(value) > LONGEST:
        return f"{len(value)} values"
    try:
        text = repr(value)
    except ValueError:  # Python writes out no more than some thousand digits
        return "a number of thousands of digits" if not is_sequence else f"{len(value)} values"
    plain_entries = (str, numbers.Number, type(None))
    if all(isinstance(entry, plain_entries) for entry in (value if is_sequence else (value,))):
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if len(text) <= 80 and "\n" not in text:
        return text
    if is_sequence:
        return f"{len(value)} value{'' if len(value) == 1 else 's'}"
    return f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """Numbers of numpy and JAX as Python's; what JAX does not know yet stays."""
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") and not is_traced(value) else value


def is_traced(value: Any) -> bool:
    """Whether JAX knows this number only when the program runs."""
    if not hasattr(value, "aval"):
        return False
    import jax  # here: who has something traced has imported it

    return isinstance(value, jax.core.Tracer)
