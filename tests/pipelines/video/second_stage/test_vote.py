"""Votes: the last ones decide, by their weight, and a decision stays until another value has enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.second_stage.vote import TrackVotes, Vote


def after(*cast: tuple[str, float], votes: int = 3, agree: float = 0.6) -> Attribute | None:
    of = TrackVotes(votes, agree)
    for t, (value, score) in enumerate(cast):
        of.add(Vote(float(t), value, score))
    return of.decided


def test_too_few_votes_decide_nothing() -> None:
    assert after(("yes", 1.0), ("yes", 1.0)) is None


def test_what_all_say_is_decided_and_as_sure_as_they_are() -> None:
    decided = after(("yes", 0.9), ("yes", 0.8), ("yes", 0.7))
    assert decided is not None
    assert decided.value == "yes"
    assert decided.score == pytest.approx(0.8)


def test_a_sure_vote_weighs_more_than_two_that_are_not() -> None:
    decided = after(("no", 0.3), ("yes", 1.0), ("no", 0.3))
    assert decided is not None
    assert decided.value == "yes"


def test_a_split_vote_decides_nothing() -> None:
    assert after(("no", 0.5), ("yes", 0.9), ("no", 0.4)) is None


def test_one_wrong_vote_changes_nothing_but_how_sure_it_is() -> None:
    before, now = after(*[("yes", 0.9)] * 3), after(*[("yes", 0.9)] * 3, ("no", 0.9))
    assert before is not None
    assert now is not None
    assert (before.value, now.value) == ("yes", "yes")
    assert now.score < before.score


def test_what_was_decided_stays_while_nothing_has_enough() -> None:
    decided = after(*[("yes", 0.9)] * 4, ("no", 0.9), ("no", 0.9), votes=4)
    assert decided is not None
    assert (decided.value, round(decided.score, 3)) == ("yes", 0.45)


def test_what_has_truly_changed_is_decided_anew() -> None:
    decided = after(*[("yes", 0.9)] * 3, *[("no", 0.9)] * 3)
    assert decided == Attribute("no", pytest.approx(0.9))


def test_votes_without_weight_decide_nothing() -> None:
    assert after(*[("yes", 0.0)] * 3) is None


@pytest.mark.parametrize("t", [1.0, 0.5])
def test_votes_come_in_order_of_time(t: float) -> None:
    of = TrackVotes(3, 0.6)
    of.add(Vote(1.0, "yes", 1.0))
    with pytest.raises(ValueError, match="order of time"):
        of.add(Vote(t, "yes", 1.0))


cast = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=40)
many, share = st.integers(1, 12), st.floats(0.51, 1)


@given(cast, many, share)
def test_only_what_has_the_weight_is_ever_newly_decided(
    votes: list[tuple[str, float]], most: int, agree: float
) -> None:
    of, before = TrackVotes(most, agree), None
    for t, (value, score) in enumerate(votes):
        of.add(Vote(float(t), value, score))
        if of.decided is not None and (before is None or of.decided.value != before.value):
            last = votes[max(0, t + 1 - most) : t + 1]
            assert len(last) == most
            mine = sum(s for v, s in last if v == of.decided.value)
            assert mine >= agree * sum(s for _, s in last) - 1e-6
            assert 0 <= of.decided.score <= 1
        before = of.decided


@given(cast, many, share, st.floats(0.05, 1))
def test_the_decision_follows_whoever_says_the_same_often_enough(
    votes: list[tuple[str, float]], most: int, agree: float, score: float
) -> None:
    assert after(*votes, *[("d", score)] * most, votes=most, agree=agree) == Attribute(
        "d", pytest.approx(score)
    )


@given(cast, many, share)
def test_only_the_last_votes_count_for_what_was_never_decided(
    votes: list[tuple[str, float]], most: int, agree: float
) -> None:
    decided = after(*votes, votes=most, agree=agree)
    alone = after(*votes[-most:], votes=most, agree=agree)
    if alone is not None:
        assert decided == alone
