"""Writes one page about runs: what they were, how they learned, how well, and where they are wrong.

    {program} runs/cifar10
    {program} runs/compare                       a folder of `dtp compare`
    {program} runs/sweep/mine                    a folder of `dtp sweep`: its trials, and the best runs
    {program} runs/a runs/b --out=ab.html        several runs side by side
    {program} runs/cifar10 --text                in the terminal

The page is report.html in the folder that is named, or in the current one where several are; --out says
otherwise. It opens without a network, in any browser. Runs are read and never changed, also while they train. Data
is looked for where training looks for it ($DTP_JAX_DATA), and never downloaded; what is not there is left
out, and said. Exit codes: 2 no run, or flag not valid; 6 the page cannot be written.
"""

import contextlib
import sys

from dtp_jax.output import steady_streams
from dtp_jax.run import signals
from dtp_jax.run.screen import Screen
from dtp_jax.tools import parser_of


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.report") -> int:
    """Returns the exit code.

    Args:
      argv: arguments; those of this process by default.
      program: what the user has typed before them.
    """
    parser = parser_of(program, __doc__)
    parser.add_argument(
        "workdirs", metavar="WORKDIR", nargs="+", help="of a run, a comparison or a sweep"
    )
    parser.add_argument("--out", help="the file to write; default report.html, see above")
    parser.add_argument("--text", action="store_true", help="print it instead")
    parser.add_argument(
        "--reference", help="config that others are compared with; default backprop"
    )
    parser.add_argument(
        "--no-predictions",
        action="store_true",
        help="read no checkpoint and no data: quick, and without update angles and mistakes",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        help="file or module that registers rules or networks",
    )
    args = parser.parse_args(argv)
    if args.text and args.out is not None:
        parser.error("--out does not go with --text: a text is printed")
    screen = Screen()
    quiet = args.text and not screen.console.is_terminal  # nothing but the text in a pipe
    with contextlib.nullcontext() if quiet else screen.task("starting JAX"):
        from dtp_jax.report.command import report
    return report(args, screen)


if __name__ == "__main__":
    sys.exit(signals.until_stopped(main, "stopped"))
