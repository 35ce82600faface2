"""What comes back from the broker on our own topics: ours, of before, or somebody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.broker.retained import Arrival, RetainedTopics


def test_deleted_and_overwritten_messages_are_due_at_once() -> None:
    for other in (b"", b"somebody else's"):
        kept = RetainedTopics()
        kept.sent("t", b"ours", 0.0)
        assert kept.arrival_of("t", b"ours", 0.1) is Arrival.OURS
        assert kept.due(1.0) == []
        assert kept.arrival_of("t", other, 5.0) is Arrival.OTHER
        assert kept.due(5.0) == ["t"]
        assert kept.due(5.0) == []


def test_what_lay_there_before_we_spoke_is_nobodys_fault() -> None:
    kept = RetainedTopics()
    assert kept.arrival_of("t", b"of the last run", 0.0) is Arrival.EARLY
    kept.sent("t", b"ours", 1.0)
    assert kept.arrival_of("t", b"of the last run", 1.1) is Arrival.OVERTAKEN
    assert kept.arrival_of("t", b"ours", 1.2) is Arrival.OURS
    kept.connected()
    assert kept.arrival_of("t", b"", 2.0) is Arrival.EARLY
    assert kept.due(100.0) == []


def test_echo_that_never_comes_blinds_nobody_for_long() -> None:
    kept = RetainedTopics()
    kept.sent("t", b"ours", 0.0)
    assert kept.arrival_of("t", b"", 1.0) is Arrival.OVERTAKEN
    assert kept.arrival_of("t", b"", 30.0) is Arrival.OTHER


@given(st.lists(st.sampled_from([b"1", b"2", b"3"]), min_size=1, max_size=20))
def test_our_own_messages_are_never_taken_for_another_ones(messages: list[bytes]) -> None:
    kept = RetainedTopics()
    for message in messages:
        kept.sent("t", message, 0.0)
    for message in messages:
        assert kept.arrival_of("t", message, 0.1) is Arrival.OURS
    assert kept.arrival_of("t", messages[-1], 0.2) is Arrival.OURS


def test_two_who_overwrite_each_other_do_not_fill_the_network() -> None:
    kept = RetainedTopics()
    sent, now = 0, 0.0
    kept.sent("t", b"ours", now)
    kept.arrival_of("t", b"ours", now)
    while now < 600.0:
        kept.arrival_of("t", b"theirs", now)
        for topic in kept.due(now):
            sent += 1
            kept.sent(topic, b"ours", now)
            kept.arrival_of(topic, b"ours", now)
        now += 0.1
    assert 10 < sent < 30


def test_put_back_by_hand_is_not_put_back_once_more() -> None:
    kept = RetainedTopics()
    kept.sent("t", b"ours", 0.0)
    kept.arrival_of("t", b"ours", 0.0)
    kept.arrival_of("t", b"", 1.0)
    kept.sent("t", b"newer", 1.1)
    assert kept.due(2.0) == []
