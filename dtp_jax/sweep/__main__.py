"""Searches for the values of a config that validate best, by Optuna; run again, it goes on.

    {program} --config=cifar10_small_dtp --trials=50
    {program} --config=mine.py --trials=50 --workers=2 --config.epochs=5
    {program} --workdir=runs/sweep/mine --status        the trials, what matters, the best command

What is searched stands in the config file, beside get_config:

    from dtp_jax.sweep.space import Choice, LogUniform, PerMap, Uniform
    space = {"beta": Uniform(.01, 1), "feedback_lr": PerMap(LogUniform(1e-4, .1)), "batch_size": Choice(64, 128)}

A file without a space has a default one: rates, beta, noise and batch size, as far as its rule has them.
--config.FIELD=VALUE sets a field in all trials; it is then not searched. Trials have the config's epochs, and
no more than 10 unless --config.epochs says so. What is best is the validation accuracy after the last epoch;
test images are never looked at.

A trial is a run in WORKDIR/trial_<number>. Start the same command several times, or on several machines with
one folder, and they share the trials; one that is killed is taken up again from its checkpoint. In the end
there are sweep.csv, sweep.png and sweep.md in WORKDIR. Exit codes are those of `dtp train`; a trial that
diverges, or has no memory, is a result. Where no trial has an accuracy, the code is that of the first.
docs/sweeps.md says more.
"""

import argparse
import shlex
import sys

from dtp_jax.output import steady_streams
from dtp_jax.run import signals
from dtp_jax.run.screen import Screen
from dtp_jax.tools import parser_of


def arguments_of(given: list[str], program: str) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a sweep, and what is passed on to its trials; leaves where they are not valid."""
    parser = parser_of(program, __doc__)
    add = parser.add_argument
    add("--config", help="a config by its name, a Python file, or the config.json of a run")
    add("--trials", type=int, help="how many results there are to be, all starts together")
    add("--workdir", help="folder of the sweep; default runs/sweep/<config>")
    add("--storage", help="address of an Optuna storage, or FILE.journal; default WORKDIR/sweep.db")
    add(
        "--pruner",
        choices=("halving", "median", "none"),
        help="ends bad trials early; default halving",
    )
    add(
        "--from-config",
        action="store_true",
        help="the first trial has the values of the config itself",
    )
    add("--workers", type=int, default=1, help="processes on this machine; default 1")
    add("--status", action="store_true", help="show the trials so far, and change nothing")
    add(
        "--plugin",
        action="append",
        default=[],
        help="file or module that registers rules or networks",
    )
    add(
        "--worker", type=int, help=argparse.SUPPRESS
    )  # the number of a process that --workers starts
    args, overrides = parser.parse_known_args(given)
    for flag, value, least in (("--trials", args.trials, 1), ("--workers", args.workers, 1)):
        if value is not None and value < least:
            parser.error(f"{flag} is {value}; allowed: {least} or more")
    if args.status and not args.workdir and not args.config:
        parser.error("--workdir is missing; allowed: with --status, the folder of a sweep")
    if not args.status and args.config is None:
        parser.error("--config is missing; allowed: a config by its name or file")
    if not args.status and args.trials is None:
        parser.error("--trials is missing; allowed: how many results there are to be")
    return args, [*(f"--plugin={name}" for name in args.plugin), *overrides]


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.sweep") -> int:
    """Returns the exit code.

    Args:
      argv: arguments; those of this process by default.
      program: what the user has typed before them.
    """
    given = sys.argv[1:] if argv is None else argv
    args, overrides = arguments_of(given, program)
    screen = Screen()
    with screen.task("starting JAX"):
        from dtp_jax.sweep import command
    if args.status:
        return command.status(args, screen)
    return command.sweep(args, overrides, f"{program} {shlex.join(given)}", given, screen)


if __name__ == "__main__":
    sys.exit(signals.until_stopped(main, "stopped"))
