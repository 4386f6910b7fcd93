"""Pictures: what a reader finds in a figure drawn from arrays."""

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.legend import Legend
from matplotlib.text import Text

from dtp_jax.compare import pictures
from dtp_jax.compare import report as comparison
from dtp_jax.compare.reading import Reading
from dtp_jax.figures import drawing
from dtp_jax.plots import style
from dtp_jax.plots.bars import Series, draw_bars
from dtp_jax.plots.curves import Curve, Group, draw_groups, mean_and_spread
from dtp_jax.plots.ends import spread
from dtp_jax.plots.labels import plus_minus, short_labels
from dtp_jax.plots.panels import Line, Panel, draw_panels
from dtp_jax.report import figures, words

NAN = float("nan")


def drawn(figure):
    """The figure as it would be saved: constrained layout has placed everything."""
    figure.draw_without_rendering()
    return figure


def texts(axis):
    return [text.get_text() for text in axis.texts]


def names_at_the_margin(axis):
    return [child for child in axis.get_children() if isinstance(child, Legend)]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def inside(figure, artist):
    """Whether nothing of an artist is cut off by the edge of the figure."""
    box = artist.get_window_extent()
    return figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0


def test_bars_have_their_heights_and_places():
    series = [Series("a", [1, 2], [0.5, NAN], [3, NAN]), Series("b", [NAN, -1])]
    figure = drawn(draw_bars(["x", "y"], series, "angle, degrees", top=2))
    (axis,) = figure.axes
    bars = [(round(p.get_x() + p.get_width() / 2, 2), p.get_height()) for p in axis.patches]
    assert bars == [(-0.21, 1), (0.79, 2), (1.21, -1)]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["x", "y"]
    assert axis.get_ylabel() == "angle, degrees"
    assert legend(figure) == ["a", "b", "± one standard deviation", "published"]
    low, high = axis.get_ylim()
    assert low < -1 and high > 3  # the reference is higher than `top`


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_bars_of_many_series_look_different(count):
    figure = draw_bars(["x"], [Series(f"s{n}", [1]) for n in range(count)], "y")
    looks = {(to_hex(p.get_facecolor()), p.get_hatch()) for p in figure.axes[0].patches}
    assert len(looks) == count
    ends = [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches]
    assert all(end < start for (_, end), (start, _) in zip(ends, ends[1:], strict=False))
    assert bool(figure.legends) == (count > 1)


@pytest.mark.parametrize("log", [False, True])
def test_short_bars_are_seen(log):
    """A bar of length 0 is a line of its colour on the axis, with its value above; a gap has none."""
    values = [0, 1e-6, 90, NAN] if not log else [0, 90, NAN]
    (axis,) = drawn(
        draw_bars(list("abcd")[: len(values)], [Series("s", values)], "y", log=log)
    ).axes
    assert texts(axis) == (["0"] if log else ["0.0", "0.0"])
    (lines,) = axis.collections[:1]
    assert len(lines.get_segments()) == len(values) - 1 and not lines.get_clip_on()
    assert to_hex(lines.get_color()[0]) == style.COLORS[0].lower()


def test_a_series_of_another_length_is_refused():
    with pytest.raises(ValueError, match="means of 'a' has 1 values; allowed: 2, one per group"):
        draw_bars(["x", "y"], [Series("a", [1])], "y")
    with pytest.raises(ValueError, match="spreads of 'a' has 1 values; allowed: 2"):
        draw_bars(["x", "y"], [Series("a", [1, 2], [3])], "y")
    with pytest.raises(ValueError, match="1 groups, 0 series; allowed: 1 or more"):
        draw_bars(["x"], [], "y")


def test_77_lines_have_looks_of_their_own():
    looks = [(style.line_style(n)["color"], style.markers(n, 1)["marker"]) for n in range(77)]
    assert len(set(looks)) == 77


def test_lines_look_alike_in_all_panels_and_unlike_each_other():
    lines = [Line(f"l{n}", [0, 1], [n, n + 1]) for n in range(12)]
    figure = draw_panels([Panel("a", lines), Panel("b", lines[::-1])], "x")
    looks = [
        {
            line.get_label(): (line.get_color(), line.get_linestyle(), line.get_marker())
            for line in axis.get_lines()
        }
        for axis in figure.axes
    ]
    assert looks[0] == looks[1] and len(set(looks[0].values())) == 12
    assert legend(figure) == [line.label for line in lines]


def test_a_band_reaches_so_many_deviations():
    line = Line("l", [0, 1, 2], [5, 4, NAN], [1, 0.5, 1])
    (axis,) = draw_panels([Panel("y", [line, Line("short", [0], [7.0])])], "x", band=3).axes
    (band,) = axis.collections
    corners = {(x, y) for path in band.get_paths() for x, y in path.vertices.round(6)}
    assert {(0, 2), (0, 8), (1, 2.5), (1, 5.5)} == corners
    low, high = axis.get_ylim()
    assert 3.5 < low < 4 and 7 < high < 7.5


def test_a_logarithmic_panel_shows_what_is_above_0():
    line = Line("l", [0, 1, 2], [1e-3, 0, 10], [1, 1, 1])
    (axis,) = draw_panels([Panel("loss", [line], log=True, limits=(None, 100))], "x").axes
    assert axis.get_yscale() == "log"
    low, high = axis.get_ylim()
    assert 1e-4 < low < 1e-3 and high == 100
    np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), [1e-3, NAN, 10])


def test_panels_are_rows_with_one_label_below_each_column():
    panels = [Panel("y", [Line("", [0, 1], [0, 1])], title=f"p{n}") for n in range(5)]
    figure = drawn(draw_panels(panels, "epoch", columns=3, title="t"))
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        *(f"p{n}" for n in range(5)),
        "",
    ]
    assert [axis.get_xlabel() for axis in figure.axes[:5]] == ["", "", "epoch", "epoch", "epoch"]
    assert not figure.legends and figure.axes[5].axison is False


def test_a_line_of_another_length_is_refused():
    with pytest.raises(ValueError, match="mean of 'l' has 1 values; allowed: 2, as x has"):
        draw_panels([Panel("y", [Line("l", [0, 1], [1])])], "x")
    with pytest.raises(ValueError, match="0 panels; allowed: 1 or more"):
        draw_panels([], "x")


def test_a_legend_stays_in_the_picture():
    names = [f"a rule with quite a long name, number {n}" for n in range(11)]
    figure = drawn(draw_bars(["x", "y"], [Series(name, [1, 2]) for name in names], "y"))
    assert inside(figure, figure.legends[0])
    figure = drawn(draw_panels([Panel("y", [Line(name, [0], [0]) for name in names])], "x"))
    assert inside(figure, figure.legends[0])


def group(label, *finals, epochs=10, note="", minutes=1.0, train=None):
    """A config whose seeds end at these accuracies."""
    curves = []
    for final in finals:
        val = {e: final - (epochs - e) / epochs for e in range(1, epochs + 1)}
        low = {e: val[e] - 5 if train is None else train for e in val}
        curves.append(Curve(low, val, {e: minutes * e for e in val}))
    return Group(label, curves, note)


ELEVEN = [group(f"rule_{n}", 80 + n / 3, 81 + n / 3) for n in range(10)] + [group("tp", 10, 10.2)]


def test_mean_and_spread_over_the_epochs_that_all_have():
    epochs, mean, spread = mean_and_spread([{1: 1.0, 2: 2.0, 4: 9.0}, {1: 3.0, 2: 2.0}])
    np.testing.assert_array_equal(epochs, [1, 2])
    np.testing.assert_array_equal(mean, [2, 2])
    np.testing.assert_allclose(spread, [2**0.5, 0])
    np.testing.assert_array_equal(mean_and_spread([{1: 5.0}])[2], [0])


@pytest.mark.parametrize("against", ["epoch", "minutes"])
def test_a_rule_at_chance_squeezes_no_other(against):
    """The axis is cut: ten rules have most of it, the eleventh is there too, with its value."""
    figure = drawn(draw_groups(ELEVEN, "title", against=against))
    upper, lower = figure.axes
    assert upper.get_ylim()[0] > 75 and lower.get_ylim()[1] < 20
    assert upper.bbox.height > 3 * lower.bbox.height
    names = [[line.get_label() for line in axis.get_lines()] for axis in figure.axes]
    assert "tp" in names[1] and "tp" not in names[0] and "rule_0" in names[0]
    low, high = lower.get_ylim()
    (line,) = (line for line in lower.get_lines() if line.get_label() == "tp")
    assert low < line.get_ydata().min() and line.get_ydata().max() < high
    (name,) = names_at_the_margin(lower)
    assert name.get_texts()[0].get_text() == "tp  10.1\u00a0±\u00a00.1"
    per_point = [np.diff(axis.get_ylim())[0] / axis.bbox.height for axis in figure.axes]
    assert per_point[1] == pytest.approx(per_point[0], rel=0.3)  # one scale


def test_the_axis_is_cut_only_where_no_line_goes():
    climbing = Group("climbing", [Curve({}, {1: 10.0, 2: 80.0})])
    assert len(draw_groups([*ELEVEN, climbing], "title").axes) == 1
    assert len(draw_groups(ELEVEN[:10], "title").axes) == 1
    train = group("t", 80, train=10.0)  # its thin line is where the gap was
    assert len(draw_groups([train, group("b", 81)], "title", training=True).axes) == 1


def test_every_line_has_its_name_at_the_margin_and_nothing_overlaps():
    figure = drawn(
        draw_groups([*ELEVEN, group("a_config_with_a_very_long_name-beta=0.5", 81)], "title")
    )
    for axis in figure.axes:
        boxes = [name.get_window_extent() for name in names_at_the_margin(axis)]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
    written = " ".join(
        name.get_texts()[0].get_text() for axis in figure.axes for name in names_at_the_margin(axis)
    )
    assert all(f"rule_{n}" in written for n in range(10)) and "81.0" in written
    looks = {
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for axis in figure.axes
        for line in axis.get_lines()
        if line.get_label().startswith(("rule", "tp", "a_config"))
    }
    assert len(looks) == 12


def test_training_is_thin_where_asked():
    groups = [group("a", 80, 81), group("b", 70)]
    for training in (False, True):
        figure = draw_groups(groups, "title", training=training)
        widths = [line.get_linewidth() for line in figure.axes[0].get_lines()]
        assert widths == ([2, 0.8] * 2 if training else [2, 2])
        assert (figure.get_supxlabel().startswith("Thin: training")) == training
    np.testing.assert_allclose(figure.axes[0].get_lines()[1].get_ydata()[-1], 75.5)
    without = [Group("a", [Curve({1: 50.0}, {})])]
    axis = draw_groups(without, "title", training=True).axes[0]
    assert axis.get_ylabel() == "training accuracy, %" and len(axis.get_lines()) == 1


def test_accuracy_against_minutes():
    """Where runs differ by much, on a logarithmic axis; at the mean of the seeds' times."""
    slow = Group("slow", [Curve({}, {1: 5.0, 2: 6.0}, {1: 2.0}), Curve({}, {1: 5.0}, {1: 4.0})])
    axis = draw_groups([slow, group("fast", 80, minutes=0.01)], "title", against="minutes").axes[-1]
    assert axis.get_xscale() == "log" and axis.get_xlabel() == "minutes of training"
    (line,) = (line for line in axis.get_lines() if line.get_label() == "slow")
    np.testing.assert_array_equal(line.get_xydata(), [[3, 5]])
    same = [group("a", 80), group("b", 80)]
    assert draw_groups(same, "title", against="minutes").axes[0].get_xscale() == "linear"


def test_nothing_to_draw_is_an_empty_figure():
    drawn(draw_groups([Group("a", [Curve({}, {}), Curve({1: 1.0}, {1: 1.0})])], "title"))


@pytest.mark.parametrize(
    "labels, common, short",
    [
        (
            ["fm_small-ldrl", "fm_small-p_ddtp", "fm_small-parallel"],
            "fm_small",
            ["ldrl", "p_ddtp", "parallel"],
        ),
        (["digits_dtp", "digits_backprop"], "digits", ["dtp", "backprop"]),
        (["digits_dtp", "digits_dtp-beta=0.5"], "digits", ["dtp", "dtp-beta=0.5"]),
        (["a-b", "a-b-c"], "a", ["b", "b-c"]),
        (["ldrl", "lenet"], "", ["ldrl", "lenet"]),
        (["a-", "a-b"], "", ["a-", "a-b"]),
        (["fm_small-ldrl"], "", ["fm_small-ldrl"]),
        (["d_s-a=1-b=2", "d_s-a=1-b=3"], "d_s-a=1", ["b=2", "b=3"]),
        (["d_s-a=1", "d_s-a=1-b=3", "d_t-a=1"], "d-a=1", ["s", "s-b=3", "t"]),
        (["d_s", "d_s-a=1-b=3", "d_s-a=2"], "d", ["s", "s-a=1-b=3", "s-a=2"]),
        (
            ["d_s-lr=1e-4,2,3-k=-1", "d_s-lr=1e-4,2.5,3-k=-2"],
            "d_s-lr=1e-4,…,3",
            ["lr=2-k=-1", "lr=2.5-k=-2"],
        ),
        (["d-lr=1,2,3", "d-lr=1,4,5"], "d-lr=1,…,…", ["lr=…,2,3", "lr=…,4,5"]),
        (["d-lr=1,2-b=1", "d-lr=1,2,2-b=1"], "d-b=1", ["lr=1,2", "lr=1,2,2"]),
        (["d-lr=1,2", "d-lr=3,4"], "d", ["lr=1,2", "lr=3,4"]),
        (["d-a=1 (2)", "d-a=1"], "d", ["a=1 (2)", "a=1"]),
        (["d-a=1", "d-a=1"], "", ["d-a=1", "d-a=1"]),
        ([], "", []),
    ],
)
def test_what_all_names_have_in_common(labels, common, short):
    assert short_labels(labels) == (common, short)


def test_places_at_the_margin():
    np.testing.assert_allclose(spread([0.9, 0.5], [0.1, 0.1]), [0.9, 0.5])
    np.testing.assert_allclose(spread([0.9, 0.88, 0.5], [0.1] * 3), [0.9, 0.8, 0.5])
    np.testing.assert_allclose(spread([0.05, 0.02, 0], [0.1, 0.2, 0.1]), [0.3, 0.15, 0])
    assert len(spread([], [])) == 0


def test_names_and_titles_may_hold_anything():
    """No mathematics, and nothing that is cut off; every text is found as it was given."""
    name, title = "$\\frac{_a$ <b> & 100 % ü", "a title of many words, " * 12
    figures = [
        draw_groups([group(name, 80), group("b", 70)], title),
        draw_bars([name, "y"], [Series(name, [1, 2]), Series("b", [1, 2])], "y", title=title),
        draw_panels([Panel("y", [Line(name, [0], [0])], title=name)], "x", title=title),
    ]
    for figure in map(drawn, figures):
        shown = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert shown
        (heading,) = (t for t in figure.findobj(Text) if t.get_text().startswith("a title of"))
        assert heading.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("count", [2, 12, 40])
def test_a_legend_takes_no_room_from_what_is_drawn(count):
    """However many long names it has."""
    names = [f"beta=0.{i}-feedback_lr=0.00035,0.004,0.06-noise=0.4,0.2,0.08" for i in range(count)]
    lines = [Line(name, [0, 1], [0, 1]) for name in names]
    figures = [
        draw_panels([Panel("y", lines)], "x", title="a title of many words, " * 6),
        draw_bars(["a"], [Series(name, [1.0]) for name in names], "y", title="title"),
    ]
    for figure in map(drawn, figures):
        (legend,) = figure.legends
        box, panel = legend.get_window_extent(), figure.axes[0].get_window_extent()
        assert panel.height > 1.5 * figure.dpi and box.y1 <= panel.y0
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


def of_curves(values, monkeypatch):
    epochs, mean, deviation = mean_and_spread([{3: value} for value in values])
    assert list(epochs) == [3]
    return mean[0], deviation[0]


def of_figures(values, monkeypatch):
    jobs = {str(n): {"angle": np.array([value])} for n, value in enumerate(values)}
    found = drawing._over_seeds(SimpleNamespace(load=jobs.get), [*jobs, "unfinished"], "angle")
    assert found.seeds == len(values)
    return found.mean[0], found.std[0]


def of_bars(module, draw, monkeypatch):
    """Of the one bar that is drawn."""
    found, draw_bars_ = [], module.draw_bars

    def seen(groups, series, *args, **options):
        found.extend(series)
        return draw_bars_(groups, series, *args, **options)

    monkeypatch.setattr(module, "draw_bars", seen)
    draw()
    (series,) = found
    return series.means[0], series.spreads[0]


def of_comparisons(values, monkeypatch):
    readings = [Reading(Curve({}, {}), {}, {"fc": value}) for value in values]
    trained = [pictures.Runs("label", 0, readings, "")]
    return of_bars(pictures, lambda: pictures._updates(trained, "title"), monkeypatch)


def of_reports(values, monkeypatch):
    angles = {"label": {"fc/kernel": values}}
    return of_bars(figures, lambda: figures.update_bars(["label"], angles), monkeypatch)


@pytest.mark.parametrize("of", [of_curves, of_figures, of_comparisons, of_reports])
def test_deviations_are_those_of_a_sample(of, monkeypatch):
    """n - 1, wherever seeds are drawn."""
    values = [10.0, 13.0, 19.0]
    mean, deviation = of(values, monkeypatch)
    assert mean == pytest.approx(statistics.mean(values))
    assert deviation == pytest.approx(statistics.stdev(values))


def test_a_mean_and_its_deviation_are_written_alike():
    """By comparisons and by reports; one value has no deviation."""
    for values, written in (([1.0, 3.0], "2.00 ± 1.41"), ([2.0], "2.00")):
        deviation = statistics.stdev(values) if len(values) > 1 else None
        spread = comparison.Spread(statistics.mean(values), deviation)
        assert comparison._spread(spread) == words.spread(values) == written
    assert plus_minus(3.024, NAN, ".3g", ".2g") == "3.02"
    assert plus_minus(17.04, 0.123, ".3g", ".2g") == "17 ± 0.12"
