"""The public names, read from the sources without importing them: which there are, and where each is defined."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

from website import REPOSITORY

PACKAGE = "dtp_jax"
INSIDE = {
    **dict.fromkeys(
        (
            *(f"rules.{n}" for n in ("rule", "targets", "ldrl", "dtp", "drl", "fixed", "analytic")),
            *(f"learning.{n}" for n in ("learner", "symmetric", "recovery")),
        )
    ),
    "sweep.space": ("Uniform", "LogUniform", "IntUniform", "Choice", "PerMap"),
    "registry": ("Registry",),
    "fields": ("Field", "choice", "positive", "not_negative", "checked", "error"),
}
"""Modules of which pages speak beside the public names, and which of their names; None: all."""


class Name(NamedTuple):
    """A name, and what it stands for."""

    path: str
    """As a user writes it: dtp_jax.rules.ldrl."""
    origin: str
    """Where it is defined: dtp_jax.rules.ldrl.ldrl."""


def modules() -> list[str]:
    """The public modules, without the package's name: blocks, data, ..."""
    imports = (n for n in _tree(PACKAGE).body if isinstance(n, ast.ImportFrom))
    return [alias.name for n in imports if n.level == 1 and n.module is None for alias in n.names]


def top_level() -> list[Name]:
    """The names of `dtp_jax` itself but for its modules."""
    imports = (n for n in _tree(PACKAGE).body if isinstance(n, ast.ImportFrom))
    names = [alias.name for n in imports if n.module is not None for alias in n.names]
    return [Name(f"{PACKAGE}.{name}", origin(PACKAGE, name)) for name in names]


def names_of(module: str) -> list[Name]:
    """The names of a public module: its `__all__`, or else what it defines itself."""
    path = f"{PACKAGE}.{module}"
    tree = _tree(_behind_door(path))
    listed = [n for n in tree.body if isinstance(n, ast.Assign) and _target(n) == "__all__"]
    names = ast.literal_eval(listed[0].value) if listed else _own(tree)
    return [Name(f"{path}.{name}", origin(_behind_door(path), name)) for name in names]


def names_inside() -> list[Name]:
    """What the modules of INSIDE define and no public module has."""
    known = {name.origin for module in modules() for name in names_of(module)}
    known |= {name.origin for name in top_level()}
    paths = [
        f"{PACKAGE}.{module}.{name}"
        for module, chosen in INSIDE.items()
        for name in chosen or _own(_tree(f"{PACKAGE}.{module}"))
    ]
    return [Name(path, path) for path in paths if path not in known]


def all_names() -> list[Name]:
    """Every public name, by every path that leads to it."""
    return top_level() + [name for module in modules() for name in names_of(module)]


def origin(module: str, name: str) -> str:
    """The path of the definition that a name of a module stands for.

    Raises:
      LookupError: the module has no such name.
    """
    tree = _tree(module)
    if name in _defined(tree):
        return f"{module}.{name}"
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    home = node.module if not node.level else f"{PACKAGE}.{node.module}"
                    return origin(home, alias.name)
    raise LookupError(f"{module} has no {name}")


def _defined(tree: ast.Module) -> list[str]:
    """The public names that a module defines, in the order of its lines."""
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found.append(_target(node))
    return [name for name in found if name and not name.startswith("_")]


def _own(tree: ast.Module) -> list[str]:
    """Those of them that are no short name for something of JAX."""
    return [name for name in _defined(tree) if name != "Array"]


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    """The name that is assigned to; "" where it is something else."""
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _behind_door(path: str) -> str:
    """The module that a door such as dtp_jax.metrics opens to, or the module itself."""
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and f"{PACKAGE}.{node.names[0].name}" == path:
            return f"{node.module}.{node.names[0].name}"
    return path


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text())


def file_of(module: str) -> Path:
    """The source of a module; of the package, its public names.

    Raises:
      LookupError: there is none.
    """
    path = REPOSITORY.joinpath(*module.split("."))
    names = ("__init__.pyi", "__init__.py") if module == PACKAGE else ("__init__.py",)
    for file in (*(path / name for name in names), path.with_suffix(".py")):
        if file.is_file():
            return file
    raise LookupError(f"no module {module}")


def summary(module: str) -> str:
    """The docstring of a public module."""
    path = _behind_door(f"{PACKAGE}.{module.removeprefix(f'{PACKAGE}.')}")
    return ast.get_docstring(ast.parse(file_of(path).read_text())) or ""
