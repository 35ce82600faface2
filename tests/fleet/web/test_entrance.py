"""What an entrance decides by itself; who is let in is in test_app.py."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from edgectl.fleet.web.entrance import is_own, local


@given(st.text())
@example("//evil.example")
@example("/\\evil.example")
@example("/a\r\nset-cookie: b")
def test_wherever_one_is_sent_is_here(path: str) -> None:
    to = local(path)
    assert to.startswith("/")
    assert not to.startswith(("//", "/\\"))
    assert to.isprintable()


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://127.0.0.1:8765", True),
        ("https://127.0.0.1:8765", True),
        ("http://127.0.0.1", False),
        ("http://evil.example:8765", False),
        ("null", False),
        (None, False),
    ],
)
def test_only_a_page_of_this_address_may_act(origin: str | None, own: bool) -> None:
    headers = [(b"host", b"127.0.0.1:8765")] + ([(b"origin", origin.encode())] if origin else [])
    assert is_own(Request({"type": "http", "headers": headers})) is own
