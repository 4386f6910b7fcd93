"""The operations that a compiled program runs, how often, and what each moves: read from its text (HLO)."""

import math
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|bf16|f8e\w+|[suf]\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"constant\((\d+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TABLE_ROW = re.compile(r"^(\d+) (.*)$")
_SCOPE = re.compile(r"\b(forward|feedback|targets|gradients|update)\.(\w+)")

FREE = {
    *("get-tuple-element", "parameter", "tuple", "constant", "bitcast", "after-all", "while"),
    *("conditional", "call", "partition-id", "replica-id", "domain", "opt-barrier"),
}
"""Nothing runs for these."""
STARTS = (
    "copy-start",
    "async-start",
    "slice-start",
    "all-reduce-start",
    "all-gather-start",
    "collective-permute-start",
)
"""What they move is counted where they end."""
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
_PARTS = ("dynamic-slice", "slice", "gather")
"""What reads no more of its first operand than it returns."""
_THROUGH = ("bitcast", "reshape", "copy", "convert", "transpose")


class Line(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    is_root: bool

    def called(self, role: str) -> str | None:
        """The computation of this role: body, condition, calls, to_apply."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.text)
        return found[1] if found else None


class Operation(NamedTuple):
    """Something that runs in a step."""

    times: int
    """How often."""
    loops: tuple[int, ...]
    """Turns of the loops around it, the outermost first."""
    name: str
    opcode: str
    phase: str
    """forward, feedback, targets, gradients, update, or "other"."""
    block: str
    read: int
    written: int
    """Bytes of one time."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the arrays that it returns, without axes of one."""
    cycles: int | None
    """The compiler's estimate of one time; None where it has none."""
    source: str
    """file:line that asked for it, or what the compiler calls it."""
    is_layout_copy: bool

    @property
    def collective(self) -> str | None:
        """Which of COLLECTIVES it is; None for anything else."""
        kind = self.opcode.removesuffix("-done")
        return kind if kind in COLLECTIVES else None


class Program:
    """A compiled program as text."""

    def __init__(self, text: str, cost: Callable[[Operation], float] = lambda _: 1.0):
        """cost: of one time, by which the dearest branch of a conditional is found."""
        self._cost = cost
        self.computations: dict[str, dict[str, Line]] = {}
        self.entry, self._tables = "", {}
        current: dict[str, Line] | None = None
        table: dict[int, str] | None = None
        for raw in text.splitlines():
            if raw in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = self._tables.setdefault(raw, {})
            elif head := _COMPUTATION.match(raw):
                table, current = None, self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif raw.startswith("}"):
                current = None
            elif current is not None:
                if line := _line(raw):
                    current[line.name] = line
            elif table is not None and (row := _TABLE_ROW.match(raw)):
                table[int(row[1])] = row[2]

    @cached_property
    def operations(self) -> list[Operation]:
        """Everything that runs once the program is started; of a conditional, the dearest branch."""
        return list(self._visit(self.entry, 1, ()))

    def _visit(self, name: str, times: int, loops: tuple[int, ...]) -> Iterator[Operation]:
        lines = self.computations[name]
        for line in lines.values():
            if line.opcode == "while":
                turns = self._turns(line)
                yield from self._visit(line.called("body"), times * turns, (*loops, turns))
            elif line.opcode == "conditional":
                names = re.findall(r"%([\w.\-]+)", line.text.split("branch_computations=")[-1])
                names = names[
                    : line.text.split("branch_computations=")[-1].split("}")[0].count("%")
                ]
                branches = [list(self._visit(n, times, loops)) for n in names]
                yield from max(
                    branches, key=lambda ops: sum(o.times * self._cost(o) for o in ops), default=[]
                )
            elif line.opcode == "call":
                yield from self._visit(line.called("to_apply"), times, loops)
            elif line.opcode not in FREE and line.opcode not in STARTS:
                yield self._operation(lines, line, times, loops)

    def _turns(self, loop: Line) -> int:
        """As the compiler knows it, or as its condition compares."""
        if known := _TRIPS.search(loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        found = [int(n) for c in condition.values() for n in _CONSTANT.findall(c.text)]
        return max(found, default=1)  # as often as it is told to: a chunk of one step

    def _operation(
        self, lines: dict[str, Line], line: Line, times: int, loops: tuple[int, ...]
    ) -> Operation:
        scope = _SCOPE.search(line.text) or self._scope_inside(line)
        cycles = _CYCLES.search(line.text)
        read, written = self._moved(lines, line)
        return Operation(
            times,
            loops,
            line.name,
            line.opcode,
            scope[1] if scope else "other",
            scope[2] if scope else "",
            read,
            written,
            shapes(line.type),
            int(cycles[1]) if cycles else None,
            self._source(line),
            line.opcode in ("copy", "transpose") or "transpose_fusion" in line.name,
        )

    def _row(self, table: str, number: int) -> dict[str, int]:
        """Of one of the tables of where lines come from."""
        text = self._tables.get(table, {}).get(number, "")
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}

    def _scope_inside(self, line: Line) -> re.Match[str] | None:
        """Where the compiler has given a fusion no name of its own."""
        inside = self.computations.get(line.called("calls") or "", {})
        return next((found for one in inside.values() if (found := _SCOPE.search(one.text))), None)

    def _moved(self, lines: dict[str, Line], line: Line) -> tuple[int, int]:
        """Bytes read and written. A fused slice reads what it takes, a fused update writes what it puts."""
        sizes = [nbytes(lines[o].type) if o in lines else 0 for o in line.operands]
        inside = self.computations.get(line.called("calls") or "", {})
        if not inside:
            if line.opcode in _PARTS:
                return nbytes(line.type) + sum(sizes[1:]), nbytes(line.type)
            if line.opcode == "dynamic-update-slice":
                return sizes[1], sizes[1]
            return sum(sizes), nbytes(line.type)
        parameters = {
            int(re.match(r"(\d+)", one.text.split("parameter(")[1])[1]): one.name
            for one in inside.values()
            if one.opcode == "parameter"
        }
        read = sum(
            min(size, self._read_inside(inside, parameters[n])) if n in parameters else size
            for n, size in enumerate(sizes)
        )
        root = next(one for one in inside.values() if one.is_root)
        parts = [inside[o] for o in root.operands] if root.opcode == "tuple" else [root]
        return read, sum(_written(inside, part) for part in parts)

    def _read_inside(self, inside: dict[str, Line], name: str) -> float:
        """Bytes that a fusion takes of a parameter; inf for all of it."""
        total = 0
        for one in inside.values():
            if name not in one.operands:
                continue
            if one.opcode in _PARTS and one.operands[0] == name:
                total += nbytes(one.type)
            elif one.opcode == "dynamic-update-slice" and one.operands[0] == name:
                continue  # what is not updated stays where it is
            elif one.opcode in ("bitcast", "reshape"):
                total += self._read_inside(inside, one.name)
            else:
                return math.inf
        return total

    def _source(self, line: Line) -> str:
        """The line of this project that the operation comes from, else the compiler's name for it."""
        found = re.search(r"stack_frame_id=(\d+)", line.text)
        number = int(found[1]) if found else 0
        while number:
            frame = self._row("StackFrames", number)
            place = self._row("FileLocations", frame.get("file_location_id", 0))
            file = (
                self._tables.get("FileNames", {}).get(place.get("file_name_id", 0), "").strip('"')
            )
            if "dtp_jax" in file:
                return f"{Path(file).parent.name}/{Path(file).name}:{place['line']}"
            number = frame.get("parent_frame_id", 1) - 1  # as written; 1 for none
        name = re.search(r'op_name="([^"]*)"', line.text)
        return name[1].rsplit("/", 1)[-1] if name else line.opcode


def _line(raw: str) -> Line | None:
    found = _OPERATION.match(raw)
    if not found:
        return None
    depth, end = 1, len(found[5])
    for place, sign in enumerate(found[5]):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            end = place
            break
    operands = tuple(re.findall(r"%([\w.\-]+)", found[5][:end]))
    return Line(found[2], found[3], found[4], operands, raw, bool(found[1]))


def _written(inside: dict[str, Line], line: Line) -> int:
    if line.opcode == "dynamic-update-slice":
        return nbytes(inside[line.operands[1]].type)
    if line.opcode in _THROUGH[:2] and line.operands[0] in inside:
        source = inside[line.operands[0]]
        if source.opcode == "dynamic-update-slice":
            return _written(inside, source)
    return nbytes(line.type)


def nbytes(types: str) -> int:
    """Of all arrays of an HLO type such as (f32[3,4]{1,0}, pred[])."""
    return sum(
        math.prod(int(n) for n in shape.split(",") if n) * _itemsize(kind)
        for kind, shape in _ARRAY.findall(types)
    )


def shapes(types: str) -> tuple[tuple[int, ...], ...]:
    """Of all arrays of an HLO type, without axes of one."""
    found = (shape.split(",") for _, shape in _ARRAY.findall(types))
    return tuple(tuple(int(n) for n in shape if n not in ("", "1")) for shape in found)


def _itemsize(kind: str) -> int:
    if kind == "pred" or kind.startswith("f8"):
        return 1
    return 2 if kind == "bf16" else max(1, int(kind[1:]) // 8)
