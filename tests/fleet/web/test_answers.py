"""What devices answer, as tables."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.web.answers import answer_tables


def test_facts_figures_and_what_was_done_by_hand_are_tables() -> None:
    facts, health, audit = answer_tables(
        {"facts": ["arch:x86_64"], "health": {"load": 0.3}, "audit": [[1.7e9, "operator: lock"]]}
    )
    assert (facts.title, facts.columns, facts.rows) == ("facts", ("value",), (("arch:x86_64",),))
    assert (health.columns, health.rows) == (("what", "value"), (("load", "0.3"),))
    assert (audit.columns, audit.rows) == (
        ("when (UTC)", "what"),
        (("2023-11-14 22:13:20", "operator: lock"),),
    )


def test_of_many_events_the_last_are_shown_and_boxes_are_left_out() -> None:
    [events] = answer_tables({"events": [{"type": "zone", "n": i, "box": [0, 1]} for i in range(250)]})
    assert (len(events.rows), events.left_out) == (200, 50)
    assert events.rows[-1] == ('{"type": "zone", "n": 249}',)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=15,
)


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=14))
def test_whatever_a_device_answers_is_bounded_and_rectangular(result: dict[str, Any]) -> None:
    tables = answer_tables(result)
    assert len(tables) <= 12
    for t in tables:
        assert all(len(row) == len(t.columns) for row in t.rows)
        assert all(len(cell) <= 300 for row in t.rows for cell in row)


def test_long_text_is_cut() -> None:
    [table] = answer_tables({"x": {"y": "w" * 900}})
    assert len(table.rows[0][1]) == 300
