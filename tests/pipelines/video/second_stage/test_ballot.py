"""Which tracks are looked at, how often, and what is known of them afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.rules import seen, thing

from edgectl.pipelines.video.second_stage.ballot import Ballot
from edgectl.pipelines.video.second_stage.config import SecondStageConfig
from edgectl.pipelines.video.second_stage.vote import Vote

LABELS = ("person", "vehicle")


def ballot(background: tuple[str, ...] = (), **settings: Any) -> Ballot:
    return Ballot(SecondStageConfig(part="gear", **settings), LABELS, background)


def test_only_asked_classes_that_are_seen_and_high_enough_are_looked_at() -> None:
    tracks = seen(
        thing(1, 100, 500), thing(2, 200, 500, cls=1), thing(3, 300, 500, height=40), thing(4, 400, 500)
    )
    tracks.seen[3] = False
    assert ballot(classes=["person"]).choose(tracks, 0, 9) == [0]
    assert ballot().choose(tracks, 0, 9) == [0, 1]
    assert ballot(min_height_px=40).choose(tracks, 0, 9) == [0, 1, 2]


def test_what_is_hidden_is_not_looked_at() -> None:
    assert ballot().choose(seen(thing(1, 100, 500), thing(2, 200, 500)), 0, 9, lambda row: row == 0) == [1]


def test_nobody_is_looked_at_twice_before_there_is_an_answer() -> None:
    of, tracks = ballot(every_s=0.2), seen(thing(1, 100, 500))
    assert of.choose(tracks, 0, 9) == [0]
    assert of.choose(tracks, 5, 9) == []
    of.answer(1, None)
    assert of.choose(tracks, 5.1, 9) == [0]


def test_an_undecided_track_is_looked_at_often_and_a_decided_one_seldom() -> None:
    of, tracks, looked = ballot(every_s=0.2, again_s=2, votes=3), seen(thing(1, 100, 500)), []
    for frame in range(60):
        t = frame / 10
        if of.choose(tracks, t, 9):
            looked.append(t)
            of.answer(1, Vote(t, "helmet", 0.9))
    assert looked == [0, 0.2, 0.4, 2.4, 4.4]


def test_a_decided_track_is_never_looked_at_again_where_that_is_asked_for() -> None:
    of, tracks = ballot(every_s=0, again_s=None, votes=1), seen(thing(1, 100, 500))
    of.choose(tracks, 0, 9)
    of.answer(1, Vote(0, "helmet", 0.9))
    assert of.choose(tracks, 1000, 9) == []


def test_the_undecided_go_first_and_then_who_waits_longest() -> None:
    of, tracks = ballot(every_s=0, again_s=0, votes=1), seen(*(thing(i, 100 * i, 500) for i in (1, 2, 3, 4)))
    for t, row in enumerate((1, 0)):
        assert of.choose(tracks, t, 1, lambda r, row=row: r != row) == [row]  # type: ignore[misc]
        of.answer(row + 1, Vote(t, "helmet", 0.9))
    assert of.choose(tracks, 9, 3) == [2, 3, 1]
    assert of.choose(tracks, 9, 0) == []


def test_what_is_decided_is_the_tracks_attribute_until_it_ends() -> None:
    of, tracks = ballot(votes=1), seen(thing(1, 100, 500), thing(2, 200, 500))
    of.choose(tracks, 0, 9)
    of.answer(1, Vote(0, "helmet", 0.9))
    assert {track: a.value for track, a in of.attributes().items()} == {1: "helmet"}
    of.forget({2})
    of.answer(1, Vote(1, "helmet", 0.9))
    assert of.attributes() == {}


def test_background_is_decided_and_says_nothing() -> None:
    of, tracks = ballot(background=("none",), votes=1, every_s=0.2, again_s=2), seen(thing(1, 100, 500))
    of.choose(tracks, 0, 9)
    of.answer(1, Vote(0, "none", 0.9))
    assert of.attributes() == {}
    assert of.choose(tracks, 1, 9) == []
    assert of.choose(tracks, 2, 9) == [0]


def test_a_track_that_ended_before_its_answer_is_forgotten() -> None:
    of = ballot()
    of.choose(seen(thing(1, 100, 500)), 0, 9)
    of.forget(set())
    of.answer(1, Vote(0, "helmet", 0.9))
    assert of.attributes() == {}
    assert np.array_equal(of.choose(seen(thing(2, 100, 500)), 1, 9), [0])
