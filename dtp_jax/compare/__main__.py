"""Trains several configs over several seeds; writes their accuracies side by side.

    python -m dtp_jax.compare --configs=digits_dtp,digits_backprop --seeds=3
    python -m dtp_jax.compare --configs="digits_dtp,digits_dtp[beta=0.5],cifar10_lenet:tp" --config.epochs=5

--configs takes names of files in configs/ or paths, with :ARGUMENT for files that take one, and
[FIELD=VALUE] to override a field of that config alone; --config.FIELD=VALUE overrides it in all.

Runs go to WORKDIR/<config>/seed_<n>. Run again, it takes the finished ones as they are and goes on with
the others. At the end it writes WORKDIR/comparison.md, .csv and .png (learning curves). A run that fails
does not stop the others; the exit code is that of the first that failed.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from dtp_jax.compare.plan import parse_configs
from dtp_jax.compare.report import NAMES, table, write_report
from dtp_jax.compare.runs import INTERRUPTED, run_all
from dtp_jax.parallel import processes
from dtp_jax.run import cli


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or that of the first run that failed, or of an interruption."""
    parser = argparse.ArgumentParser(
        prog="python -m dtp_jax.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--configs", required=True, help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, starting at 0")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"))
    args, overrides = parser.parse_known_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; allowed: 1 or more")
    if processes.several(os.environ):
        parser.error("there are several processes; allowed: one, which runs everything in turn")
    try:
        entries = parse_configs(args.configs, overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.EXIT_INVALID
    console = Console(highlight=False)
    results = run_all(entries, args.seeds, args.workdir, overrides, console)
    codes = [run.code for result in results for run in result.runs if run.code != 0]
    if codes and codes[-1] >= INTERRUPTED:
        return codes[-1]
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "dtp_jax.compare", *given])
    rows = write_report(results, command, args.workdir)
    console.print(table(rows))
    console.print(f"{args.workdir}: {', '.join(NAMES)}", markup=False, soft_wrap=True)
    return codes[0] if codes else 0


if __name__ == "__main__":
    sys.exit(main())
