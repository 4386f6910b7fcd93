"""Texts of tables and pictures: what sets the names of runs apart, a mean and its deviation.

Names are NAME-FIELD=VALUE-FIELD=VALUE, as comparisons call theirs.
"""

import math
import os
import re
from collections.abc import Sequence

FIELD = re.compile(r"-(?=[A-Za-z_]\w*=)")
"""Before a field; a minus in a value is followed by none."""
LONG = 32
"""Letters of a name that a table or a line takes as it is."""
SAME = "…"
"""In a tuple: a value that stands elsewhere."""


def short_labels(labels: Sequence[str]) -> tuple[str, list[str]]:
    """(what all labels have in common, what is left of each), in the form of labels.

    ("fashion_mnist_small", ["ldrl", "p_ddtp"]) of fashion_mnist_small-ldrl and fashion_mnist_small-p_ddtp,
    parted at a character that is no letter or digit. Fields that all labels have with one value are in common,
    and so are the places of a tuple at which it is the same in all; where one place is left, its value is:
    ("digits_dtp-noise=0.4,…-beta=0.1", ["noise=0.2", "noise=0.1"]) of digits_dtp-noise=0.4,0.2-beta=0.1 and
    digits_dtp-noise=0.4,0.1-beta=0.1.
    Where nothing would be left of a label, or two would be the same, all stay whole; a single one does.
    """
    heads, *_ = zip(*(FIELD.split(label, 1) for label in labels)) if labels else ((),)
    fields = [dict(map(_pair, FIELD.split(label)[1:])) for label in labels]
    common, own = _apart(fields)
    begin, left = _begin(heads, has_empty=not all(own))
    short = ["-".join(filter(None, parts)) for parts in zip(left, map(_joined, own))]
    if len(labels) < 2 or not all(short) or len(set(short)) < len(short):
        return "", list(labels)
    return "-".join(filter(None, (begin, _joined(common)))), short


def fitting_labels(labels: Sequence[str]) -> tuple[str, list[str]]:
    """`short_labels` where any is longer than LONG; else ("", the labels)."""
    is_long = max(map(len, labels), default=0) > LONG
    return short_labels(labels) if is_long else ("", list(labels))


def plus_minus(
    mean: float, deviation: float | None, form: str = ".2f", deviation_form: str = ""
) -> str:
    """mean ± standard deviation; the mean alone of one value, whose deviation is None or not finite.

    Args:
      form: how numbers are written, as `format` takes it. deviation_form: the deviation, if otherwise.
    """
    if deviation is None or not math.isfinite(deviation):
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {deviation:{deviation_form or form}}"


def _pair(field: str) -> tuple[str, str]:
    name, _, value = field.partition("=")
    return name, value


def _joined(fields: dict[str, str]) -> str:
    return "-".join(f"{name}={value}" for name, value in fields.items())


def _apart(fields: Sequence[dict[str, str]]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """(the fields that all have, as far as they are equal; those of each, as far as they are not)."""
    common, own = {}, [dict(one) for one in fields]
    for name in [name for name in (fields[0] if fields else ()) if all(name in f for f in fields)]:
        shared, values = places([one[name] for one in fields])
        if not shared:
            continue
        common[name] = shared
        for one, value in zip(own, values):
            left = [place for place in value.split(",") if place != SAME]
            one[name] = (
                left[0] if len(left) == 1 else value
            )  # what is in common shows where it belongs
            if not left:
                del one[name]
    return common, own


def places(values: Sequence[str]) -> tuple[str, list[str]]:
    """(the tuple that all have, what is left of each), with … for the places of the other.

    ("0.1,…,0.3", ["…,4,…", "…,5,…"]) of 0.1,4,0.3 and 0.1,5,0.3. Where no place is equal in all, or they
    are not of one length, "" and the values.
    """
    split = [value.split(",") for value in values]
    equal = [len(set(place)) == 1 for place in zip(*split)]
    if len({len(one) for one in split}) > 1 or not any(equal):
        return "", list(values)
    common = ",".join(v if same else SAME for v, same in zip(split[0], equal))
    return common, [",".join(SAME if same else v for v, same in zip(one, equal)) for one in split]


def _begin(heads: Sequence[str], *, has_empty: bool) -> tuple[str, list[str]]:
    """What all names begin with, and what is left of each: of equal ones nothing, where that may be."""
    if len(set(heads)) == 1 and not has_empty:
        return heads[0], [""] * len(heads)
    common = os.path.commonprefix(list(heads))
    cut = max((i + 1 for i, letter in enumerate(common) if not letter.isalnum()), default=0)
    left = [head[cut:] for head in heads]
    return (common[: cut - 1], left) if cut and all(left) else ("", list(heads))
