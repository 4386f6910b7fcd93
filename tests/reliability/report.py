"""docs/reliability.md: what is between its marks is written by these programs, the rest by hand."""

import datetime
import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path

from dtp_jax.version import __version__
from tests.reliability import REPOSITORY
from tests.reliability.fault import Row

PAGE = REPOSITORY / "docs" / "reliability.md"
COLUMNS = ("fault", "command", "last line on the screen", "exit code", "left on disk")


def write(section: str, text: str, page: Path = PAGE) -> None:
    """Puts the text, and where it comes from, between the marks of a section."""
    begin, end = (f"<!-- {edge} of {section} -->" for edge in ("begin", "end"))
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{where()}\n\n{text.strip()}\n{end}{after}")


def where() -> str:
    """Date, versions, hardware."""
    versions = (
        f"dtp-jax {__version__}, JAX {metadata.version('jax')}, Python {platform.python_version()}"
    )
    cores = f"{os.cpu_count()} cores of {_processor()}, {platform.system()}"
    return f"Written on {datetime.date.today()}: {versions}; {cores}."


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def table(rows: Sequence[Row]) -> str:
    """One table for each kind of fault."""
    parts = []
    for kind, of_kind in groupby(rows, lambda row: row.fault.kind):
        lines = [_line(COLUMNS), _line(["--"] * len(COLUMNS)), *map(_row, of_kind)]
        parts.append("\n".join([f"### {kind.capitalize()}", "", *lines]))
    return "\n\n".join(parts)


def _row(row: Row) -> str:
    what = row.fault.what
    if row.missing:
        return _line([what, f"not tried: {row.missing}", "", "", ""])
    return _line([what, _code(row.command), _code(row.last_line), str(row.code), row.left])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """Verbatim, in a cell of a table."""
    text = re.sub(r"\s+", " ", text).replace("|", "\\|")
    mark = "``" if "`" in text else "`"
    return f"{mark}{text}{mark}" if text else ""
