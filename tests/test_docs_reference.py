"""The reference has every public name, and every public name says what a user must know."""

import ast
import re

import docs_blocks
import pytest

import dtp_jax
from dtp_jax.run.config import BOOKKEEPING, FIELDS
from website import commands, experiments, public, reference, settings

REFERENCE = reference.Reference()
NAMES = {name.origin: name for name in public.all_names()}
GLOSSARY = set(
    re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", reference.ARGUMENTS, re.M)))
)
RAISES = re.compile(r"\braise\b|\bfields\.(?:require|checked|error)\(|\bchecks\.check_")
SHAPES = re.compile(
    r"\([^()]*,[^()]*\)|\[[^\]]+\]|scalar|shape|tree|vector|degrees|flattened|same|norm|array",
    re.IGNORECASE,
)
"""How a docstring may speak of the shape of an array."""


def functions():
    """Every public function and every public method of a public class, by its path."""
    found = {}
    for origin, name in NAMES.items():
        what = REFERENCE.find(origin)
        if what.is_function:
            found[name.path] = what
        elif what.is_class:
            members = (m for m in what.members.values() if not m.is_alias and m.is_function)
            found |= {f"{name.path}.{m.name}": m for m in members if not m.name.startswith("_")}
    return found


FUNCTIONS = functions()


def text_of(what):
    return what.docstring.value if what.docstring else ""


# That nothing is missing.


def test_the_names_that_are_read_are_those_that_are_there():
    """The sources are read without being imported; this is what Python finds."""
    top = {name.path.split(".")[-1] for name in public.top_level()} | set(public.modules())
    assert top == set(dtp_jax.__all__) - {"__version__"}
    for module in public.modules():
        loaded = getattr(dtp_jax, module)
        names = {name.path.split(".")[-1] for name in public.names_of(module)}
        assert names, module
        assert all(hasattr(loaded, name) for name in names)
        if hasattr(loaded, "__all__"):
            assert names == set(loaded.__all__)


def test_every_public_name_is_shown_once():
    pages = "\n".join(REFERENCE.pages.values())
    for name in public.all_names():
        shown = REFERENCE.shown[name.origin]
        heads = re.findall(rf"^`+{{py:\w+}} {re.escape(shown)}(?=[(\n])", pages, re.MULTILINE)
        assert len(heads) == 1, name


@pytest.mark.parametrize("page", docs_blocks.PAGES)
def test_what_a_page_imports_is_shown(page):
    """Or is a module of configs, which have a page of their own."""
    for block in docs_blocks.blocks(page, "python"):
        for node in ast.walk(ast.parse(block.code)):
            module = getattr(node, "module", None) or ""
            if not module.startswith("dtp_jax.") or module == "dtp_jax.configs":
                continue
            names = {f"{module}.{alias.name}" for alias in node.names}
            shown = {REFERENCE.aliases.get(name, name) for name in names}
            assert shown <= set(REFERENCE.shown.values()), f"{page}:{block.line}"


def test_all_paths_to_a_name_lead_to_it(tmp_path):
    aliases = REFERENCE.aliases
    for name in public.all_names():
        shown = REFERENCE.shown[name.origin]
        assert aliases.get(name.path, name.path) == shown == aliases.get(name.origin, name.origin)
    assert aliases["dtp_jax.ldrl"] == "dtp_jax.rules.ldrl"


# That each says enough.


@pytest.mark.parametrize("path", sorted(NAMES.values()), ids=lambda name: name.path)
def test_every_public_name_has_a_docstring(path):
    assert len(text_of(REFERENCE.find(path.origin))) >= 8


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_argument_is_explained(path):
    """In the docstring, or once for all in the glossary of the reference."""
    names = [p.name for p in FUNCTIONS[path].parameters if p.name not in ("self", "cls")]
    text = text_of(FUNCTIONS[path])
    assert text
    unknown = [n for n in names if n not in GLOSSARY and not re.search(rf"\b{n}\b", text)]
    assert unknown == [], f"{path}: {unknown}"


@pytest.mark.parametrize("path", FUNCTIONS)
def test_what_refuses_says_so(path):
    source = FUNCTIONS[path].source
    body = source.split('"""')[-1] if source.count('"""') >= 2 else source
    if RAISES.search(body):
        assert re.search(r"\bRaises\b", text_of(FUNCTIONS[path])), path


@pytest.mark.parametrize("path", FUNCTIONS)
def test_arrays_have_shapes(path):
    what = FUNCTIONS[path]
    given = {p.name: str(p.annotation) for p in what.parameters if p.name not in GLOSSARY}
    arrays = [n for n, kind in given.items() if re.search(r"\b(Array|ndarray)\b", kind)]
    returns = re.fullmatch(r"(jax\.)?Array", str(what.returns or ""))
    if arrays or returns:
        assert SHAPES.search(text_of(what)), f"{path}: {arrays or 'the result'}"


# What is made of other sources.


def test_the_table_of_fields_has_every_field_with_its_default_and_its_meaning():
    from dtp_jax.configs import default

    defaults = default.get_config().to_dict()
    found = {s.name: s for _, part in settings.sections() for s in part}
    assert found.keys() == defaults.keys() == FIELDS.keys()
    for name, setting in found.items():
        assert eval(setting.default) == defaults[name], name
        assert setting.comment, name
    page = settings.page()
    for name in FIELDS:
        (row,) = re.findall(rf"^\| `{name}`.*$", page, re.MULTILINE)
        assert ("\\*" in row.split("|")[1]) == (name in BOOKKEEPING), name
    assert "| `epochs`{#field-epochs} | `90` | a whole number, 1 or more |" in page
    assert "on, off, auto = on in runs of 5,000 steps" in page


def test_the_page_of_configs_shows_what_each_changes():
    page = experiments.page()
    assert page.count("\n## ") == len(list(experiments.FOLDER.glob("*.py"))) - 1
    section = page.partition("## `digits_dtp`")[2].partition("\n## ")[0]
    assert "| [`batch_size`](config.md#field-batch_size) | `32` |" in section
    assert "`rule`" not in section


def test_every_config_says_what_it_is():
    for file in experiments.FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text())
        (made,) = (n for n in tree.body if getattr(n, "name", "") == "get_config")
        assert ast.get_docstring(tree) and ast.get_docstring(made), file


def test_the_page_of_commands_has_every_tool():
    from dtp_jax.__main__ import TOOLS

    page = commands.page()
    assert all(f"## `dtp {tool}`" in page for tool in TOOLS)
    for flag in (
        "--take-over",
        "--seeds",
        "--no-predictions",
        "--quick",
        "--to-workdir",
        "--dtype",
    ):
        assert flag in page
    assert "Traceback" not in page and "/root/" not in page


def test_first_sentences():
    assert reference.first_sentence("Of one (L-DRL). Two") == "Of one (L-DRL)"
    assert reference.first_sentence("a | b < c") == r"a \| b \< c"
    assert reference.first_sentence("Lee et al. 2015, `x`.\n\nMore") == "Lee et al. 2015, `x`"
