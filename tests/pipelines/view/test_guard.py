"""Who may see the page, and who may write."""

from __future__ import annotations

import pytest

from edgectl.core.errors import UsageError
from edgectl.pipelines.view.guard import Guard, is_loopback, parse_address

TOKEN = "0123456789abcdef0123"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8088", "localhost:8088", "[::1]:8088", "127.0.0.1", "LOCALHOST:1"]
)
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert Guard().refuses("GET", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example:8088", "127.0.0.1.evil.example", "", "192.168.1.7:8088", "localhost.evil:80", "[::2]:1"],
)
def test_a_name_that_was_bent_to_this_machine_is_refused(host: str) -> None:
    refusal = Guard().refuses("GET", {"host": host})
    assert refusal is not None
    assert refusal.status == 421
    # with a token, any name may lead here: who does not have it is not let in
    assert Guard(TOKEN).refuses("GET", {"host": host}) is None


def test_pictures_are_not_for_the_pages_of_others() -> None:
    headers = {"host": "localhost:8088", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    refusal = Guard().refuses("GET", headers)
    assert refusal is not None
    assert refusal.status == 403
    assert Guard().refuses("GET", {**headers, "sec-fetch-mode": "navigate"}) is None, "a link is no embedding"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9", "null"])
def test_others_may_not_write(origin: str) -> None:
    assert Guard().refuses("POST", {"host": "localhost:8088", "origin": origin}) is not None
    assert Guard().refuses("POST", {"host": "localhost:8088", "origin": "http://localhost:8088"}) is None


def test_writing_needs_the_word_of_the_page() -> None:
    guard = Guard()
    assert guard.may_write({"x-edgectl-word": guard.word})
    assert not guard.may_write({})
    assert not guard.may_write({"x-edgectl-word": Guard().word}), "of another start"


def test_the_token_is_taken_as_cookie_bearer_or_query() -> None:
    guard = Guard(TOKEN, 8088)
    assert guard.knows({"authorization": f"Bearer {TOKEN}"}, {}, None)
    assert guard.knows({}, {guard.cookie: guard.session}, None)
    assert guard.knows({}, {}, TOKEN)
    for wrong in (TOKEN[:-1], TOKEN + "0", "", "é"):
        assert not guard.knows({"authorization": f"Bearer {wrong}"}, {guard.cookie: wrong}, wrong)
    assert not guard.knows({}, {guard.cookie: TOKEN}, None), "the browser does not keep the token itself"
    assert not Guard().is_token(""), "without a token nothing is one"
    assert TOKEN not in repr(guard)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8088", ("127.0.0.1", 8088)),
        (":9000", ("127.0.0.1", 9000)),
        ("0.0.0.0", ("0.0.0.0", None)),
        ("[::1]:0", ("::1", 0)),
        ("cam.example:80", ("cam.example", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int | None]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["host:port", "1.2.3.4:99999", "a/b", "a b", "me@host:1", "http://x:1"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        parse_address(text)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org")))
