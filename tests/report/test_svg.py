"""The charts alone: valid XML, the same every time, true to the numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.report import svg

from .example_runs import HOSTILE

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TAG = "{http://www.w3.org/2000/svg}"


def lines(label: str = "train") -> str:
    series = [svg.Series(label, ((1, 0.5), (2, 0.4)), "dashed"), svg.Series("val", ((1, 0.6), (2, 0.41)))]
    return svg.line_chart(series, title=label, desc=label, key="k", x_label=label)


def bars(label: str = "ants") -> str:
    return svg.bar_chart(
        [svg.Bar(label, (3, 1, 2), label)], title=label, desc=label, key="k", parts=(label, "val", "test")
    )


def plot(label: str = "model") -> str:
    rows = [svg.Row(label, (svg.Mark(0.9, 0.85, 0.94), svg.Mark(0.8, style="plain")), label)]
    return svg.interval_plot(rows, title=label, desc=label, key="k")


def heat(label: str = "a") -> str:
    return svg.heat_table([[3, 1], [0, 4]], labels=(label, label), title=label, desc=label, key="k")


CHARTS = (lines, bars, plot, heat)


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("name", HOSTILE)
def test_every_chart_is_valid_xml_whatever_the_name(chart: Callable[[str], str], name: str) -> None:
    root = ET.fromstring(chart(name).encode("utf-8"))
    assert {node.tag.removeprefix(TAG) for node in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "text",
        "line",
        "rect",
        "circle",
        "polyline",
        "g",
        "defs",
        "pattern",
    }
    assert not [key for node in root.iter() for key in node.attrib if key.startswith("on")]


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_has_a_title_and_a_description_that_its_label_points_to(chart: Callable[[], str]) -> None:
    root = ET.fromstring(chart())
    ids = {node.get("id"): node.tag for node in root}
    assert root.get("role") == "img"
    assert [ids[key] for key in root.get("aria-labelledby", "").split()] == [f"{TAG}title", f"{TAG}desc"]


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_the_same_each_time(chart: Callable[[], str]) -> None:
    assert chart() == chart()


def test_nothing_to_draw_gives_an_empty_text() -> None:
    facts = {"title": "t", "desc": "d", "key": "k"}
    assert svg.line_chart([svg.Series("a", ())], **facts, x_label="x") == ""
    assert svg.bar_chart([], **facts) == ""
    assert svg.interval_plot([svg.Row("a", ())], **facts) == ""
    assert svg.heat_table([], labels=(), **facts) == ""


@settings(max_examples=200, deadline=None)
@given(FINITE, FINITE, st.booleans())
def test_ticks_are_few_ascending_and_cover_the_range(a: float, b: float, whole: bool) -> None:
    ticks = svg.nice_ticks(a, b, whole=whole)
    low, high = min(a, b), max(a, b)
    slack = 1e-6 * max(abs(low), abs(high), 1e-300)
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(ticks)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


def test_ticks_are_round() -> None:
    assert svg.nice_ticks(0.53, 0.97) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert svg.nice_ticks(1, 12, whole=True) == [0, 2, 4, 6, 8, 10, 12]
    assert svg.nice_ticks(3, 3, whole=True)[0] == 2
    assert svg.nice_ticks(0, 3e-13)[-1] >= 3e-13
    assert svg.nice_ticks(2e300, 1) == [1, 2e300]
    assert svg.nice_ticks(0, 0) == svg.nice_ticks(-1, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=6))
def test_a_line_chart_of_any_finite_numbers_stays_inside_its_frame(points: list[tuple[float, float]]) -> None:
    chart = svg.line_chart([svg.Series("a", tuple(points))], title="t", desc="d", key="k", x_label="x")
    for dot in ET.fromstring(chart).iter(f"{TAG}circle"):
        assert -1 <= float(dot.get("cx", "nan")) <= svg.WIDTH + 1
        assert 10 <= float(dot.get("cy", "nan")) <= 222


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    chart = svg.line_chart([svg.Series("a", ((1, 0.2), (2, 0.9)))], title="t", desc="d", key="k", x_label="x")
    first, second = [(float(d.get("cx", 0)), float(d.get("cy", 0))) for d in ET.fromstring(chart).iter(f"{TAG}circle")]
    assert second[0] > first[0]
    assert second[1] < first[1]


def test_lines_that_end_together_have_labels_that_do_not_overlap() -> None:
    series = [svg.Series(name, ((1, 0.5), (2, 0.9))) for name in ("a", "b", "c")]
    root = ET.fromstring(svg.line_chart(series, title="t", desc="d", key="k", x_label="x"))
    heights = sorted(float(t.get("y", 0)) for t in root.iter(f"{TAG}text") if "label" in t.get("class", ""))
    assert all(b - a >= 14.9 for a, b in pairwise(heights))


def test_labels_at_the_bottom_edge_are_pushed_up_and_not_out() -> None:
    series = [svg.Series(name, ((1, 0.5), (2, 0.0))) for name in ("a", "b")]
    root = ET.fromstring(svg.line_chart(series, title="t", desc="d", key="k", x_label="x"))
    heights = [float(t.get("y", 0)) for t in root.iter(f"{TAG}text") if "label" in t.get("class", "")]
    assert max(heights) <= 225


def test_lines_are_told_apart_without_colour() -> None:
    styles = [node.get("class") for node in ET.fromstring(lines()).iter(f"{TAG}polyline")]
    assert styles == ["series dashed", "series solid"]


def test_a_single_point_has_its_own_tick() -> None:
    chart = svg.line_chart([svg.Series("a", ((7, 0.5),))], title="t", desc="d", key="k", x_label="x")
    assert ">7</text>" in chart


def test_many_points_are_drawn_without_dots_and_a_reference_too() -> None:
    many = svg.Series("a", tuple((x, x / 100) for x in range(100)))
    reference = svg.Series("b", ((0, 0.5), (99, 0.5)), "dotted")
    assert "<circle" not in svg.line_chart([many, reference], title="t", desc="d", key="k", x_label="x")


def test_wide_tick_labels_thin_the_ticks() -> None:
    series = [svg.Series("a", ((1_000_000, 1), (9_000_000, 2)))]
    root = ET.fromstring(svg.line_chart(series, title="t", desc="d", key="k", x_label="x"))
    assert len([t for t in root.iter(f"{TAG}text") if "," in (t.text or "")]) <= 4


def test_bars_are_as_long_as_their_numbers() -> None:
    rows = [svg.Bar("a", (10,), "10"), svg.Bar("b", (5,), "5"), svg.Bar("c", (0,), "0")]
    root = ET.fromstring(svg.bar_chart(rows, title="t", desc="d", key="k"))
    widths = [float(r.get("width", 0)) for r in root.iter(f"{TAG}rect") if r.get("class") == "part0"]
    assert len(widths) == 2
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)


def test_an_interval_plot_of_shares_ends_at_one() -> None:
    for low in (0.0, 0.3, 0.55, 0.71, 0.9, 0.983):
        rows = [svg.Row("a", (svg.Mark(1.0, low, 1.0),))]
        chart = svg.interval_plot(rows, title="t", desc="d", key="k")
        assert float([t.text for t in ET.fromstring(chart).iter(f"{TAG}text")][-1] or "nan") == 1


def test_a_value_without_bounds_is_a_mark_without_a_line() -> None:
    chart = svg.interval_plot([svg.Row("a", (svg.Mark(0.5),))], title="t", desc="d", key="k")
    assert 'class="span' not in chart
    assert "<circle" in chart


def test_a_heat_table_shades_by_the_share_of_the_row_and_leaves_zeros_out() -> None:
    root = ET.fromstring(heat())
    cells = [(r.get("class"), r.get("fill-opacity")) for r in root.iter(f"{TAG}rect") if r.get("fill-opacity")]
    assert cells == [("right", "0.80"), ("wrong", "0.40"), ("right", "1.00")]


def test_a_heat_table_without_enough_names_shows_question_marks() -> None:
    assert "true ?, predicted ?" in svg.heat_table([[0, 0], [1, 2]], labels=("a",), title="t", desc="d", key="k")


def test_a_meter_never_leaves_its_track() -> None:
    widths = [list(ET.fromstring(svg.meter(v)))[1].get("width") for v in (None, -1, 0.5, 7)]
    assert widths == ["0", "0", "24", "48"]


def test_text_is_cut_only_where_it_does_not_fit() -> None:
    assert svg.fit("short", 100) == "short"
    assert svg.fit("n" * 240, 100).endswith("…")
    assert len(svg.fit("漢" * 40, 100)) < len(svg.fit("n" * 40, 100))


def test_tick_labels_have_only_the_decimals_they_need() -> None:
    assert svg.tick_labels([0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert svg.tick_labels([-1000, 0, 1000]) == ["−1,000", "0", "1,000"]
    assert svg.tick_labels([0, 2e7]) == ["0", "2e+07"]
    assert svg.tick_labels([1 / 3, 1 / 3 + 1e-9]) == ["0.333", "0.333"]


@pytest.mark.parametrize("label", ["ants", "a", "t-shirt", "蚂蚁", "1234567890"])
def test_a_short_label_of_a_bar_is_shown_whole(label: str) -> None:
    drawn = svg.bar_chart([svg.Bar(label, (3.0,), "3")], title="t", desc="d", key="k")
    assert f">{label}</text>" in drawn
    assert "…" not in drawn
