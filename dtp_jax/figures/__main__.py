"""Figures of the paper (Ernoult et al. 2022), from training to picture.

    {program} 4.2            feedback weights of the output layer while they are trained
    {program} 4.3            angle of each rule's update to backprop's gradient, by layer
    {program} 4.3-extra      the same for simple_vgg, resnet18 and resnet34
    {program} 4.3 --quick    a small net on scikit-learn's digits: two minutes on a CPU

A figure is made of jobs, one for each seed and block. Finished ones are kept in WORKDIR/jobs (npz and CSV)
and not computed again; unfinished ones go on from less than a minute ago. Several processes may share the
work: start the same command several times. In the end WORKDIR holds figure_<figure>.png, .pdf and .csv.

DRL is drawn twice in 4.3: as its public program trains it, which goes on stepping on gradients that
it has not renewed, and clean. --draw draws what has finished, and computes nothing.
"""

import argparse
import shlex
import sys

from dtp_jax import tools
from dtp_jax.output import steady_streams
from dtp_jax.run import signals
from dtp_jax.run.screen import Screen


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.figures") -> int:
    """Returns the exit code: 0, 2 for what is not valid, 3 for missing data, 6 for a disk that refuses.

    Args:
      argv: arguments; those of this process by default.
      program: what the user has typed before them.
    """
    given = sys.argv[1:] if argv is None else argv
    args = parser_of(program).parse_args(given)
    screen = Screen()
    with screen.task("starting JAX"):  # takes seconds, and there is something to see
        from dtp_jax.figures.command import figures
    return figures(args, f"{program} {shlex.join(given)}", screen)


def parser_of(program: str) -> argparse.ArgumentParser:
    """The flags. Those that are left out have the values of the paper, or of --quick."""
    parser = tools.parser_of(program, __doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("figure", help="4.2, 4.3 or 4.3-extra")
    parser.add_argument("--quick", action="store_true", default=False, help="small and short")
    parser.add_argument("--draw", action="store_true", default=False, help="compute nothing")
    parser.add_argument("--workdir", help="runs/figures/FIGURE by default")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; --quick: 2)")
    parser.add_argument("--first_seed", type=int, help="the first of them (123)")
    parser.add_argument("--iterations", type=int, help="of feedback training (5000; --quick: 600)")
    parser.add_argument("--batch", type=int, help="images (256; --quick: 64)")
    parser.add_argument("--network", help="instead of the figure's own")
    parser.add_argument("--dataset", help="cifar10 by default, digits with --quick")
    parser.add_argument("--data_dir", help="where it is; else as for dtp train")
    parser.add_argument("--rules", type=words, help="e.g. ldrl,drl,dtp,fw_dtp")
    parser.add_argument(
        "--noise", type=numbers, help="sigma of each feedback map, or one; not of drl"
    )
    parser.add_argument(
        "--feedback_lr", type=numbers, help="rate of each feedback map, or one; not of drl"
    )
    return parser


def words(text: str) -> tuple[str, ...]:
    """a,b,c"""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def numbers(text: str) -> tuple[float, ...]:
    """0.2,0.1"""
    return tuple(float(part) for part in words(text))


if __name__ == "__main__":
    sys.exit(signals.until_stopped(main, "stopped"))
