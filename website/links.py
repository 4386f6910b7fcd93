"""Dead links: in the Markdown of the repository, and in the pages of the built site. Nothing is asked of a network.

    python -m website.links            all Markdown files
    python -m website.links site       and the site in this folder

A link to a file or an anchor must lead there; an address elsewhere must be well formed. The exit code is 1 where
one does not.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from website import REPOSITORY

BLOCK = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{BLOCK.pattern}|`[^`\n]*`", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^\s)>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
ELSEWHERE = ("http", "https", "mailto")
SKIPPED = ("runs", "site", "build", "dist")


def markdown_files() -> list[Path]:
    """All Markdown of the repository, but what was made in it."""
    return sorted(
        path
        for path in REPOSITORY.rglob("*.md")
        if not any(
            p.startswith(".") or p in SKIPPED for p in path.relative_to(REPOSITORY).parts[:-1]
        )
    )


def dead_in_markdown(files: Iterable[Path]) -> Iterator[str]:
    """A line for every link of these files that leads nowhere."""
    for file in files:
        for target in _targets(file.read_text()):
            problem = _problem(file, target, _anchors_of_markdown)
            if problem:
                yield f"{file}: {target}: {problem}"


def dead_in_site(site: Path) -> Iterator[str]:
    """A line for every link, picture, script or style of the built pages that leads nowhere, or to a network."""
    for file in sorted(site.rglob("*.html")):
        page = _page(file)
        for target, is_loaded in page.targets:
            if is_loaded and urlsplit(target).scheme in ELSEWHERE:
                yield f"{file}: {target}: loaded from a network"
            elif file.name != "404.html":  # its links are those of a server's root
                problem = _problem(file, target, lambda path: _page(path).anchors)
                if problem:
                    yield f"{file}: {target}: {problem}"


def _problem(file: Path, target: str, anchors_of) -> str:
    """What is wrong with a link of a file; "" where nothing is."""
    try:
        parts = urlsplit(target)
    except ValueError as error:
        return str(error)
    if parts.scheme == "data":
        return ""
    if parts.scheme:
        place = parts.path if parts.scheme == "mailto" else parts.hostname
        well_formed = parts.scheme in ELSEWHERE and place
        return "" if well_formed and " " not in target else "no address"
    place = file if not parts.path else (file.parent / unquote(parts.path)).resolve()
    if not place.exists():
        return "no such file"
    if parts.fragment and place.suffix in (".md", ".html"):
        return "" if unquote(parts.fragment) in anchors_of(place) else "no such anchor"
    return ""


def _targets(text: str) -> list[str]:
    """What the links and pictures of a Markdown file lead to."""
    return [found[1] for found in INLINE.finditer(CODE.sub("", text))]


@cache
def _anchors_of_markdown(file: Path) -> frozenset[str]:
    """Of headings, and those that are written down."""
    text = BLOCK.sub("", file.read_text())
    written = re.findall(r"\bid=\"([^\"]+)\"", text)
    return frozenset([*map(_slug, HEADING.findall(text)), *written])


def _slug(heading: str) -> str:
    """As GitHub and the site make an anchor of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


class _Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[tuple[str, bool]] = []
        self.anchors: set[str] = {"", "__top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        is_loaded = tag in ("script", "img", "iframe", "source") or (
            tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect", "icon")
        )
        for name in ("href", "src"):
            if name in given and tag != "use" and not given[name].startswith("javascript:"):
                self.targets.append((given[name], is_loaded))


@cache
def _page(file: Path) -> _Page:
    page = _Page()
    page.feed(file.read_text())
    return page


def main(argv: list[str]) -> int:
    """Prints dead links. Returns the exit code."""
    files = markdown_files()
    dead = [*dead_in_markdown(files), *(line for site in argv for line in dead_in_site(Path(site)))]
    print(
        "\n".join(dead) or f"no dead links in {len(files)} Markdown files and {argv or 'no site'}"
    )
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
