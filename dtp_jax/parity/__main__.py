"""Replays recorded cases through the functions that training calls, and compares every number.

    python -m dtp_jax.parity tests/golden/ldrl_*.npz

A case is an .npz file in the layout of tests/golden/README.md: parameters, batches, the noise that was
drawn, and everything that the original PyTorch program computed from them. Every file has its turn, and
the exit code is the worst of theirs: 1 if a quantity is off by more than its tolerance, 2 if a file cannot
be replayed.
"""

import sys

import jax
from rich.console import Console
from rich.table import Table

from dtp_jax.broken import UNREADABLE, first_line
from dtp_jax.fields import local_path
from dtp_jax.output import steady_streams
from dtp_jax.parity.case import ParityError, open_case
from dtp_jax.parity.compare import Row, compare
from dtp_jax.parity.replay import replay
from dtp_jax.tools import parser_of


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.parity") -> int:
    """Runs the command line. Returns the exit code: 0 if every quantity is within its tolerance, else 1 or 2."""
    parser = parser_of(program, __doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="precision of the replay, compared with the recorded run in that precision",
    )
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    failed = refused = 0
    console = Console(markup=False, emoji=False)  # names of files may have brackets
    for path in args.files:
        try:
            rows = rows_of(path, args.dtype)
        except ParityError as error:
            print(error, file=sys.stderr)
            refused += 1
            continue
        console.print(table(path, args.dtype, rows))
        failed += sum(not row.passed for row in rows)
    print(_in_words(failed, refused, len(args.files)))
    return 2 if refused else 1 if failed else 0


def _in_words(failed: int, refused: int, files: int) -> str:
    """How it went: quantities above their tolerance, and files that were not replayed."""
    quantities = f"{failed} quantities above their" if failed else "every quantity within its"
    if refused == files:
        return "no file was replayed"
    left_out = f"; {refused} of {files} files could not be replayed" if refused else ""
    return f"{quantities} tolerance{left_out}"


def rows_of(path: str, dtype: str) -> list[Row]:
    """Replays and compares one file.

    Raises:
      ParityError: one line; the file cannot be replayed.
    """
    try:
        case = open_case(str(local_path("FILE", path)))
    except ValueError as error:
        raise ParityError(str(error)) from error
    try:
        return compare(case, replay(case, dtype), dtype)
    except ParityError as error:
        raise ParityError(f"{path}: {error}") from error
    except UNREADABLE as error:  # an array is missing, of a wrong kind or of a wrong shape
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise ParityError(f"{path}: cannot be replayed: {problem}") from error


def table(path: str, dtype: str, rows: list[Row]) -> Table:
    """The rows of one file, as they are printed."""
    result = Table(title=f"{path} ({dtype})", title_justify="left")
    for column in ("quantity", "arrays", "largest error", "tolerance", ""):
        result.add_column(column, justify="left" if column in ("quantity", "") else "right")
    for row in rows:
        result.add_row(
            row.name,
            str(row.arrays),
            f"{row.error:.1e}",
            f"{row.tolerance:.1e}",
            "ok" if row.passed else "ABOVE",
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
