"""How long ImageNet 32x32 takes on 1, 8 and 256 chips: a model of a step, each number with its origin.

    python -m benchmarks.prediction [--chip tpu-v5e|h100] [--chips 1,8,256] [--batches 128,4096]
        [--compiled FOLDER] [--json FILE]

Every number printed is compiled (read by benchmarks.compiled from the chip's own program), counted (from the
network and the parallel program), assumed (a flag, or a chip's published figure) or predicted (from the
others). The model, and what it assumes:

- A chip's work: the seconds that benchmarks.compiled found for each feedback map and for the rest of a step,
  with so many examples on a chip. Between the numbers of examples that have been compiled it is linear;
  above them it goes on as between the last two; below them it stays as with the fewest. For a TPU they
  are the compiler's estimate, for a GPU the model of that benchmark: no chip has been asked. Evaluation,
  checkpoints and the reading of data cost nothing.
- Memory likewise; a mesh on which a step does not fit is left out.
- Data-parallel over d chips: each has batch/d examples, d a divisor of the batch. Each iteration ends in an
  all-reduce of its kernel's gradient, each step in one of all forward gradients. The next iteration
  needs the result, so nothing is overlapped.
- Layer-parallel over g chips: each trains the feedback of its own blocks, divided as in
  `dtp_jax/parallel/mesh.py`; the rest of a step is done by all. One exchange per step, of all feedback
  parameters with their optimizer states. A step takes no less than the dearest block.
- Combined: d x g chips, the groups of g next to each other. Chips that help nothing are left idle.
- An all-reduce of S bytes over n chips is a ring: each sends 2 (n-1)/n S. It takes --latency-us plus those
  bytes over the chip's bandwidth within a node, and --network-latency-us and --network-gbs where it leaves
  the node. Links are not shared with other work, no chip is slow.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.program import (
    add_json,
    count,
    counts,
    make_console,
    make_table,
    parser_of,
    positive,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.work import Work, count_work
from dtp_jax.configs import imagenet32_dtp
from dtp_jax.learning.learner import Learner
from dtp_jax.parallel.mesh import assign
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate

COMPILED = Path(__file__).parent / "results" / "compiled_imagenet32"


class Links(NamedTuple):
    """Published figures of how a chip is tied to others."""

    bandwidth_gbs: float
    """Each way, to the other chips of its node."""
    chips_per_node: int
    source: str


LINKS = {
    "tpu-v5e": Links(200, 256, "Cloud TPU v5e page; interconnect 400 GB/s both ways"),
    "tpu-v6e": Links(400, 256, "Cloud TPU v6e page; interconnect 800 GB/s both ways"),
    "h100": Links(450, 8, "NVIDIA H100 datasheet, SXM; NVLink 900 GB/s both ways"),
}
"""By the names of benchmarks/chips.py."""


class Machine(NamedTuple):
    """Links, in bytes/s and seconds, and the bytes of a chip's memory."""

    chips_per_node: int
    bandwidth: float
    latency: float
    network_bandwidth: float
    network_latency: float
    memory: float = math.inf

    def all_reduce(self, size: float, n: int, span: int) -> float:
        """Seconds for `size` bytes in a ring of n chips, the first and last being `span` chips apart."""
        if n == 1:
            return 0.0
        if span > self.chips_per_node:
            return self.network_latency + ring_bytes(size, n) / self.network_bandwidth
        return self.latency + ring_bytes(size, n) / self.bandwidth


def ring_bytes(size: float, n: int) -> float:
    """Bytes that each of n chips sends to all-reduce `size` bytes: 2 (n-1)/n of them."""
    return 2 * (n - 1) / n * size


class Compiled(NamedTuple):
    """What a chip takes for a step, by the examples that it has of a batch."""

    examples: tuple[int, ...]
    """Ascending."""
    maps: tuple[tuple[float, ...], ...]
    """Seconds of each feedback map, at each number of examples."""
    rest: tuple[float, ...]
    """Seconds of everything else."""
    memory: tuple[float, ...]
    """Bytes."""

    def at(self, values: Sequence[float], examples: float) -> float:
        """One of these with so many examples; see the module's docstring."""
        known = self.examples
        if examples <= known[0] or len(known) == 1:
            return values[0]
        last = next((n for n, b in enumerate(known) if b >= examples), len(known) - 1)
        (a, b), (u, v) = known[last - 1 : last + 1], values[last - 1 : last + 1]
        return u + (v - u) * (examples - a) / (b - a)


def read_compiled(folder: Path, chip: str, maps: Sequence[str]) -> tuple[Compiled, list[dict]]:
    """Of a chip, from the JSON files of benchmarks.compiled in a folder; and what was read.

    Raises:
      ValueError: one line; there is none.
    """
    allowed = f"a folder with JSON files of benchmarks.compiled for {chip} on one chip"
    try:
        files = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        found = [one for one in files if one["platform"] == chip and one["mesh"] == [1, 1]]
        found.sort(key=lambda one: one["batch"])
        seconds = [
            {
                block: sum(r["seconds"] for r in one["rows"] if _map_of(r) == block)
                for block in ("", *maps)
            }
            for one in found
        ]
        compiled = Compiled(
            tuple(one["batch"] for one in found),
            tuple(tuple(at[block] for at in seconds) for block in maps),
            tuple(at[""] for at in seconds),
            tuple(sum(one["memory"].values()) for one in found),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--compiled is {folder}; allowed: {allowed}") from error
    if not found:
        raise ValueError(f"--compiled is {folder}; allowed: {allowed}")
    return compiled, found


def _map_of(row: dict[str, Any]) -> str | None:
    """The feedback map that it belongs to, "" for the rest of a step, None for what no step does."""
    if row["phase"] == "each chunk":
        return None
    return row["block"] if row["phase"] == "feedback" else ""


class Plan(NamedTuple):
    """A step on a mesh of data x layers chips: predicted seconds and bytes, and counted bytes sent per chip."""

    data: int
    layers: int
    work: float
    """A chip's own."""
    reduction: float
    """All-reduces between the parts of a batch."""
    exchange: float
    """Between the groups of blocks."""
    reduced_bytes: float
    exchanged_bytes: float
    memory: float = 0.0
    """Of a chip."""

    @property
    def seconds(self) -> float:
        return self.work + self.reduction + self.exchange


def make_plan(
    work: Work, compiled: Compiled, batch: int, data: int, layers: int, machine: Machine
) -> Plan:
    """What a step of `batch` examples takes on this mesh: as long as its slowest group of blocks."""
    part, span = batch / data, data * layers
    groups = []
    for maps in assign(work.map_flops, layers):
        own = reduction = sent = 0.0
        for n in maps:
            own += compiled.at(compiled.maps[n], part)
            k = work.iterations[n]
            reduction += k * machine.all_reduce(work.reduced_bytes[n], data, span)
            sent += k * ring_bytes(work.reduced_bytes[n], data)
        groups.append((own, reduction, sent))
    own, reduction, sent = max(groups, key=lambda g: g[0] + g[1])
    return Plan(
        data,
        layers,
        own + compiled.at(compiled.rest, part),
        reduction + machine.all_reduce(work.forward_bytes, data, span),
        machine.all_reduce(work.exchanged_bytes, layers, layers),
        sent + ring_bytes(work.forward_bytes, data),
        ring_bytes(work.exchanged_bytes, layers),
        compiled.at(compiled.memory, part),
    )


def make_plans(
    work: Work, compiled: Compiled, batch: int, chips: int, machine: Machine
) -> dict[str, Plan]:
    """By way: of one chip; or data-parallel over all that can have a part, layer-parallel, the best. Only
    those that fit the memory."""
    divisors = [d for d in range(1, min(chips, batch) + 1) if batch % d == 0]
    most_layers = min(chips, len(work.maps))
    meshes = [(d, g) for d in divisors for g in range(1, most_layers + 1) if d * g <= chips]
    found = {mesh: make_plan(work, compiled, batch, *mesh, machine) for mesh in meshes}
    found = {mesh: plan for mesh, plan in found.items() if plan.memory <= machine.memory}
    if chips == 1:
        return {"alone": found[1, 1]} if found else {}
    ways = {"data": (divisors[-1], 1), "layers": (1, most_layers)}
    plans = {way: found[mesh] for way, mesh in ways.items() if mesh in found}
    return plans | ({"best": min(found.values(), key=lambda plan: plan.seconds)} if found else {})


def imagenet32() -> tuple[Learner, dict[str, Any], int]:
    """(learner, config, images) of configs/imagenet32_dtp.py; the images before any are held out."""
    experiment = validate(imagenet32_dtp.get_config().to_dict())
    learner = build_learner(experiment, steps_per_epoch=1)
    return learner, experiment.config, experiment.data.train_examples


def predict(args: argparse.Namespace, chip: str) -> dict[str, Any]:
    """Everything that is shown of a chip.

    Raises:
      ValueError: one line; nothing has been compiled for it.
    """
    learner, config, images = imagenet32()
    work, links = count_work(learner), LINKS[chip]
    compiled, files = read_compiled(args.compiled, chip, work.maps)
    machine = Machine(
        args.chips_per_node or links.chips_per_node,
        1e9 * (args.bandwidth_gbs or links.bandwidth_gbs),
        1e-6 * args.latency_us,
        1e9 * args.network_gbs,
        1e-6 * args.network_latency_us,
        files[0]["assumed"]["memory"],
    )
    images, epochs = args.images or images, args.epochs or config["epochs"]
    rows = [
        {
            "batch": batch,
            "chips": chips,
            "way": way,
            **plan._asdict(),
            "seconds_per_step": plan.seconds,
            "hours": epochs * (images // batch) * plan.seconds / 3600,
        }
        for batch in args.batches
        for chips in args.chips
        for way, plan in make_plans(work, compiled, batch, chips, machine).items()
    ]
    return {
        "chip": chip,
        "compiled": {
            **compiled._asdict(),
            "files": [
                {name: one[name] for name in ("command", "date", "commit", "batch", "precision")}
                for one in files
            ],
            "source": files[0]["assumed"]["source"],
        },
        "counted": {"images": images, "epochs": epochs, **work._asdict()},
        "assumed": {"links": links.source, **machine._asdict()},
        "rows": rows,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """What went in, line by line with its origin, and the table of what comes out."""
    c, a, program = result["counted"], result["assumed"], result["compiled"]
    sent = sum(k * b for k, b in zip(c["iterations"], c["reduced_bytes"]))
    precisions = sorted({one["precision"] for one in program["files"]})
    for origin, text in (
        ("compiled", f"for {result['chip']}, {', '.join(precisions)}, with "
         f"{', '.join(map(str, program['examples']))} examples on a chip; a step takes "
         + ", ".join(f"{1e3 * sum(s):.1f}" for s in zip(program["rest"], *program["maps"])) + " ms"),
        ("counted", f"{c['epochs']} epochs of {c['images']:,} images"),
        ("counted", f"data-parallel: {sum(c['iterations'])} all-reduces a step, {_mb(sent)}, and"),
        ("counted", f"one of the forward gradients, {_mb(c['forward_bytes'])}"),
        ("counted", f"layer-parallel: one exchange a step, {_mb(c['exchanged_bytes'])}"),
        ("assumed", program["source"]),
        ("assumed", f"{a['chips_per_node']} chips in a node; {a['links']}"),
        ("assumed", _links("in it", a["latency"], a["bandwidth"])),
        ("assumed", _links("beyond it", a["network_latency"], a["network_bandwidth"])),
    ):  # fmt: skip
        console.print(f"[bold]{origin}[/bold] {text}")
    console.print(table(result["rows"]))


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _links(where: str, latency: float, bandwidth: float) -> str:
    return f"all-reduce {where}: {1e6 * latency:.0f} us, then {bandwidth / 1e9:.0f} GB/s"


def table(rows: list[dict[str, Any]]) -> Table:
    """One row for each batch, number of chips and way of using them."""
    title = "predicted: milliseconds of a step, GB; counted: mesh (data x layers), MB sent per chip"
    columns = ("batch", "chips", "way", "mesh", "own", "reduce", "exchange", "sent", "GB", "step")
    shown = make_table(title, (*columns, "hours"), ("way",), box=None, padding=(0, 2, 0, 0))
    for r in rows:
        shown.add_row(
            str(r["batch"]),
            str(r["chips"]),
            r["way"],
            f"{r['data']}x{r['layers']}",
            *(f"{1e3 * r[part]:.2f}" for part in ("work", "reduction", "exchange")),
            f"{(r['reduced_bytes'] + r['exchanged_bytes']) / 1e6:.0f}",
            f"{r['memory'] / 1e9:.1f}",
            f"{1e3 * r['seconds_per_step']:.2f}",
            f"{r['hours']:.2f}",
        )
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("prediction", __doc__)
    add = parser.add_argument
    add("--chip", choices=LINKS, action="append", metavar="NAME", help=f"of {', '.join(LINKS)}")
    add("--chips", type=counts, default=[1, 8, 256], help="numbers of chips (1,8,256)")
    add("--batches", type=counts, default=[128, 4096], help="whole batches (128,4096)")
    add("--compiled", type=Path, default=COMPILED, help="folder of JSON of benchmarks.compiled")
    add("--bandwidth-gbs", type=positive, help="GB/s each way in a node, instead of the chip's")
    add("--chips-per-node", type=count, help="instead of the chip's")
    add("--latency-us", type=positive, default=20, help="of an all-reduce in a node (20)")
    add("--network-gbs", type=positive, default=50, help="GB/s per chip beyond (50: 400 Gbit/s)")
    add("--network-latency-us", type=positive, default=60, help="of an all-reduce beyond (60)")
    add("--images", type=count, help="instead of all; the config holds out 50 of each class")
    add("--epochs", type=count, help="instead of the config's")
    add_json(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        results = [predict(args, chip) for chip in args.chip or ("tpu-v5e", "h100")]
    except ValueError as error:
        parser.error(str(error))
    console = make_console()
    for result in results:
        show(result, console)
    write_json(args.json, {**provenance("prediction"), "predictions": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
