"""Small defects, planted one at a time, and whether the tests find them: what the tests are worth.

    python -m tests.mutants                    # all of them, and their table in docs/mutants.md
    python -m tests.mutants --list
    python -m tests.mutants --only=momentum    # those whose name matches, and their rows

Defects are planted in copies of the checkout, in the temporary folder of the machine; the checkout itself is
only read. A defect is in `equations`, `around_steps`, `in_runs` or `in_data`, an exact text and what takes its
place; the code must still run with it. tests/test_mutants.py holds the list to the present code.
"""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
