"""The pages of the reference: one for each public module, one for `dtp_jax` itself, one for what is inside."""

import ast
import re
import textwrap
from collections.abc import Sequence

import griffe

from website import REPOSITORY, docstrings, public
from website.public import PACKAGE, Name

TOP, INSIDE = "training", "inside"
HEADS = {
    TOP: """# Training and runs

The learner, the training step, and whole runs: what `import dtp_jax` has beside its modules.""",
    INSIDE: """# Inside a rule and a step

What the equations are made of, and what a rule of your own may use. It is no part of `dtp_jax.__all__`:
import it from the module in front of the name.""",
    "index": """# Reference

Written from the docstrings, the checks of the config and the `--help` of the tools.

- [Config fields](config.md): every field, its default, what it may be.
- [Configs](configs.md): the experiments that come with the package.
- [Command line](command_line.md): `dtp` and its tools.
- [Files of a run](files.md): what a workdir holds.
- [Inside a rule and a step](inside.md): the functions that the equations are made of.

## Names of `dtp_jax`

`import dtp_jax as dtp` has all of these.""",
}
ARGUMENTS = """## Arguments that mean the same everywhere

| argument | what it is |
| -- | -- |
| `network` | blocks in forward order, as [`chain`](#dtp_jax.blocks.chain) returns them |
| `block` | one of them; `i` is its index |
| `name` | of a block: text, different for each |
| `learner`, `state` | a [`Learner`](#dtp_jax.Learner) and its [`TrainState`](#dtp_jax.TrainState) |
| `rule`, `training` | a [`Rule`](#dtp_jax.Rule), and how it trains a feedback map |
| `forward`, `theta` | forward parameters by block name, and those of one block |
| `feedback`, `omega` | feedback parameters by block name, and those of one block |
| `activations` | [`Activations`](#dtp_jax.Activations) of a clean pass |
| `images` | float32, (batch, height, width, channels), normalised |
| `labels` | whole numbers, (batch,) |
| `key` | a typed key: `jax.random.key(0)` |
| `seed` | a whole number from which keys and orders are made |
| `spec` | the [`DatasetSpec`](#dtp_jax.data.DatasetSpec) of a data set |
| `input_shape`, `classes` | (height, width, channels) of an image, and the number of logits |
| `channels`, `hidden` | widths of the convolutional and of the hidden dense blocks |
| `activation` | a name of [`ACTIVATIONS`](#dtp_jax.ops.ACTIVATIONS) |
| `bias`, `batch_norm` | whether blocks have them |
| `window`, `stride`, `padding` | of a convolution or of pooling, in pixels, the same for both axes |
| `noise` | sigma of each trained feedback map, in forward order; one for all |
| `beta` | step size of the output target, in units of the gradient of the logits |
| `learning_rate` | a number above 0, or a schedule: step -> number |
| `momentum`, `weight_decay`, `eps` | as in `torch.optim` |
| `steps_per_epoch` | a whole number |
| `a`, `b` | arrays of one shape |
| `dtype` | of the result |
| `progress` | called as `progress(what, done, total)` while data is read |
"""
"""Explained here once, and not in every docstring."""


class Reference:
    """All pages, made once for a build."""

    def __init__(self) -> None:
        self.package = griffe.load(PACKAGE, search_paths=[str(REPOSITORY)])
        self.shown: dict[str, str] = {}
        """Definition -> the path by which it is shown."""
        self.pages = self._pages()
        """Markdown by file name."""

    @property
    def aliases(self) -> dict[str, str]:
        """Every other path to a definition -> the one by which it is shown."""
        by_path = {name.path: self.shown[name.origin] for name in public.all_names()}
        found = by_path | self.shown
        return {path: shown for path, shown in found.items() if path != shown}

    def _pages(self) -> dict[str, str]:
        """A definition stands on the page of its module, and once."""
        of_modules = {module: public.names_of(module) for module in public.modules()}
        elsewhere = {name.origin for names in of_modules.values() for name in names}
        own = [name for name in public.top_level() if name.origin not in elsewhere]
        found = {TOP: self._page(HEADS[TOP], own)}
        for module, names in of_modules.items():
            text = docstrings.plain(public.summary(module))
            found[module] = self._page(f"# `{PACKAGE}.{module}`\n\n{text}", names)
        found[INSIDE] = self._page(HEADS[INSIDE], public.names_inside())
        table = self._table(public.top_level())
        parts = [HEADS["index"], table, "## Modules", _modules(), ARGUMENTS]
        found["index"] = "\n\n".join(parts)
        return found

    def find(self, path: str) -> griffe.Object:
        """The definition at this path."""
        found = self.package
        for part in path.split(".")[1:]:
            found = found.members[part]
        return found

    def _page(self, head: str, names: Sequence[Name]) -> str:
        """A table of the names, then each of them that no page before has shown."""
        new = [name for name in names if name.origin not in self.shown]
        self.shown |= {name.origin: name.path for name in new}
        entries = [entry(self.find(name.origin), name.path) for name in new]
        return "\n\n".join([head, self._table(names), *entries]) + "\n"

    def _table(self, names: Sequence[Name]) -> str:
        rows = []
        for name in names:
            found = self.find(name.origin)
            text = found.docstring.value if found.docstring else ""
            link = f"[`{name.path.split('.')[-1]}`](#{self.shown[name.origin]})"
            rows.append(f"| {link} | {first_sentence(text)} |")
        return "\n".join(["| name | what it is |", "| -- | -- |", *rows])


def entry(found: griffe.Object, path: str, fence: str = "`" * 6) -> str:
    """The directive that shows a definition.

    Args:
      path: by which it is shown.
      fence: longer than any within.
    """
    if found.is_function:
        kind = "method" if found.parent.is_class else "function"
        signature, inner = path + _signature(found), _source(found)
    elif found.is_class:
        kind, signature = "class", path + _constructor(found)
        inner = "\n\n".join(_members(found, path, fence[1:]))
    else:
        kind, signature, inner = *_value(found, path), ""
    text = docstrings.as_markdown(found) or docstrings.escaped(_comment(found))
    parts = filter(None, [text, inner])
    return "\n\n".join([f"{fence}{{py:{kind}}} {signature}", *parts, fence])


def _signature(found: griffe.Function, *, skip: Sequence[str] = ()) -> str:
    """(a, *, b: int = 0) -> float"""
    shown, is_open = [], False
    for p in found.parameters:
        if p.name in skip:
            continue
        kind = p.kind.value if p.kind else ""
        if kind == "keyword-only" and not is_open:
            shown.append("*")
            is_open = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        is_open |= stars == "*"
        given = f"{stars}{p.name}"
        given += f": {p.annotation}" if p.annotation is not None else ""
        given += f" = {p.default}" if p.default is not None and not stars else ""
        shown.append(given)
    returns = f" -> {found.returns}" if found.returns is not None else ""
    return f"({', '.join(shown)}){returns}"


def _constructor(found: griffe.Class) -> str:
    """The signature of `__init__` where the class has one of its own."""
    init = found.members.get("__init__")
    return "" if init is None else _signature(init, skip=("self",)).partition(" -> ")[0]


def _members(found: griffe.Class, path: str, fence: str) -> list[str]:
    """Public fields, properties and methods, in the order of the source."""
    members = [m for m in found.members.values() if not m.is_alias and not m.name.startswith("_")]
    shown = []
    for member in sorted(members, key=lambda m: m.lineno):
        if member.is_function:
            text = _signature(member, skip=("self", "cls"))
            body = "\n\n".join(filter(None, [docstrings.as_markdown(member)]))
            shown.append(f"{fence}{{py:method}} {path}.{member.name}{text}\n\n{body}\n{fence}")
        else:
            shown.append(entry(member, f"{path}.{member.name}", fence))
    return shown


def _value(found: griffe.Attribute, path: str) -> tuple[str, str]:
    """(kind, signature) of a field, property or value."""
    is_field = found.parent.is_class
    signature = f"{path}\n" + (f":type: {_flat(found.annotation)}\n" if found.annotation else "")
    short = _flat(found.value) if found.value is not None else ""
    if short and len(short) <= 60 and "lambda" not in short:
        signature += f":value: {short}\n"
    return ("attribute" if is_field else "data"), signature


def _comment(found: griffe.Object) -> str:
    """What stands behind the definition of a field."""
    if not found.is_attribute or found.parent is None or not found.parent.is_class:
        return ""
    return found.lines_collection[found.filepath][found.endlineno - 1].partition("  # ")[2].strip()


def _flat(expression: object) -> str:
    return " ".join(str(expression).split())


def _source(found: griffe.Function) -> str:
    """The lines of a function without its docstring, folded."""
    tree = ast.parse(textwrap.dedent(found.source)).body[0]
    lines = textwrap.dedent(found.source).splitlines()
    if ast.get_docstring(tree) is not None:
        text = tree.body[0]
        lines = lines[: text.lineno - 1] + lines[text.end_lineno :]
    code = "\n".join(lines).strip()
    head = '<details class="source"><summary>source</summary>'
    where = found.relative_filepath
    return (
        f"```{{raw}} html\n{head}\n```\n\n```python\n# {where}\n{code}\n```\n\n"
        "```{raw} html\n</details>\n```"
    )


def _modules() -> str:
    rows = []
    for module in public.modules():
        text = first_sentence(public.summary(module))
        rows.append(f"| [`dtp_jax.{module}`]({module}.md) | {text} |")
    return "\n".join(["| module | what it has |", "| -- | -- |", *rows])


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, as it may stand in a cell of a table."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<=[A-Za-z)\]`0-9])\. (?=[A-Z`])", paragraph)[0].rstrip(":.")
    return docstrings.escaped(sentence).replace("|", r"\|").replace(r"\\|", r"\|")
