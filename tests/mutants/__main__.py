"""Plants the defects, and writes what found them into docs/mutants.md."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants import REPOSITORY, around_steps, equations, in_data, in_runs, page
from tests.mutants import __doc__ as description
from tests.mutants.copies import PASSED, Copy, Judged
from tests.mutants.defect import Defect
from tests.reliability.only import matching

DEFECTS = (*equations.DEFECTS, *around_steps.DEFECTS, *in_runs.DEFECTS, *in_data.DEFECTS)


def main() -> int:
    """Returns the exit code: 1 where a defect was not found, or a test fails without one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", help="defects whose name matches")
    parser.add_argument(
        "--left", action="store_true", help="those that no test has found yet, by the page"
    )
    parser.add_argument("--list", action="store_true", help="names them")
    parser.add_argument("--jobs", type=int, default=2, help="defects at a time")
    parser.add_argument(
        "--trust", action="store_true", help="do not run the tests without a defect first"
    )
    args = parser.parse_args()
    chosen = matching(parser, args.only, DEFECTS) if args.only else list(DEFECTS)
    if args.left:
        found = page.found()
        chosen = [one for one in chosen if one.name not in found]
    if args.list or not chosen:
        for one in chosen:
            print(f"{one.name:<28} {one.file:<26} {one.what}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(
        prefix="dtp_jax-mutants-", ignore_cleanup_errors=True
    ) as place:
        first = Copy.made(REPOSITORY, Path(place) / "0")
        copies = [first]
        for n in range(1, max(1, min(args.jobs, len(chosen)))):
            copies.append(first.another(Path(place) / str(n)))
        try:
            if not args.trust and not _passes(first, chosen, len(copies)):
                return 1
            found = _all_judged(chosen, copies)
        except KeyboardInterrupt:
            for copy in copies:
                copy.stop()
            return 130
    survivors = [one for one in found if one.found_by is None]
    for one in found:
        if not one.is_named:
            print(f"{one.defect.name}: name {one.found_by} among its tests")
    print(f"{len(found) - len(survivors)} of {len(found)} defects found")
    return 1 if survivors else 0


def _passes(copy: Copy, chosen: Sequence[Defect], jobs: int) -> bool:
    """Whether the tests that should see the defects pass without one: else they would "find" anything."""
    tests = list(dict.fromkeys(test for one in chosen for test in one.tests))
    print(f"{len(tests)} tests without a defect", flush=True)
    said = copy.tested(tests, "-n", str(jobs if jobs > 1 else 0), seconds=None)
    if said.code != PASSED:
        print(said.output)
    return said.code == PASSED


def _all_judged(chosen: Sequence[Defect], copies: Sequence[Copy]) -> list[Judged]:
    """In the order of the defects; each is printed, and written to the page, when it is there."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)
    begin, done = time.monotonic(), []

    def one(defect: Defect) -> Judged:
        copy = free.get()
        try:
            return copy.judged(defect)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        try:
            for judged in pool.map(one, chosen):
                done.append(judged)
                said = judged.found_by or f"SURVIVES: {judged.problem}"
                name = judged.defect.name
                print(
                    f"{len(done)}/{len(chosen)}  {name}, {judged.seconds:.0f} s: {said}", flush=True
                )
                page.write([judged], DEFECTS)
        except BaseException:
            for copy in copies:
                copy.stop()
            raise
    print(f"{len(done)} defects in {time.monotonic() - begin:.0f} s", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
