"""Who may use the dashboard."""

from __future__ import annotations

import pytest

from edgectl.fleet.web.sessions import LINK_S, SESSION_S, TRIES, TRIES_S, Sessions


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions("right", clock)


def test_the_token_begins_a_session_that_ends_after_twelve_hours(sessions: Sessions, clock: Clock) -> None:
    cookie = sessions.sign_in("right", "a")
    assert cookie is not None
    assert sessions.find(cookie) is not None
    clock.now += SESSION_S - 1
    assert sessions.find(cookie) is not None
    clock.now += 1
    assert sessions.find(cookie) is None


def test_no_other_cookie_finds_it(sessions: Sessions) -> None:
    cookie = sessions.sign_in("right", "a")
    assert sessions.find(None) is None
    assert sessions.find("") is None
    assert sessions.find(f"{cookie}x") is None


def test_each_session_has_a_word_of_its_own(sessions: Sessions) -> None:
    one, two = (sessions.find(sessions.sign_in("right", "a")) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.may_act(one.word)
    assert not one.may_act(two.word)
    assert not one.may_act("")


def test_who_signs_out_is_out(sessions: Sessions) -> None:
    cookie = sessions.sign_in("right", "a")
    assert cookie is not None
    sessions.end(cookie)
    assert sessions.find(cookie) is None


def test_after_some_wrong_tokens_an_address_waits_and_others_do_not(sessions: Sessions, clock: Clock) -> None:
    for _ in range(TRIES):
        assert sessions.wait_s("a") == 0
        assert sessions.sign_in("wrong", "a") is None
        clock.now += 1
    assert sessions.wait_s("a") == TRIES_S - TRIES
    assert sessions.wait_s("b") == 0
    clock.now += sessions.wait_s("a")
    assert sessions.wait_s("a") == 0


def test_a_link_works_once(sessions: Sessions) -> None:
    secret = sessions.link()
    assert sessions.find(sessions.enter(secret, "a")) is not None
    assert sessions.enter(secret, "a") is None


def test_a_link_works_for_a_minute(sessions: Sessions, clock: Clock) -> None:
    secret, other = sessions.link(), sessions.link()
    clock.now += LINK_S - 1
    assert sessions.enter(secret, "a") is not None
    clock.now += 1
    assert sessions.enter(other, "a") is None


def test_made_up_links_count_as_wrong_tokens(sessions: Sessions) -> None:
    for _ in range(TRIES):
        assert sessions.enter("made-up", "a") is None
    assert sessions.wait_s("a") > 0


def test_the_oldest_session_makes_room(sessions: Sessions) -> None:
    cookies = [sessions.sign_in("right", "a") for _ in range(65)]
    assert sessions.find(cookies[0]) is None
    assert all(sessions.find(c) is not None for c in cookies[1:])


def test_addresses_that_try_are_not_remembered_without_bound(sessions: Sessions) -> None:
    for i in range(2000):
        sessions.sign_in("wrong", f"10.0.{i // 256}.{i % 256}")
    assert len(sessions._wrong) <= 1024


def test_a_notice_is_said_once(sessions: Sessions) -> None:
    session = sessions.find(sessions.sign_in("right", "a"))
    assert session is not None
    session.notice = "done"
    assert [session.take_notice(), session.take_notice()] == ["done", ""]
