"""How far every phase of a training step is from the least time that it can take on this machine.

    python -m benchmarks.roofline --config=configs/cifar10_dtp.py [--config.batch_size=32 ...]
        [--cache-mib 32] [--repeats 5] [--json FILE]

Images are random; of the data set only its sizes are used. Augmentation is no part of the step here.

The least arithmetic and memory traffic of every phase and block are counted from shapes
(benchmarks/counting.py says how). In short: products alone, as direct convolutions; every array that a
row of the table works on read or written once, with element-wise work at no cost and noise drawn where
it is used; what fits the cache (--cache-mib) is not read again by the next iteration of feedback
training. The floor of a row is the longer of its operations at the rate of a matrix product in the run's
precision and its bytes at the rate of a copy. These peaks are measured before and after everything else, and the
higher one counts. The gap is the measured time divided by the floor. Winograd's convolutions multiply
less than is counted, and a cache may keep more from row to row, so that a gap below 1 is possible.
Drawing the normals is no part of the floor; what it takes at the measured rate stands below the table.

Timed are the forward pass, the feedback training of each map, and as one the targets, local gradients
and update: a step that trains no feedback maps, less the forward pass. All are programs of their own, in
alternation with the whole step and with backprop's step of the same network.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import sub
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.counting import FEEDBACK, FORWARD, Part, count_step, total
from benchmarks.program import (
    add_json,
    count,
    make_console,
    make_table,
    parser_of,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.timing import alternating, fastest, matmul_peak, stepping
from dtp_jax import backprop
from dtp_jax.blocks import forward_all
from dtp_jax.learning.learner import (
    FORWARD_ONLY,
    Learner,
    TrainState,
    in_its_precision,
    init,
    train_feedback,
    train_step,
)
from dtp_jax.ops import standard_normal
from dtp_jax.run import backend, cli
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate

COPIED = 2**26
"""Numbers of the array that is copied, 256 MiB: larger than any cache."""
DRAWN = 2**22
"""Normals drawn at a time."""
WIDTH = 116
"""Of the table, where the terminal is narrower or there is none."""
REST = "the rest"
WITHOUT_FEEDBACK, STEP, BACKPROP = "step without feedback training", "step", "backprop step"


class Peaks(NamedTuple):
    """What the machine does at most, per second."""

    flops: float
    """In a product of two matrices, in the precision of the run."""
    bytes: float
    """Read and written, in a copy."""
    normals: float
    """Drawn."""

    def floor(self, part: Part) -> tuple[float, str]:
        """(the least seconds for this part, what they are bound by)."""
        arithmetic, memory = part.least.flops / self.flops, part.least.bytes / self.bytes
        return max((arithmetic, "arithmetic"), (memory, "memory"))


def measure_peaks(precision: str) -> Peaks:
    """Best of several runs each."""
    source, target = jnp.ones(COPIED, jnp.float32), [jnp.zeros(COPIED, jnp.float32)]
    # Into memory that is there already: fresh pages cost a CPU more than the copy.
    copy = jax.jit(lambda source, target: source + 1, donate_argnums=1, keep_unused=True)
    draw, key = jax.jit(lambda key: standard_normal(key, (DRAWN,))), jax.random.key(0)

    def copied() -> None:
        target[0] = jax.block_until_ready(copy(source, target[0]))

    def drawn() -> None:
        draw(key).block_until_ready()

    return Peaks(
        matmul_peak(precision),
        2 * 4 * COPIED / fastest(copied),
        DRAWN / fastest(drawn),
    )


def require_one_device(config: dict[str, Any]) -> None:
    """Raises ValueError, one line, where the config asks for several."""
    for field in ("data_parallel", "layer_parallel"):
        if config[field] != 1:
            raise ValueError(f"config.{field} is {config[field]}; allowed here: 1")


def groups_of(learner: Learner, parts: Sequence[Part]) -> dict[str, list[Part]]:
    """The parts by what is timed together."""
    alone = [part for part in parts if part.phase == FEEDBACK]
    if learner.rule.solve_feedback is not None:
        feedback = {FEEDBACK: alone}
    else:
        feedback = {f"{FEEDBACK} {part.block}": [part] for part in alone}
    rest = [part for part in parts if part.phase not in (FORWARD, FEEDBACK)]
    return {FORWARD: [p for p in parts if p.phase == FORWARD], **feedback, REST: rest}


def programs(
    learner: Learner, images: jax.Array, labels: jax.Array
) -> dict[str, Callable[[], Any]]:
    """By name, calls that do one thing and return when it is done."""
    state = jax.jit(partial(init, learner))(jax.random.key(0))
    pass_forward = jax.jit(partial(_forward, learner))
    activations = pass_forward(state.forward, images)
    found = {FORWARD: partial(pass_forward, state.forward, images)}
    for name, alone in learners_of_maps(learner).items():
        # Only what training changes comes out: nothing else of the state is copied.
        blocks = [block.name for block in alone.trained or alone.network[1:]]
        train = jax.jit(partial(_trained_maps, alone, blocks))
        found[name] = partial(train, state, activations)
    calls = {name: _blocking(call) for name, call in found.items()}
    calls[WITHOUT_FEEDBACK] = steps_of(learner._replace(trains=FORWARD_ONLY), state, images, labels)
    calls[STEP] = steps_of(learner, state, images, labels)
    state = state.replace(feedback={}, feedback_opt_state={})
    calls[BACKPROP] = steps_of(by_backprop(learner), state, images, labels)
    return calls


def by_backprop(learner: Learner) -> Learner:
    """Backprop of the same network with the same optimizer."""
    return Learner(
        learner.network, backprop(), learner.forward_optimizer, precision=learner.precision
    )


def learners_of_maps(learner: Learner) -> dict[str, Learner]:
    """Learners that train one feedback map each, by the name of what is timed. Steps on stale gradients
    (`Learner.stale_gradients`) depend on the other maps, and are left out."""
    rule, training = learner.rule, learner.rule.feedback_training
    if rule.solve_feedback is not None:
        return {FEEDBACK: learner}
    return {
        f"{FEEDBACK} {block.name}": learner._replace(
            rule=rule._replace(
                feedback_training=training._replace(blocks=lambda network, i=i: (i,)),
                per_map=(),  # values of every map, of which the one of block i is read
            ),
            feedback_optimizers=(optimizer,),
            feedback_iterations=(iterations,),
        )
        for block, i, optimizer, iterations in zip(
            learner.trained,
            training.blocks(learner.network) if training else (),
            learner.feedback_optimizers,
            learner.feedback_iterations,
        )
    }


@in_its_precision
def _forward(learner: Learner, forward, images):
    return forward_all(learner.network, forward, images)


def _trained_maps(learner: Learner, names: list[str], state, activations):
    feedback, opt_state, seen = train_feedback(learner, state, activations)
    return [(feedback[name], opt_state.get(name)) for name in names], seen


def steps_of(
    learner: Learner, start: TrainState, images: jax.Array, labels: jax.Array
) -> Callable[[], Any]:
    """A call that takes the learner's next training step, the first one from a copy of `start`."""
    take = jax.jit(partial(train_step, learner), donate_argnums=0)
    return stepping(take, jax.tree.map(jnp.copy, start), images, labels)


def _blocking(call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(call())


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of everything."""
    times = alternating(calls, repeats)
    # The difference within each repeat: what slows one of the two then slows the other.
    times[REST] = tuple(map(sub, times[WITHOUT_FEEDBACK], times[FORWARD]))
    return {name: statistics.median(t) for name, t in times.items()}


def run(experiment: Experiment, cache: float, repeats: int) -> dict[str, Any]:
    """Counts and measures everything; the result is what --json writes.

    Args:
      cache: bytes.
    """
    batch = experiment.config["batch_size"]
    steps_per_epoch = max(1, experiment.data.train_examples // batch)
    learner = build_learner(experiment, steps_per_epoch)
    parts = count_step(learner, batch, cache)
    key_images, key_labels = jax.random.split(jax.random.key(1))
    images = jax.random.normal(key_images, (batch, *experiment.data.image_shape), jnp.float32)
    labels = jax.random.randint(key_labels, (batch,), 0, experiment.data.classes)
    before = measure_peaks(learner.precision)
    taken = measure(programs(learner, images, labels), repeats)
    # Others on the machine can only make a peak too low.
    peaks = Peaks(*map(max, zip(before, measure_peaks(learner.precision))))
    groups = groups_of(learner, parts)
    normals = sum(part.normals for part in parts)
    return {
        "rule": experiment.rule.name,
        "network": experiment.config["network"],
        "batch": batch,
        "precision": learner.precision,
        "cache_bytes": cache,
        "repeats": repeats,
        "peaks": peaks._asdict(),
        "rows": [
            row for name, group in groups.items() for row in rows_of(name, group, peaks, taken)
        ],
        "step": row_of(total(parts, STEP), peaks, taken[STEP]),
        "sum_of_phases_seconds": sum(taken[name] for name in groups),
        "backprop": row_of(
            total(count_step(by_backprop(learner), batch, cache), BACKPROP), peaks, taken[BACKPROP]
        ),
        "normals": {"count": normals, "seconds": normals / peaks.normals},
    }


def rows_of(
    name: str, group: list[Part], peaks: Peaks, taken: dict[str, float]
) -> list[dict[str, Any]]:
    """Of parts that are timed together: one for each, and where there are several, one for all."""
    if len(group) == 1:
        return [row_of(group[0], peaks, taken[name])]
    return [
        *(row_of(part, peaks) for part in group),
        row_of(total(group, name), peaks, taken[name]),
    ]


def row_of(part: Part, peaks: Peaks, taken: float | None = None) -> dict[str, Any]:
    """A row of the table: the last three entries are None where nothing was timed."""
    floor, bound = peaks.floor(part)
    return {
        "phase": part.phase,
        "block": part.block,
        "flops": part.least.flops,
        "literal_flops": part.literal.flops,
        "bytes": part.least.bytes,
        "literal_bytes": part.literal.bytes,
        "normals": part.normals,
        "floor_seconds": floor,
        "bound": bound,
        "seconds": taken,
        "gap": taken and taken / floor,
        "share_of_peak": taken and part.least.flops / taken / peaks.flops,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table, and what follows from it."""
    title = f"{result['rule']}, {result['network']}, batch {result['batch']}, {result['precision']}"
    columns = ("phase", "block", "GFLOP least", "literal", "MB least", "floor ms", "bound")
    table = make_table(title, (*columns, "ms", "gap", "of peak"), ("phase", "block", "bound"))
    for row, after in zip(result["rows"], [*result["rows"][1:], None]):
        # A line below everything that was timed as one.
        ends = after is None or (row["seconds"] is not None and after["phase"] != row["phase"])
        table.add_row(*_cells(row), end_section=ends)
    table.add_row(*_cells(result["step"]))
    table.add_row(*_cells(result["backprop"]))
    console.print(table)
    for line in _lines(result):
        console.print(line)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [
        row["phase"],
        row["block"],
        f"{row['flops'] / 1e9:.3f}",
        f"{row['literal_flops'] / 1e9:.3f}",
        f"{row['bytes'] / 1e6:.2f}",
        f"{1e3 * row['floor_seconds']:.3f}",
        row["bound"],
    ]
    if row["seconds"] is not None:
        cells += [f"{1e3 * row['seconds']:.2f}", f"{row['gap']:.2f}"]
        cells += [f"{100 * row['share_of_peak']:.1f} %"]
    return cells


def _lines(result: dict[str, Any]) -> list[str]:
    """What stands below the table."""
    peaks, step, plain = result["peaks"], result["step"], result["backprop"]
    whole, phases = step["seconds"], result["sum_of_phases_seconds"]
    lines = [
        f"peaks: matrix product {peaks['flops'] / 1e9:.1f} GFLOP/s, copy "
        f"{peaks['bytes'] / 1e9:.1f} GB/s, {peaks['normals'] / 1e6:.0f} million normals/s",
        f"whole step {1e3 * whole:.2f} ms; sum of its phases {1e3 * phases:.2f} ms",
    ]
    if result["rule"] != "backprop":
        lines.append(
            f"{result['rule']} / backprop: {whole / plain['seconds']:.1f} in time, "
            f"{step['flops'] / plain['flops']:.1f} in arithmetic; "
            f"{step['flops'] / whole / 1e9:.1f} and "
            f"{plain['flops'] / plain['seconds'] / 1e9:.1f} GFLOP/s"
        )
    normals = result["normals"]
    if normals["count"]:
        lines.append(
            f"{normals['count'] / 1e6:.2f} million normals a step: {1e3 * normals['seconds']:.2f} ms "
            f"at the rate above, {100 * normals['seconds'] / whole:.0f} % of the step"
        )
    return lines


def main(argv: list[str] | None = None) -> int:
    backend.prepare()  # the kernels that training has
    parser = parser_of(
        "roofline",
        __doc__,
        epilog="--config and --config.FIELD=VALUE: as of launch.py",
    )
    parser.add_argument("--cache-mib", type=float, default=32, help="default 32")
    parser.add_argument("--repeats", type=count, default=5)
    add_json(parser)
    args, rest = parser.parse_known_args(argv)
    if not 0 <= args.cache_mib < math.inf:
        parser.error(f"--cache-mib is {args.cache_mib}; allowed: a finite number, 0 or more")
    try:
        arguments = cli.parse([parser.prog, *rest])
        experiment = validate(arguments.config)
        require_one_device(experiment.config)
    except ValueError as error:
        parser.error(str(error))
    result = run(experiment, args.cache_mib * 2**20, args.repeats)
    console = make_console()
    console.width = max(console.width, WIDTH)
    show(result, console)
    config = {"config": arguments.request.config, "overrides": arguments.request.overrides}
    write_json(args.json, {**provenance("roofline"), **config, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
