"""The fuzz tests with a large budget: how much they have tried, in how much memory.

make fuzz              # or: python -m tests.reliability.fuzz
make fuzz SEED=123     # the same values again
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.reliability import REPOSITORY, report

BUDGET = 12
"""$FUZZ: so many times the budget of CI."""
MEMORY = 2 * 10**9
"""Bytes of data (RLIMIT_DATA): address space that a library only reserves does not count."""
LEAST = {"configs": 2_000, "command lines": 500, "files": 3_000}


def main() -> int:
    """Returns the exit code: 1 where a test fails, or too little was tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"times that of CI; {BUDGET}")
    args = parser.parse_args()
    tests = sorted((REPOSITORY / "tests").glob("test_fuzz_*.py"))
    print(f"seed {args.seed}: make fuzz SEED={args.seed}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command += [f"--hypothesis-seed={args.seed}", *map(str, tests)]
        environment = {**os.environ, "FUZZ": str(args.budget), "FUZZ_REPORT": str(tally)}
        code = subprocess.run(
            command, cwd=REPOSITORY, env=environment, preexec_fn=limit_memory
        ).returncode
        counts = read(tally)
    seconds = time.monotonic() - begin
    for what, count in counts.items():
        print(
            f"{what}: {count:,} tried" + (f", of {LEAST[what]:,} at least" if what in LEAST else "")
        )
    few = [what for what, least in LEAST.items() if counts[what] < least]
    print(f"{seconds:.0f} s, seed {args.seed}" + (f"; too few {', '.join(few)}" if few else ""))
    if not code and not few:
        report.write("fuzz", text(counts, args.seed, seconds))
    return 1 if code or few else 0


def limit_memory() -> None:
    """Of a process that is about to be started, and of its children."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def read(file: Path) -> Counter[str]:
    """How many of what were tried: lines {"what": ..., "tried": n}."""
    counts: Counter[str] = Counter()
    if file.exists():
        for line in file.read_text().splitlines():
            row = json.loads(line)
            counts[row["what"]] += row["tried"]
    return counts


def text(counts: Counter[str], seed: int, seconds: float) -> str:
    """What goes into the page."""
    lines = ["| what | tried |", "| -- | -- |"]
    lines += [f"| {what} | {count:,} |" for what, count in sorted(counts.items())]
    head = f"`make fuzz SEED={seed}`: {seconds:.0f} s, in {MEMORY / 1e9:.0f} GB of memory, no traceback."
    return f"{head}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
