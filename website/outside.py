"""Links of pages to files outside of docs/: to a function, to a page, or to a copy of the file.

    [`ldrl`](../dtp_jax/rules/ldrl.py)     leads to `ldrl` in the reference, where it is there
    [ARCHITECTURE](../ARCHITECTURE.md)     to the page that is made of it; so do configs and notebooks
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
MADE = {
    "dtp_jax/__init__.pyi": "reference/index.md",
    "dtp_jax/__main__.py": "reference/command_line.md",
    "dtp_jax/configs/default.py": "reference/config.md",
}
"""Sources, and the pages that are made of them."""
LINK = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
NAME = re.compile(r"`(?:\w+\.)*(?!py`)(\w+)(?:\(\))?`")


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

        Raises:
          LookupError: a link by a name leads to a file of Python that does not define it.
        """
        up = "../" * page.count("/")
        return outside_code(
            markdown, lambda text: LINK.sub(lambda m: self._link(m, source, up), text)
        )

    def _link(self, found: re.Match[str], source: Path, up: str) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        file = (source.parent / target).resolve()
        if not file.is_relative_to(REPOSITORY) or not file.exists():
            return found[0]
        path = file.relative_to(REPOSITORY)
        page = _page_of(path)
        if page:
            return f"[{text}]({up}{page}{anchor})"
        name = NAME.fullmatch(text)
        if name and path.suffix == ".py":
            definition = ".".join([*path.with_suffix("").parts, name[1]])
            if definition in self.shown:
                return f"[{text}](#{definition})"
            if not re.search(
                rf"^\s*(?:def|class) {name[1]}\b|^{name[1]}\b", file.read_text(), re.MULTILINE
            ):
                raise LookupError(f"{source}: {text} is not defined in {path}")
        if file.is_dir():
            return text
        # Sphinx would look for a page; a browser shows it as text.
        copy = f"files/{path}{'.txt' if path.suffix == '.md' else ''}"
        self.copies[copy] = file
        return f"[{text}]({up}{copy})"


def _page_of(path: Path) -> str:
    """The page of the site that is made of a file of the repository; "" where there is none."""
    if path.is_relative_to("docs"):
        page = path.relative_to("docs")
        return str(page.with_suffix(".md") if page.suffix == ".ipynb" else page)
    if path.match("dtp_jax/configs/*.py") and path.stem != "default":
        return f"reference/configs.md#{path.stem}".replace("_", "-")
    return PAGES.get(str(path)) or MADE.get(str(path), "")


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
