"""The sections of the site, and the pages of each in their order.

A page of docs/ that is in no section is added to "How-to".
"""

from pathlib import Path

from website.public import modules

SECTIONS = {
    "Tutorial": ["tutorial", "notebooks/train_and_look", "notebooks/invent_a_rule"],
    "How-to": [
        "howto",
        "training",
        "data",
        "add_a_rule",
        "add_a_network",
        "diagnostics",
        "library",
        "read_results",
        "weights",
        "precision",
        "cluster",
        "sweeps",
        "trackers",
        "figures",
    ],
    "Explanation": [
        "explanation",
        "mathematics",
        "fixed_point",
        "results",
        "performance",
        "performance_notes",
        "repeatability",
        "reliability",
        "mutants",
        "decisions",
        "architecture",
    ],
    "Reference": [
        "reference/index",
        "reference/training",
        *(f"reference/{module}" for module in modules()),
        "reference/inside",
        "reference/config",
        "reference/configs",
        "reference/command_line",
        "reference/files",
    ],
    "Project": ["changelog", "contributing"],
}
OTHERS = "How-to"


def sections(docs: Path) -> dict[str, list[str]]:
    """Title -> pages, without their endings; all of docs/ but the start page."""
    named = {page for pages in SECTIONS.values() for page in pages} | {"index"}
    left = sorted(path.stem for path in docs.glob("*.md") if path.stem not in named)
    return SECTIONS | {OTHERS: [*SECTIONS[OTHERS], *left]}


def trees(docs: Path) -> str:
    """The end of the start page, from which the side bar is made."""
    parts = []
    for title, pages in sections(docs).items():
        parts.append(
            f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```"
        )
    return "\n\n".join(parts) + "\n"
