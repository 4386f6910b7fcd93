"""dtp: difference target propagation with learned backprop targets, from the command line.

    dtp train --config=cifar10_dtp --workdir=runs/cifar10   trains; run again, it goes on
    dtp compare --configs=digits_dtp,digits_backprop        several configs and seeds, side by side
    dtp sweep --config=mine.py --trials=50                  searches for the values that validate best
    dtp report WORKDIR                                      a page about a run, or about several
    dtp figures 4.3 --quick                                 the paper's figures, from training to picture
    dtp export WORKDIR OUT.safetensors                      weights out of a run, or into one
    dtp parity FILE.npz                                     replays recorded numbers of the original
    dtp --version

    dtp train|compare ... --submit=slurm --submit.time=4:00:00 --submit.gpus=1     in jobs of a cluster

`dtp TOOL --help` says more. `python -m dtp_jax` is the same command, and `python launch.py` is `dtp train`.
"""

import importlib
import sys

from dtp_jax.output import steady_streams
from dtp_jax.run import signals
from dtp_jax.version import __version__

TRAIN = """Trains a network from a config; run again with the same --workdir, it goes on where it stopped.

    {program}                                  the quick start: digits_dtp
    {program} --config=cifar10_dtp --workdir=runs/cifar10 --config.seed=1
    {program} --workdir=runs/cifar10           goes on with that run
    {program} --workdir=runs/cifar10 --config.epochs=120        extends it
    {program} --config=runs/cifar10/config.json                 runs it again
    {program} --config=cifar10_dtp --submit=slurm --submit.time=4:00:00 --submit.gpus=1   in a job of Slurm

Any field of the config can be overridden with --config.FIELD=VALUE; tuples are written 0.4,0.2. All
fields are described in dtp_jax/configs/default.py. Exit codes: 0 done, 2 config or flag not valid, 3 data
missing or corrupt, 4 a loss is not finite, 5 another process of the run is gone, 6 a disk refuses, 7 memory
is used up, 129, 130 or 143 stopped by a signal and saved. Of two runs in one folder, the second one is
refused with 2. docs/reliability.md says what happens when something fails."""
TOOLS = ("train", "compare", "sweep", "report", "figures", "export", "parity")
SUBMITTED = ("train", "compare", "sweep")
"""Tools that --submit sends to a cluster."""
HELP = ("--help", "-h", "-help")


@steady_streams()
def main(argv: list[str] | None = None) -> int:
    """The command `dtp`. Returns the exit code.

    Args:
      argv: a tool and its arguments; those of this process by default.
    """
    tool, *args = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if tool in HELP:
        print(__doc__.strip())
        return 0
    if tool == "--version":
        print(f"dtp_jax {__version__}")
        return 0
    if tool not in TOOLS:
        print(
            f"error: the tool is {tool!r}; allowed: {', '.join(TOOLS)}, --help, --version",
            file=sys.stderr,
        )
        return 2
    if tool == "train":
        return train(args, "dtp train")
    if tool in SUBMITTED and _is_submitted(args):
        return _submit(tool, args, f"dtp {tool}")
    return signals.until_stopped(
        lambda: importlib.import_module(f"dtp_jax.{tool}.__main__").main(args, f"dtp {tool}"),
        "stopped",
    )


@steady_streams()
def train(args: list[str], program: str) -> int:
    """Trains. `program` is what the user has typed before the arguments."""
    asks_help = any(arg in HELP or arg.startswith("--help") for arg in args)
    if _is_submitted(args) and not asks_help:
        return _submit("train", args, program)
    code = signals.until_stopped(lambda: _load(not asks_help), "stopped before the first step")
    if code:
        return code
    from dtp_jax.run import cli

    return cli.main([program, *args], TRAIN.format(program=program))


def _is_submitted(args: list[str]) -> bool:
    return any(arg.lstrip("-").startswith("submit") and arg.startswith("-") for arg in args)


def _submit(tool: str, args: list[str], program: str) -> int:
    """Sends the command to a cluster, or to processes of this machine."""
    return signals.until_stopped(
        lambda: importlib.import_module("dtp_jax.submit.command").submit(tool, args, program),
        "stopped",
    )


def _load(aloud: bool) -> int:
    """Imports what trains, JAX above all: seconds in which somebody may change their mind."""
    if aloud:
        print(f"dtp-jax {__version__}: starting JAX", flush=True)
    importlib.import_module("dtp_jax.run.cli")
    return 0


if __name__ == "__main__":
    sys.exit(main())
