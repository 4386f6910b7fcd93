"""The page of the configs: what each is for, and which fields it changes."""

import ast
import importlib

from website import REPOSITORY

FOLDER = REPOSITORY / "dtp_jax" / "configs"
HEAD = """# Configs

Each is a file of `dtp_jax/configs`, named by its bare name: `dtp train --config=digits_dtp`. The
table of each shows what it changes in [the defaults](config.md).
"""


def page() -> str:
    """All configs but the defaults, in the order of their names."""
    names = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "default"))
    return "\n\n".join([HEAD, *map(_section, names)]) + "\n"


def _section(name: str) -> str:
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    defaults = importlib.import_module("dtp_jax.configs.default").get_config().to_dict()
    config = importlib.import_module(f"dtp_jax.configs.{name}").get_config().to_dict()
    rows = [
        f"| [`{field}`](config.md#field-{field}) | `{value!r}` |"
        for field, value in config.items()
        if value != defaults.get(field)
    ]
    return "\n\n".join(
        [f"## `{name}`", _prose(text), "\n".join(["| field | value |", "| -- | -- |", *rows])]
    )


def _prose(text: str) -> str:
    """A docstring whose lines with commands are shown as such."""
    found, is_code = [], False
    for line in text.splitlines():
        starts = line.startswith(("python ", "dtp "))
        if starts != is_code and (starts or line.strip()):
            found += ["", "```bash"] if starts else ["```", ""]
            is_code = starts
        found.append(line)
    return "\n".join(found + (["```"] if is_code else []))
