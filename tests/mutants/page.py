"""docs/mutants.md: what is between its marks is written by the program, the rest by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

from dtp_jax.run.files import replace_text
from dtp_jax.run.locks import alone
from tests.mutants import REPOSITORY
from tests.mutants.copies import Judged
from tests.mutants.defect import Defect
from tests.reliability.report import where

PAGE = REPOSITORY / "docs" / "mutants.md"
BEGIN, END = "<!-- begin of defects -->", "<!-- end of defects -->"
KEPT = "A row is of the day and the machine on which its defect was last tried."
"""--only tries some, and leaves the others as they are."""
COLUMNS = ("name", "defect", "in `dtp_jax/`", "found by", "seconds")


def write(tried: Sequence[Judged], defects: Sequence[Defect], page: Path = PAGE) -> None:
    """Puts the rows of defects that were tried in their places; others keep theirs, or are "not run"."""
    with alone(Path(__file__)):  # of processes that do so; this file stays, the page is replaced
        known = rows(page) | {one.defect.name: row(one) for one in tried}
        lines = [known.get(one.name) or _line(_head(one), "not run", "") for one in defects]
        parts = [
            head(),
            "",
            f"{len(lines)} defects.",
            "",
            _line(COLUMNS),
            _line(["--"] * len(COLUMNS)),
        ]
        before, _, rest = page.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        replace_text(page, "\n".join([f"{before}{BEGIN}", *parts, *lines, f"{END}{after}"]))


def head() -> str:
    """When the table was changed, and by which versions on which machine."""
    return f"{where()}\n{KEPT}"


def rows(page: Path = PAGE) -> dict[str, str]:
    """The lines of the table, by the name of their defect."""
    section = page.read_text().partition(BEGIN)[2].partition(END)[0]
    return {match[1]: match[0] for match in re.finditer(r"^\| `([\w-]+)` \|.*$", section, re.M)}


def found(page: Path = PAGE) -> set[str]:
    """The names of defects that some test has found."""
    return {name for name, line in rows(page).items() if "::" in line}


def row(one: Judged) -> str:
    """A line of the table."""
    by = (one.found_by or "").replace("|", r"\|")
    return _line(_head(one.defect), f"`{by}`" if by else "**nothing**", f"{one.seconds:.0f}")


def _head(defect: Defect) -> tuple[str, ...]:
    return f"`{defect.name}`", defect.what, f"`{defect.file}`"


def _line(cells: Sequence[str], *more: str) -> str:
    return f"| {' | '.join([*cells, *more])} |"
