"""One training step, here and in eager PyTorch: L-DRL and backprop, measured in alternation.

    python -m benchmarks.step [--networks simple_vgg,lenet] [--batches 32,128] [--repeats 5] [--json FILE]

The PyTorch side evaluates the literal formulas of the feedback loss (benchmarks/torch_baseline.py). Each
side's arithmetic is counted as direct convolutions of its own form, in units of one application of a
block's affine map: 4 per feedback iteration in the difference form (F, decoding, two weight
gradients), 7 in the literal one (F, three G, three weight gradients); multiplications that an
implementation saves (Winograd) count as done. The share of the peak is that of the faster framework's
measured float32 matrix product. Memory is what a step adds to a process of its own: resident memory
on a CPU, allocated memory on a GPU.
"""

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import dtp_jax
from benchmarks.counting import Part, count_step, total
from benchmarks.program import (
    add_json,
    count,
    counts,
    make_console,
    make_table,
    parser_of,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.timing import alternating, matmul_peak, spread, stepping, torch_matmul_peak
from dtp_jax.learning import optim
from dtp_jax.run import backend

CLASSES, INPUT_SHAPE = 10, (32, 32, 3)


class Setting(NamedTuple):
    """The published hyper-parameters of a network (configs/cifar10_dtp.py, cifar10_lenet_dtp.py)."""

    noise: tuple[float, ...]
    iterations: tuple[int, ...]
    feedback_lr: tuple[float, ...]
    beta: float
    forward_lr: float


SETTINGS = {
    "simple_vgg": Setting(
        (0.4, 0.4, 0.2, 0.2, 0.08),
        (20, 30, 35, 55, 20),
        (1e-4, 3.5e-4, 8e-3, 8e-3, 0.18),
        0.7,
        0.05,
    ),
    "lenet": Setting(
        (0.416, 0.383, 0.14), (41, 51, 24), (7.19e-4, 1.25e-4, 0.0354), 0.4655, 0.03618
    ),
}
SIDES = ("dtp_jax", "pytorch")
RULES = ("ldrl", "backprop")


class Side(NamedTuple):
    """A framework's training step, ready to be timed."""

    step: Callable[[], Any]
    """Takes one step, and returns when it is done."""
    flops: float
    """Floating-point operations of a step."""


def learner_of(rule: str, network_name: str) -> dtp_jax.Learner:
    """What both sides train."""
    setting = SETTINGS[network_name]
    network = getattr(dtp_jax, network_name)(INPUT_SHAPE, CLASSES)
    optimizer = optim.sgd(setting.forward_lr, momentum=0.9, weight_decay=1e-4)
    if rule == "backprop":
        return dtp_jax.Learner(network, dtp_jax.backprop(), optimizer)
    return dtp_jax.Learner(
        network,
        dtp_jax.ldrl(noise=setting.noise, beta=setting.beta),
        optimizer,
        tuple(optim.sgd(lr, momentum=0.9) for lr in setting.feedback_lr),
        setting.iterations,
    )


def work_of(rule: str, network_name: str, batch: int) -> Part:
    """The arithmetic of a step."""
    return total(count_step(learner_of(rule, network_name), batch, cache=0), "step")


def jax_side(rule: str, network_name: str, batch: int) -> Side:
    """This project's step on random images."""
    learner = learner_of(rule, network_name)
    state = dtp_jax.init(learner, jax.random.key(0))
    images, labels = (jax.device_put(a) for a in _batch(batch))
    train_step = jax.jit(
        lambda state, x, y: dtp_jax.train_step(learner, state, x, y), donate_argnums=0
    )
    step = stepping(train_step, state, images, labels)
    return Side(step, work_of(rule, network_name, batch).least.flops)


def torch_side(rule: str, network_name: str, batch: int) -> Side:
    """The literal PyTorch step on the same images."""
    import torch

    from benchmarks import torch_baseline

    setting = SETTINGS[network_name]
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    shape = (INPUT_SHAPE[2], *INPUT_SHAPE[:2])
    spec = getattr(torch_baseline, network_name)(CLASSES)
    if rule == "ldrl":
        learner = torch_baseline.LDRL(
            spec,
            shape,
            noise=setting.noise,
            iterations=setting.iterations,
            feedback_lr=setting.feedback_lr,
            forward_lr=setting.forward_lr,
            beta=setting.beta,
            weight_decay=1e-4,
            device=device,
        )
    else:
        learner = torch_baseline.Backprop(
            spec, shape, lr=setting.forward_lr, weight_decay=1e-4, device=device
        )
    images, labels = _batch(batch)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)

    def step() -> None:
        with torch_baseline.cuda_precision(tf32=True):  # as XLA does by default
            learner.step(x, y)
        if device == "cuda":
            torch.cuda.synchronize()

    return Side(step, work_of(rule, network_name, batch).literal.flops)


def _batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((batch, *INPUT_SHAPE), np.float32),
        rng.integers(0, CLASSES, batch).astype(np.int32),
    )


def measure(sides: dict[str, Side], repeats: int) -> dict[str, dict[str, float]]:
    """Median and spread of each side's step."""
    times = alternating({name: side.step for name, side in sides.items()}, repeats)
    found = {name: spread(t) for name, t in times.items()}
    for name, side in sides.items():
        found[name]["flops_per_second"] = side.flops / found[name]["seconds"]
    return found


def memory_of_step(side: str, rule: str, network: str, batch: int) -> int:
    """Bytes that the steps add to a fresh process (see the module's docstring)."""
    build = jax_side if side == "dtp_jax" else torch_side
    if jax.default_backend() == "gpu":
        build(rule, network, batch).step()
        if side == "dtp_jax":
            return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        import torch

        return torch.cuda.max_memory_allocated()
    if side == "pytorch":
        import torch  # noqa: F401  # before the first look: the library is no part of a step's memory
    before = _memory("VmRSS")
    ready = build(rule, network, batch)
    ready.step()
    ctypes.CDLL(None).malloc_trim(0)  # what the compiler used is no part of a step's memory either
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for _ in range(2):
        ready.step()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    """Bytes, from /proc/self/status."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[field].split()[0])


def memory_in_child(side: str, rule: str, network: str, batch: int) -> float | None:
    """`memory_of_step` in a process of its own; None where it cannot be measured."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    job = f"{side},{rule},{network},{batch}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--memory-of", job],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def run(networks: list[str], batches: list[int], repeats: int, console: Console) -> dict[str, Any]:
    """Measures everything; the result is what --json writes."""
    peaks = {"dtp_jax": matmul_peak(), "pytorch": torch_matmul_peak()}
    rows = []
    for network in networks:
        for batch in batches:
            for rule in RULES:
                sides = {
                    "dtp_jax": jax_side(rule, network, batch),
                    "pytorch": torch_side(rule, network, batch),
                }
                found = measure(sides, repeats)
                for side in SIDES:
                    found[side]["memory_bytes"] = memory_in_child(side, rule, network, batch)
                    found[side]["share_of_peak"] = found[side]["flops_per_second"] / max(
                        peaks.values()
                    )
                rows.append(
                    {
                        "network": network,
                        "batch": batch,
                        "rule": rule,
                        **found,
                        "speedup": found["pytorch"]["seconds"] / found["dtp_jax"]["seconds"],
                    }
                )
                console.print(
                    f"{network} batch {batch} {rule}: {rows[-1]['speedup']:.2f} times faster"
                )
    return {
        **provenance("step"),
        "matmul_peak": peaks,
        "repeats": repeats,
        "rows": rows,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table."""
    names, words = ("network", "batch", "rule"), ("network", "rule")
    times = make_table("one training step, median", (*names, *SIDES, "ratio"), words)
    title = "arithmetic per second, share of the matrix product peak, memory"
    details = make_table(title, (*names, *SIDES), words)
    for row in result["rows"]:
        name = row["network"], str(row["batch"]), row["rule"]
        times.add_row(
            *name,
            *(f"{1e3 * row[side]['seconds']:.1f} ms" for side in SIDES),
            f"{row['speedup']:.2f}",
        )
        details.add_row(*name, *(_details(row[side]) for side in SIDES))
    console.print(times)
    console.print(details)
    costs = make_table("L-DRL / backprop", ("network", "batch", *SIDES, "arithmetic"), words)
    rows = {(r["network"], r["batch"], r["rule"]): r for r in result["rows"]}
    for network, batch, rule in rows:
        if rule == "ldrl" and (network, batch, "backprop") in rows:
            ldrl, backprop = rows[network, batch, "ldrl"], rows[network, batch, "backprop"]
            work = [
                r["dtp_jax"]["seconds"] * r["dtp_jax"]["flops_per_second"] for r in (ldrl, backprop)
            ]
            costs.add_row(
                network,
                str(batch),
                *(f"{ldrl[s]['seconds'] / backprop[s]['seconds']:.1f}" for s in SIDES),
                f"{work[0] / work[1]:.1f}",
            )
    console.print(costs)
    console.print(
        "matrix product peak, GFLOP/s: "
        + ", ".join(f"{side} {peak / 1e9:.0f}" for side, peak in result["matmul_peak"].items())
    )


def _details(m: dict[str, Any]) -> str:
    memory = "" if m["memory_bytes"] is None else f", {m['memory_bytes'] / 2**20:.0f} MiB"
    return f"{m['flops_per_second'] / 1e9:.0f} G/s, {100 * m['share_of_peak']:.0f} %{memory}"


def main(argv: list[str] | None = None) -> int:
    backend.prepare()  # the kernels that training has
    parser = parser_of("step", __doc__)
    parser.add_argument("--networks", default="simple_vgg,lenet", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--batches", type=counts, default=[32, 128], help="images of each (32,128)")
    parser.add_argument("--repeats", type=count, default=5)
    add_json(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory_of:
        side, rule, network, batch = args.memory_of.split(",")
        print(memory_of_step(side, rule, network, int(batch)))
        return 0
    unknown = set(args.networks.split(",")) - set(SETTINGS)
    if unknown:
        parser.error(
            f"--networks: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(SETTINGS)}"
        )
    console = make_console()
    result = run(args.networks.split(","), args.batches, args.repeats, console)
    show(result, console)
    write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
