"""Training steps of this checkout, uncommitted changes included, and of another commit, in alternation.

    python -m benchmarks.versus_commit [--commit HEAD] [--steps NETWORK:RULE:BATCH,...] [--pytorch]
        [--repeats 20] [--json FILE]

A step is that of benchmarks.step, with the published hyper-parameters. Both sides live in processes of
their own (benchmarks/step_worker.py), each with the `dtp_jax` of its checkout; that of the commit is a
git worktree in a temporary folder. They take their steps in turn, so that whatever else the machine does
meets both. A time includes the two lines between the processes, a tenth of a millisecond. With --pytorch,
eager PyTorch takes its turn as well, as in benchmarks.step. A ratio is the median of the turns' ratios,
above 1 where this checkout is faster. Beside it stands what their middle half lies between: where 1 is in
it, no difference was seen. Each step has the peak of a product on this machine beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

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
from benchmarks.step import CLASSES, INPUT_SHAPE, RULES, SETTINGS, torch_side
from benchmarks.timing import alternating, matmul_peak, spread
from dtp_jax.run import backend

HERE = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("step_worker.py")
STEPS = "simple_vgg:ldrl:32"
NOW, BEFORE, PYTORCH = "now", "before", "pytorch"
"""In this checkout, at the commit, and in eager PyTorch."""


class Step(NamedTuple):
    """Which step is measured."""

    network: str
    rule: str
    batch: int

    def setting(self) -> dict[str, Any]:
        """What a worker is told of it."""
        shapes = {"input_shape": INPUT_SHAPE, "classes": CLASSES}
        return SETTINGS[self.network]._asdict() | self._asdict() | shapes

    def __str__(self) -> str:
        return ":".join(map(str, self))


def _steps(text: str) -> list[Step]:
    found = []
    for entry in text.split(","):
        network, rule, batch = (*entry.split(":"), "", "")[:3]
        if network not in SETTINGS or rule not in RULES or not batch.isdecimal() or not int(batch):
            allowed = f"NETWORK:RULE:BATCH of {', '.join(SETTINGS)} and {', '.join(RULES)}"
            raise argparse.ArgumentTypeError(f"is {text}; allowed: {allowed}")
        found.append(Step(network, rule, int(batch)))
    return found


def git(*args: str) -> str:
    """What it prints; raises ValueError, one line, where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", HERE, *args], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ValueError(f"git {args[0]}: {error.strerror}; git is needed here") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"git {args[0]}: {said[-1]}")
    return done.stdout.strip()


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """A worktree of it, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder).resolve() / "checkout")
        git("worktree", "add", "--detach", place, commit)
        try:
            yield Path(place)
        finally:
            git("worktree", "remove", "--force", place)


@contextmanager
def worker_of(checkout: Path, setting: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """A call that takes one step in a process that has this checkout's `dtp_jax`."""
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two processes on one GPU
        **os.environ,  # with XLA's flags, the same for both
        "PYTHONPATH": str(checkout),
    }
    process = subprocess.Popen(
        # -P: not this folder before PYTHONPATH.
        [sys.executable, "-P", str(WORKER), json.dumps(setting)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
    )

    def answer() -> str:
        if not (line := process.stdout.readline()):
            raise RuntimeError(f"the process of {checkout} ended with {process.wait()}")
        return line.decode().strip()

    def step() -> None:
        with suppress(BrokenPipeError):  # the answer is then none
            process.stdin.write(b"\n")
        answer()

    with process:  # which ends when its input does
        package = answer()
        if not Path(package).is_relative_to(checkout):
            raise RuntimeError(f"the process of {checkout} has modules of {package}")
        yield step


def measure(
    there: Path, setting: dict[str, Any], repeats: int, pytorch: bool = False
) -> dict[str, Any]:
    """Times of each side, and their ratios to this checkout's, by the names of the sides."""
    with ExitStack() as stack:
        sides = {
            BEFORE: stack.enter_context(worker_of(there, setting)),
            NOW: stack.enter_context(worker_of(HERE, setting)),
        }
        if pytorch:
            sides[PYTORCH] = torch_side(setting["rule"], setting["network"], setting["batch"]).step
        times = alternating(sides, repeats)
    found: dict[str, Any] = {side: spread(times[side]) for side in sides}
    for side in sides:
        found[side]["quartiles"] = np.percentile(times[side], (25, 75)).tolist()
        if side != NOW:
            low, ratio, high = np.percentile(
                np.divide(times[side], times[NOW]), (25, 50, 75)
            ).tolist()
            found[side] |= {"ratio": ratio, "ratios_middle_half": [low, high]}
    return found


def show(result: dict[str, Any], console: Console) -> None:
    """A row for each step and side."""
    names = {BEFORE: result["against"][:10], NOW: "this checkout", PYTORCH: "eager PyTorch"}
    table = make_table(
        f"one step, {result['repeats']} turns: ms, and how many times that of this checkout",
        ("step", "side", "median", "middle half", "ratio", "middle half of the turns"),
        words=("step", "side"),
        box=None,
    )
    for row in result["rows"]:
        for side in (NOW, BEFORE, PYTORCH):
            if side in row:
                table.add_row(row["step"], names[side], *_cells(row[side]))
    console.print(table)
    peaks = [row["peak_flops_per_second"] / 1e9 for row in result["rows"]]
    console.print(f"a product's peak beside them: {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s")


def _cells(side: dict[str, Any]) -> list[str]:
    low, high = (1e3 * t for t in side["quartiles"])
    cells = [f"{1e3 * side['seconds']:.2f}", f"{low:.2f} to {high:.2f}"]
    if "ratio" in side:
        low, high = side["ratios_middle_half"]
        cells += [f"{side['ratio']:.3f}", f"{low:.3f} to {high:.3f}"]
    return cells


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("versus_commit", __doc__)
    parser.add_argument("--commit", default="HEAD", help="HEAD: what do uncommitted changes do?")
    parser.add_argument("--steps", type=_steps, default=STEPS, help=f"which ({STEPS})")
    parser.add_argument("--pytorch", action="store_true", help="eager PyTorch as a third side")
    parser.add_argument("--repeats", type=count, default=20)
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        against = git("rev-parse", "--verify", "--end-of-options", f"{args.commit}^{{commit}}")
    except ValueError as problem:
        parser.error(f"--commit is {args.commit}; allowed: a commit of this repository ({problem})")
    backend.set_flags()
    rows = []
    with checkout_of(against) as there:
        for step in args.steps:
            found = measure(there, step.setting(), args.repeats, args.pytorch)
            # Only now: it asks for a device, which the processes would have to share.
            peak = {"peak_flops_per_second": matmul_peak()}
            rows.append({"step": str(step), **found, **peak})
    result = {**provenance("versus_commit"), "against": against, "repeats": args.repeats}
    result["rows"] = rows
    show(result, make_console())
    write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
