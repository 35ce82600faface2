"""Who is there, by what was heard: silence, two machines with one identity, and a controller that hears
nothing itself."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.wire import Conn
from edgectl.fleet.control.presence import MISSED, Claims

P = 30.0
"""The period that devices promise, seconds."""


def birth(instance: str | None, epoch: int = 1, period: float | None = P) -> Conn:
    return Conn(epoch=epoch, online=True, instance=instance, heartbeat_s=period)


def test_device_that_is_silent_for_longer_than_it_promised_is_away_within_two_periods() -> None:
    claims = Claims()
    claims.birth(birth("a"), 100.0)
    assert claims.silence(0.0, 100.0 + P) is None
    assert claims.silence(0.0, 100.0 + MISSED * P) is not None
    assert claims.current is None
    assert MISSED < 2


def test_any_message_is_evidence() -> None:
    claims = Claims()
    claims.birth(birth("a"), 100.0)
    claims.sign(130.0)
    assert claims.silence(0.0, 130.0 + P) is None


def test_silence_counts_only_while_the_controller_hears() -> None:
    """It was away itself for an hour, or its broker was: nobody is away before a period has passed in
    which he could have been heard."""
    claims = Claims()
    claims.birth(birth("a"), 100.0)
    assert claims.silence(since_s=4000.0, until_s=4000.0 + P) is None
    assert claims.silence(since_s=4000.0, until_s=4000.0 + MISSED * P) is not None


def test_agent_of_an_older_build_promises_nothing_and_is_never_silent_for_too_long() -> None:
    claims = Claims()
    claims.birth(birth(None, period=None), 0.0)
    assert claims.silence(0.0, 1e6) is None
    assert claims.current is not None


def test_restart_is_one_machine() -> None:
    claims = Claims()
    claims.birth(birth("a", 1), 0.0)
    assert claims.birth(birth("b", 2), 5.0)
    assert not claims.death("a"), "the will of the start before it comes late"
    assert claims.rivals == []
    assert claims.current is not None
    assert claims.current.conn.instance == "b"


def test_update_of_an_agent_that_did_not_name_its_starts_is_one_machine() -> None:
    claims = Claims()
    claims.birth(birth(None, 1, period=None), 0.0)
    claims.birth(birth("b", 2), 5.0)
    claims.sign(20.0)
    assert claims.silence(0.0, 20.0 + P) is None, "it is the only one, so any message is its own"


def test_copy_of_a_disk_is_seen_once_both_have_spoken_and_the_true_one_counts_again_when_it_goes() -> None:
    claims = Claims()
    claims.birth(birth("true", 5), 0.0)
    claims.birth(birth("copy", 6), 10.0)
    assert claims.rivals == [], "it may be a restart"
    assert not claims.birth(birth("true", 5), 30.0), "the last to start counts"
    assert [c.conn.instance for c in claims.rivals] == ["copy", "true"]
    assert claims.death("copy")
    assert claims.current is not None
    assert claims.current.conn.instance == "true"
    assert claims.rivals == []


def test_copy_that_vanishes_without_a_word_gives_way_too() -> None:
    claims = Claims()
    claims.birth(birth("true", 5), 0.0)
    claims.birth(birth("copy", 6), 10.0)
    claims.birth(birth("true", 5), 30.0)
    claims.birth(birth("true", 5), 55.0)
    lost = claims.silence(0.0, 60.0)
    assert lost is not None
    assert lost.conn.instance == "copy"
    assert claims.current is not None
    assert claims.current.conn.instance == "true"


def test_message_that_names_no_instance_is_no_evidence_where_two_machines_speak() -> None:
    claims = Claims()
    claims.birth(birth("true", 5), 0.0)
    claims.birth(birth("copy", 6), 10.0)
    claims.sign(50.0)
    assert claims.silence(0.0, 10.0 + MISSED * P) is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["birth", "death", "wait"])), max_size=40))
def test_whoever_goes_on_beating_counts_in_the_end(events: list[tuple[str, str]]) -> None:
    """Whatever others did before: one machine that lives is never locked out."""
    claims = Claims()
    now = 0.0
    for who, what in events:
        now += 1.0
        if what == "birth":
            claims.birth(birth(who), now)
        elif what == "death":
            claims.death(who)
        else:
            claims.silence(0.0, now + 2 * P)
    for _ in range(4):
        now += P
        claims.birth(birth("true"), now)
        claims.silence(0.0, now)
    assert claims.current is not None
    assert claims.current.conn.instance == "true"
    assert claims.rivals == []


def test_bounded_where_somebody_starts_without_end() -> None:
    claims = Claims()
    for i in range(1000):
        claims.birth(birth(f"i{i}"), float(i))
    known = [f"i{i}" for i in range(1000) if claims.of(f"i{i}")]
    assert len(known) < 10
    assert known[-1] == "i999"


def test_alternating_starts_of_two_machines_are_told_apart_in_every_order() -> None:
    for order in itertools.product("ab", repeat=6):
        claims = Claims()
        for i, who in enumerate(order):
            claims.birth(birth(who), float(i))
        switches = [who for who, _ in itertools.groupby(order)]
        assert bool(claims.rivals) == (len(switches) > 2), order
