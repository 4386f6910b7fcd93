"""Trains several configs over several seeds; writes their accuracies side by side.

    {program} --configs=digits_dtp,digits_backprop --seeds=3
    {program} --configs="digits_dtp,digits_dtp[beta=0.5],cifar10_lenet:tp" --config.epochs=5
    {program} --configs="digits_dtp[beta=0.1|0.3|0.7][forward_lr=0.03|0.1]"

--configs takes names of configs or paths, with :ARGUMENT for files that take one. [FIELD=VALUE] behind a
config overrides a field of it alone, [FIELD=VALUE|VALUE] makes a config with each value, and several of these
all combinations; in quotes, for the shell. --config.FIELD=VALUE overrides a field in all. --plugin=FILE
registers rules or networks first.

Runs go to WORKDIR/<config>/seed_<n>. Run again, it takes the finished ones as they are and goes on with
the others. A run that fails does not stop the others; the exit code is that of the first that failed.

At the end it writes WORKDIR/comparison.md, .csv and .png (learning curves: validation accuracy; with
--training-curves also training accuracy, as thin lines), comparison_time.png (accuracy against minutes),
comparison_alignment.png (angles between feedback and forward weights) and comparison_updates.png (angles
between updates and backprop's gradients, where runs measured them: --config.diagnostics_updates=on).
"""

import argparse
import shlex
import sys

from dtp_jax.fields import described
from dtp_jax.output import steady_streams
from dtp_jax.run import signals
from dtp_jax.run.screen import Screen
from dtp_jax.tools import parser_of


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.compare") -> int:
    """Returns the exit code: 0, or that of the first run that failed, or of an interruption.

    Args:
      argv: arguments; those of this process by default.
      program: what the user has typed before them.
    """
    given = sys.argv[1:] if argv is None else argv
    args, overrides = arguments_of(given, program)
    screen = Screen()
    with screen.task("starting JAX"):  # takes seconds, and there is something to see
        from dtp_jax.compare.command import compare
    return compare(
        args.configs,
        args.seeds,
        args.workdir,
        overrides,
        f"{program} {shlex.join(given)}",
        screen,
        training=args.training_curves,
    )


def arguments_of(given: list[str], program: str) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a comparison, and the overrides for all its configs; leaves where they are not valid."""
    parser = parser_of(program, __doc__)
    parser.add_argument("--configs", required=True, help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, starting at 0 (3)")
    parser.add_argument("--workdir", default="runs/compare", help="of all runs (runs/compare)")
    parser.add_argument("--training-curves", action="store_true")
    args, overrides = parser.parse_known_args(given)
    if overrides and not overrides[0].startswith("-"):
        parser.error(
            f"{described(overrides[0])} is no flag; allowed: --configs=A,B, separated by commas"
        )
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; allowed: 1 or more")
    return args, overrides


if __name__ == "__main__":
    sys.exit(signals.until_stopped(main, "stopped"))
