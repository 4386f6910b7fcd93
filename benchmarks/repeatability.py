"""What gives the same bits: one run of the digits again and again, each time with one thing changed.

    python -m benchmarks.repeatability [--python OTHER/bin/python ...] [--json FILE]

Every row is a run of two epochs of `digits_dtp`'s network, in processes of its own. Its last weights,
optimizer states and counters are compared with those of the first run: the same bits, or the largest
difference of a forward weight, relative to the largest one of its array. --python names interpreters of
other environments, such as one with another version of JAX.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.program import add_json, make_console, make_table, parser_of, write_json
from benchmarks.provenance import provenance
from dtp_jax.run.results import FinishedRun, load_run

HERE = Path(__file__).resolve().parents[1]
TINY = (
    "--config=digits_dtp",
    "--config.channels=8,16",
    "--config.feedback_iterations=5",
    "--config.batch_size=32",
    "--config.epochs=2",
    "--config.checkpoint_every=20",
)
CHUNKS = "import sys; from dtp_jax.run import cli, loop; loop.CHUNK_SECONDS = {}; sys.exit(cli.main(sys.argv, ''))"


class Change(NamedTuple):
    """One thing that differs from the first run."""

    what: str
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    program: tuple[str, ...] = (str(HERE / "launch.py"),)
    before: tuple[str, ...] = ()
    """Words before the whole command."""
    run: "Callable[[Change, str, Path], None] | None" = None
    """How, where it is not simply started."""
    python: str = sys.executable

    def start(self, workdir: Path, *flags: str) -> subprocess.Popen:
        """The run in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu"}
        command = [*self.before, self.python, *self.program, *TINY, f"--workdir={workdir}"]
        return subprocess.Popen(
            [*command, *self.flags, *flags],
            env={**environment, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finish(*processes: subprocess.Popen) -> None:
    """Waits for the end; raises RuntimeError where one fails."""
    for process in processes:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args} ended with {process.returncode}: {out[-500:]}")


def kill_and_go_on(change: Change, workdir: Path) -> None:
    """SIGKILL once the second checkpoint is there, and then the same command."""
    process = change.start(workdir)
    while not (workdir / "checkpoints" / "40" / "checksums.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(change.start(workdir))


def two_processes(change: Change, workdir: Path) -> None:
    """On the loopback address, with one virtual device each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = (f"--coordinator={address}", "--processes=2")
    finish(*[change.start(workdir, *both, f"--process={p}") for p in range(2)])


def changes(pythons: list[str]) -> list[Change]:
    """Everything that is tried."""
    four = {"JAX_NUM_CPU_DEVICES": "4"}
    chunked = [
        Change(f"chunks {name}", program=("-c", CHUNKS.format(seconds)))
        for name, seconds in (("of one step", 0.0), ("as long as possible", 1e9))
    ]
    return [
        Change("nothing"),
        Change("compiled anew", environment={"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp()}),
        *chunked,
        Change("killed after step 40, and gone on", run=kill_and_go_on),
        Change("images streamed from the host", ("--config.images_on=host",)),
        Change(
            "diagnostics, log_every, eval_batch_size, checkpoints",
            (
                "--config.diagnostics=False",
                "--config.log_every=7",
                "--config.eval_batch_size=64",
                "--config.checkpoint_every=0",
            ),
        ),
        Change("one core", before=("taskset", "-c", "0")),
        Change("four devices, one used", environment=four),
        Change("data_parallel=2", ("--config.data_parallel=2",), four),
        Change("data_parallel=4", ("--config.data_parallel=4",), four),
        Change("layer_parallel=2", ("--config.layer_parallel=2",), four),
        Change(
            "data_parallel=2, layer_parallel=2",
            ("--config.data_parallel=2", "--config.layer_parallel=2"),
            four,
        ),
        Change(
            "data_parallel=2 in two processes",
            ("--config.data_parallel=2",),
            {"JAX_NUM_CPU_DEVICES": "1"},
            run=two_processes,
        ),
        Change("XLA's own flags", environment={"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"}),
        Change("precision=float32", ("--config.precision=float32",)),
        *(Change(f"jax {version_of(python)}", python=python) for python in pythons),
    ]


def version_of(python: str) -> str:
    """Of jax there, and of Python."""
    told = "import jax, platform; print(jax.__version__, 'on Python', platform.python_version())"
    return subprocess.run([python, "-c", told], capture_output=True, text=True).stdout.strip()


def largest_difference(run: FinishedRun, first: FinishedRun) -> float | None:
    """Of a forward weight, relative to the largest of its array; None where all states have the same bits."""
    if _bits(run.state) == _bits(first.state):
        return None
    pairs = zip(*map(jax.tree.leaves, (run.state.forward, first.state.forward)), strict=True)
    return max(float(np.abs(mine - other).max() / np.abs(other).max()) for mine, other in pairs)


def _bits(state: Any) -> list[bytes]:
    """Of every leaf."""

    def numbers(leaf: Any) -> Any:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return [np.asarray(numbers(leaf)).tobytes() for leaf in jax.tree.leaves(state)]


def main() -> None:
    """The command line."""
    parser = parser_of("repeatability", __doc__)
    parser.add_argument("--python", action="append", default=[], help="of another environment")
    add_json(parser)
    args = parser.parse_args()
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        for number, change in enumerate([Change("first"), *changes(args.python)]):
            workdir = Path(folder) / str(number)
            if change.run is not None:
                change.run(change, workdir)
            else:
                finish(change.start(workdir))
            run = load_run(workdir)
            if first is None:
                first = run
                continue
            difference = largest_difference(run, first)
            points = 100 * abs(run.summary["test_accuracy"] - first.summary["test_accuracy"])
            rows.append({"what": change.what, "difference": difference, "points": points})
            print(json.dumps(rows[-1]), flush=True)
    table = make_table(
        "what differs", ("what", "state and weights", "test accuracy"), words=("what",)
    )
    for row in rows:
        same = row["difference"] is None
        bits = "the same bits" if same else f"{row['difference']:.1e} apart"
        table.add_row(
            row["what"], bits, "the same" if same else f"{row['points']:.2f} points apart"
        )
    make_console().print(table)
    write_json(args.json, {**provenance("repeatability"), "jax": jax.__version__, "rows": rows})


if __name__ == "__main__":
    main()
