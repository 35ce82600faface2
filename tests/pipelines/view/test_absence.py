"""What stands where a picture belongs."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from edgectl.pipelines.view.absence import absence, placeholder


def live(**more: Any) -> dict[str, Any]:
    return {"state": "outage", "reason": "refused", "detail": None, "retry_s": None, **more}


@pytest.mark.parametrize(
    ("about", "short", "more"),
    [
        (None, "starting …", None),
        (live(state="running", reason="dark"), "waiting for a picture", None),
        (live(), "no picture: connection refused", None),
        (live(retry_s=0.4), "no picture: connection refused, trying again", None),
        (live(retry_s=8.2), "no picture: connection refused, trying again in 8 s", None),
        (
            live(reason="auth", retry_s=290.0, detail="401"),
            "no picture: user or password is wrong, trying again in 5 min",
            "401",
        ),
        (live(reason="something_new", retry_s=0.0), "no picture: something_new, trying again", None),
        (
            live(state="failed", reason="there is no such device"),
            "no picture: the stream has failed",
            "there is no such device",
        ),
        (live(state="restarting", reason="stalled"), "no picture: restarting", "stalled"),
        (live(state="ended", reason=None), "the source has ended", None),
    ],
)
def test_it_says_why_and_what_comes_next(about: dict[str, Any] | None, short: str, more: str | None) -> None:
    assert absence(about) == (short, more)


def test_it_is_drawn_whatever_a_camera_says() -> None:
    svg = placeholder("gate", ("no picture: <invalid> & " + "x" * 200, "y " * 400), 640)
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("height")) == ("640", "360")
    texts = ["".join(e.itertext()) for e in root if e.tag.endswith("text")]
    assert texts[0] == "gate"
    assert texts[1].startswith("no picture: <invalid> & x")
    assert len(texts) <= 8
    assert b"style" not in svg, "the page's policy forbids it"
