"""What forms send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest
from starlette.requests import Request

from edgectl.core.errors import ConfigError, UsageError
from edgectl.fleet.web import forms
from edgectl.fleet.web.forms import command_of, read_form, start_of

FORM = {"release": "gate@2", "slot": "gate"}


class Sent:
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class Silent:
    async def stream(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


def read(sent: Any) -> dict[str, str]:
    return asyncio.run(read_form(cast(Request, sent)))


def test_fields_are_decoded() -> None:
    assert read(Sent(b"a=1&b=label.site+%3D+n", b"orth&c=")) == {"a": "1", "b": "label.site = north", "c": ""}
    assert read(Sent()) == {}


@pytest.mark.parametrize("body", [b"\xff\xfe", b"no field", b"&".join([b"a=1"] * 70)])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError, match="not what a form sends"):
        read(Sent(body))


def test_a_form_is_bounded_in_bytes_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="more than 262144 bytes"):
        read(Sent(b"a=" + b"x" * 300_000))
    monkeypatch.setattr(forms, "_BODY_S", 0.01)
    with pytest.raises(TimeoutError):
        read(Silent())


def test_fields_make_a_rollout() -> None:
    r = start_of({**FORM, "select": "label.site = north", "canary": "3", "soak": "1h30m", "policy": " "})
    assert (r.release, r.slot, r.select, r.canary, r.soak_s) == (
        "gate@2",
        "gate",
        "label.site = north",
        3,
        5400,
    )
    assert start_of(FORM).canary == 1


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"slot": ""}, "slot", "slot: it is missing"),
        ({"release": " "}, "release", "release: it is missing"),
        ({"select": "label.site ="}, "select", "query: "),
        ({"canary": "two"}, "canary", "canary: it must be a valid integer"),
        ({"canary": "0"}, "canary", "canary: it must be greater"),
        ({"soak": "30"}, "soak", "soak: '30' is not a time like 30m"),
        ({"slot": "no good"}, "slot", "slot: 'no good' is not a name"),
    ],
)
def test_a_mistake_names_its_field(wrong: Mapping[str, str], field: str, said: str) -> None:
    with pytest.raises(UsageError) as e:
        start_of({**FORM, **wrong})
    assert e.value.message.startswith(said)
    assert e.value.key[0] == field


def test_a_policy_is_taken_as_the_file_is() -> None:
    r = start_of(
        {
            "policy": "release: gate@3\nslot: gate\ncanary: {devices: 2}\nwaves:\n  - {share: 100%, approval: true}\n"
        }
    )
    assert (r.release, r.canary, r.waves[0].approval) == ("gate@3", 2, True)
    assert start_of({**FORM, "policy": "quorum: 90%"}).quorum == 0.9


def test_a_mistake_in_a_policy_names_its_line() -> None:
    with pytest.raises(ConfigError, match="policy:2: canary: it must be a mapping"):
        start_of({**FORM, "policy": "quorum: 90%\ncanary: 3\n"})


def test_what_a_policy_says_is_not_said_twice() -> None:
    with pytest.raises(UsageError, match="canary: there is a policy, and it says that"):
        start_of({**FORM, "canary": "3", "policy": "quorum: 90%"})


def test_a_command_is_asked_by_the_dashboard() -> None:
    c = command_of("lock", {"for": "2h", "reason": "maintenance"})
    assert (c.op, c.owner, c.ttl_s, c.reason, c.slot) == ("lock", "dashboard", 7200, "maintenance", None)
    assert command_of("rollback", {"slot": "gate"}).slot == "gate"


@pytest.mark.parametrize("form", [{}, {"for": "soon"}, {"for": "9d"}])
def test_a_lock_lasts_a_day_at_most_and_more_than_nothing(form: Mapping[str, str]) -> None:
    with pytest.raises(UsageError):
        command_of("lock", form)
