"""How long ImageNet 32x32 takes on 1, 8 and 256 chips: a model of a step, each number with its origin.

    python -m benchmarks.prediction [--measured FILE] [--chip h100-tf32] [--chips 1,8,256] [--json FILE]

Every number printed is counted (from the network and the parallel program), measured (by this project's
benchmarks), assumed (a flag) or predicted (from the other three). The model, and what it assumes:

- Arithmetic, counted: per example, each feedback map's iterations (`Learner.feedback_flops`), and the
  forward pass, the targets and the local gradients (about three forward passes; benchmarks/counting.py).
  Augmentation, evaluation, checkpoints and the reading of data cost nothing.
- A chip does it at an achieved rate: --peak-tflops (that of --chip unless given) times the share of the
  peak that --measured reached. That a chip of another kind reaches the same share is assumed, and is the
  weakest point of the model, the more so since a CPU's share counts the products that Winograd's form
  saves as done: measure on the chip, or give --share. The share does not fall with the batch, but no
  iteration takes less than --iteration-us, the time of starting its kernels.
- Data-parallel over d chips: each has batch/d examples, d a divisor of the batch, which stays that of the
  config. Each iteration ends in an all-reduce of its kernel's gradient, each step in one of all forward
  gradients. The next iteration needs the result, so nothing is overlapped.
- Layer-parallel over g chips: each trains the feedback of its own blocks, divided as in
  `dtp_jax/parallel/mesh.py`; the rest of a step is done by all. One exchange per step, of all feedback
  parameters with their optimizer states. A step takes no less than the dearest block. (Maps whose
  iterations take --iteration-us whatever they compute then go on beside it, so that a step can gain
  more than its arithmetic is divided by.)
- Combined: d x g chips, the groups of g next to each other. Chips that help nothing are left idle.
- An all-reduce of S bytes over n chips is a ring: each sends 2 (n-1)/n S. It takes --latency-us plus those
  bytes over --bandwidth-gbs within a node of --chips-per-node chips, and --network-latency-us and
  --network-gbs where it leaves the node. Links are not shared with other work, no chip is slow.
"""

import argparse
import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.program import add_json, make_console, make_table, parser_of, write_json
from benchmarks.provenance import provenance
from benchmarks.work import Work, count_work
from dtp_jax.configs import imagenet32_dtp
from dtp_jax.learning.learner import Learner
from dtp_jax.parallel.mesh import assign, speedup_bound
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate

MEASURED = Path(__file__).parent / "results" / "2026-11-23_step_cpu_2cores_batch128.json"


class Chip(NamedTuple):
    """Published figures of one chip."""

    peak_tflops: float
    """Dense (without sparsity)."""
    bandwidth_gbs: float
    """Each way, to the other chips of its node."""
    chips_per_node: int
    source: str


CHIPS = {
    "a100-tf32": Chip(156, 300, 8, "NVIDIA A100 datasheet, SXM; NVLink 600 GB/s both ways"),
    "a100-bf16": Chip(312, 300, 8, "NVIDIA A100 datasheet, SXM; NVLink 600 GB/s both ways"),
    "h100-tf32": Chip(495, 450, 8, "NVIDIA H100 datasheet, SXM; NVLink 900 GB/s both ways"),
    "h100-bf16": Chip(989, 450, 8, "NVIDIA H100 datasheet, SXM; NVLink 900 GB/s both ways"),
    "tpu-v5e-bf16": Chip(197, 200, 256, "Cloud TPU v5e page; interconnect 400 GB/s both ways"),
    "tpu-v6e-bf16": Chip(918, 400, 256, "Cloud TPU v6e page; interconnect 800 GB/s both ways"),
}


class Machine(NamedTuple):
    """Chips and links, in FLOP/s, bytes/s and seconds."""

    rate: float
    """Achieved by one chip."""
    iteration: float
    """No iteration takes less."""
    chips_per_node: int
    bandwidth: float
    latency: float
    network_bandwidth: float
    network_latency: float

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


class Plan(NamedTuple):
    """A step on a mesh of data x layers chips: predicted seconds, and counted bytes sent per chip."""

    data: int
    layers: int
    arithmetic: float
    reduction: float
    """All-reduces between the parts of a batch."""
    exchange: float
    """Between the groups of blocks."""
    reduced_bytes: float
    exchanged_bytes: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.reduction + self.exchange


def make_plan(work: Work, batch: int, data: int, layers: int, machine: Machine) -> Plan:
    """What a step of `batch` examples takes on this mesh: as long as its slowest group of blocks."""
    part, span = batch / data, data * layers
    groups = []
    for maps in assign(work.map_flops, layers):
        arithmetic = reduction = sent = 0.0
        for n in maps:
            k = work.iterations[n]
            once = part * work.map_flops[n] / k / machine.rate
            arithmetic += k * max(once, machine.iteration)
            reduction += k * machine.all_reduce(work.reduced_bytes[n], data, span)
            sent += k * ring_bytes(work.reduced_bytes[n], data)
        groups.append((arithmetic, reduction, sent))
    arithmetic, reduction, sent = max(groups, key=lambda g: g[0] + g[1])
    return Plan(
        data,
        layers,
        arithmetic + part * work.other_flops / machine.rate,
        reduction + machine.all_reduce(work.forward_bytes, data, span),
        machine.all_reduce(work.exchanged_bytes, layers, layers),
        sent + ring_bytes(work.forward_bytes, data),
        ring_bytes(work.exchanged_bytes, layers),
    )


def make_plans(work: Work, batch: int, chips: int, machine: Machine) -> dict[str, Plan]:
    """By way: of one chip; or data-parallel over all that can have a part, layer-parallel, the best."""
    divisors = [d for d in range(1, min(chips, batch) + 1) if batch % d == 0]
    meshes = [(d, g) for d in divisors for g in range(1, len(work.maps) + 1) if d * g <= chips]
    if chips == 1:
        return {"alone": make_plan(work, batch, 1, 1, machine)}
    found = [make_plan(work, batch, *mesh, machine) for mesh in meshes]
    return {
        "data": make_plan(work, batch, divisors[-1], 1, machine),
        "layers": make_plan(work, batch, 1, min(chips, len(work.maps)), machine),
        "best": min(found, key=lambda plan: plan.seconds),
    }


class Share(NamedTuple):
    """The share of its peak that a step reached."""

    value: float
    origin: str
    """measured or assumed."""
    where: str


def measured_share(file: Path) -> Share:
    """Of the largest L-DRL step in the JSON of benchmarks.step or benchmarks.scaling.

    Raises:
      ValueError: there is none in it.
    """
    try:
        found = json.loads(file.read_text())
        rows = [
            (r["dtp_jax"], f"{r['network']}, batch {r['batch']}")
            if "dtp_jax" in r
            else (r, f"sweep of {r['sweep']} at {r['x']:g}")
            for r in found["rows"]
            if r.get("rule", "ldrl") == "ldrl" and r.get("sweep") != "devices"
        ]
        best, name = max(rows, key=lambda r: r[0]["seconds"] * r[0]["flops_per_second"])
        where = f"{name} on {found['hardware']}, {found['date']}, commit {found['commit']}"
        return Share(best["share_of_peak"], "measured", where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        allowed = "a JSON of benchmarks.step or benchmarks.scaling with L-DRL on one device"
        raise ValueError(f"--measured is {file}; allowed: {allowed}") from error


def imagenet32() -> tuple[Learner, dict[str, Any], int]:
    """(learner, config, images) of configs/imagenet32_dtp.py; the images before any are held out."""
    experiment = validate(imagenet32_dtp.get_config().to_dict())
    learner = build_learner(experiment, steps_per_epoch=1)
    return learner, experiment.config, experiment.data.train_examples


def predict(args: argparse.Namespace, share: Share) -> dict[str, Any]:
    """Everything that is shown; the result is what --json writes."""
    learner, config, images = imagenet32()
    work, chip = count_work(learner), CHIPS[args.chip]
    batch, images = args.batch or config["batch_size"], args.images or images
    epochs, peak = args.epochs or config["epochs"], 1e12 * (args.peak_tflops or chip.peak_tflops)
    machine = Machine(
        share.value * peak,
        1e-6 * args.iteration_us,
        args.chips_per_node or chip.chips_per_node,
        1e9 * (args.bandwidth_gbs or chip.bandwidth_gbs),
        1e-6 * args.latency_us,
        1e9 * args.network_gbs,
        1e-6 * args.network_latency_us,
    )
    steps = epochs * (images // batch)
    rows = [
        {
            "chips": chips,
            "way": way,
            **plan._asdict(),
            "seconds_per_step": plan.seconds,
            "hours": steps * plan.seconds / 3600,
        }
        for chips in args.chips
        for way, plan in make_plans(work, batch, chips, machine).items()
    ]
    return {
        **provenance("prediction"),
        "counted": {"batch": batch, "images": images, "epochs": epochs, "steps": steps}
        | {"flops_per_step": work.flops(batch), **work._asdict()},
        "share": share._asdict(),
        "assumed": {"chip": args.chip, "peak": peak, "source": chip.source, **machine._asdict()},
        "rows": rows,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """What went in, line by line with its origin, and the table of what comes out."""
    c, a, share = result["counted"], result["assumed"], Share(**result["share"])
    whole, costs = c["flops_per_step"] / c["batch"], c["map_flops"]
    dearest = max(range(len(costs)), key=lambda n: costs[n])
    sent = sum(k * b for k, b in zip(c["iterations"], c["reduced_bytes"]))
    source = "--peak-tflops" if a["peak"] != 1e12 * CHIPS[a["chip"]].peak_tflops else a["source"]
    for origin, text in (
        ("counted", f"{c['epochs']} epochs of {c['images']:,} images, batch {c['batch']}:"),
        ("counted", f"{c['steps']:,} steps of {c['flops_per_step'] / 1e12:.3f} TFLOP"),
        ("counted", f"{sum(costs) / whole:.1%} of the arithmetic is iterations of feedback maps"),
        ("counted", f"{costs[dearest] / whole:.1%} is those of the dearest map, {c['maps'][dearest]}:"),
        ("counted", f"layer-parallel divides them by {speedup_bound(costs, len(costs)):.2f}, no more"),
        ("counted", f"data-parallel: {sum(c['iterations'])} all-reduces a step, {_mb(sent)}, and"),
        ("counted", f"one of the forward gradients, {_mb(c['forward_bytes'])}"),
        ("counted", f"layer-parallel: one exchange a step, {_mb(c['exchanged_bytes'])}"),
        (share.origin, f"{share.value:.1%} of the peak reached: {share.where}"),
        ("assumed", f"so does {a['chip']}, of {a['peak'] / 1e12:.0f} TFLOP/s ({source})"),
        ("assumed", f"at least {1e6 * a['iteration']:.0f} us for an iteration"),
        ("assumed", f"{a['chips_per_node']} chips in a node"),
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
    """One row for each number of chips and way of using them."""
    title = "predicted: milliseconds of a step; counted: mesh (data x layers), MB sent per chip"
    columns = ("chips", "way", "mesh", "compute", "reduce", "exchange", "sent", "step", "speed-up")
    shown = make_table(title, (*columns, "hours"), ("way",), box=None, padding=(0, 2, 0, 0))
    one = next((r["seconds_per_step"] for r in rows if r["chips"] == 1), None)
    for r in rows:
        shown.add_row(
            str(r["chips"]),
            r["way"],
            f"{r['data']}x{r['layers']}",
            *(f"{1e3 * r[part]:.2f}" for part in ("arithmetic", "reduction", "exchange")),
            f"{(r['reduced_bytes'] + r['exchanged_bytes']) / 1e6:.0f}",
            f"{1e3 * r['seconds_per_step']:.2f}",
            f"{one / r['seconds_per_step']:.2f}" if one else "",
            f"{r['hours']:.2f}",
        )
    return shown


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"is {text}; allowed: numbers above 0")


def _count(text: str) -> int:
    with suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"is {text}; allowed: 1, 2, ...")


def _counts(text: str) -> list[int]:
    return [_count(entry) for entry in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("prediction", __doc__)
    add, chips = parser.add_argument, ", ".join(CHIPS)
    add("--chips", type=_counts, default=[1, 8, 256], help="numbers of chips (1,8,256)")
    add("--chip", choices=CHIPS, default="h100-tf32", metavar="NAME", help=f"of {chips}")
    add("--measured", type=Path, default=MEASURED, help="JSON of benchmarks.step or .scaling")
    add("--share", type=_positive, help="assumed share of the peak, instead of a measured one")
    add("--peak-tflops", type=_positive, help="instead of the chip's")
    add("--bandwidth-gbs", type=_positive, help="GB/s each way in a node, instead of the chip's")
    add("--chips-per-node", type=_count, help="instead of the chip's")
    add("--latency-us", type=_positive, default=20, help="of an all-reduce in a node (20)")
    add("--network-gbs", type=_positive, default=50, help="GB/s per chip beyond (50: 400 Gbit/s)")
    add("--network-latency-us", type=_positive, default=60, help="of an all-reduce beyond (60)")
    add("--iteration-us", type=_positive, default=30, help="least time of an iteration (30)")
    add("--batch", type=_count, help="whole batch, instead of the config's")
    add("--images", type=_count, help="instead of all; the config holds out 50 of each class")
    add("--epochs", type=_count, help="instead of the config's")
    add_json(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        given = Share(args.share, "assumed", "--share") if args.share else None
        share = given or measured_share(args.measured)
    except ValueError as error:
        parser.error(str(error))
    result, console = predict(args, share), make_console()
    show(result, console)
    write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
