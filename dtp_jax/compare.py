"""Runs several configs with several seeds, and puts their test accuracies side by side.

    python -m dtp_jax.compare --configs=digits_dtp,digits_backprop --seeds=3

Runs go to WORKDIR/<config>/seed_<n>. Run again, it takes the finished ones as they are and goes on with
the others. --config.FIELD=VALUE overrides a field of every config.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from dtp_jax import cli


class Result(NamedTuple):
    """The runs of one config."""

    config: str
    summaries: list[dict[str, Any]]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or that of the first run that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m dtp_jax.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--configs", required=True, help="names of files in configs/, or paths, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, starting at 0")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"))
    args, overrides = parser.parse_known_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; allowed: 1 or more")
    results = []
    for name in args.configs.split(","):
        file = name if name.endswith(".py") else str(cli.ROOT / "configs" / f"{name}.py")
        summaries = []
        for seed in range(args.seeds):
            folder = args.workdir / Path(file).stem / f"seed_{seed}"
            code = cli.main(
                [
                    "compare",
                    f"--config={file}",
                    f"--workdir={folder}",
                    *overrides,
                    f"--config.seed={seed}",
                ],
                __doc__,
            )
            if code != 0:
                return code
            summaries.append(cli.Workdir(folder).read_summary())
        results.append(Result(Path(file).stem, summaries))
    Console(soft_wrap=True, highlight=False).print(table(results))
    return 0


def table(results: list[Result]) -> Table:
    """One row per config: mean and standard deviation over seeds."""
    shown = Table(
        title="test accuracy, mean and standard deviation over seeds", title_justify="left"
    )
    for column in ("config", "rule", "data set", "seeds", "test accuracy", "time", "images/s"):
        shown.add_column(
            column, justify="left" if column in ("config", "rule", "data set") else "right"
        )
    for config, summaries in results:
        accuracies = [100 * summary["test_accuracy"] for summary in summaries]
        spread = f" +- {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        shown.add_row(
            config,
            summaries[0]["rule"],
            summaries[0]["dataset"],
            str(len(summaries)),
            f"{statistics.mean(accuracies):.2f}{spread} %",
            f"{statistics.mean(s['wall_seconds'] for s in summaries):.0f} s",
            f"{statistics.mean(s['images_per_second'] for s in summaries):.0f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
