"""The builder's side of a measuring session, against a fleet that loses, repeats, refuses and damages."""

from __future__ import annotations

import base64
import hashlib
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.builder.devices import machine_of

from edgectl.cli import _measuring
from edgectl.cli._measuring import measuring_devices
from edgectl.core.errors import BusyError, EdgectlError, EngineError, LinkError, ProtocolError, UsageError
from edgectl.core.measured import Conditions
from edgectl.engines.measure.job import MeasureJob
from edgectl.engines.measure.job_child import MeasureResult

JOB = MeasureJob(kind="quiet", seconds=1, timeout_s=60)
RESULT = MeasureResult(quiet=True, conditions=Conditions(load=0.5), seconds=1.0)
CONN = {"profile": "cpu", "measures": True}


def device(**more: Any) -> dict[str, Any]:
    return {"name": "bench-1", "online": True, "conn": CONN, **more}


@dataclass
class FleetDouble:
    """Answers as the controller and one device would; ``does`` may change or lose each answer."""

    known: list[dict[str, Any]] = field(default_factory=lambda: [device()])
    does: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda order, answer: answer
    acts: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    state: str = "looking"

    def __post_init__(self) -> None:
        self.packed = zlib.compress(RESULT.model_dump_json(exclude_none=True).encode())

    def devices(self) -> list[dict[str, Any]]:
        return self.known

    def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    def put_blob(self, digest: str, data: bytes) -> None:
        self.blobs[digest] = data

    def drop_blobs(self, digests: list[str]) -> None:
        self.dropped += digests

    def command(
        self, name: str, op: str, *, wait_s: float, owner: str, measure: dict[str, Any]
    ) -> dict[str, Any]:
        assert (name, op) == ("bench-1", "measure")
        act = measure["act"]
        self.acts.append(act)
        answer = {"session": measure["session"]}
        if act == "look":
            self.state = {"looking": "ready", "working": "done"}.get(self.state, self.state)
        elif act == "start":
            self.state = "working"
        elif act == "close":
            self.state = "ended"
        answer["state"] = self.state
        if self.state == "ready":
            answer["machine"] = machine_of().model_dump(mode="json")
        if self.state == "done":
            answer |= {"pages": 1, "digest": f"sha256:{hashlib.sha256(self.packed).hexdigest()}"}
        if act == "result":
            answer["page"] = base64.b64encode(self.packed).decode()
        return self.does(measure, answer)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measuring.time, "sleep", lambda s: None)


def measured(fleet: FleetDouble) -> MeasureResult:
    with measuring_devices(fleet, ["bench-1"], ["cpu"], "anna") as (one,):  # type: ignore[arg-type]
        assert one.machine == machine_of()
        return one.measure(JOB, {"sha256:" + "1" * 64: b"x"})


def test_files_go_up_once_the_result_comes_down_and_nothing_stays() -> None:
    fleet = FleetDouble()
    assert measured(fleet) == RESULT
    assert fleet.acts == ["open", "look", "start", "look", "result", "close"]
    assert sorted(fleet.dropped) == sorted(fleet.blobs)
    assert len(fleet.blobs) == 2, "the file, and the job"


@pytest.mark.parametrize(
    ("known", "error", "words"),
    [
        ([], UsageError, "there is no device bench-1"),
        ([device(online=False)], LinkError, "bench-1 is not connected"),
        (
            [device(conn={"profile": "cpu"})],
            UsageError,
            r"its agent.toml has no \[measure\], or its agent or the controller is too old",
        ),
        ([device(conn=None)], UsageError, "measures nothing"),
        (
            [device(conn={**CONN, "profile": "jetson-orin"})],
            UsageError,
            "of profile jetson-orin, which is not built",
        ),
        ([device(conn={**CONN, "profile": None})], UsageError, "of profile none"),
    ],
)
def test_device_that_cannot_be_meant_is_named_before_anything_begins(
    known: list[dict[str, Any]], error: type[EdgectlError], words: str
) -> None:
    fleet = FleetDouble(known=known)
    with pytest.raises(error, match=words) as e:
        measured(fleet)
    assert e.value.hint
    assert fleet.acts == []


def ended(code: str, detail: str, when: str) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if order["act"] != when:
            return answer
        return {"session": answer["session"], "state": "ended", "trouble": {"code": code, "detail": detail}}

    return does


@pytest.mark.parametrize("when", ["open", "start", "result"])
def test_session_that_the_device_ended_says_so_in_the_words_of_the_device(when: str) -> None:
    fleet = FleetDouble(does=ended("busy", "this device stopped measuring: slot gate is fetching", when))
    with pytest.raises(BusyError, match="bench-1: this device stopped measuring: slot gate is fetching"):
        measured(fleet)
    assert fleet.acts[-1] == "close"


def test_what_a_device_says_cannot_drive_the_terminal() -> None:
    escape = chr(27) + "[2J"
    with pytest.raises(BusyError) as e:
        measured(FleetDouble(does=ended("busy", f"busy {escape} with", "start")))
    assert "\x1b" not in e.value.message
    fleet = FleetDouble()
    said = RESULT.model_copy(update={"failed": {"a": f"died {escape}"}})
    fleet.packed = zlib.compress(said.model_dump_json(exclude_none=True).encode())
    assert measured(fleet).failed["a"] == "died \N{REPLACEMENT CHARACTER}[2J"


@pytest.mark.parametrize(
    "packed", [b"[]", b"{", b"[" * 100_000, b'{"seconds": ' + b"[" * 60 + b"]" * 60 + b"}"]
)
def test_result_that_is_no_result_is_refused(packed: bytes) -> None:
    fleet = FleetDouble()
    fleet.packed = zlib.compress(packed)
    with pytest.raises(ProtocolError):
        measured(fleet)


def test_lease_that_ran_out_there_is_a_device_that_is_lost() -> None:
    with pytest.raises(LinkError, match="bench-1: the builder did not renew"):
        measured(FleetDouble(does=ended("link", "the builder did not renew its lease of 60 s", "result")))


def test_job_that_came_to_nothing_is_told_and_the_next_one_is_measured() -> None:
    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if answer["state"] == "done" and fleet.acts.count("start") == 1:
            return {
                **answer,
                "pages": 0,
                "trouble": {"code": "engine", "detail": "measuring died by SIGSEGV"},
            }
        return answer

    fleet = FleetDouble(does=does)
    with measuring_devices(fleet, ["bench-1"], ["cpu"], "anna") as (one,):  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="bench-1: measuring died by SIGSEGV"):
            one.measure(JOB, {})
        assert one.measure(JOB, {}) == RESULT


def _torn(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "page": answer["page"][:-8]}


def _no_base64(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "page": "é"}


def _no_page(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "page": "x" * 70_000}


def _of_nobody(answer: dict[str, Any]) -> dict[str, Any]:
    return {"state": "done"}


@pytest.mark.parametrize("damage", [_torn, _no_base64, _no_page, _of_nobody])
def test_result_that_came_damaged_is_not_used(damage: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    fleet = FleetDouble(does=lambda order, answer: damage(answer) if order["act"] == "result" else answer)
    with pytest.raises(ProtocolError):
        measured(fleet)


def test_result_that_unpacks_to_more_than_is_taken_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measuring, "MAX_RESULT_BYTES", 1 << 16)
    fleet = FleetDouble()
    fleet.packed = zlib.compress(bytes(1 << 20))
    with pytest.raises(ProtocolError, match="larger than 65536 bytes, or torn"):
        measured(fleet)


@pytest.mark.parametrize("lost", ["open", "look", "start", "result"])
def test_answer_that_is_lost_once_costs_nothing_and_starts_no_job_twice(lost: str) -> None:
    missed: list[str] = []

    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if order["act"] == lost and not missed:
            missed.append(lost)
            raise LinkError("bench-1 did not answer within 10 s")
        return answer

    fleet = FleetDouble(does=does)
    if lost == "start":
        fleet.does = lambda order, answer: does(
            order, {**answer, "state": "working"} if fleet.acts[-2:] == ["start", "look"] else answer
        )
    assert measured(fleet) == RESULT
    assert fleet.acts.count("start") == 1


def test_another_session_that_is_about_to_end_is_waited_for_and_one_that_goes_on_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = 0

    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        nonlocal refused
        if order["act"] == "open" and refused < most:
            refused += 1
            raise BusyError("bench-1 refuses: another build measures on this device")
        return answer

    most = 2
    assert measured(FleetDouble(does=does)) == RESULT
    refused, most = 0, 1000
    monkeypatch.setattr(_measuring, "_TIDY_S", 0.0)
    with pytest.raises(BusyError, match="another build measures"):
        measured(FleetDouble(does=does))


def test_controller_that_starts_again_in_the_middle_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(_measuring.time, "sleep", waited.append)
    away = 0

    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        nonlocal away
        if order["act"] == "look" and "start" in fleet.acts and away < 8:
            away += 1
            raise LinkError("the controller does not answer")
        return answer

    fleet = FleetDouble(does=does)
    assert measured(fleet) == RESULT
    assert away == 8


def test_device_that_stays_away_is_lost_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measuring, "_PATIENCE", 0.0)

    def does(order: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if order["act"] == "look" and "start" in fleet.acts:
            raise LinkError("bench-1 did not answer within 10 s")
        return answer

    fleet = FleetDouble(does=does)
    with pytest.raises(LinkError, match="did not answer"):
        measured(fleet)
    assert fleet.acts.count("look") >= 3


def test_what_somebody_else_brought_to_the_controller_stays_there() -> None:
    """It may be of a release that is just being published."""
    file = "sha256:" + "1" * 64
    fleet = FleetDouble(blobs={file: b"x"})
    assert measured(fleet) == RESULT
    assert fleet.dropped == sorted(fleet.blobs.keys() - {file})
    assert fleet.dropped


class HeldDevices(FleetDouble):
    """Two of them. ``asked`` is called with a device and what is asked of it, on the thread that asks."""

    asked: Callable[[str, str], None]

    def __init__(self, asked: Callable[[str, str], None]) -> None:
        super().__init__(known=[device(), device(name="bench-2")])
        self.asked = asked

    def command(self, name: str, op: str, **more: Any) -> dict[str, Any]:
        act = more["measure"]["act"]
        self.asked(name, act)
        answer = {"session": more["measure"]["session"], "state": "ended" if act == "close" else "ready"}
        return {**answer, "machine": machine_of().model_dump(mode="json")}

    def hold(self) -> Any:
        return measuring_devices(self, ["bench-1", "bench-2"], ["cpu"], "anna", lease_s=1.0)  # type: ignore[arg-type]


def test_device_that_does_not_answer_costs_no_other_one_its_lease() -> None:
    silent, renewed, over = threading.Event(), threading.Event(), threading.Event()

    def asked(name: str, act: str) -> None:
        if (name, act) == ("bench-1", "look"):
            silent.set()
            over.wait(120)
        elif act == "look" and silent.is_set():
            renewed.set()

    with HeldDevices(asked).hold():
        try:
            assert silent.wait(60)
            assert renewed.wait(20)
        finally:
            over.set()


def test_lease_of_a_device_is_kept_while_the_next_one_is_asked() -> None:
    renewed, kept = threading.Event(), []

    def asked(name: str, act: str) -> None:
        if (name, act) == ("bench-1", "look"):
            renewed.set()
        elif (name, act) == ("bench-2", "open"):
            kept.append(renewed.wait(20))

    with HeldDevices(asked).hold():
        assert kept == [True]
