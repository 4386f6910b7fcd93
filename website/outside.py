"""Links of pages to files outside of docs/: to a function, to a page, or to a copy of the file.

    [`ldrl`](../dtp_jax/rules/ldrl.py)     leads to `ldrl` in the reference, where it is there
    [ARCHITECTURE](../ARCHITECTURE.md)     to the page that is made of it
    [numbers](../benchmarks/results/a.csv) to a copy in the site

In the repository the same links lead to the files.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from website import DOCS, REPOSITORY
from website.links import BLOCK

PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
"""Files of the repository's top folder, and the pages that they are in the site."""
LINK = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
NAME = re.compile(r"`(?:\w+\.)*(\w+)(?:\(\))?`")


class Outside:
    """Rewrites links, and remembers which files are to be copied."""

    def __init__(self, shown: Collection[str]) -> None:
        """`shown`: the definitions that the reference has, by module and name."""
        self.shown = shown
        self.copies: dict[str, Path] = {}
        """Path in the site -> the file."""

    def rewritten(self, markdown: str, source: Path, page: str) -> str:
        """A page with its links as they are in the site.

        Args:
          source: the file, from whose folder its links start.
          page: its path in the site.
        """
        up = "../" * page.count("/")
        return outside_code(markdown, lambda text: LINK.sub(lambda m: self._link(m, source, up), text))

    def _link(self, found: re.Match[str], source: Path, up: str) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        file = (source.parent / target).resolve()
        if not file.is_relative_to(REPOSITORY) or not file.exists():
            return found[0]
        path = file.relative_to(REPOSITORY)
        if path.is_relative_to("docs"):
            return f"[{text}]({up}{path.relative_to('docs')}{anchor})"
        if str(path) in PAGES:
            return f"[{text}]({up}{PAGES[str(path)]}{anchor})"
        name = NAME.fullmatch(text)
        if name and path.suffix == ".py":
            definition = ".".join([*path.with_suffix("").parts, name[1]])
            if definition in self.shown:
                return f"[{text}](#{definition})"
        if file.is_dir():
            return text
        self.copies[f"files/{path}"] = file
        return f"[{text}]({up}files/{path})"


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with a change to all of it but blocks of code."""
    parts, at = [], 0
    for block in BLOCK.finditer(text):
        parts += [change(text[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*parts, change(text[at:])])


def pages_of_docs() -> list[Path]:
    """The pages that are written by hand."""
    return sorted(DOCS.rglob("*.md"))
