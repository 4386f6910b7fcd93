"""Results beside the publications: runs what is missing of docs/results.md, writes it, and the README's tables.

    python -m benchmarks.paper                        all rows that have no result yet, then the page
    python -m benchmarks.paper --list                 how far every row is; nothing is run
    python -m benchmarks.paper --only=mnist_mlp       a group or a row; may be given several times
    python -m benchmarks.paper --hours=8              begins no job after so many hours
    python -m benchmarks.paper --page                 writes the page from what is there

Stop it at any time; the same command goes on. Start it several times, and the processes share the rows. What is
done is in RESULTS, small files to be committed: another machine that has them goes on with the rest. Of a row that
is not done, its search and its seeds are in RESULTS/unfinished as each of them ends. Groups that need a GPU are
run where there is one, or where --only names them.

Exit codes: 0 done, or the hours are over; 1 something failed, in the way that the last lines say; 2 a flag is not
valid, or a result cannot be read; 129, 130 or 143 stopped by a signal.
"""

import argparse
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import rows
from benchmarks.paper.rows import Group
from benchmarks.program import parser_of
from dtp_jax.fields import first_line
from dtp_jax.output import steady_streams
from dtp_jax.run.files import replace_text
from dtp_jax.run.locks import alone

PAGE = Path("docs/results.md")
README = Path("README.md")
"""Has short tables of what is on the page."""
RESULTS = Path("benchmarks/results/paper")
WORK = Path("runs/results")
ASK = "import jax; print(jax.default_backend())"


@steady_streams()
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = _parsed(argv)
    from benchmarks.paper.store import Unreadable

    try:
        return _done(args)
    except Unreadable as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


def _done(args: argparse.Namespace) -> int:
    """Does what is asked for. Returns the exit code."""
    from benchmarks.paper import jobs, page
    from benchmarks.paper.store import Places

    places = Places(args.results, args.workdir)
    for group in args.groups:  # the page has all of them: before anything is run for it
        page.results_of(group, places)
    chosen = _chosen(args.groups, args.only)
    if args.list:
        _show(chosen, places)
        return 0
    code = 0
    if not args.page:
        begin, runnable = time.monotonic(), _runnable(chosen, named=bool(args.only))
        ended = jobs.compute(
            runnable,
            places,
            is_over=lambda: time.monotonic() - begin > 3600 * args.hours,
            note=args.note,
            say=_say,
            is_done=lambda: _write(places, args),
        )
        code = ended.code
        _say(_left(ended.left, len(chosen) - len(runnable)))
    for file in _write(places, args):
        print(file)
    return code


def _write(places: Any, args: argparse.Namespace) -> list[Path]:
    """The page and its pictures, and of the committed results the README's tables. Returns the files."""
    from benchmarks.paper import page

    # One process at a time: else one that has not seen the newest result may write last. This file stays.
    with alone(Path(__file__)):
        written = page.write(args.groups, places, args.explained, args.write)
        if (args.rows, args.results, args.write) == (None, RESULTS, PAGE) and README.is_file():
            text = README.read_text("utf-8")
            replace_text(README, page.with_excerpts(text, args.groups, places))
            written.append(README)
    return written


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("paper", __doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="show how far every row is")
    add("--page", action="store_true", help="write the page alone")
    add("--only", action="append", default=[], metavar="GROUP|ROW", help="these alone")
    add("--hours", type=float, default=float("inf"), help="begin no job after so many hours")
    add("--note", default="", help="of the machine, for the results: what else it does")
    add("--workdir", type=Path, default=WORK, help=f"folder of the runs; default {WORK}")
    add("--results", type=Path, default=RESULTS, help=f"folder of the results; default {RESULTS}")
    add("--write", type=Path, default=PAGE, metavar="FILE", help=f"the page; default {PAGE}")
    add("--rows", type=Path, metavar="FILE", help="a Python file with GROUPS of your own")
    args = parser.parse_args(argv)
    if args.rows and not args.list and (args.write == PAGE or args.results == RESULTS):
        parser.error("--rows is given; allowed: with a --write and --results of your own")
    if not args.hours > 0:
        parser.error(f"--hours is {args.hours}; allowed: a number above 0")
    try:
        args.groups, args.explained = _list(args.rows)
        known = [name for g in args.groups for name in (g.name, *(r.name for r in g.rows))]
    except (Exception, SystemExit) as problem:  # of any kind: it is a program
        why = f"{type(problem).__name__}: {first_line(problem)}"
        parser.error(f"--rows is {str(args.rows)!r}; allowed: a Python file with GROUPS; {why}")
    for name in args.only:
        if name not in known:
            parser.error(f"--only is {name!r}; allowed: {', '.join(known)}")
    return args


def _list(file: Path | None) -> tuple[tuple[Group, ...], dict[str, str]]:
    """(groups, explanations). Raises what a file of somebody's own raises, and ValueError where it has no rows."""
    if file is None:
        return rows.GROUPS, rows.EXPLAINED
    found = runpy.run_path(str(file))
    groups = tuple(found["GROUPS"])
    if not groups or not all(group.rows for group in groups):
        raise ValueError("one or more groups, with one or more rows each")
    return groups, dict(found.get("EXPLAINED", {}))


def _chosen(groups: Sequence[Group], only: Sequence[str]) -> list[Any]:
    """(group, row) of all that are asked for, in the order of the list."""
    return [
        (group, row)
        for group in groups
        for row in group.rows
        if not only or group.name in only or row.name in only
    ]


def _runnable(tasks: list[Any], *, named: bool) -> list[Any]:
    """Without rows that need a GPU, where there is none and nobody has named them."""
    if named or not any(group.needs_gpu for group, _ in tasks) or _has_accelerator():
        return tasks
    return [task for task in tasks if not task[0].needs_gpu]


def _has_accelerator() -> bool:
    """Asked in a process of its own: whoever starts JAX takes a GPU's memory."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    return done.stdout.strip() not in ("", "cpu")


def _show(tasks: list[Any], places: Any) -> None:
    from benchmarks.paper.jobs import state_of

    width = max(len(row.name) for _, row in tasks)
    for group in dict.fromkeys(group for group, _ in tasks):
        print(group.title + (" (needs a GPU)" if group.needs_gpu else ""))
        for row in (row for other, row in tasks if other is group):
            print(f"  {row.name:{width}}  {state_of((group, row), places)}")


def _left(count: int, elsewhere: int) -> str:
    """What remains to be run: here, and where there is a GPU."""
    words = f"{_rows(count)} left; the same command goes on" if count else "all are done"
    return words + (f"; {_rows(elsewhere)} for a machine with a GPU" if elsewhere else "")


def _rows(count: int) -> str:
    return f"{count} row{' is' if count == 1 else 's are'}"


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
