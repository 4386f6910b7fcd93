"""The report as one page, which needs no network, no script and no other file."""

from importlib import resources

import jinja2

from dtp_jax.report.content import Content

CONTENTS = {
    "results": "Results",
    "configuration": "Configuration",
    "curves": "Curves",
    "alignment": "Alignment",
    "feedback": "Feedback",
    "predictions": "Predictions",
    "provenance": "Provenance",
}
"""Sections of the page: the name of a link, its text."""


def page(content: Content) -> str:
    """HTML, in which every text of a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dtp_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = resources.files("dtp_jax.report").joinpath("templates/report.css").read_text("utf-8")
    template = environment.get_template("report.html")
    return template.render(content=content, css=css, contents=CONTENTS.items()).lstrip()
