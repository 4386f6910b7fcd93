"""What Sphinx is told; `python -m website` calls it."""

from website import DOCS, equations
from website.reference import Reference

project = "dtp-jax"
author = "the authors of dtp-jax"
extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["files"]
smartquotes = False

myst_enable_extensions = ["attrs_block", "attrs_inline", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["config.cache"]

python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
pygments_style = "friendly"
pygments_dark_style = "native"

html_theme = "furo"
html_title = "dtp-jax"
html_static_path = [str(DOCS / "static")]
html_css_files = ["site.css"]
html_math_renderer = "pictures"
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "navigation_with_keys": True,
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#1f5f8b",
        "color-brand-content": "#1f5f8b",
        "color-brand-visited": "#1f5f8b",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8cc4ea",
        "color-brand-content": "#8cc4ea",
        "color-brand-visited": "#8cc4ea",
    },
}


def setup(app) -> None:
    """Equations are pictures; a definition is found by all its public paths."""
    app.add_html_math_renderer(
        "pictures", (equations.visit_inline, None), (equations.visit_block, None)
    )
    app.connect("env-updated", add_aliases)


def add_aliases(app, env) -> None:
    """`dtp_jax.ldrl` and `dtp_jax.rules.ldrl.ldrl` lead to where `dtp_jax.rules.ldrl` is shown."""
    known = env.domains["py"].objects
    for alias, shown in Reference().aliases.items():
        if shown in known:
            known.setdefault(alias, known[shown]._replace(aliased=True))
