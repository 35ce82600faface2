"""What is drawn is what was measured."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dashboard import histogram

from edgectl.core.histogram import Histogram
from edgectl.fleet.web.charts import HEIGHT, WIDTH, histogram_chart, percentiles, scatter, strip


def area(path: str) -> list[tuple[float, float]]:
    """Height and right end of each step."""
    return [(float(y), float(x)) for y, x in re.findall(r"V([0-9.]+)H([0-9.]+)", path)]


def test_nothing_measured_is_no_picture() -> None:
    assert histogram_chart([("a", Histogram())]) is None
    assert histogram_chart([]) is None


def test_percentiles_are_those_of_the_histogram_and_few_samples_have_none() -> None:
    h = histogram(5.0)
    p = percentiles("a", h)
    assert (p.n, p.p50, p.p90, p.p95, p.p99) == (800, *(h.percentile_ms(x) for x in (50, 90, 95, 99)))
    few = percentiles("b", histogram(5.0, n=70))
    assert few.p90 is not None
    assert few.p99 is None


def test_a_twice_slower_engine_is_as_far_to_the_right_wherever_it_stands() -> None:
    """The axis is logarithmic."""
    chart = histogram_chart([("a", histogram(4.0)), ("b", histogram(8.0)), ("c", histogram(16.0))])
    assert chart is not None
    a, b, c = (s.marks[0].x for s in chart.series)
    assert b - a == pytest.approx(c - b, abs=4)
    assert b - a > 50
    assert [m.text.split()[0] for m in chart.series[0].marks] == ["p50", "p90", "p99"]


def test_the_picture_says_in_words_what_it_shows() -> None:
    chart = histogram_chart([("before", histogram(4.0)), ("after", histogram(8.0, n=3))])
    assert chart is not None
    assert re.fullmatch(
        r"before: 800 samples, p50 [0-9.]+ ms, p90 [0-9.]+ ms, p99 [0-9.]+ ms; after: 3 samples, too few to say a percentile",
        chart.description,
    )


def test_ticks_are_round_and_inside() -> None:
    chart = histogram_chart([("a", histogram(5.0))])
    assert chart is not None
    assert {"2", "5", "10"} & {t.text for t in chart.ticks}
    assert all(chart.left <= t.at <= chart.right for t in chart.ticks)


@given(st.lists(st.floats(0, 1e10), min_size=1, max_size=60))
def test_whatever_was_measured_stays_inside_the_picture(values: list[float]) -> None:
    h = Histogram()
    for v in values:
        h.record(v)
    chart = histogram_chart([("a", h)])
    assert chart is not None
    steps = area(chart.series[0].path)
    assert 0 < len(steps) <= 128
    assert all(0 <= y <= HEIGHT and 0 <= x <= WIDTH for y, x in steps)
    assert min(y for y, _ in steps) == pytest.approx(chart.top, abs=0.1), "the tallest fills it"
    assert chart.ticks
    assert all(chart.left <= m.x <= chart.right for s in chart.series for m in s.marks)


def test_the_areas_of_a_bar_add_up() -> None:
    b = strip({"fine": 6, "away": 0, "trouble": 2})
    assert [(kind, x, w, n) for kind, x, w, n in b.parts] == [
        ("fine", 0.0, 75.0, 6),
        ("trouble", 75.0, 25.0, 2),
    ]
    assert b.description == "6 fine, 2 trouble"
    assert strip({"fine": 1}, 4).parts == (("fine", 0.0, 25.0, 1),)
    assert strip({}).parts == ()
    assert strip({}).description == "none"


def test_a_better_variant_is_lower_and_further_left() -> None:
    s = scatter([("float", 10.0, 0.0, "float32"), ("int8", 4.0, 0.004, "int8")])
    assert s is not None
    float_, int8 = s.points
    assert int8.x < float_.x
    assert int8.y < float_.y, "a larger drop is higher up"
    assert (float_.right, int8.right) == (False, True)


@given(st.lists(st.tuples(st.floats(1e-3, 1e4), st.floats(-0.5, 1)), min_size=1, max_size=20))
def test_every_variant_is_inside_the_picture(points: list[tuple[float, float]]) -> None:
    s = scatter([("v", x, y, "int8") for x, y in points])
    assert s is not None
    assert all(s.left <= p.x <= s.right and 0 <= p.y <= HEIGHT for p in s.points)
    assert all(math.isfinite(t.at) for t in (*s.x_ticks, *s.y_ticks))
    assert 2 <= len(s.y_ticks) <= 12


def test_no_variant_is_no_picture() -> None:
    assert scatter([]) is None
