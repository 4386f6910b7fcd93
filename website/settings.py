"""The page of the config fields: defaults and comments of configs/default.py, values of run/config.py."""

import ast
import re
from typing import NamedTuple

from website import REPOSITORY

DEFAULTS = REPOSITORY / "dtp_jax" / "configs" / "default.py"
HEAD = """# Config fields

Set any of them in a config file, on the command line (`--config.epochs=20`), or as an argument of
[`dtp.train`](#dtp_jax.train). A tuple is written `0.4,0.2`. Where a field has one value for each
feedback map, one value stands for all. Wrong values are refused before anything is compiled.

The mark \\* is on fields that change no number of a run: a run that goes on may have other ones.
"""


class Setting(NamedTuple):
    """A line of configs/default.py."""

    name: str
    default: str
    comment: str


def page() -> str:
    """A table for every section of the config."""
    parts = [HEAD]
    for title, settings in sections():
        rows = [_row(setting) for setting in settings]
        head = ["| field | default | allowed | what it is |", "| -- | -- | -- | -- |"]
        parts += [f"## {title}", "\n".join([*head, *rows])]
    return "\n\n".join(parts) + "\n"


def sections() -> list[tuple[str, list[Setting]]]:
    """(title, settings) of every function of configs/default.py that fills a part of the config."""
    text = DEFAULTS.read_text()
    lines = text.splitlines()
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name != "get_config":
            title = (ast.get_docstring(node) or node.name).split(". ")[0].rstrip(".")
            found.append((title, _settings(node, lines)))
    return found


def _settings(function: ast.FunctionDef, lines: list[str]) -> list[Setting]:
    """What a function sets, with the comments behind each and above it."""
    found = []
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        target, line = node.targets[0], lines[node.end_lineno - 1]
        behind = line[node.end_col_offset :].partition("#")[2].strip()
        above = lines[node.lineno - 2].strip()
        comment = f"{above[1:].strip()} {behind}" if above.startswith("#") else behind
        found.append(Setting(target.attr, ast.unparse(node.value), comment.strip()))
    return found


def _row(setting: Setting) -> str:
    from dtp_jax.run.config import BOOKKEEPING, FIELDS  # here: it imports JAX

    allowed = re.sub(
        r"^one of (.*)$",
        lambda m: "`" + m[1].replace(", ", "`, `") + "`",
        _allowed(FIELDS, setting),
    )
    mark = r" \*" if setting.name in BOOKKEEPING else ""
    cells = (
        f"`{setting.name}`{{#field-{setting.name}}}{mark}",
        f"`{setting.default}`",
        allowed,
        setting.comment,
    )
    return "| " + " | ".join(cells) + " |"


def _allowed(fields, setting: Setting) -> str:
    field = fields[setting.name]
    return field.allowed + (
        ": one for each feedback map, or one for all" if field.per_block else ""
    )
