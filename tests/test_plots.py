"""Pictures: what a reader finds in a figure drawn from arrays."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dtp_jax.plots import style
from dtp_jax.plots.bars import Series, draw_bars
from dtp_jax.plots.panels import Line, Panel, draw_panels

NAN = float("nan")


def drawn(figure):
    """The figure as a canvas has drawn it: constrained layout has placed everything."""
    figure.canvas.draw()
    return figure


def texts(axis):
    return [text.get_text() for text in axis.texts]


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
    assert texts(axis) == (["0"] if log else ["0", "1e-06"])
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
    panels = [Panel("y", [Line("l", [0, 1], [0, 1])], title=f"p{n}") for n in range(5)]
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


def test_a_legend_stays_in_the_picture():
    names = [f"a rule with quite a long name, number {n}" for n in range(11)]
    figure = drawn(draw_bars(["x", "y"], [Series(name, [1, 2]) for name in names], "y"))
    assert inside(figure, figure.legends[0])
    figure = drawn(draw_panels([Panel("y", [Line(name, [0], [0]) for name in names])], "x"))
    assert inside(figure, figure.legends[0])
