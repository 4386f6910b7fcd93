"""Runs the faults, the kills and the starts, and writes what came out into docs/reliability.md."""

import argparse
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.reliability import __doc__ as description
from tests.reliability import kills, report, starts
from tests.reliability.fault import Fault, Row, all_faults, timed
from tests.reliability.only import matching


def main() -> int:
    """Returns the exit code: 1 where anything is not as expected."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", help="faults whose name matches; their rows alone are written"
    )
    parser.add_argument(
        "--kills", type=int, help="so many random kills, a third of them on two processes"
    )
    parser.add_argument("--starts", type=int, help="two starts in one workdir, in so many timings")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of kills and starts"
    )
    parser.add_argument("--parallel", type=int, default=2, help="faults at a time")
    args = parser.parse_args()
    everything = args.only is None and args.kills is None and args.starts is None
    bad = 0
    if args.only or everything:
        faults = all_faults()
        chosen = faults if everything else matching(parser, args.only, faults)
        rows = all_tried(chosen, args.parallel)
        bad += sum(bool(row.wrong) for row in rows)
        report.write_rows(rows, faults)
    for name, of, count in (("kills", kills, args.kills), ("starts", starts, args.starts)):
        count = of.COUNT if everything else count
        if count:
            print(f"{name}: {count}, seed {args.seed}", flush=True)
            text, wrong = of.tried(count, args.seed)
            bad += wrong
            if not wrong:
                report.write(name, text)
    print(f"{bad} not as expected" if bad else "all as expected")
    return 1 if bad else 0


def all_tried(faults: list[Fault], parallel: int) -> list[Row]:
    """Rows in the order of the faults; each is printed when it is there."""
    begin, done = time.monotonic(), []

    def one(fault: Fault) -> Row:
        row, seconds = timed(fault)
        done.append(row)
        state = (
            f"WRONG\n{row.wrong}" if row.wrong else row.missing or f"{row.code}  {row.last_line}"
        )
        print(f"{len(done)}/{len(faults)}  {fault.name}, {seconds:.0f} s: {state}", flush=True)
        return row

    with ThreadPoolExecutor(parallel) as pool:
        rows = list(pool.map(one, faults))
    print(f"{len(rows)} faults in {time.monotonic() - begin:.0f} s", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
