"""Learning curves of finished runs, as a picture.

    python -m benchmarks.curves OUT.png "L-DRL=runs/small_dtp" backprop=runs/small_backprop

Train (thin, mean per epoch) and validation accuracy (thick) over epochs and over training time, read from
the runs' metrics.jsonl; the test accuracy of the final weights stands in the legend.
"""

import sys
from pathlib import Path

from benchmarks.program import parser_of
from dtp_jax.compare.reading import read
from dtp_jax.plots.curves import draw_runs
from dtp_jax.plots.style import save


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("curves", __doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="LABEL=WORKDIR")
    args = parser.parse_args(argv)
    pairs = [run.split("=", 1) for run in args.runs]
    save(draw_runs([read(label, Path(folder)) for label, folder in pairs]), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
