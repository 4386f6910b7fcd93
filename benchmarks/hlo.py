"""What the devices of a compiled program send each other, read from its text (HLO)."""

import math
import re
from collections import Counter
from functools import cache

_BODY = re.compile(r"^(?:ENTRY )?(%[\w.\-]+) .*?^}", re.MULTILINE | re.DOTALL)
_ARRAY = re.compile(r"\b(pred|bf16|[suf](\d+))\[([\d,]*)\]")
# In two parts where it goes on in the background: the result, counted alone, is that of the end.
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-done)?\("
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
    r"\b(?:body|to_apply|(?:branch|true|false)_computations?)=(\{[^}]*\}|%[\w.\-]+)"
)


def collectives(program: str) -> tuple[Counter[str], Counter[str]]:
    """(inside loops, outside): how often each kind of collective operation stands in a program.

    Inside is what was written in a loop, also where the compiler has unrolled it.
    """
    inside, outside = Counter(), Counter()
    for line in program.splitlines():
        if found := _COLLECTIVE.search(line):
            (inside if "while/body" in line else outside)[found[2]] += 1
    return inside, outside


def exchanged_bytes(program: str) -> int:
    """Bytes of all results of collective operations, per device and execution of a compiled program.

    A loop counts as often as it runs (once, where the compiler does not know), a conditional as its branch
    that exchanges most.
    """
    bodies = {m[1]: m[0].splitlines()[1:] for m in _BODY.finditer(program)}

    @cache
    def total(name: str) -> int:
        size = 0
        for line in bodies[name]:
            if found := _COLLECTIVE.search(line):
                size += _array_bytes(found[1])
            elif re.search(r" (while|conditional|call)\(", line):
                called = re.findall(r"%[\w.\-]+", " ".join(_CALLED.findall(line)))
                trips = _TRIPS.search(line)
                size += int(trips[1] if trips else 1) * max(map(total, called))
        return size

    return total(re.search(r"^ENTRY (%[\w.\-]+)", program, re.MULTILINE)[1])


def _array_bytes(types: str) -> int:
    """Of all arrays of an HLO type such as (f32[3,4]{1,0}, pred[])."""
    return sum(
        math.prod(int(n) for n in m[3].split(",") if n)
        * ({"pred": 1, "bf16": 2}.get(m[1]) or int(m[2]) // 8)
        for m in _ARRAY.finditer(types)
    )
