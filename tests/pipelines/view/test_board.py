"""Numbers and events beside the pictures."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from support.live_page import event

from edgectl.core.errors import BusyError
from edgectl.pipelines.view.board import MAX_EVENTS, Board


@pytest.fixture
def board() -> Board:
    board = Board()
    board.add("gate", "surveillance", "rtsp://me:secret@cam7/sub", pictures=True)
    board.add("door", "speech", "mic://default", pictures=False)
    return board


def test_credentials_of_a_source_are_not_shown(board: Board) -> None:
    assert "secret" not in str(board.about())
    assert [about["name"] for about in board.about()] == ["gate", "door"]


def test_events_are_bounded_and_each_is_given_once(board: Board) -> None:
    for i in range(MAX_EVENTS + 20):
        board.heard(event(f"{i:04}"))
    board.heard(event("9999", type="tracked_object", phase="update"))
    events = board.events()
    assert [e["id"] for e in events] == [f"{i:04}" for i in range(20, MAX_EVENTS + 20)]
    assert board.events(max(e["number"] for e in events)) == []


def test_an_event_comes_again_with_its_picture_whichever_is_first(board: Board) -> None:
    board.heard(event("a"))
    [first] = board.events()
    assert not first["snapshot"]
    board.keep("gate", ["a", "b"], b"jpeg")
    [again] = board.events(first["number"])
    assert (again["id"], again["snapshot"]) == ("a", True)
    board.heard(event("b"))
    assert board.events(again["number"])[0]["snapshot"]
    assert board.snapshot("gate", "b") == b"jpeg"
    for stream, name in (("gate", "c"), ("door", "a"), ("nobody", "a"), ("gate", "../a")):
        assert board.snapshot(stream, name) is None


def test_pictures_of_events_are_bounded(board: Board) -> None:
    for i in range(MAX_EVENTS + 5):
        board.keep("gate", [str(i)], b"jpeg")
    assert board.snapshot("gate", "4") is None
    assert board.snapshot("gate", "5") == b"jpeg"


def test_listeners_are_rung_and_counted(board: Board) -> None:
    rung: list[int] = []
    with board.listen(lambda: rung.append(1)):
        board.heard(event("a"))
        board.close()
        assert len(rung) == 2
        assert board.over
    board.heard(event("b"))
    assert len(rung) == 2
    with ExitStack() as pages:
        for _ in range(32):
            pages.enter_context(board.listen(lambda: None))
        with pytest.raises(BusyError), board.listen(lambda: None):
            pass
