"""The charts that answer one question: valid XML, true to the numbers, no meaning on colour alone."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headstart.report import diagrams
from headstart.report.diagrams import Bin, Lane, Sample

from .example_runs import HOSTILE

TAG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SHARE = st.floats(0, 1)
FACTS = {"title": "t", "desc": "d", "key": "k"}


def forest(name: str = "frozen") -> str:
    lanes = [Lane(name, 0.95, (0.92, 0.97), "0.950", kind="chosen"), Lane(name, 0.94, None, "0.940")]
    early = [Lane(name, 0.6, (0.5, 0.7), "0.600", note=name, kind="stopped")]
    return diagrams.forest([(name, lanes), (name, early)], title=name, desc=name, key="k")


def reliability(name: str = "t") -> str:
    return diagrams.reliability(
        [Bin(0.6, 0.4, 10), Bin(0.9, 0.95, 40), Bin(0.7, 0.7, 0)], title=name, desc=name, key="k"
    )


def forecast(name: str = "images") -> str:
    measured = [Sample(10, 0.8, 0.7, 0.85), Sample(100, 0.9, 0.88, 0.92)]
    band = [Sample(x, 0.9, 0.85, 0.95) for x in (200, 10, 100)]
    return diagrams.forecast_chart(measured, band=band, title=name, desc=name, key="k", x_label=name)


def strip(name: str = "t") -> str:
    return diagrams.strip([0.9, 0.9, 0.92], mean=0.907, title=name, desc=name, key="k")


def quadrant(name: str = "frozen") -> str:
    return diagrams.quadrant(small=True, similar=True, advised=name, title=name, desc=name, key="k")


def dots(chart: str) -> list[dict[str, str]]:
    return [dict(node.attrib) for node in ET.fromstring(chart).iter(f"{TAG}circle")]


@pytest.mark.parametrize("chart", [forest, reliability, forecast, strip, quadrant])
@pytest.mark.parametrize("name", HOSTILE)
def test_every_chart_is_valid_xml_with_a_title_whatever_the_name(chart: object, name: str) -> None:
    assert callable(chart)
    root = ET.fromstring(chart(name).encode("utf-8"))
    assert [node.tag for node in root][:2] == [f"{TAG}title", f"{TAG}desc"]
    assert not [key for node in root.iter() for key in node.attrib if key.startswith("on")]
    assert not {node.tag.removeprefix(TAG) for node in root.iter()} & {"script", "image", "foreignObject", "a", "style"}


def test_nothing_to_draw_gives_an_empty_text() -> None:
    assert diagrams.forest([("Finalists", [])], **FACTS) == ""
    assert diagrams.reliability([Bin(0.5, 0.5, 0)], **FACTS) == ""
    assert diagrams.forecast_chart([], band=[Sample(1, 0.5)], **FACTS, x_label="n") == ""
    assert diagrams.strip([], mean=0.5, **FACTS) == ""


def test_the_chosen_candidate_is_filled_named_and_has_a_line_through_it() -> None:
    chart = forest()
    assert [dot["class"] for dot in dots(chart)] == ["dot filled", "dot hollow", "dot dashed"]
    assert chart.count("✓ chosen") == 1
    reference = next(node for node in ET.fromstring(chart).iter(f"{TAG}line") if node.get("class") == "reference")
    assert reference.get("x1") == dots(chart)[0]["cx"]


def test_better_candidates_stand_further_right_and_whiskers_end_at_the_bounds() -> None:
    chart = diagrams.forest([("g", [Lane("a", 0.5, (0.25, 1.0)), Lane("b", 0.0), Lane("c", 1.0)])], **FACTS)
    middle, left, right = (float(dot["cx"]) for dot in dots(chart))
    assert left < middle < right
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    spans = [node for node in ET.fromstring(chart).iter(f"{TAG}line") if "span" in node.get("class", "")]
    assert float(spans[0].get("x1", 0)) == pytest.approx(left + (right - left) / 4, abs=0.1)
    assert float(spans[0].get("x2", 0)) == pytest.approx(right, abs=0.1)


def test_a_long_reason_is_cut_in_the_chart_and_whole_in_its_title() -> None:
    reason = "slower than the others and " * 8
    chart = diagrams.forest([("g", [Lane("a", 0.5, note=reason, kind="stopped")])], **FACTS)
    titles = [node.text for node in ET.fromstring(chart).iter(f"{TAG}title")]
    assert any(reason.strip() in (title or "") for title in titles)
    assert "…</text>" in chart


def test_bins_without_answers_are_not_drawn_and_larger_bins_have_larger_dots_and_higher_bars() -> None:
    chart = reliability()
    small, large = dots(chart)
    assert float(large["r"]) > float(small["r"])
    bars = [float(node.get("height", 0)) for node in ET.fromstring(chart).iter(f"{TAG}rect")]
    assert bars[1] == pytest.approx(4 * bars[0], abs=0.2)


def test_on_the_diagonal_a_bin_has_no_stroke_and_below_it_a_downward_one() -> None:
    def stroke(right: float) -> float:
        chart = diagrams.reliability([Bin(0.6, right, 5)], **FACTS)
        off = next(node for node in ET.fromstring(chart).iter(f"{TAG}line") if node.get("class") == "off")
        return float(off.get("y1", 0)) - float(off.get("y2", 0))

    assert stroke(0.6) == 0
    assert stroke(0.4) > 0
    assert stroke(0.8) < 0


def test_what_nobody_has_measured_is_shaded_and_named_and_nothing_else_is() -> None:
    chart = forecast()
    shaded = next(node for node in ET.fromstring(chart).iter(f"{TAG}rect") if node.get("class") == "ahead")
    assert float(shaded.get("x", 0)) == pytest.approx(float(dots(chart)[-1]["cx"]), abs=0.1)
    assert ">measured</text>" in chart
    assert ">forecast</text>" in chart
    alone = diagrams.forecast_chart([Sample(10, 0.5), Sample(20, 0.6)], band=[], **FACTS, x_label="n")
    assert "ahead" not in alone
    assert ">forecast<" not in alone
    assert "<polygon" not in alone


def test_the_band_is_drawn_in_order_of_the_number_of_images() -> None:
    polyline = next(ET.fromstring(forecast()).iter(f"{TAG}polyline"))
    xs = [float(point.split(",")[0]) for point in polyline.get("points", "").split()]
    assert xs == sorted(xs)


@pytest.mark.parametrize(("small", "similar", "place"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)])
def test_one_of_four_cells_is_the_own_one_and_holds_the_advice(small: int, similar: int, place: int) -> None:
    chart = diagrams.quadrant(small=bool(small), similar=bool(similar), advised="frozen", **FACTS)
    cells = [node.get("class") for node in ET.fromstring(chart).iter(f"{TAG}rect")]
    assert [index for index, name in enumerate(cells) if name == "cell own"] == [place]
    assert chart.count("advised: frozen") == 1
    own = f"{'few' if small else 'many'} images, {'similar' if similar else 'different'}"
    assert f'class="strong" text-anchor="start">{own}<' in chart


def test_equal_values_stand_on_each_other_and_hide_nothing() -> None:
    places = {(dot["cx"], dot["cy"]) for dot in dots(strip())}
    assert len(places) == 3


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE, FINITE), min_size=1, max_size=6))
def test_dots_stay_inside_whatever_the_numbers(rows: list[tuple[float, float, float]]) -> None:
    charts = [
        diagrams.forest([("g", [Lane("a", v, (a, b)) for v, a, b in rows])], **FACTS),
        diagrams.reliability([Bin(a, b, abs(c) + 1) for a, b, c in rows], **FACTS),
        diagrams.forecast_chart([Sample(abs(a), b) for a, b, _ in rows], band=[], **FACTS, x_label="n"),
        diagrams.strip([a for a, _, _ in rows], mean=rows[0][1], **FACTS),
    ]
    for chart in charts:
        for dot in dots(chart):
            assert -1 <= float(dot["cx"]) <= 401
            assert float(dot["cy"]) >= 0


@settings(max_examples=60, deadline=None)
@given(st.lists(SHARE, min_size=1, max_size=300))
@example([0.0, 5e-324])  # a span of which half is nothing
def test_a_strip_of_many_values_does_not_grow_without_bound(values: list[float]) -> None:
    root = ET.fromstring(diagrams.strip(values, mean=None, **FACTS))
    assert len(list(root.iter(f"{TAG}circle"))) == len(values)
    assert float(root.get("viewBox", "").split()[3]) < 250
