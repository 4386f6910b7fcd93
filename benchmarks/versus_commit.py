"""A training step of this checkout, uncommitted changes included, and one of another commit, in alternation.

    python -m benchmarks.versus_commit [--commit HEAD] [--repeats 20] [--json FILE]

The step is L-DRL's of simple_vgg at batch 32, with the published hyper-parameters. Both sides live in
processes of their own (benchmarks/step_worker.py), each with the `dtp_jax` of its checkout; that of the
commit is a git worktree in a temporary folder. They take their steps in turn, so that whatever else
the machine does meets both. A time includes the two lines between the processes, a tenth of a
millisecond. The ratio is that of the medians, above 1 where this checkout is faster. Beside it stands what
the middle half of the single turns' ratios lies between: where 1 is in it, no difference was seen.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.program import add_json, make_console, make_table, parser_of, write_json
from benchmarks.provenance import provenance
from benchmarks.step import CLASSES, INPUT_SHAPE, SETTINGS
from benchmarks.timing import alternating, spread
from dtp_jax.run import backend

HERE = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("step_worker.py")
SETTING = {
    **SETTINGS["simple_vgg"]._asdict(),
    "channels": (128, 128, 256, 256, 512),
    "input_shape": INPUT_SHAPE,
    "classes": CLASSES,
    "batch": 32,
}
SIDES = ("before", "now")
"""At the commit, and in this checkout."""


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


def measure(commit: str, setting: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Times of both sides, and their ratio."""
    with (
        checkout_of(commit) as there,
        worker_of(there, setting) as old,
        worker_of(HERE, setting) as new,
    ):
        times = alternating(dict(zip(SIDES, (old, new))), repeats)
    found = {side: spread(times[side]) for side in SIDES}
    ratios = np.divide(*(times[side] for side in SIDES))
    return {
        **found,
        "ratio": found["before"]["seconds"] / found["now"]["seconds"],
        "ratios_middle_half": np.percentile(ratios, (25, 75)).tolist(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table, and the ratio below it."""
    columns = ("", "median ms", "fastest", "slowest")
    table = make_table("one L-DRL step of simple_vgg", columns, words=("",))
    for side, name in zip(SIDES, (result["against"][:10], "this checkout")):
        table.add_row(name, *(f"{1e3 * t:.2f}" for t in result[side].values()))
    console.print(table)
    low, high = result["ratios_middle_half"]
    console.print(f"ratio {result['ratio']:.3f}; middle half of the turns {low:.3f} to {high:.3f}")


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("versus_commit", __doc__)
    parser.add_argument("--commit", default="HEAD", help="HEAD: what do uncommitted changes do?")
    parser.add_argument("--repeats", type=int, default=20)
    add_json(parser)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; allowed: 1 or more")
    try:
        against = git("rev-parse", "--verify", "--end-of-options", f"{args.commit}^{{commit}}")
    except ValueError as problem:
        parser.error(f"--commit is {args.commit}; allowed: a commit of this repository ({problem})")
    backend.set_flags()
    found = measure(against, SETTING, args.repeats)
    # Only now: it asks for a device, which the processes then would have to share.
    result = {**provenance("versus_commit"), "against": against, "repeats": args.repeats}
    result |= {"setting": SETTING, **found}
    show(result, make_console())
    write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
