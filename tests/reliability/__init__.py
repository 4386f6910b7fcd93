"""Faults in real runs: what is done to a run, what it says, how it ends, what is left of it.

    python -m tests.reliability                          # all faults, and their table in docs/reliability.md
    python -m tests.reliability --only closed --only full
    python -m tests.reliability --kills 30 --starts 10

A fault is a function in a file of its kind; it sets up a place, and runs commands there as a user types them.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
