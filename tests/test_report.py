"""Reports: what they say of runs of every kind, that nothing in a run can break out of a page, and that
reading changes nothing."""

import contextlib
import errno
import html.parser
import io
import json
import math
import os
import re
import types
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest
from launching import TINY, launch, tree
from rich.console import Console

from dtp_jax.data import DATASETS, Split, load_splits, locate, prepare_images
from dtp_jax.export import __main__ as export_command
from dtp_jax.learning.diagnostics import GROUPS, Group
from dtp_jax.learning.evaluation import infer
from dtp_jax.plots import images, matrix, style
from dtp_jax.plots.panels import Line
from dtp_jax.plots.svg import svg
from dtp_jax.report import (
    __main__,
    drawing,
    figures,
    folders,
    looks,
    predictions,
    reading,
    series,
    tables,
    text,
    updates,
    words,
)
from dtp_jax.report.content import content
from dtp_jax.report.differences import differences, paired, reference_of
from dtp_jax.report.drawing import Plot
from dtp_jax.report.page import page
from dtp_jax.report.predictions import Predictions
from dtp_jax.run import results
from dtp_jax.run.loading import load_config
from dtp_jax.run.screen import Screen
from dtp_jax.run.workdir import Workdir

pytest_plugins = ["run_fixtures"]

WILD = "<script>alert('x')</script>\"&\n\x1b[31m\u202eגדול😀\ud800$\\frac"
"""What a text of a run may hold."""


def report(*args):
    """The command line in this process -> (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = __main__.main(list(map(str, args)), "dtp report")
    return code, out.getvalue(), err.getvalue()


def export(*args):
    """The command line of `dtp export` in this process -> (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = export_command.main(list(map(str, args)))
    return code, out.getvalue(), err.getvalue()


def write_run(folder, seed=0, *, accuracy=0.5, epochs=2, finished=True, rows=(), **fields):
    """The files of a run that nobody has trained: no checkpoint."""
    folder.mkdir(parents=True)
    config = {
        **load_config("digits_dtp").config.to_dict(),
        "seed": seed,
        "epochs": epochs,
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for epoch in range(1, epochs + 1):
        for split in ("train", "val"):
            share = accuracy * epoch / epochs
            lines.append(
                {
                    "step": 10 * epoch,
                    "epoch": epoch,
                    "split": split,
                    "loss": 2 - share,
                    "accuracy": share,
                }
            )
        lines[-2] |= {"angle/fc": 40 / epoch, "feedback_loss/fc": 1.0}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *rows])
    (folder / "metrics.jsonl").write_text(text)
    if finished:
        summary = {
            **{name: config[name] for name in ("rule", "network", "dataset", "seed", "epochs")},
            **{"steps": 10 * epochs, "test_accuracy": accuracy, "val_accuracy": None},
            **{"wall_seconds": 90.0, "images_per_second": 1000.0, "device": "1 x cpu"},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Page(html.parser.HTMLParser):
    """Tags with their attributes, the text, and the rows of tables."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.rows, self.in_cell = [], [], [], False
        self.feed(source)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, *begin):
        """The first row that begins like this."""
        return next(row for row in self.rows if tuple(row[: len(begin)]) == begin)


def page_of(*folders, code=0):
    """The page about these folders, of which no checkpoint is read."""
    out = folders[0].parent / "page.html"
    found, _, err = report(*folders, f"--out={out}", "--no-predictions")
    assert (found, err) == (code, "")
    return Page(out.read_text(encoding="utf-8"))


# Numbers.


def test_differences_are_paired_by_seed(tmp_path):
    for seed, accuracy in enumerate((0.75, 0.5, 0.25)):
        write_run(tmp_path / f"c/base/seed_{seed}", seed, accuracy=accuracy, rule="backprop")
    for seed, accuracy in ((1, 0.75), (2, 0.75), (3, 0.9)):
        write_run(tmp_path / f"c/mine/seed_{seed}", seed, accuracy=accuracy)
    groups = folders.find([str(tmp_path / "c")]).groups
    base = reference_of(groups)
    assert base.label == "base" and reference_of(groups, "mine").label == "mine"
    (found,) = differences(groups, base)
    assert found[:4] == ("mine", 2, 37.5, 12.5)  # of the seeds 1 and 2: 25 and 50 points
    assert found.t == pytest.approx(3)
    assert found.p == pytest.approx(
        1 - 2 * math.atan(3) / math.pi
    )  # Student's t of one degree is Cauchy's
    with pytest.raises(ValueError, match="--reference is 'x'; allowed: one of base, mine"):
        reference_of(groups, "x")


def test_no_test_where_there_can_be_none():
    assert paired("x", [3.0], [1.0]) == ("x", 1, 2.0, None, None, None)
    assert paired("x", [0.3, 0.4], [0.1, 0.2]) == ("x", 2, pytest.approx(0.2), 0.0, None, None)
    table = tables.paired([paired("x", [3.0], [1.0])], "base")
    assert table.rows == [["x", "1", "+2.00", "–", "–", "–"]] and "no test" in table.note
    found = paired("x", [1.0, 2.0, 3.0], [2.0, 2.0, 5.0])
    assert found.p == pytest.approx(1 - abs(found.t) / math.sqrt(2 + found.t**2))  # two degrees


def test_words():
    assert words.spread([1.0, 3.0]) == "2.00 ± 1.41" and words.spread([]) == "–"
    assert (words.size(1023), words.size(1536), words.size(3 << 30)) == (
        "1023 B",
        "1.5 KiB",
        "3 GiB",
    )
    assert (
        words.field((0.4, 0.2)) == "0.4,0.2" and words.field(()) == "()" and words.field("") == '""'
    )
    assert words.p_value(0.00001) == "1.0e-05"


def test_what_is_counted_of_predictions():
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    found = Predictions(counts, [], "")
    assert found.accuracy == 0.7
    np.testing.assert_allclose(found.of_class, [0.75, np.nan, 4 / 6])
    assert found.confusions(5) == [(2, 0, 2), (0, 1, 1)]
    rows = looks.class_table(found.of_class, ["a", "b", "c"]).rows
    assert rows == [["c", "66.7"], ["a", "75.0"]]
    many = looks.class_table(np.arange(1000) / 1000, list(map(str, range(1000))))
    assert [row[0] for row in many.rows] == [str(i) for i in (*range(10), *range(990, 1000))]
    assert looks._confusion(Predictions(np.eye(1000, dtype=int), [], ""), ["x"] * 1000, 0) is None


def test_predictions_of_a_run(reference, single_precision):
    """Against the forward pass over all test images at once."""
    (group,) = folders.find([str(reference[0])]).groups
    weights = predictions.read_weights(group.runs[0])
    found = predictions.predict(weights)
    data = DATASETS["digits"]
    test = load_splits(locate("digits"), 0.1, 0).test
    x = prepare_images(test.images, data, jax.numpy.float32)
    logits = np.asarray(infer(weights.experiment.network, weights.state.forward, x, {}))
    taken = logits.argmax(axis=1)
    counts = np.zeros((10, 10), int)
    for true, predicted in zip(test.labels, taken, strict=True):
        counts[true, predicted] += 1
    np.testing.assert_array_equal(found.counts, counts)
    assert found.accuracy == pytest.approx(group.runs[0].summary["test_accuracy"])
    sure = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    wrong = [i for i in np.argsort(-sure) if taken[i] != test.labels[i]][: predictions.MISTAKES]
    assert [one.number for one in found.mistakes] == wrong
    for one in found.mistakes:
        assert (one.true, one.predicted) == (test.labels[one.number], taken[one.number])
        assert one.confidence == pytest.approx(sure[one.number], rel=1e-4)
        np.testing.assert_array_equal(one.pixels, 15 * test.images[one.number])  # 0 to 16: 0 to 240
    kernel = np.asarray(weights.state.forward["conv_0"]["kernel"])
    np.testing.assert_array_equal(
        predictions.first_filters(weights)[2, :, :, 0], kernel[:, :, 0, 2]
    )


# Pictures.


def test_a_figure_inside_a_page():
    figure, axis = style.subplots(size=(3, 2))
    axis.plot([1, 2], [3, 4], marker="o", color="#000000", label="a<b")
    axis.legend()
    label = "a \"figure\" of <b> & 'c'"
    found = svg(figure, "one", label)
    root = ET.fromstring(found.replace("xlink:href", "href"))
    ids = [part.get("id") for part in root.iter() if part.get("id")]
    assert len(ids) == len(set(ids)) and all(one.startswith("one-") for one in ids)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', found)
    assert used and {a or b for a, b in used} <= set(ids)
    assert root.get("aria-label") == root[0].text == label
    assert (root.get("width"), root.get("height")) == ("288", "192")
    assert "currentColor" in found and "#000000" not in found
    assert not re.search("https?:|<style|font-family|<metadata|<image", found)
    assert "a<b" in [part.text for part in root.iter("text")]
    assert 'aria-hidden="true"' in svg(figure, "two", "") and "<title>" not in svg(
        figure, "two", ""
    )


def test_kernels_as_pixels():
    kernel = np.array([[-2.0, 0.0], [1.0, np.nan]])
    np.testing.assert_array_equal(images.as_pixels(kernel), [[0, 128], [191, 128]])
    np.testing.assert_array_equal(images.as_pixels(np.zeros((1, 1))), [[128]])
    tiles = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) + 7
    found = images.mosaic(tiles, 2)
    np.testing.assert_array_equal(found[..., 0], [[7, 0, 8], [0, 0, 0], [9, 0, 0]])
    np.testing.assert_array_equal(found[..., 1], [[255, 0, 255], [0, 0, 0], [255, 0, 0]])


def test_the_filters_of_a_dense_block():
    """A unit's weights lie as the pixels do: height, width, channel."""
    kernel = np.arange(2 * 3 * 1 * 4).reshape(6, 4)
    data = DATASETS["digits"]._replace(image_shape=(2, 3, 1))
    experiment = type("E", (), {"network": [type("B", (), {"name": "fc"})], "data": data})
    state = type("S", (), {"forward": {"fc": {"inner": {"kernel": kernel}}}})
    found = predictions.first_filters(predictions.Weights(experiment, None, state, 0))
    np.testing.assert_array_equal(found[1, :, :, 0], [[1, 5, 9], [13, 17, 21]])


def test_a_confusion_matrix_says_percent_of_the_true_class():
    figure = matrix.draw_confusion(np.array([[199, 1], [0, 5]]), ["$x", "b"])
    (axis,) = figure.axes
    assert [t.get_text() for t in axis.texts] == ["100", "<1", "100"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["$x", "b"]
    assert len(matrix.draw_confusion(np.eye(30), ["x"] * 30).axes[0].texts) == 0
    svg(figure, "m", "")  # $x is no mathematics


# Pages.


def test_the_page_of_a_comparison(tmp_path):
    place = tmp_path / "c"
    for label, rule in (("own-ldrl", "ldrl"), ("own-backprop", "backprop")):
        for seed in (0, 1, 10):
            share = (0.5 if rule == "ldrl" else 0.75) + seed / 100
            rows = [
                {
                    "step": 20,
                    "epoch": 2,
                    "split": "diagnostics",
                    "update_angle/fc/kernel": 12.0 + seed,
                }
            ]
            write_run(place / label / f"seed_{seed}", seed, accuracy=share, rule=rule, rows=rows)
    (place / "comparison.csv").write_text("config,failures\nown-ldrl,\nown-backprop,1 diverged\n")
    found = page_of(place)
    assert "own: ldrl, backprop" in found.text
    assert found.row("ldrl", "53.67 ± 5.51")[3] == "3 of 3"
    assert found.row("ldrl", "3")[2:4] == ["−25.00", "0.00"]  # every pair is 25 points apart
    assert [row[1] for row in found.rows if row[:1] == ["ldrl"] and row[2:3] == ["finished"]] == [
        "0",
        "1",
        "10",
    ]
    assert found.row("rule") == ["rule", "ldrl", "backprop"]
    assert "own-backprop: 1 diverged" in found.text or "backprop: 1 diverged" in found.text
    assert ["ldrl", "15.7 ± 5.5"] in found.rows and ["backprop", "15.7 ± 5.5"] in found.rows
    labels = {a["aria-label"] for tag, a in found.tags if tag == "svg" and "aria-label" in a}
    assert any(one.startswith("validation accuracy") and "ldrl: 53.7" in one for one in labels)
    assert any(one.startswith("fc: degrees") and "backprop: 20" in one for one in labels)
    for tag, attributes in found.tags:
        assert tag != "script" and not any(name.startswith("on") for name in attributes)
        if tag in ("img", "svg"):
            assert int(attributes["width"]) > 0 and int(attributes["height"]) > 0
    targets = {a.get("id") for _, a in found.tags}
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    assert len(links) == 7 and all(link[0] == "#" and link[1:] in targets for link in links)


def test_the_page_of_a_real_run(reference, tmp_path):
    before = tree(reference[0])
    code, out, err = report(reference[0], f"--out={tmp_path / 'r.html'}")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith(f"{tmp_path / 'r.html'}: ")
    assert tree(reference[0]) == before
    found = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    accuracy = json.loads((reference[0] / "summary.json").read_text())["test_accuracy"]
    assert f"{100 * accuracy:.2f} % of 360 test images right" in found.text
    assert "Confusion matrix" in found.text and "4 filters of the first block, conv_0" in found.text
    assert "--config.diagnostics_iterations=on" in found.text
    assert 0 < float(found.row("conv_0/kernel")[1]) < 120
    pictures = [a for tag, a in found.tags if tag == "img"]
    assert 1 < len(pictures) <= 13 and all(a["src"].startswith("data:image/png;") for a in pictures)


def test_the_page_goes_where_it_is_looked_for(place):
    write_run(place / "run")
    write_run(place / "other", beta=0.25)
    code, out, _ = report("run", "--no-predictions")
    assert code == 0 and (place / "run/report.html").is_file()
    code, out, _ = report("run", "other", "--no-predictions")
    assert code == 0 and (place / "report.html").is_file()
    assert Page((place / "report.html").read_text("utf-8")).row("beta") == ["beta", "0.7", "0.25"]


def test_runs_that_only_their_seed_sets_apart_are_one_config(tmp_path):
    for name, seed, fields in (
        ("a", 1, {}),
        ("b", 0, {"log_every": 7}),
        ("c", 0, {"beta": 0.25}),
        ("d", 0, {}),
        ("e", 2, {"max_steps": 5}),  # not as long as the others
        ("f", 2, {"patience": 1}),
        ("g", 2, {"max_minutes": 1.0}),
    ):
        write_run(tmp_path / name, seed, **fields)
    found = folders.find([str(tmp_path / name) for name in "abcdefg"])
    names = [[run.path.name for run in group.runs] for group in found.groups]
    assert names == [["b", "a"], *([name] for name in "cdefg")]
    assert [group.label for group in found.groups] == list("acdefg") and found.folder is None


def test_nothing_in_a_run_breaks_out_of_the_page(tmp_path):
    name = WILD.replace("/", "|").replace("\n", "").replace("\ud800", "").replace("\x1b", "")
    folder = write_run(
        tmp_path / name / f"seed_{0}",
        rule=WILD,
        data_dir=WILD,
        provenance={"command": WILD, "registered_by": {}, "versions": {"jax": WILD}},
        rows=[
            {
                "step": 1,
                "epoch": 1,
                "split": "train",
                f"angle/{WILD}": 3.0,
                f"update_angle/{WILD}": 4.0,
            }
        ],
    )
    summary = json.loads((folder / "summary.json").read_text()) | {"device": WILD, "rule": WILD}
    (folder / "summary.json").write_text(json.dumps(summary))
    other = write_run(tmp_path / "plain")
    out = tmp_path / "page.html"
    for command in ([folder.parent, other], [folder.parent]):
        code, _, err = report(*command, f"--out={out}", "--no-predictions")
        assert (code, err) == (0, "")
        source = out.read_text(encoding="utf-8")
        found = Page(source)
        assert not {"script", "iframe", "object", "link"} & {
            tag for tag, a in found.tags if a.get("rel") != "icon"
        }
        assert not any(name.startswith("on") for _, a in found.tags for name in a)
        assert "<script>alert('x')</script>\"&" in found.text  # as text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)
        code, printed, err = report(*command, "--text", "--no-predictions")
        assert (code, err) == (0, "") and "גדול😀" in printed
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printed)


# Several seeds.


def seeds_of_a_config(folder):
    """Two that go on to 50 %, and one that ended after its first epoch."""
    whole, early = (0.5, 2, 20.0), (0.1, 1, 80.0)
    for seed, (accuracy, epochs, angle) in enumerate((whole, early, whole)):
        row = {"step": 10 * epochs, "epoch": epochs, "split": "diagnostics"}
        rows = [row | {"update_angle/fc/kernel": angle}]
        ended = {"accuracy": accuracy, "epochs": epochs, "finished": epochs == 2, "rows": rows}
        write_run(folder / f"seed_{seed}", seed, **ended)


def test_means_are_of_the_seeds_that_have_finished(tmp_path):
    """Elsewhere, one that diverged would cut the curves of its config, and enter its means."""
    seeds_of_a_config(tmp_path / "c/mine")
    (group,) = folders.find([str(tmp_path / "c")]).groups
    (line,) = figures._lines([group], series.ACCURACY.of)
    assert (list(line.x), list(line.mean), list(line.spread)) == ([1, 2], [25, 50], [0, 0])
    assert [one.last(group) for one in series.measured([group], "update_angle")] == [[20, 20]]
    found = page_of(tmp_path / "c")
    assert ["fc/kernel", "20.0 ± 0.0"] in found.rows
    assert "means over 2 finished of 3 seeds, bands one standard deviation." in found.text
    _, printed, _ = report(tmp_path / "c", "--text", "--no-predictions")
    assert "Curves, means over 2 finished of 3 seeds" in printed
    assert "25 to 50" in printed and "36.7" not in printed


def test_a_config_of_which_no_seed_has_finished_shows_what_there_is(tmp_path):
    seeds_of_a_config(tmp_path / "c/mine")
    write_run(tmp_path / "c/other/seed_0", beta=0.25)
    for file in (tmp_path / "c/mine").glob("*/summary.json"):
        file.unlink()
    mine, other = folders.find([str(tmp_path / "c")]).groups
    mean, _ = figures._lines([mine, other], series.ACCURACY.of)
    assert (list(mean.x), list(mean.mean)) == ([1], [20])  # of 25, 10 and 25 %
    assert [one.last(mine) for one in series.measured([mine], "update_angle")] == [[20, 80, 20]]
    _, printed, _ = report(tmp_path / "c", "--text", "--no-predictions")
    assert "20 to 36.7" in printed
    said = "Lines, here and below, are means over 3 unfinished seeds of mine and 1 seed of other, bands"
    assert said in page_of(tmp_path / "c").text


def test_a_summary_from_before_a_run_became_longer_does_not_count(tmp_path):
    """It is of fewer epochs, while the run trains on, or after it has diverged."""
    more = {"epoch": 3, "split": "train", "loss": 1.0, "accuracy": 0.9}
    after = {
        0: (2, []),  # finished
        1: (3, []),  # begun, and killed
        2: (3, [{**more, "step": 25}]),
        3: (3, [{**more, "step": 25}, {"split": "diverged", "message": "step 25: so it is"}]),
    }
    for seed, (epochs, rows) in after.items():
        folder = write_run(
            tmp_path / f"c/mine/seed_{seed}", seed, accuracy=0.5 + seed / 10, rows=rows
        )
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "epochs": epochs}))
    (group,) = folders.find([str(tmp_path / "c")]).groups
    assert [run.seed for run in group.finished] == [0]
    assert [run.status.split()[0] for run in group.runs] == [
        "finished",
        "unfinished",
        "unfinished",
        "diverged:",
    ]
    found = page_of(tmp_path / "c")
    assert found.row("mine")[1] == "50.00" and found.row("mine")[3] == "1 of 4"
    assert found.row("mine", "2")[3:5] == ["25", ""]


@pytest.mark.parametrize(
    "limits, ended, status",
    [
        ({"max_steps": 20}, {}, "finished"),
        ({"max_steps": 40}, {}, "unfinished"),
        ({"max_steps": 0}, {}, "unfinished"),
        ({"patience": 3}, {"ended_by": "patience", "epochs_without_gain": 3}, "finished"),
        ({"patience": 4}, {"ended_by": "patience", "epochs_without_gain": 3}, "unfinished"),
        ({"max_minutes": 1.0}, {"ended_by": "max_minutes", "epochs_without_gain": 0}, "finished"),
        ({"max_minutes": 2.0}, {"ended_by": "max_minutes", "epochs_without_gain": 0}, "unfinished"),
    ],
)
def test_a_run_whose_limit_was_raised_is_to_go_on(tmp_path, limits, ended, status):
    """It had five epochs before it, and ended after two of them, at step 20, after 90 seconds."""
    folder = write_run(tmp_path / "a", **limits)
    for name, more in (("config.json", {}), ("summary.json", ended)):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **more, "epochs": 5}))
    assert reading.read(folder).status.split()[0] == status


def test_of_how_many_seeds_means_are(tmp_path):
    counts = {"a": 2, "b": 2, "d": 1}
    for label, count in counts.items():
        for seed in range(count):
            write_run(tmp_path / f"{label}/seed_{seed}", seed)
    write_run(tmp_path / "d/seed_1", 1, finished=False)
    a, b, d = folders.find([str(tmp_path)]).groups
    assert folders.seeds_of([a, b]) == "2 seeds"
    assert folders.seeds_of([a, d, b]) == "2 seeds of a and b and 1 finished of 2 seeds of d"


# States of runs.


def test_a_run_that_has_not_finished(tmp_path):
    for name, rows, files, said in (
        (
            "stopped",
            [],
            {},
            "unfinished at step 10, epoch 1 of 1: it was stopped, or it failed",
        ),
        (
            "killed",
            [],
            {"owner.json": '{"host": "h<b>", "process": "7"}'},
            "process 7 on h<b> trains it",
        ),
        (
            "nan",
            [{"step": 11, "epoch": 2, "split": "train", "loss": None, "accuracy": None}],
            {},
            "diverged at step 11, epoch 2 of 1: its last loss is not finite",
        ),
    ):
        folder = write_run(tmp_path / name, epochs=1, finished=False, rows=rows)
        for file, written in files.items():
            (folder / file).write_text(written)
        found = page_of(folder)
        assert said in found.text, name
        assert found.row(name)[3] == "0 of 1"


def test_a_run_without_validation_or_rows(tmp_path):
    folder = write_run(tmp_path / "a", val_split=0.0)
    rows = [
        line for line in (folder / "metrics.jsonl").read_text().splitlines() if "val" not in line
    ]
    (folder / "metrics.jsonl").write_text("\n".join(rows))
    found = page_of(folder)
    assert "No images were held out" in found.text and "validation accuracy" not in found.text
    (folder / "metrics.jsonl").unlink()
    assert "No epoch has been recorded yet." in page_of(folder).text
    (folder / "summary.json").unlink()
    assert "unfinished before its first step" in page_of(folder).text


@pytest.mark.parametrize(
    "file, written, said",
    [
        (
            "metrics.jsonl",
            '{"step": 1e999, "epoch": NaN, "split": "train", "loss": 1e308}\n{"spl',
            "",
        ),
        (
            "metrics.jsonl",
            '[]\n{"split": [1]}\n{"split": "train", "epoch": 9e18, "loss": 1}\n' * 2,
            "",
        ),
        ("metrics.jsonl", '{"split": "train", "epoch": 1, "loss": 1e308}\n' * 9, ""),
        ("metrics.jsonl", '{"split": "train", "epoch": 1, "loss": true, "accuracy": "x"}\n', ""),
        ("metrics.jsonl", b"\xff\xfe\x00" * 99, ""),
        ("summary.json", '{"steps": "x"}', "summary.json is damaged"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"format": 99}', "config.json is of format 99"),
        (
            "config.json",
            '{"rule": "ldrl", "seed": true, "extended": 3}',
            "config.json says extended is 3",
        ),
    ],
)
def test_files_that_are_damaged(tmp_path, file, written, said):
    folder = write_run(tmp_path / "a")
    (folder / file).write_bytes(written if isinstance(written, bytes) else written.encode())
    before = tree(folder)
    assert said in page_of(folder).text
    assert report(folder, "--text", "--no-predictions")[0] == 0
    assert tree(folder) == before


def test_what_is_missing_is_a_line_of_the_page(place):
    """Checkpoint, data and rule; everything else is there."""
    folder = write_run(place / "a")
    for fields, said in (
        ({}, "No look at its weights: a holds no good checkpoint."),
        (
            {"rule": "mine", "provenance": {"registered_by": {"rule": "mine.py"}}},
            "its rule 'mine' was registered by mine.py; allowed: together with --plugin=mine.py",
        ),
        (
            {"rule": "nix", "provenance": {}},
            "No look at its weights: config.rule is 'nix'; allowed: one of ldrl",
        ),
    ):
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps(config))
        code, _, err = report("a")
        assert (code, err) == (0, "")
        found = Page((folder / "report.html").read_text("utf-8"))
        assert said in found.text and found.row("a", "50.00")


def test_whatever_a_rule_or_network_raises_is_a_line_of_the_page(tmp_path, monkeypatch):
    """Of any kind, as in training: plugins are asked."""
    folder, out = write_run(tmp_path / "a"), tmp_path / "page.html"
    write_run(tmp_path / "b", beta=0.25)

    def raises(error):
        def function(*args):
            raise error

        return function

    monkeypatch.setattr(looks, "read_weights", lambda run: types.SimpleNamespace(step=20))
    for module, name, error in (
        (looks, "first_filters", TypeError("no kernel\nof mine")),
        (looks, "predict", AttributeError("no readout")),
        (looks, "update_angles", KeyError("fc")),
        (tables, "size_of", NotImplementedError()),
    ):
        monkeypatch.setattr(module, name, raises(error))
    code, _, err = report(folder, tmp_path / "b", f"--out={out}")
    assert (code, err) == (0, "")
    found = Page(out.read_text("utf-8"))
    for said in (
        "No filters: no kernel. No predictions: no readout. No update angles: KeyError: 'fc'.",
        "No parameters of a: NotImplementedError. Nor of b.",
    ):
        assert said in re.sub(r"(?<=\.)(?=No )", " ", found.text)
    assert found.row("a", "50.00")
    monkeypatch.setattr(looks, "read_weights", raises(KeyError("kernel")))
    (group,) = folders.find([str(folder)]).groups
    one = looks.look(group, 0, has_updates=False)
    assert one.problems == ["No look at its weights: KeyError: 'kernel'."]
    with pytest.raises(KeyboardInterrupt):
        reading.attempt("", raises(KeyboardInterrupt()), [])


def test_names_that_cannot_be_shown(place, monkeypatch, single_precision):
    """Of a folder that is no UTF-8, of the blocks of a network, of where data lies."""
    folder = place / "w\udcff\u202e"
    write_run(folder / "trial_0")
    (folder / "sweep.json").write_text('{"order": [0]}')
    monkeypatch.chdir(folder)
    assert report(".", f"--out={place / 'page.html'}")[0] == 0
    assert "sweep of w\ufffd\ufffd" in (place / "page.html").read_text("utf-8")

    block = types.SimpleNamespace(name="b\udcff")
    fields = {"dataset": "digits", "data_dir": ""}
    experiment = types.SimpleNamespace(config=fields, data=DATASETS["digits"], network=[block])
    weights = predictions.Weights(experiment, None, None, 20)
    monkeypatch.setattr(looks, "first_filters", lambda weights: np.ones((1, 2, 2, 1)))
    assert looks._filters(weights).said.endswith("block, b\ufffd")
    seen = Predictions(np.eye(10, dtype=int), [], "here\udcff")
    monkeypatch.setattr(looks, "predict", lambda weights: seen)
    (problem,) = looks._with_predictions(
        looks.Look("a", ""), weights, reading.read(folder / "trial_0"), 0
    ).problems
    assert "(here\ufffd)" in problem
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
    monkeypatch.setattr(updates, "test_images", lambda *args: (None, split))
    angles = Group(lambda *args: {"update_angle/b\udcff/kernel": 3.0}, lambda learner: "")
    monkeypatch.setitem(GROUPS, "updates", angles)
    assert updates.update_angles(weights) == {"b\ufffd/kernel": 3}


def test_one_folder_by_several_names_is_one_run(place):
    write_run(place / "runs/a")
    write_run(place / "runs/b", beta=0.25)
    (place / "link").symlink_to("runs/a")
    names = ("runs/a", "runs/a/", "./runs/a", str(place / "runs/a"), "link", "runs/b/../a")
    found = folders.find(names)
    assert [group.label for group in found.groups] == ["a"]
    assert [len(group.runs) for group in found.groups] == [1]
    assert str(found.folder) == "runs/a"  # where the page goes
    found = folders.find(["runs/b", *names])
    assert [group.label for group in found.groups] == ["b", "a"] and found.folder is None
    write_run(place / "c/x/seed_0")
    assert [group.label for group in folders.find(["c", "c/"]).groups] == ["x"]


def test_data_that_is_not_there(reference, monkeypatch, single_precision):
    def gone(*args):
        raise predictions.DataError("digits is not here")

    monkeypatch.setattr(predictions, "test_images", gone)
    monkeypatch.setattr("dtp_jax.report.updates.test_images", gone)
    (group,) = folders.find([str(reference[0])]).groups
    found = looks.look(group, 0, has_updates=False)
    assert found.problems == [
        "No predictions: digits is not here.",
        "No update angles: digits is not here.",
    ]
    assert found.filters is not None and found.confusion is None


def test_a_download_is_no_data(monkeypatch):
    source = locate("digits")._replace(format=None)
    monkeypatch.setattr(predictions, "locate", lambda *args: source)
    with pytest.raises(predictions.DataError, match="not on this machine"):
        predictions.test_images.__wrapped__("cifar10", "")


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["nix"], 2, "WORKDIR is 'nix': it does not exist; allowed: the folder of a run"),
        (["empty"], 2, "WORKDIR is 'empty': it holds no run; allowed"),
        (["file"], 2, "WORKDIR is 'file': it is no folder; allowed"),
        (["broken"], 2, "WORKDIR is 'broken': its config.json cannot be read"),
        (["gs://b/c"], 2, "WORKDIR is 'gs://b/c'; allowed: a local path"),
        (["a", "nix"], 2, "WORKDIR is 'nix': it does not exist"),
        (["a", "--reference=x"], 2, "--reference is 'x'; allowed: one of a"),
        (["a", "--out=empty"], 2, "--out is 'empty', which is a folder; allowed: a file to write"),
        (["a", "--plugin=nix.py"], 2, "--plugin is 'nix.py', which fails with FileNotFoundError"),
        (["a", "--out=file/x.html"], 6, "file/x.html cannot be written to: "),
    ],
)
def test_what_cannot_be_reported_is_one_line(place, args, code, said):
    write_run(place / "a")
    (place / "empty").mkdir()
    (place / "file").write_text("")
    (place / "broken").mkdir()
    (place / "broken/config.json").write_text("{")
    before = tree(place)
    found, _, err = report(*args, "--no-predictions")
    assert found == code and err.startswith(f"error: {said}") and err.count("\n") == 1, err
    assert tree(place) == before


@contextlib.contextmanager
def locked(folder, mode=0):
    """A context in which nobody may enter the folder. Root may enter any, and is somebody else there."""
    user = os.geteuid()
    folder.chmod(mode)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def of_load_run(path):
    """Its error as that of a command."""
    with pytest.raises(ValueError) as raised:
        results.load_run(path)
    return 2, "", f"error: {raised.value}\n"


@pytest.mark.parametrize("inside", ["", "/c", "/c/x/seed_0"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: report(path, "--no-predictions"),
        lambda path: export(path, "w.safetensors"),
        lambda path: export("--to-workdir", path, "w.safetensors"),
        of_load_run,
    ],
    ids=["report", "export", "import", "load_run"],
)
def test_a_folder_that_may_not_be_entered_is_one_line(place, read, inside):
    write_run(place / "own/c/x/seed_0")
    write_run(place / "own/run")
    with locked(place / "own"):
        code, out, err = read(f"own{inside}")
    assert code == 2 and err.count("\n") == 1, err
    problem = "it cannot be entered: Permission denied; allowed: a folder that may be entered"
    assert err == f"error: WORKDIR is 'own{inside}': {problem}\n"


def test_a_folder_that_may_be_entered_and_not_read_is_one_line(place):
    write_run(place / "c/x/seed_0")
    with locked(place / "c", mode=0o111):
        code, _, err = report("c", "--no-predictions")
    problem = "it cannot be read: Permission denied; allowed: a folder that may be read"
    assert (code, err) == (2, f"error: WORKDIR is 'c': {problem}\n")


def test_metrics_that_may_not_be_read(reference, monkeypatch, single_precision):
    def refuses(file):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(results, "read_metrics", refuses)
    with pytest.raises(ValueError, match="its metrics.jsonl cannot be read: Permission denied; "):
        results.load_run(reference[0])


def test_a_seed_that_may_not_be_entered_is_passed_over(place):
    write_run(place / "c/x/seed_0")
    write_run(place / "c/x/seed_1", 1)
    with locked(place / "c/x/seed_1"):
        found = folders.find(["c"])
    assert [run.seed for run in found.groups[0].runs] == [0]
    (said,) = found.passed_over
    assert said.startswith("WORKDIR is 'c/x/seed_1': its config.json cannot be read: ")
    assert "Permission denied" in said


def test_a_page_cannot_go_into_a_folder_that_may_not_be_entered(place):
    write_run(place / "a")
    (place / "own").mkdir()
    assert report("a", "--no-predictions", "--text")[0] == 0  # everything is imported
    with locked(place / "own"):
        code, _, err = report("a", "--no-predictions", "--out=own/x.html")
    assert (code, err.count("\n")) == (6, 1)
    assert err.startswith("error: own/x.html cannot be written to: ")


def test_a_run_of_a_comparison_that_holds_nothing_is_passed_over(place):
    write_run(place / "c/x/seed_0")
    (place / "c/x/seed_1").mkdir()
    code, _, err = report("c", "--no-predictions")
    assert code == 0 and err.startswith("warning: WORKDIR is 'c/x/seed_1': its config.json cannot")
    assert err.count("\n") == 1


# In a terminal.


@pytest.mark.parametrize("width", [120, 80, 40, 20])
def test_the_text_fits_the_terminal(tmp_path, width):
    for label in ("first_config_of_a_long_name", "second"):
        for seed in (0, 1):
            write_run(tmp_path / f"c/{label}/seed_{seed}", seed, beta=0.25 + len(label))
    found = folders.find([str(tmp_path / "c")])
    made = content(found, predictions=False, pictures=False)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    text.show(made, found.groups, Screen(console))
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert "50.00" in printed and "beta" in printed


def test_the_text_says_what_the_page_says(reference):
    code, printed, err = report(reference[0], "--text")
    summary = json.loads((reference[0] / "summary.json").read_text())
    assert (code, err) == (0, "") and "starting JAX" not in printed
    assert f"{100 * summary['test_accuracy']:.2f} % of 360 test images right" in printed
    for said in (
        "Results",
        "conv_0/kernel",
        "Weight angle of fc",
        "Accuracy by class",
        "Provenance",
    ):
        assert said in printed
    assert not (reference[0] / "report.html").exists()


@pytest.mark.parametrize("width", [None, 80, 20])
def test_the_text_has_the_config_and_the_feedback_training(tmp_path, width):
    """Of one run; of several, the text says in which fields they differ."""
    folder = write_run(tmp_path / "a")
    (folder / "figures").mkdir()
    curves = {"loss/conv_1": [2.0, 1.0, 0.5], "loss/fc": [3.0, 0.25], "odd": [1.0]}
    curves |= {"angle/fc": [90.0, 45.0, 12.5], "distance/fc": [1.5, np.nan]}
    np.savez(folder / "figures/feedback_0000040.npz", **curves)
    found = folders.find([str(folder)])
    made = content(found, predictions=False, pictures=False)
    console = Console(
        file=io.StringIO(), width=width, force_terminal=bool(width), color_system=None
    )
    text.show(made, found.groups, Screen(console))
    printed = console.file.getvalue()
    _, _, config = printed.partition("\nConfiguration\n")
    config = config.partition("\n\n")[0]
    assert max(map(len, config.splitlines())) <= (width or 80)
    for field in ("beta=0.7", "feedback_lr=0.005,0.1", 'data_dir=""'):
        assert field in config.replace("\n", "")
    assert config.count("=") == len(made.config.rows)
    if width:
        assert max(map(len, printed.splitlines())) <= width
    _, _, inside = printed.partition("Feedback training in")
    if width != 20:
        assert inside.startswith(" one batch, a, seed 0, before step 41\n")
        rows = [re.split(r"\s*│\s*", line)[1:-1] for line in inside.splitlines() if "to" in line]
        assert rows[:2] == [
            ["conv_1", "2 to 0.5", "", ""],
            ["fc", "3 to 0.25", "90 to 12.5", "1.5 to –"],
        ]
    else:
        assert "angle, degrees: 90 to 12.5" in re.sub(r"\s+", " ", inside)


def test_curves_of_alignment_begin_with_the_passes_before_the_first_epoch(tmp_path):
    """As those of `dtp compare` do; losses and accuracies begin with the first epoch."""
    before = [{"step": 5, "epoch": 0, "split": "train", "loss": 9.0, "angle/fc": 88.0}]
    before += [{"step": 5, "epoch": 0, "split": "diagnostics", "jacobian_distance/fc": 0.5}]
    write_run(tmp_path / "a", rows=before)
    groups = folders.find([str(tmp_path / "a")]).groups
    (angle,), (distance,) = (series.measured(groups, one) for one in ("angle", "jacobian_distance"))
    assert angle.of(groups[0].runs[0]) == {0: 88.0, 1: 40.0, 2: 20.0}
    assert distance.of(groups[0].runs[0]) == {0: 0.5}
    for curve in series.LEARNING:
        assert set(curve.of(groups[0].runs[0])) == {1, 2}
    (line,) = figures._lines(groups, angle.of)
    assert list(line.x) == [0, 1, 2]
    assert "88 to 20" in report(tmp_path / "a", "--text", "--no-predictions")[1]


def test_a_page_needs_no_pictures(tmp_path):
    """What a terminal shows is a page without figures."""
    (write_run(tmp_path / "a") / "figures").mkdir()
    np.savez(tmp_path / "a/figures/feedback_0000000.npz", **{"loss/fc": np.ones(2)})
    made = content(folders.find([str(tmp_path / "a")]), predictions=False, pictures=False)
    assert "<svg" not in page(made)


def test_feedback_training_of_one_batch(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "figures").mkdir()
    for step in (0, 1000):
        arrays = {
            f"{kind}/fc": np.array([step, 1.0, 0.5]) for kind in ("loss", "angle", "distance")
        }
        np.savez(folder / f"figures/feedback_{step:07d}.npz", **arrays)
    assert "Before step 1001" in page_of(folder).text
    (folder / "figures/feedback_0001000.npz").write_bytes(b"PK no archive")
    assert "feedback_0001000.npz cannot be read" in page_of(folder).text


def test_help_and_flags(capsys):
    with pytest.raises(SystemExit) as end:
        report("--help")
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        report("x", "--text", "--out=y")
    assert end.value.code == 2


def test_a_diverged_run(place):
    assert launch(*TINY, "--workdir=d", "--config.forward_lr=1e9", "--config.epochs=1").code == 4
    code, _, err = report("d", "--no-predictions")
    found = Page((place / "d/report.html").read_text("utf-8"))
    assert (code, err) == (0, "") and "diverged: step 2: the loss is " in found.text
    # What it wrote of its end goes as soon as it goes on, from whatever step.
    Workdir(place / "d").rewind_metrics(1)
    assert "it was stopped, or it failed" in reading.read(place / "d").status


def test_what_diverged_lines_cannot_be_read(tmp_path):
    for line in ("", "{", "[]", '{"split": "diverged"}', '{"split": "diverged", "message": 3}'):
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        assert results.divergence(tmp_path / "metrics.jsonl") is None


@pytest.mark.parametrize("far, where", [(10.0, "below"), (300.0, "above")])
def test_a_line_far_from_all_others_does_not_press_them_together(far, where):
    """It stands in the caption, with its value; the others have the whole axis."""
    lines = [Line(f"rule {n}", [1, 2], [80.0 + n, 84.0 + n]) for n in range(4)]
    alone = Line("tp", [1, 2], [far, far])
    labels = [line.label for line in (*lines, alone)]
    plots = [Plot("a", "accuracy", [*lines, alone], "%"), Plot("b", "accuracy", lines, "%")]
    found = drawing.section("curves", "Curves", plots, labels)
    cut, whole = found.pictures
    assert cut.caption == f"accuracy; far {where}: tp: {far:g}" and whole.caption == "accuracy"
    assert cut.caption in cut.svg and "tp" in [key.label for key in found.keys]
    ticks = [re.findall(r">([\d.]+)</text>", one.svg) for one in (cut, whole)]
    assert ticks[0] == ticks[1] != []


@pytest.mark.parametrize("width", [80, 60])
def test_long_names_of_a_grid(tmp_path, width):
    """Every table fits, says a name in a line of its own where it can, and what all have in common once."""
    for beta in (0.1, 0.3, 0.7):
        for rate in (0.004, 0.02):
            for noise in (0.1, 0.2):
                label = f"cifar10_small_dtp-beta={beta}-feedback_lr=0.00035,{rate},0.06"
                rates, sigmas = (0.00035, rate, 0.06), (0.4, noise, 0.08)
                write_run(
                    tmp_path / f"{label}-noise=0.4,{noise},0.08" / "seed_0",
                    **{"beta": beta, "feedback_lr": rates, "noise": sigmas},
                    channels=(4, 4, 4, 4),
                    feedback_iterations=(2, 2, 2),
                )
    found = folders.find([str(tmp_path)])
    assert found.common == "cifar10_small_dtp-feedback_lr=0.00035,…,0.06-noise=0.4,…,0.08"
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    made = content(found, predictions=False, pictures=False)
    text.show(made, found.groups, Screen(console))
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= width
    assert said.replace("\n", "").count("cifar10_small_dtp") == 1
    name = "beta=0.7-feedback_lr=0.02-noise=0.2"
    assert f"│ {name} " in said.partition("Differences")[0]
    _, _, apart = said.partition("What sets the configs apart")
    assert "…,0.02,…" in apart and "0.00035" not in apart.partition("All other fields")[0]
    assert "… stands for what is equal in all." in re.sub(r"\s+", " ", apart)
