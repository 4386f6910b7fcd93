"""The documentation site is built without a warning, and nothing in it leads nowhere or to a network."""

import re
import shutil

import nbformat
import pytest
from helpers import REPOSITORY, slow

from website import DOCS, build, equations, links, navigation, notebooks, outside

# Of Sphinx's, that extensions will have to follow some day.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]

CHROMIUM = shutil.which("chromium")
TOO_WIDE = """() => [...document.querySelectorAll('article *')].filter(e => {
    const place = e.getBoundingClientRect();
    if (place.width == 0 || place.right <= innerWidth + 1) return false;
    for (let a = e; a && a.tagName != 'ARTICLE'; a = a.parentElement)
        if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(a).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 80))"""
PICTURES = re.compile(r"<img [^>]*src=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sources, site), without running notebooks."""
    folder = tmp_path_factory.mktemp("site")
    source, site = folder / "source", folder / "site"
    build.assemble(source, run_notebooks=False)
    return source, site, build.build(source, site)


def test_it_is_built_without_a_warning(built):
    _, site, code = built
    assert code == 0
    assert (site / "index.html").is_file()


def test_every_page_is_there_and_in_the_side_bar(built):
    _, site, _ = built
    sidebar = (site / "index.html").read_text()
    for pages in navigation.sections(DOCS).values():
        for page in pages:
            assert (site / f"{page}.html").is_file(), page
            assert f'href="{page}.html"' in sidebar, page


def test_nothing_in_it_leads_nowhere(built):
    assert list(links.dead_in_site(built[1])) == []


def test_nothing_in_it_is_loaded_from_a_network(built):
    """Scripts and styles neither."""
    _, site, _ = built
    loaded = re.compile(rb"(?:@import\s+|url\(\s*)[\"']?(?:https?:)?//|\bfetch\(\s*[\"'`]https?://")
    for file in [*site.rglob("*.css"), *site.rglob("*.js")]:
        assert not loaded.search(file.read_bytes()), file
    page = (site / "mathematics.html").read_text()
    assert "MathJax" not in page and "katex" not in page


def test_equations_are_pictures_with_their_text(built):
    page = (built[1] / "mathematics.html").read_text()
    assert page.count('<div class="equation"') >= 25
    assert 'aria-label="t_{n-1} = h_{n-1} + G_n(t_n; \\omega_n) - G_n(h_n; \\omega_n) ."' in page
    assert "$$" not in re.sub(r"<[^>]*>", "", page)


@pytest.mark.parametrize("tex", [r"\no_such_command x", r"\frac{a}", r"\left( x"])
def test_an_equation_that_is_none_ends_the_build(tex):
    with pytest.raises(ValueError, match="is not understood"):
        equations.picture(tex, True)


def test_an_equation_has_the_colour_and_size_of_the_text():
    drawn = equations.picture("x^2", False)
    assert "currentColor" in drawn and "#000" not in drawn
    assert re.search(r'width="[\d.]+em"', drawn) and "vertical-align:" in drawn


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize(
    "pages",
    [["index.html", "add_a_rule.html", "reference/rules.html"], slow(["**/*.html"])],
    ids=["three", "all"],
)
def test_pages_fit_a_screen_and_ask_for_nothing(built, pages, width):
    """In a real browser without a network: nothing is wider than the screen but what can be moved."""
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark")
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        files = sorted(file for one in pages for file in built[1].glob(one))
        assert len(files) >= 3
        for file in files:
            page.goto(file.as_uri(), wait_until="domcontentloaded")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, file
            assert page.evaluate(TOO_WIDE) == [], file
        browser.close()
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


# Links in the sources.


def test_no_link_of_the_repository_is_dead():
    assert list(links.dead_in_markdown(links.markdown_files())) == []


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# One `code`\n[a](b.md) [b](a.md#one-code) [c](a.md#two) [d](https:///x) [e](#one-code)\n"
        "```\n[f](none.md)\n```\n`[g](none.md)` ![h](none.png) [i](ftp://x) [j](https://example.org/a)\n"
    )
    dead = [line.split(": ")[1] for line in links.dead_in_markdown([tmp_path / "a.md"])]
    assert dead == ["b.md", "a.md#two", "https:///x", "none.png", "ftp://x"]


def test_dead_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="#x">1</a><a href="#y">2</a><a href="b.html">3</a><a href="a.html#x">4</a>'
        '<img src="https://example.org/a.png"><script src="c.js"></script><a href="https://example.org">5</a>'
    )
    dead = [line.split(": ")[1] for line in links.dead_in_site(tmp_path)]
    assert dead == ["#y", "b.html", "https://example.org/a.png", "c.js"]


def test_links_out_of_the_docs_lead_to_functions_pages_and_copies():
    found = outside.Outside({"dtp_jax.rules.ldrl.ldrl"})
    with pytest.raises(LookupError, match="`drld` is not defined in dtp_jax/rules/ldrl.py"):
        found.rewritten("[`drld`](../dtp_jax/rules/ldrl.py)", DOCS / "page.md", "page.md")
    text = (
        "[`ldrl`](../dtp_jax/rules/ldrl.py) [`feedback_loss`](../dtp_jax/rules/ldrl.py) "
        "[x](../ARCHITECTURE.md#rooms) [c](../dtp_jax/configs/mnist_dtp.py) [y](tutorial.md#a)\n"
        "```\n[x](../ARCHITECTURE.md)\n```\n"
    )
    assert found.rewritten(text, DOCS / "page.md", "page.md") == (
        "[`ldrl`](#dtp_jax.rules.ldrl.ldrl) [`feedback_loss`](files/dtp_jax/rules/ldrl.py) "
        "[x](architecture.md#rooms) [c](reference/configs.md#mnist-dtp) [y](tutorial.md#a)\n"
        "```\n[x](../ARCHITECTURE.md)\n```\n"
    )
    assert list(found.copies) == ["files/dtp_jax/rules/ldrl.py"]


def test_a_page_that_no_section_names_is_a_how_to(tmp_path):
    for name in ("index", "tutorial", "new"):
        (tmp_path / f"{name}.md").write_text("# x")
    found = navigation.sections(tmp_path)
    assert found["How-to"][-1] == "new" and "tutorial" not in found["How-to"]


# Notebooks.


def test_notebooks_are_committed_without_outputs():
    for name in notebooks.names():
        for cell in notebooks.read(name).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, name


def test_a_notebook_becomes_a_page(monkeypatch):
    cell = nbformat.v4.new_code_cell("print(1)\nplot()")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="\x1b[31m1\x1b[0m\n"),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output(
            "display_data", data={"image/png": "aGVsbG8=", "text/plain": "Figure"}
        ),
    ]
    shown = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])
    monkeypatch.setattr(notebooks, "cached", lambda name: shown)
    text, pictures = notebooks.page("n", run=True)
    assert "```python\nprint(1)\nplot()\n```\n\n```text\n1\n```\n\n![" in text
    assert "a warning" not in text
    assert pictures == {"n_1_2.png": b"hello"}


def test_pages_show_pictures_that_are_there():
    for page in outside.pages_of_docs():
        for target in PICTURES.findall(page.read_text()):
            assert (page.parent / target).exists(), (page, target)
    assert (REPOSITORY / "docs" / "tutorial_alignment.png").stat().st_size < 200_000
