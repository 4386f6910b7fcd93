"""What a chip that is not at hand would run: the program of `dtp train`, compiled for it and read.

    python -m benchmarks.compiled --config=configs/cifar10_dtp.py --platform=tpu-v5e|tpu-v6e|h100
        [--config.precision=bfloat16 ...] [--chips N | --mesh DATAxLAYERS] [--save FILE.hlo] [--json FILE]

The chunk of training steps is compiled by the chip's own compiler, from shapes alone. Of one step it says,
by phase and block:

- the compiler's: a TPU's estimated cycles, the memory of a device;
- counted in the program: kernels, bytes that they read and write, copies that only change a layout,
  collective operations with their bytes;
- counted from shapes: arithmetic, as direct convolutions (benchmarks/counting.py);
- assumed: the chip's peaks, its clock and, on a GPU, the time from kernel to kernel (benchmarks/chips.py).

A TPU's milliseconds are its cycles by its clock. Operations for which its compiler has no estimate are listed.
A GPU has no estimate: its milliseconds are a model, for each kernel the longer of its bytes at the memory's
bandwidth and the time to start it, for each phase no less than its arithmetic at the peak. Which algorithm a
product takes is found out on the device only, so the kernels there may be others. A loop counts as often as
it runs, of a conditional the dearest branch. What a chunk does once for all its steps stands apart.
"""

import argparse
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chips import CHIPS, Chip, devices, prepare, require

SHOWN = 10
SHOWN_FIELDS = {"batch": "batch_size", "precision": "precision"}
"""Of the config, by their names in the result."""
CHUNK = "each chunk"
"""The phase of what runs once for all its steps."""


def main(argv: list[str] | None = None) -> int:
    from benchmarks.program import add_json, make_console, parser_of, write_json

    parser = parser_of(
        "compiled",
        __doc__,
        epilog="--config and --config.FIELD=VALUE: as of dtp train",
    )
    parser.add_argument("--platform", choices=CHIPS, required=True)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--mesh", type=_mesh, default=(1, 1), help="data x layers, such as 4x2 (1x1)"
    )
    shape.add_argument("--chips", type=_chips, dest="mesh", help="N: the same as --mesh=Nx1")
    parser.add_argument("--save", type=Path, help="file for the program's text")
    add_json(parser)
    args, rest = parser.parse_known_args(argv)
    chip = CHIPS[args.platform]
    try:
        require(chip)
        prepare(chip)
        result, text = run(parser.prog, rest, args.platform, args.mesh)
    except ValueError as error:
        parser.error(str(error))
    if args.save:
        args.save.write_text(text)
    show(result, make_console())
    write_json(args.json, result)
    return 0


def _mesh(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"is {text}; allowed: DATAxLAYERS, such as 4x2")
    return int(found[1]), int(found[2])


def _chips(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"is {text}; allowed: 1, 2, ...")
    return int(text), 1


def run(prog: str, rest: list[str], name: str, mesh: tuple[int, int]) -> tuple[dict[str, Any], str]:
    """The result that --json writes, and the program's text.

    Raises:
      ValueError: one line; the config or the mesh is not valid.
    """
    from benchmarks.provenance import provenance
    from dtp_jax.run import cli
    from dtp_jax.run.config import validate

    arguments = cli.parse([prog, *rest])
    experiment = validate(arguments.config)
    started = time.monotonic()
    compiled, learner = compile_chunk(experiment, name, mesh)
    seconds, text = time.monotonic() - started, compiled.as_text()
    request = {"config": arguments.request.config, "overrides": arguments.request.overrides}
    described = provenance("compiled") | request | {"platform": name, "mesh": list(mesh)}
    described |= {field: experiment.config[f] for field, f in SHOWN_FIELDS.items()}
    return described | {
        "iterations": {
            block.name: count for block, count in zip(learner.trained, learner.feedback_iterations)
        },
        "assumed": CHIPS[name]._asdict(),
        "compile_seconds": seconds,
        "memory": _memory(compiled),
        **read(text, learner, experiment.config, CHIPS[name], mesh),
    }, text


def compile_chunk(experiment: Any, name: str, shape: tuple[int, int]) -> tuple[Any, Any]:
    """(the compiled chunk of `dtp train`, the learner) for a mesh of such chips."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, Mesh, SingleDeviceSharding

    from dtp_jax import ops
    from dtp_jax.parallel.mesh import DATA, LAYERS, replicated
    from dtp_jax.run import program
    from dtp_jax.run.assemble import MOST_STEPS_PER_CHUNK
    from dtp_jax.run.build import build_learner

    config, data = experiment.config, experiment.data
    found = devices(name, shape[0] * shape[1])
    mesh = None
    if len(found) > 1:
        mesh = Mesh(np.array(found).reshape(shape), (DATA, LAYERS), axis_types=(AxisType.Auto,) * 2)
    placed = replicated(mesh) or SingleDeviceSharding(found[0])
    steps = data.train_examples // config["batch_size"]
    learner = build_learner(experiment, steps, mesh)

    def like(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    state = jax.tree.map(lambda s: like(s.shape, s.dtype), learner.state_shapes)
    chunk = program.train_chunk(learner, data, augmented=config["augment"])
    with ops.compiled_for(CHIPS[name].platform):
        is_flat = ops.form().flat_images
        image = (math.prod(data.image_shape),) if is_flat else data.image_shape
        compiled = chunk.lower(
            state,
            like((data.train_examples, *image), jnp.uint8),
            like((data.train_examples,), jnp.int32),
            like((min(steps, MOST_STEPS_PER_CHUNK), config["batch_size"]), jnp.int32),
            like((), jnp.int32),
        ).compile()
    return compiled, learner


def _memory(compiled: Any) -> dict[str, int]:
    found = compiled.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }


def read(text: str, learner: Any, config: Any, chip: Chip, mesh: tuple[int, int]) -> dict[str, Any]:
    """Rows by phase and block, collectives, and the dearest operations, of one step."""
    from benchmarks.operations import Program

    operations = Program(text, lambda o: _seconds(o, chip)).operations
    floors = _floors(learner, config["batch_size"] / mesh[0])
    peak = chip.peaks[config["precision"]]
    counted = ("kernels", "in_loops", "bytes", "copies", "kernel_copies", "cycles", "seconds")
    nothing, kernels = dict.fromkeys(counted, 0), _kernel_axes(learner)
    rows: dict[tuple[str, str], Counter[str]] = {}
    for o in operations:
        key = (o.phase, o.block) if o.loops else (CHUNK, "")
        row = rows.setdefault(key, Counter(nothing))
        row["kernels"] += o.times
        row["in_loops"] += o.times * (len(o.loops) > 1)
        row["bytes"] += o.times * (o.read + o.written)
        copied = o.times * o.is_layout_copy * (len(o.loops) > 1)
        row["copies"] += copied
        is_kernel = any(sorted(shape) in kernels.get(o.block, ()) for shape in o.shapes)
        row["kernel_copies"] += copied * is_kernel
        row["cycles"] += o.times * (o.cycles or 0)
        row["seconds"] += o.times * _seconds(o, chip)
    for key, flops in floors.items():
        if mesh[1] > 1 and key[0] == "feedback" and key not in rows:
            continue  # in another group of devices
        row = rows.setdefault(key, Counter(nothing))
        row["floor_seconds"] = flops / peak
        if chip.platform == "gpu":
            row["seconds"] = max(row["seconds"], row["floor_seconds"])
    sent: dict[tuple[str, str], Counter[str]] = {}
    for o in operations:
        if o.collective and o.loops:
            where = "iterations" if len(o.loops) > 1 else "step"
            found = sent.setdefault((o.collective, where), Counter())
            found += Counter(times=o.times, bytes=o.times * o.written)
    in_step = [o for o in operations if o.loops]
    dearest = sorted(in_step, key=lambda o: -o.times * _seconds(o, chip))[:SHOWN]
    return {
        "rows": [{"phase": phase, "block": block, **row} for (phase, block), row in rows.items()],
        "seconds": sum(row["seconds"] for (phase, _), row in rows.items() if phase != CHUNK),
        "without_estimate": sorted(
            {o.opcode for o in operations if o.cycles is None and o.read + o.written > 2**16}
        )
        if chip.platform == "tpu"
        else [],
        "collectives": [{"kind": kind, "where": where, **n} for (kind, where), n in sent.items()],
        "dearest": [
            {
                "seconds": o.times * _seconds(o, chip),
                "times": o.times,
                "operation": o.name,
                "phase": f"{o.phase} {o.block}".strip(),
                "source": o.source,
            }
            for o in dearest
        ],
    }


def _kernel_axes(learner: Any) -> dict[str, list[list[int]]]:
    """Of the feedback kernels, by block: their axes, sorted, as in any layout of a copy."""
    import jax

    return {
        name: [sorted(leaf.shape) for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]
        for name, tree in learner.state_shapes.feedback.items()
    }


def _seconds(operation: Any, chip: Chip) -> float:
    if chip.platform == "tpu":
        return (operation.cycles or 0) / chip.clock
    return max(chip.launch, (operation.read + operation.written) / chip.bandwidth)


def _floors(learner: Any, batch: float) -> dict[tuple[str, str], float]:
    """FLOPs of a device by (phase, block), under the names that the program has for them."""
    from benchmarks.counting import GLOBAL, LOCAL, count_step

    names = {LOCAL: "gradients", GLOBAL: "gradients"}
    floors: Counter[tuple[str, str]] = Counter()
    for part in count_step(learner, batch=1, cache=0):
        phase = names.get(part.phase, part.phase)
        block = "all" if phase in ("targets", "update") else part.block
        floors[phase, block] += batch * part.least.flops
    return {key: flops for key, flops in floors.items() if flops}


def show(result: dict[str, Any], console: Any) -> None:
    """Two tables, and lines that say what the numbers are."""
    from benchmarks.program import make_table

    is_tpu = result["platform"].startswith("tpu")
    origin = "by the compiler's estimate" if is_tpu else "by the model"
    columns = ("phase", "block", "kernels", "in loops", "layout copies in loops", "MB")
    columns += ("M cycles",) if is_tpu else ()
    table = make_table(
        f"{result['platform']}, {result['mesh'][0]} x {result['mesh'][1]}: one step",
        (*columns, "ms", "floor, ms"),
        ("phase", "block"),
        box=None,
    )
    total: Counter[str] = Counter()
    for row in sorted(result["rows"], key=lambda row: -row["seconds"]):
        if row["phase"] != CHUNK:
            total.update({name: n for name, n in row.items() if not isinstance(n, str)})
        table.add_row(row["phase"], row["block"], *_cells(row, is_tpu))
    table.add_row("step", "", *_cells(total, is_tpu), style="bold")
    console.print(table)
    words = ("operation", "phase", "source")
    dearest = make_table("the dearest", ("ms", "times", *words), words, box=None)
    for one in result["dearest"]:
        cells = (str(one[name]) for name in ("times", *words))
        dearest.add_row(f"{1e3 * one['seconds']:.3f}", *cells)
    console.print(dearest)
    assumed, memory, sent = result["assumed"], result["memory"], result["collectives"]
    console.print(f"ms: {origin}. floor: arithmetic counted from shapes, at the peak.")
    console.print(f"assumed: {assumed['source']}")
    if result["without_estimate"]:
        console.print(f"no estimate, so 0 cycles: {', '.join(result['without_estimate'])}")
    where = {"iterations": "in the iterations", "step": "outside"}
    for one in sorted(sent, key=lambda one: -one["bytes"]):
        megabytes = f"{one['bytes'] / 1e6:.1f} MB"
        console.print(
            f"a step, counted: {one['times']} {one['kind']} {where[one['where']]}, {megabytes}"
        )
    console.print(
        f"memory, the compiler's: {memory['temporary'] / 1e9:.2f} GB, beside "
        f"{memory['arguments'] / 1e9:.2f} GB of state and images; the chip has "
        f"{assumed['memory'] / 1e9:.0f}. compiled in {result['compile_seconds']:.0f} s"
    )


def _cells(row: Any, is_tpu: bool) -> list[str]:
    cells = [str(int(row.get(name, 0))) for name in ("kernels", "in_loops", "copies")]
    cells.append(f"{row.get('bytes', 0) / 1e6:.0f}")
    if is_tpu:
        cells.append(f"{row.get('cycles', 0) / 1e6:.2f}")
    return [*cells, f"{1e3 * row['seconds']:.2f}", f"{1e3 * row.get('floor_seconds', 0):.2f}"]


if __name__ == "__main__":
    sys.exit(main())
