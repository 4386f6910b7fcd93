"""Puts the sources of the site together, and has Sphinx build it."""

import shutil
from pathlib import Path

from website import DOCS, REPOSITORY, commands, experiments, navigation, notebooks, settings
from website.outside import PAGES, Outside, pages_of_docs
from website.reference import Reference


def assemble(source: Path, *, run_notebooks: bool = True) -> None:
    """Writes all pages as Markdown, with what they link to, into an empty folder.

    Args:
      run_notebooks: show what their cells give.
    """
    reference = Reference()
    outside = Outside(reference.shown)
    pages = {str(path.relative_to(DOCS)): path for path in pages_of_docs()}
    pages |= {page: REPOSITORY / name for name, page in PAGES.items() if page not in pages}
    written = {
        page: outside.rewritten(path.read_text(), path, page) for page, path in pages.items()
    }
    written["index.md"] += "\n" + navigation.trees(DOCS)
    made = {f"reference/{name}.md": text for name, text in reference.pages.items()}
    made["reference/config.md"] = settings.page()
    made["reference/configs.md"] = experiments.page()
    made["reference/command_line.md"] = commands.page()
    for path, text in (written | made).items():
        _write(source / path, text.encode())
    for name in notebooks.names():
        text, pictures = notebooks.page(name, run=run_notebooks)
        text = outside.rewritten(text, notebooks.FOLDER / name, f"notebooks/{name}.md")
        text += (
            f"\n---\n\nThis page [is a notebook]({name}.ipynb). It ran while the site was built.\n"
        )
        files = {f"{name}.md": text.encode(), **pictures}
        for file, content in files.items():
            _write(source / "notebooks" / file, content)
        shutil.copy(notebooks.FOLDER / f"{name}.ipynb", source / "notebooks")
    for picture in [*DOCS.glob("*.png"), *DOCS.glob("*.svg")]:
        shutil.copy(picture, source)
    for path, file in outside.copies.items():
        _write(source / path, file.read_bytes())


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def build(source: Path, site: Path) -> int:
    """HTML from assembled sources; a warning is an error. Returns Sphinx's exit code."""
    from sphinx.cmd.build import build_main  # here: what only assembles does not need it

    conf = str(REPOSITORY / "website")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", conf, "-d", f"{source}.doctrees"]
    return build_main([*options, str(source), str(site)])
