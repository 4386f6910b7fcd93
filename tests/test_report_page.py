"""A report in a real browser: Debian's chromium, without a window and without a network."""

import contextlib
import io
import shutil
import time

import jax
import numpy as np
import pytest
from helpers import slow
from test_report import WILD, write_run

from dtp_jax.report import __main__

pytest_plugins = ["run_fixtures"]

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; on Debian: apt-get install chromium"
)

FOCUSABLE = "a[href], summary, [tabindex], button, input, select, textarea, area[href], iframe"
VISIBLE = (
    f"""() => [...document.querySelectorAll('{FOCUSABLE}')].filter(e => e.checkVisibility())"""
)
CONTRAST = """() => {
    const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const style = e => getComputedStyle(document.querySelector(e));
    const paper = light(style('html').backgroundColor);
    return ['body', '.note', 'a', 'figure svg'].map(e => {
        const ink = light(style(e).color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    });
}"""


@pytest.fixture(scope="module")
def file(reference, tmp_path_factory):
    """A page with everything that one may hold: a real run beside runs of any name and state."""
    place = tmp_path_factory.mktemp("page")
    hostile = WILD.replace("/", "|").translate(dict.fromkeys(map(ord, "\n\x1b\ud800")))
    folders = [reference[0], write_run(place / hostile, beta=0.25, data_dir=WILD)]
    folders.append(
        write_run(place / "a_config_with_a_name_that_is_far_too_long_for_a_telephone", guard="skip")
    )
    rows = [
        {"step": 20, "epoch": 2, "split": "diagnostics", f"update_angle/block_{n}/kernel": 9.0 * n}
        for n in range(12)
    ]
    folders.append(write_run(place / "deep", beta=0.5, finished=False, rows=rows))
    (folders[-1] / "figures").mkdir()
    curves = {f"loss/block_{n}": np.arange(5.0) for n in range(6)}
    np.savez(folders[-1] / "figures/feedback_0000000.npz", **curves)
    with contextlib.redirect_stdout(io.StringIO()), jax.enable_x64(False):
        command = [*map(str, folders), f"--out={place / 'report.html'}"]
        assert __main__.main(command, "dtp report") == 0
    return place / "report.html"


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def show(browser, file):
    """A function that opens the page; what it says and asks for is in `page.heard`."""
    opened = []

    def open_page(width, scheme="light", *, unfolded=True):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        opened.append(context)
        page = context.new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.heard.append(request.url[:200]))
        page.goto(file.as_uri())
        if unfolded:
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page

    yield open_page
    for context in opened:
        context.close()


def wait_for(page, expression, seconds=30):
    """Returns when it is true. From outside: the page forbids every script, playwright's polling too."""
    give_up = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < give_up, expression
        page.wait_for_timeout(50)


@pytest.mark.parametrize(
    "width, scheme",
    [(390, "dark"), (1280, "light"), slow(390, "light"), slow(1280, "dark")]
    + [slow(320, scheme) for scheme in ("light", "dark")],
)
def test_it_is_quiet_and_fits(show, file, width, scheme):
    """No message, no request but for the page itself, nothing wider than the window, every picture there."""
    page = show(width, scheme)
    page.wait_for_load_state("networkidle")
    assert [url for url in page.heard if not url.startswith("data:image/png;base64,")] == [
        file.as_uri()
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate(
        "[...document.querySelectorAll('img, svg')].map(e => [e.getBoundingClientRect().width, "
        "e.getBoundingClientRect().height, e.tagName == 'IMG' ? e.naturalWidth : 1])"
    )
    assert len(boxes) > 30 and all(min(box) > 0 for box in boxes)
    assert min(page.evaluate(CONTRAST)) >= 4.5
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    is_dark = (
        page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        != "rgb(255, 255, 255)"
    )
    assert is_dark == (scheme == "dark")


def test_texts_of_runs_are_texts(show):
    page = show(1280)
    assert page.evaluate("document.scripts.length") == 0
    assert "<script>alert('x')</script>" in page.inner_text("body")


@pytest.mark.parametrize("unfolded", [False, True])
def test_a_keyboard_reaches_every_control(show, unfolded):
    page = show(390, unfolded=unfolded)
    wanted = page.evaluate(f"({VISIBLE})().length")
    page.evaluate(f"({VISIBLE})().forEach((e, i) => e.dataset.n = i)")
    reached = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.n"))
    assert reached == [str(n) for n in range(wanted)]
    assert wanted > 20


def test_controls_obey_the_keyboard(show):
    page = show(390, unfolded=False)
    page.focus("#configuration summary")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#configuration details').open")
    page.focus("#results .scroll")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for(page, "document.querySelector('#results .scroll').scrollLeft > 0")
    page = show(390, unfolded=False)  # chromium drops a jump while the last keys still scroll
    page.focus("nav a[href='#provenance']")
    page.keyboard.press("Enter")
    wait_for(page, "scrollY > 500")


def test_what_is_folded_is_printed(show):
    """And on white paper, whatever the screen has."""
    page = show(1280, "dark", unfolded=False)
    page.emulate_media(media="print", color_scheme="dark")
    assert (
        page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    height = "document.querySelector('#configuration details table').getBoundingClientRect().height"
    assert page.evaluate(height) > 100
