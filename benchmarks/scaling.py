"""How time and memory of an L-DRL step grow with the batch, the network and the number of devices.

    python -m benchmarks.scaling [--sweeps batch,width,iterations,image_size,blocks,devices]
        [--repeats N] [--json FILE] [--figure FILE.png] [--quick]
    python -m benchmarks.scaling --redraw RESULT.json --figure FILE.png

Every sweep changes one thing of one base setting: a simple_vgg with 16, 32 and 32 channels on 32x32
images, batch 32, 5 feedback iterations of each map. The sweep of blocks has its own base: between the
first convolution and the readout stand equal ones, of 32 channels on 16x16 images, without pooling.

Time is the median of --repeats steps after two to warm up; memory is what the compiled step holds:
arguments, results and temporary arrays, donated ones once (`memory_analysis`). Each sweep's growth is
an exponent, the slope of a line through the logarithms; beside it stands the one of the arithmetic, as
counted by benchmarks/counting.py. A time that grows more slowly has a part that does not grow.

Devices are virtual ones of the CPU, in a process of their own for each number. They share its cores, so
the sweep shows what dividing a step costs; what it gains is a better use of the cores, not more of them.
Bytes are those of the collective operations of a step, counted in the compiled program.

A cost model is fitted to all points on one device and predicts a setting that is in no sweep, which is
then measured. Its units are a step, an iteration, an operation, and an element: a normal drawn, with all
element-wise work that goes with it.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import dtp_jax
from benchmarks.growth import Costs, Load, draw, exponents, fit_costs, lines_of, load_of
from benchmarks.hlo import exchanged_bytes
from benchmarks.program import (
    add_json,
    count,
    make_console,
    make_table,
    parser_of,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.timing import alternating, matmul_peak, spread, stepping
from benchmarks.work import count_work
from dtp_jax.blocks import Network, chain, conv_block, dense_block
from dtp_jax.learning import optim
from dtp_jax.networks import simple_vgg
from dtp_jax.parallel.mesh import divided, make_mesh, replicated
from dtp_jax.plots.style import save
from dtp_jax.run import backend

CLASSES, COLOURS, SIGMA = 10, 3, 0.2


class Setting(NamedTuple):
    """What is measured."""

    batch: int = 32
    channels: tuple[int, ...] = (16, 32, 32)
    image_size: int = 32
    iterations: int = 5
    pooled: bool = True
    """Max-pooling in every convolutional block, as simple_vgg has it."""
    data: int = 1
    """Devices that share the batch."""
    layers: int = 1
    """Devices that share the feedback maps."""


BASE, EQUAL = Setting(), Setting(channels=(32,) * 2, image_size=16, pooled=False)
SMALL = Setting(batch=4, channels=(4,), image_size=8, iterations=2)
HELD_OUT = Setting(batch=48, channels=(24, 40, 48), image_size=24, iterations=8)
VIRTUAL = (
    "Devices (data x layers) are virtual and share the cores: this is the overhead, not a speed-up. "
    "Expected is the growth of their arithmetic together: layer-parallel ones repeat what is not an "
    "iteration."
)
SWEEPS = ("batch", "width", "iterations", "image_size", "blocks", "devices")


def points(sweep: str, quick: bool) -> list[tuple[float, Setting]]:
    """(x, setting) of every point of a sweep; a few tiny ones where `quick`."""
    base, equal = (SMALL, SMALL._replace(pooled=False)) if quick else (BASE, EQUAL)
    if sweep == "width":
        factors = (1, 2) if quick else (0.5, 1, 2, 4)
        return [
            (f, base._replace(channels=tuple(round(f * c) for c in base.channels))) for f in factors
        ]
    if sweep == "blocks":
        width, counts = equal.channels[0], (1, 2) if quick else (1, 2, 4, 6)
        return [(n, equal._replace(channels=(width,) * (n + 1))) for n in counts]
    if sweep == "devices":
        meshes = [(1, 1), (2, 1), (1, 2)]
        if not quick:
            meshes += [(4, 1), (2, 2), (1, 3), (8, 1), (4, 2)]
        return [(d * g, base._replace(data=d, layers=g)) for d, g in meshes]
    values = {
        "batch": (8, 32, 128, 256),
        "iterations": (2, 5, 15, 45),
        "image_size": (8, 16, 32, 64),
    }
    small = {"batch": (4, 8), "iterations": (2, 4), "image_size": (8, 16)}
    return [(x, base._replace(**{sweep: x})) for x in (small if quick else values)[sweep]]


def network_of(setting: Setting) -> Network:
    shape = (setting.image_size, setting.image_size, COLOURS)
    if setting.pooled:
        return simple_vgg(shape, CLASSES, channels=setting.channels)
    convs = [
        conv_block(f"conv_{i}", channels=c, window=3, padding=1)
        for i, c in enumerate(setting.channels)
    ]
    return chain(shape, [*convs, dense_block("fc", features=CLASSES)])


def learner_of(setting: Setting) -> dtp_jax.Learner:
    """L-DRL with SGD, on the setting's mesh."""
    network = network_of(setting)
    maps = len(network) - 1
    return dtp_jax.Learner(
        network=network,
        rule=dtp_jax.ldrl(noise=(SIGMA,) * maps, beta=0.7),
        forward_optimizer=optim.sgd(1e-3, momentum=0.9, weight_decay=1e-4),
        feedback_optimizers=(optim.sgd(1e-5, momentum=0.9),) * maps,
        feedback_iterations=(setting.iterations,) * maps,
        mesh=make_mesh(setting.data, setting.layers),
    )


def compiled_step(setting: Setting) -> tuple[jax.stages.Compiled, tuple[Any, ...]]:
    """(the program of a training step, its arguments: state, images, labels); the state is donated."""
    learner = learner_of(setting)
    random = np.random.default_rng(0)
    size = (setting.image_size, setting.image_size, COLOURS)
    images = random.standard_normal((setting.batch, *size), np.float32)
    labels = random.integers(0, CLASSES, setting.batch).astype(np.int32)
    everywhere = replicated(learner.mesh)
    state = dtp_jax.init(learner, jax.random.key(0))
    args = (
        jax.device_put(state, everywhere),
        *(jax.device_put(a, learner.mesh and divided(learner.mesh)) for a in (images, labels)),
    )
    step = jax.jit(partial(dtp_jax.train_step, learner), donate_argnums=0, out_shardings=everywhere)
    return step.lower(*args).compile(), args


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Times a step, and counts what it holds, computes and sends."""
    compiled, args = compiled_step(setting)
    step = stepping(compiled, *args)
    taken = spread(alternating({"step": step}, repeats)["step"])
    if not np.isfinite(loss := step().loss):
        raise ValueError(f"the loss of {setting} is {loss}; allowed: finite numbers")
    work, held = count_work(learner_of(setting)), compiled.memory_analysis()
    # Of all devices together: groups of blocks share the iterations, and each does all the rest.
    flops = setting.batch * (sum(work.map_flops) + setting.layers * work.other_flops)
    memory = {
        "arguments": held.argument_size_in_bytes,
        "results": held.output_size_in_bytes - held.alias_size_in_bytes,
        "temporary": held.temp_size_in_bytes,
    }
    return {
        "setting": setting._asdict(),
        **taken,
        "examples_per_second": setting.batch / taken["seconds"],
        "flops": flops,
        "flops_per_second": flops / taken["seconds"],
        "load": load_of(work, setting.batch)._asdict(),
        "memory_bytes": sum(memory.values()),
        "memory": memory,
        "exchanged_bytes": exchanged_bytes(compiled.as_text()),
    }


def measure_devices(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """The points of the sweep of devices, each number of devices in a process of its own."""
    wanted, rows = points("devices", quick), []
    for devices in sorted({x for x, _ in wanted}):
        job = json.dumps([[x, *s] for x, s in wanted if x == devices])
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scaling", "--child", job, "--repeats", str(repeats)],
            env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        rows += json.loads(done.stdout.splitlines()[-1])
    return rows


def child(job: str, repeats: int) -> list[dict[str, Any]]:
    """What `measure_devices` asks for."""
    found = []
    for x, batch, channels, *rest in json.loads(job):
        setting = Setting(batch, tuple(channels), *rest)
        found.append({"sweep": "devices", "x": x, **measure(setting, repeats)})
    return found


def run(sweeps: list[str], repeats: int, quick: bool, console: Console) -> dict[str, Any]:
    """Measures everything; the result is what --json writes."""
    peak, once = matmul_peak(), cache(partial(measure, repeats=repeats))
    rows: list[dict[str, Any]] = []
    for sweep in sweeps:
        console.print(f"measuring {sweep} ...")
        if sweep == "devices":
            rows += measure_devices(quick, repeats)
        else:
            found = [{"sweep": sweep, "x": x, **once(s)} for x, s in points(sweep, quick)]
            rows += [{**r, "share_of_peak": r["flops_per_second"] / peak} for r in found]
    result = {**provenance("scaling"), "repeats": repeats, "matmul_peak": peak, "rows": rows}
    result["growth"] = {name: exponents(part) for name, part in lines_of(rows).items()}
    alone = [row for row in rows if row["sweep"] != "devices"]
    if len({Load(**row["load"]) for row in alone}) >= len(Costs._fields):
        alone = list(
            {Load(**row["load"]): row for row in alone}.values()
        )  # the base is in every sweep
        costs = fit_costs([Load(**r["load"]) for r in alone], [r["seconds"] for r in alone])
        held_out = measure(SMALL._replace(batch=6) if quick else HELD_OUT, repeats)
        held_out["predicted_seconds"] = costs.seconds(Load(**held_out["load"]))
        result |= {"costs": costs._asdict(), "held_out": held_out}
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """The tables."""
    columns = ("sweep", "x", "ms", "examples/s", "GFLOP/s", "memory, MiB", "exchanged, kB")
    title = "one L-DRL step, median; memory and bytes per device"
    table = make_table(title, columns, words=("sweep",))
    for r in result["rows"]:
        mesh = "" if r["sweep"] != "devices" else "{data}x{layers}".format(**r["setting"])
        table.add_row(
            r["sweep"],
            mesh or f"{r['x']:g}",
            f"{1e3 * r['seconds']:.2f}",
            f"{r['examples_per_second']:.0f}",
            f"{r['flops_per_second'] / 1e9:.0f}",
            f"{r['memory_bytes'] / 2**20:.2f}",
            f"{r['exchanged_bytes'] / 1e3:.0f}",
        )
    console.print(table)
    columns = ("sweep", "time", "expected from FLOPs", "memory")
    slopes = make_table("growth: exponents", columns, words=("sweep",))
    for name, g in result["growth"].items():
        slopes.add_row(name, *(f"{g[of]:.2f}" for of in ("seconds", "flops", "memory_bytes")))
    console.print(slopes)
    if any(row["sweep"] == "devices" for row in result["rows"]):
        console.print(VIRTUAL)
    if "costs" in result:
        _show_costs(result, console)


def _show_costs(result: dict[str, Any], console: Console) -> None:
    c, check = Costs(**result["costs"]), result["held_out"]
    console.print(
        f"costs, fitted: {1e6 * c.step:.0f} us a step, {1e6 * c.iteration:.1f} us an iteration, "
        f"{1e12 * c.flop:.2f} s a TFLOP, {1e9 * c.normal:.2f} ns an element"
    )
    console.print(
        f"held out ({', '.join(f'{k} {v}' for k, v in list(check['setting'].items())[:4])}): predicted "
        f"{1e3 * check['predicted_seconds']:.2f} ms, measured {1e3 * check['seconds']:.2f} ms "
        f"({check['seconds'] / check['predicted_seconds'] - 1:+.0%} on the prediction)"
    )


def main(argv: list[str] | None = None) -> int:
    backend.prepare()  # the kernels that training has
    parser = parser_of("scaling", __doc__)
    parser.add_argument("--sweeps", default=",".join(SWEEPS))
    parser.add_argument("--repeats", type=count, default=7)
    add_json(parser)
    parser.add_argument("--figure", type=Path, help="file for the picture (.png)")
    parser.add_argument("--redraw", type=Path, help="draws a result of --json, measures nothing")
    parser.add_argument("--quick", action="store_true", help="a few tiny settings: does it run?")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.redraw:
        if not args.figure:
            parser.error("--figure is missing; allowed with --redraw: a file for the picture")
        try:
            save(draw(json.loads(args.redraw.read_text())), args.figure)
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--redraw is {args.redraw}: {error!r}; allowed: a result of --json")
        return 0
    if args.child:
        print(json.dumps(child(args.child, args.repeats)))
        return 0
    sweeps = args.sweeps.split(",")
    if unknown := set(sweeps) - set(SWEEPS):
        parser.error(f"--sweeps is {', '.join(sorted(unknown))}; allowed: {', '.join(SWEEPS)}")
    console = make_console()
    result = run(sweeps, args.repeats, args.quick, console)
    show(result, console)
    write_json(args.json, result)
    if args.figure:
        save(draw(result), args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
