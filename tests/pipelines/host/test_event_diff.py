"""Which events two configurations have in common."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.host.event_diff import compare
from edgectl.pipelines.stream.events import Event


def event(t: float, rule: str = "r", track: int = 1) -> Event:
    return Event("zone", t, "enter", rule, {"track": track})


def test_an_event_that_moves_a_little_is_the_same_and_one_of_another_object_is_not() -> None:
    diff = compare([event(1), event(5), event(9)], [event(1.4), event(5, track=2), event(12)], within_s=1)
    assert diff.both == ((event(1), event(1.4)),)
    assert diff.gone == (event(5), event(9))
    assert diff.new == (event(5, track=2), event(12))


def test_each_event_has_one_partner() -> None:
    diff = compare([event(1)], [event(0.5), event(1), event(1.5)], within_s=1)
    assert diff.both == ((event(1), event(0.5)),)
    assert len(diff.new) == 2


events = st.lists(
    st.builds(event, st.floats(0, 20), st.sampled_from(["a", "b"]), st.integers(1, 2)), max_size=30
)


@given(events, events, st.floats(0, 3))
def test_nothing_is_lost_or_told_twice(before: list[Event], now: list[Event], within_s: float) -> None:
    diff = compare(before, now, within_s=within_s)

    def bag(some: list[Event]) -> Counter[tuple[float, str | None, int]]:
        return Counter((e.t_s, e.rule, e.data["track"]) for e in some)

    assert bag([b for b, _ in diff.both] + list(diff.gone)) == bag(before)
    assert bag([n for _, n in diff.both] + list(diff.new)) == bag(now)
    assert all(abs(b.t_s - n.t_s) <= within_s + 1e-9 and b.rule == n.rule for b, n in diff.both)
    same = compare(before, before, within_s=within_s)
    assert not same.gone
    assert not same.new
