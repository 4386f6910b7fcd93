"""Holds the programs for accelerators to bounds: compiled for a chip that is not at hand, and counted.

    python -m benchmarks.bounds --platform=h100|tpu-v5e [--json FILE]

Needs the chip's compiler, as benchmarks.compiled does; what the numbers are stands there. Ends with 1 where a
bound is exceeded.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.chips import CHIPS, prepare, require


class Bound(NamedTuple):
    """The most that a program may take."""

    measure: str
    """One of MEASURES."""
    most: float


def steps_of(result: dict[str, Any], phase: str | None = None) -> list[dict[str, Any]]:
    """Rows of what a step does, or of one of its phases."""
    return [
        r
        for r in result["rows"]
        if r["phase"] == phase or (not phase and r["phase"] != "each chunk")
    ]


def _total(name: str, phase: str | None = None) -> Callable[[dict[str, Any]], float]:
    return lambda result: sum(row[name] for row in steps_of(result, phase))


def _kernels_per_iteration(result: dict[str, Any]) -> float:
    rows = {row["block"]: row["in_loops"] for row in steps_of(result, "feedback")}
    return max(rows[block] / count for block, count in result["iterations"].items())


MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "million cycles a step": lambda result: _total("cycles")(result) / 1e6,
    "kernels a step": _total("kernels"),
    "kernels an iteration, of any map": _kernels_per_iteration,
    "traffic of feedback training, ms": lambda result: (
        1e3 * _total("bytes", "feedback")(result) / result["assumed"]["bandwidth"]
    ),
    "kernels copied in the iterations": _total("kernel_copies", "feedback"),
    "temporary memory, GB": lambda result: result["memory"]["temporary"] / 1e9,
}
CIFAR10, LENET, IMAGENET = (
    f"--config=configs/{name}.py" for name in ("cifar10_dtp", "cifar10_lenet_dtp", "imagenet32_dtp")
)
BF16 = "--config.precision=bfloat16"
BOUNDS: dict[str, dict[tuple[str, ...], list[Bound]]] = {
    "tpu-v5e": {
        (CIFAR10, BF16): [
            Bound("million cycles a step", 30),
            Bound("kernels copied in the iterations", 0),
            Bound("temporary memory, GB", 8),
        ],
    },
    "h100": {
        (CIFAR10, BF16): [
            Bound("kernels a step", 2000),
            Bound("kernels an iteration, of any map", 12),
            Bound("traffic of feedback training, ms", 3),
            Bound("kernels copied in the iterations", 0),
        ],
        (CIFAR10,): [
            Bound("traffic of feedback training, ms", 4.5),
            Bound("kernels copied in the iterations", 0),
        ],
        (LENET, "--config.batch_size=256"): [
            Bound("kernels a step", 1000),
            Bound("traffic of feedback training, ms", 5.5),
        ],
        (IMAGENET,): [Bound("temporary memory, GB", 8)],
    },
}
"""By platform and flags of launch.py."""


def main(argv: list[str] | None = None) -> int:
    from benchmarks.program import add_json, make_console, make_table, parser_of, write_json

    parser = parser_of("bounds", __doc__)
    parser.add_argument("--platform", choices=BOUNDS, required=True)
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        require(CHIPS[args.platform])
    except ValueError as error:
        parser.error(str(error))
    prepare(CHIPS[args.platform])
    from benchmarks.compiled import run
    from benchmarks.provenance import provenance

    rows = []
    for flags, bounds in BOUNDS[args.platform].items():
        result, _ = run(parser.prog, list(flags), args.platform, (1, 1))
        for bound in bounds:
            found = MEASURES[bound.measure](result)
            rows.append({"flags": flags, **bound._asdict(), "found": found})
    title = f"{args.platform}, one step"
    table = make_table(
        title, ("flags", "measure", "most", "found", ""), ("flags", "measure", ""), box=None
    )
    for row in rows:
        said = "" if row["found"] <= row["most"] else "exceeded"
        flags = " ".join(row["flags"]).replace("--config", "")
        table.add_row(flags, row["measure"], f"{row['most']:g}", f"{row['found']:.4g}", said)
    make_console().print(table)
    write_json(args.json, {**provenance("bounds"), "platform": args.platform, "rows": rows})
    return int(any(row["found"] > row["most"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
