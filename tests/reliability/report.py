"""docs/reliability.md: what is between its marks is written by these programs, the rest by hand."""

import datetime
import os
import platform
import re
import textwrap
from collections.abc import Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path

from dtp_jax.version import __version__
from tests.reliability import REPOSITORY
from tests.reliability.fault import Fault, Row

PAGE = REPOSITORY / "docs" / "reliability.md"
LONGEST = 400
"""Characters of a cell."""
COLUMNS = ("fault", "command", "last line on the screen", "exit code", "left on disk")


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Puts the text, and where it comes from, between the marks of a section."""
    said = textwrap.fill(where(), 100, break_on_hyphens=False)
    before, begin, rest = page.read_text().partition(f"<!-- begin of {name} -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    page.write_text(f"{before}{begin}\n{said}\n\n{text.strip()}\n{end}{after}")


def section(name: str, page: Path = PAGE) -> str:
    """What stands between the marks."""
    rest = page.read_text().partition(f"<!-- begin of {name} -->")[2]
    return rest.partition(f"<!-- end of {name} -->")[0]


def where() -> str:
    """Date, versions, hardware of whoever writes; rows that are kept have theirs."""
    versions = (
        f"dtp-jax {__version__}, JAX {metadata.version('jax')}, Python {platform.python_version()}"
    )
    cores = f"{os.cpu_count()} cores of {_processor()}, {platform.system()}"
    return f"Last changed on {datetime.date.today()}: {versions}; {cores}."


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def write_rows(rows: Sequence[Row], faults: Sequence[Fault], page: Path = PAGE) -> None:
    """Puts rows that are as expected in their places in the section of the faults; others keep theirs."""
    old = {line.split(" | ")[0]: line for line in section("faults", page).splitlines()}
    new = {f"| {row.fault.what}": _row(row) for row in rows if not row.wrong}
    lines = old | new
    shown = {fault: lines[key] for fault in faults if (key := f"| {fault.what}") in lines}
    parts = []
    for kind, of_kind in groupby(shown, lambda fault: fault.kind):
        heads = [_line(COLUMNS), _line(["--"] * len(COLUMNS))]
        table = [*heads, *(shown[fault] for fault in of_kind)]
        parts.append("\n".join([f"### {kind.capitalize()}", "", *table]))
    write("faults", f"{len(shown)} faults.\n\n" + "\n\n".join(parts), page)


def _row(row: Row) -> str:
    what = row.fault.what
    if row.missing:
        return _line([what, f"not tried: {row.missing}", "", "", ""])
    return _line([what, _code(row.command), _code(row.last_line), str(row.code), row.left])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """Verbatim, in a cell of a table."""
    text = re.sub(r"\s+", " ", text)
    text = (text if len(text) <= LONGEST else f"{text[:LONGEST]}...").replace("|", "\\|")
    mark = "``" if "`" in text else "`"
    return f"{mark}{text}{mark}" if text else ""
