"""What the diagnostics of a run cost: training with and without them, measured in alternation.

    python -m benchmarks.diagnostics [--config cifar10_small_dtp] [--steps 1000] [--repeats 3] [--json FILE]

One round takes so many steps on the config's images twice: alone, and with what a long run measures beside
them: a look into the feedback training before the first step, its arrays and its picture, and the groups
of measures once per epoch. With --steps=1000, the default of config.diagnostics_every, the ratio is that
of a run; fewer steps take less time and make it larger. Compilation is listed on its own.

Rounds may differ by more than diagnostics cost. Many short ones (--steps=25 --repeats=12) show it best: the
seconds that rounds with them take more, and those of the diagnostics themselves, each against an epoch.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from benchmarks.program import (
    add_json,
    count,
    make_console,
    make_table,
    parser_of,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.timing import alternating, seconds, spread
from dtp_jax.data import Chunk, DataError, load_splits, locate
from dtp_jax.learning import learner as learner_
from dtp_jax.learning.learner import BOTH
from dtp_jax.run import backend, program
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.diagnostics import FEW_STEPS, Diagnostics, fixed_batch
from dtp_jax.run.loading import load_config
from dtp_jax.run.workdir import Workdir

SIDES = ("off", "on")
CHUNK = 50
"""Steps of one compiled call, about as many as a run takes at once."""


class Sides(NamedTuple):
    """Both ways to train, ready to be timed."""

    calls: dict[str, Callable[[], Any]]
    """By SIDES; each takes the steps of a round."""
    compile_seconds: float
    """Of what is measured beside training."""
    measures: int
    """How often the groups are measured in a round."""
    epoch: int
    """Steps of one."""
    beside: list[float]
    """Seconds of the diagnostics themselves, of every round with them."""


def experiment_of(config: str) -> Experiment:
    """The experiment that this --config names."""
    return validate(load_config(config).config.to_dict())


def sides(experiment: Experiment, steps: int, folder: Path) -> Sides:
    """Compiles everything. Both sides go on from their last state.

    Args:
      folder: for the figures.
    """
    config, data = experiment.config, experiment.data
    source = locate(config["dataset"], config["data_dir"])
    options = {"val_per_class": config["val_per_class"]}
    splits = load_splits(source, config["val_split"], config["seed"], **options)
    size, indices = config["batch_size"], splits.train_indices
    batches = np.random.default_rng(0).choice(indices, (CHUNK, size)).astype(np.int32)
    given = Chunk(*jax.device_put(tuple(splits.train)), batches)
    epoch = len(indices) // size
    made = build_learner(experiment, epoch)
    fixed = fixed_batch(splits, size)
    console = make_console()
    looking = Diagnostics(experiment, made, fixed, FEW_STEPS, Workdir(folder), console.print)
    state = jax.jit(lambda: learner_.init(made, jax.random.key(0)))()
    chunk = program.train_chunk(made, data, augmented=config["augment"])
    chunk = chunk.lower(state, *given, np.int32(1)).compile()
    compiling = seconds(lambda: looking.compile(state, given, 0, {BOTH: made}))
    measures = max(1, round(steps / epoch))
    states = {side: jax.tree.map(lambda a: a.copy(), state) for side in SIDES}
    beside: list[float] = []

    def train(side: str) -> None:
        if side == "on":
            beside.append(
                seconds(lambda: looking.look(states[side], given, step=0, epoch=1, trains=BOTH))
            )
        for first in range(0, steps, CHUNK):
            count = np.int32(min(CHUNK, steps - first))
            states[side], found = chunk(states[side], *given, count)
            jax.device_get(found)
        for _ in range(measures if side == "on" else 0):
            beside[-1] += seconds(lambda: looking.weights(states[side]))
            beside[-1] += seconds(lambda: looking.measure(states[side], step=steps, epoch=1))

    calls = {side: lambda side=side: train(side) for side in SIDES}
    return Sides(calls, compiling, measures, epoch, beside)


def run(config: str, steps: int, repeats: int) -> dict[str, Any]:
    """Measures both; the result is what --json writes."""
    with tempfile.TemporaryDirectory() as folder:
        made = sides(experiment_of(config), steps, Path(folder))
        times = alternating(made.calls, repeats)
    ratios = [on / off for on, off in zip(times["on"], times["off"], strict=True)]
    more = [on - off for on, off in zip(times["on"], times["off"], strict=True)]
    beside = made.beside[-repeats:]
    training = float(np.median(times["off"])) * max(1.0, made.epoch / steps)
    return {
        **provenance("diagnostics"),
        "config": config,
        "steps": steps,
        "repeats": repeats,
        "measures": made.measures,
        **{side: spread(times[side]) for side in SIDES},
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
        "beside": spread(beside),
        "share": float(np.median(beside)) / training,
        "difference": float(np.median(more)),
        "share_of_difference": float(np.median(more)) / training,
        "compile_seconds": made.compile_seconds,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table."""
    title = (
        f"{result['config']}: {result['steps']} steps, {result['repeats']} rounds in alternation"
    )
    table = make_table(title, ("diagnostics", "median", "fastest", "slowest"), ("diagnostics",))
    for side in SIDES:
        table.add_row(side, *(f"{value:.2f} s" for value in result[side].values()))
    console.print(table)
    console.print(
        f"on / off: {result['ratio']:.4f} (median of {', '.join(f'{r:.4f}' for r in result['ratios'])}); "
        f"one look and {result['measures']} x all groups; compiling them took "
        f"{result['compile_seconds']:.1f} s"
    )
    console.print(
        f"the diagnostics themselves: {result['beside']['seconds']:.2f} s a round; "
        f"{100 * result['share']:.2f} % of an epoch of training\n"
        f"rounds with them take {result['difference']:.2f} s more (median): "
        f"{100 * result['share_of_difference']:.2f} % of an epoch"
    )


def main(argv: list[str] | None = None) -> int:
    backend.prepare()  # the kernels that training has
    parser = parser_of("diagnostics", __doc__)
    parser.add_argument("--config", default="cifar10_small_dtp")
    parser.add_argument("--steps", type=count, default=1000, help="of a round")
    parser.add_argument("--repeats", type=count, default=3, help="rounds")
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        result = run(args.config, args.steps, args.repeats)
    except (ValueError, DataError) as problem:  # no such config, no data
        parser.error(str(problem))
    show(result, make_console())
    write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
