"""Docstrings are written to be read in a terminal: here they become Markdown that shows the same.

Text in backticks stays as it is, indented blocks become code; elsewhere *, _, <, [ and the like are letters.
Several parameters that share a line (`stride, padding: ...`) get an entry each.
"""

import re

import griffe

SPECIAL = re.compile(r"([\\*_<>\[\]$#|~^{}])")
SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
OPTIONS = {"returns_multiple_items": False, "returns_named_value": False, "warnings": False}


def as_markdown(found: griffe.Object) -> str:
    """The docstring of a definition; "" where it has none."""
    if found.docstring is None:
        return ""
    head, args, rest = found.docstring.value.partition("\nArgs:\n")
    found.docstring.value = head + args + SHARED.sub(_one_each, rest)
    sections = found.docstring.parse("google", **OPTIONS)
    return "\n\n".join(filter(None, map(_section, sections)))


def _one_each(shared: re.Match[str]) -> str:
    return "\n".join(f"{shared[1]}{name}: {shared[3]}" for name in shared[2].split(", "))


def _section(section: griffe.DocstringSection) -> str:
    kind = section.kind.value
    if kind == "text":
        return plain(section.value)
    if kind == "parameters":
        return "\n".join(_field(f"param {p.name}", p.description) for p in section.value)
    if kind == "raises":
        return "\n".join(_field(f"raises {r.annotation}", r.description) for r in section.value)
    if kind in ("returns", "yields"):
        return "\n".join(_field(kind, r.description) for r in section.value)
    raise ValueError(f"a section of kind {kind}: {section.value}")


def _field(name: str, text: str) -> str:
    """An entry of a list of fields, whose other lines are indented."""
    return f":{name}: " + plain(text).replace("\n", "\n    ")


def plain(text: str) -> str:
    """Text of a docstring as Markdown."""
    blocks: list[str] = []
    code: list[str] = []
    for block in re.split(r"\n{2,}(?=\S)|\n(?=\n +)", text.strip("\n")):
        lines = block.strip("\n").splitlines()
        if lines and all(line.startswith("    ") or not line for line in lines):
            code += ([""] if code else []) + [line[4:] for line in lines]
            continue
        blocks += _code(code)
        code = []
        blocks.append("\n".join(map(escaped, lines)))
    return "\n\n".join(blocks + _code(code))


def _code(lines: list[str]) -> list[str]:
    return ["\n".join(["```text", *lines, "```"])] if lines else []


def escaped(line: str) -> str:
    """Letters that Markdown would read, but for those in backticks."""
    parts = re.split(r"(`[^`]*`)", line.strip())
    return "".join(p if p.startswith("`") else SPECIAL.sub(r"\\\1", p) for p in parts)
