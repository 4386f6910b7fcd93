"""Numbers in words."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from dtp_jax.plots.labels import plus_minus

NONE = "–"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation of a sample; the mean alone of one value."""
    if not values:
        return NONE
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return plus_minus(statistics.fmean(values), deviation, f".{digits}f")


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, or a dash."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float | None) -> str:
    """To three digits, or that it is smaller."""
    if value is None:
        return NONE
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def significant(value: float | None) -> str:
    """Three digits, or a dash."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3g}"


def ends(first: float, last: float) -> str:
    """Where a curve begins and ends."""
    return f"{significant(first)} to {significant(last)}"


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def field(value: Any) -> str:
    """The value of a field of a config, as --config.FIELD=VALUE takes it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(field, value)) or "()"
    return '""' if value == "" else str(value)
