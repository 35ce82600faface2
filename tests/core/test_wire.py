"""Topics cannot be forged by names; any bytes are a message or one typed error."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import ProtocolError
from edgectl.core.schema import parse_json
from edgectl.core.states import State
from edgectl.core.wire import (
    Command,
    Conn,
    ControllerState,
    Desired,
    DesiredSlot,
    EngineProof,
    Message,
    Policy,
    Reply,
    Reported,
    ReportedSlot,
    ShadowBlock,
    ShadowGate,
    StreamStats,
    Telemetry,
    Topics,
    Trust,
)

DIGEST = "sha256:" + "ab" * 32
MESSAGES: list[type[Message]] = [
    Conn,
    Desired,
    Reported,
    Telemetry,
    Trust,
    StreamStats,
    Command,
    Reply,
    ControllerState,
]


def test_topics_of_a_fleet_are_these() -> None:
    t = Topics("home")
    assert t.reported("gate-1") == "edgectl/1/home/d/gate-1/reported"
    assert t.need(DIGEST, "gate-1") == f"edgectl/1/home/a/{'ab' * 16}/need/gate-1"
    assert t.event("gate-1", "yard").count("/") <= 6
    assert t.parse("edgectl/1/home/d/gate-1/tele") == ("d", "gate-1", "tele")
    assert t.parse("edgectl/1/other/d/gate-1/tele") is None


@pytest.mark.parametrize("name", ["+", "#", "a/b", "../x", "", "$SYS"])
def test_a_name_cannot_become_another_topic(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        Topics("home").desired(name)
    with pytest.raises(ValueError, match="is not a name"):
        Topics(name)


@pytest.mark.parametrize("model", MESSAGES)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda c: (
                st.lists(c, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "gen",
                            "epoch",
                            "slots",
                            "seq",
                            "files",
                            "online",
                            "id",
                            "op",
                            "deadline_s",
                            "ok",
                            "result",
                        ]
                    ),
                    c,
                    max_size=4,
                )
            ),
        ).map(lambda v: json.dumps(v).encode()),
    )
)
def test_any_bytes_are_a_message_or_a_protocol_error(model: type[Message], data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse_json(model, data, max_bytes=1000, what="message")


def test_a_message_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        parse_json(Conn, b"[" * 100_000, max_bytes=1000, what="birth")


def test_deep_nesting_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        parse_json(Conn, b"[" * 90_000, max_bytes=100_000, what="birth")


def test_messages_survive_the_wire_and_ignore_what_newer_versions_add() -> None:
    desired = Desired(gen=3, slots={"gate-detector": DesiredSlot(release="gate@1", digest=DIGEST)})
    assert parse_json(Desired, desired.encode(), max_bytes=10_000, what="desired") == desired
    newer = desired.encode().replace(b'{"gen":3', b'{"colour":"blue","gen":3')
    assert parse_json(Desired, newer, max_bytes=10_000, what="desired") == desired
    reported = Reported(
        epoch=1, seq=2, gen=3, slots={"gate-detector": ReportedSlot(state=State.PROBATION, digest=DIGEST)}
    )
    assert b'"state":"probation"' in reported.encode()
    assert parse_json(Reported, reported.encode(), max_bytes=10_000, what="reported") == reported


@pytest.mark.parametrize("field", ["gen", "attempt"])
def test_no_number_of_a_desired_state_is_more_than_the_journal_can_write(field: str) -> None:
    slot = {"release": "m@1", "digest": DIGEST, "attempt": 1 << 63 if field == "attempt" else 1}
    document = {"gen": 1 << 63 if field == "gen" else 1, "slots": {"gate": slot}}
    with pytest.raises(ProtocolError, match="less than or equal"):
        parse_json(Desired, json.dumps(document).encode(), max_bytes=1000, what="desired state")


def test_what_is_not_judged_is_not_judged_by_the_default_on_the_other_side() -> None:
    policy = Policy(max_latency_ratio=None, shadow=ShadowGate(max_latency_ratio=None))
    wish = Desired(
        gen=1, slots={"gate": DesiredSlot(release="m@1", digest="sha256:" + "a" * 64, policy=policy)}
    )
    assert Desired.model_validate_json(wish.encode()) == wish
    assert b"max_latency_ms" not in wish.encode(), "what is nothing by default is left out"


def test_power_mode_and_throttling_are_bounded_and_may_be_missing() -> None:
    old = parse_json(Telemetry, b'{"epoch":1,"seq":2,"window_s":60}', max_bytes=1000, what="telemetry")
    assert (old.power_mode, old.throttled) == (None, ())
    new = Telemetry(epoch=1, seq=2, window_s=60, power_mode="15W", throttled=("thermal",))
    assert Telemetry.model_validate_json(new.encode()) == new
    for wrong in (b'"power_mode":"' + b"x" * 257 + b'"', b'"throttled":' + json.dumps(["x"] * 17).encode()):
        data = b'{"epoch":1,"seq":2,"window_s":60,' + wrong + b"}"
        with pytest.raises(ProtocolError):
            parse_json(Telemetry, data, max_bytes=1000, what="telemetry")


def test_proof_of_an_engine_is_bounded_and_an_older_agent_has_none() -> None:
    old = parse_json(ReportedSlot, b'{"state":"committed"}', max_bytes=1000, what="slot")
    assert (old.proof, old.previous_proof) == (None, None)
    block = ShadowBlock(frames=8, both=40, missed=1, extra=0)
    told = ReportedSlot(
        state=State.COMMITTED, proof=EngineProof(golden=0.99, golden_least=0.98, shadow=(block,) * 32)
    )
    assert ReportedSlot.model_validate_json(told.encode()) == told
    assert len(told.encode()) < 2048
    for wrong in (
        {"golden": 1.01},
        {"golden": -0.1},
        {"shadow": [{"frames": 8, "both": 1, "missed": 0, "extra": 0}] * 33},
        {"shadow": [{"frames": 8, "both": -1, "missed": 0, "extra": 0}]},
    ):
        data = json.dumps({"state": "committed", "proof": wrong}).encode()
        with pytest.raises(ProtocolError):
            parse_json(ReportedSlot, data, max_bytes=10_000, what="slot")


@pytest.mark.parametrize(
    "wrong",
    [
        '"spool_dropped": 1' + "0" * 400,
        '"spool_dropped": -1',
        '"streams": {"a": {"kind": "x", "errors": 1' + "0" * 30 + "}}",
        '"streams": {"a": {"kind": "x", "counters": {"events": 1' + "0" * 30 + "}}}",
        '"streams": {"a": {"kind": "x", "frames": {"processed": 1' + "0" * 30 + "}}}",
        '"streams": {"a": {"kind": "x", "frames": {"dropped": {"late": -1}}}}',
    ],
)
def test_what_no_device_can_have_counted_is_refused(wrong: str) -> None:
    data = f'{{"epoch": 1, "seq": 1, "window_s": 60, {wrong}}}'.encode()
    with pytest.raises(ProtocolError):
        parse_json(Telemetry, data, max_bytes=10_000, what="telemetry")
