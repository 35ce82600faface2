"""What an operator types to take something back; the controller is a double."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError, RolloutError, UsageError
from edgectl.fleet.keys.ceremony import init_keys

DIGEST = "sha256:" + "a" * 64
BEFORE = {"release": "m@1", "digest": DIGEST}


def rollout(state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "gate-1",
        "release": "m@2",
        "slot": "gate",
        "digest": DIGEST,
        "state": state,
        "wave": 0,
        "members": {},
        **more,
    }


PREVIEW: dict[str, Any] = {
    "devices": 12,
    "online": 11,
    "absent": ["ghost"],
    "current": 1,
    "unfit": {f"d{i}": "cpu/float needs arch:x86_64" for i in range(7)},
    "waves": [
        {
            "number": n,
            "devices": k,
            "online": k,
            "strata": {"north": k},
            "at_once": k,
            "bytes": k * 3_500_000,
            "least_s": 3700.0 * k,
            "approval": n == 1,
        }
        for n, k in ((0, 2), (1, 10))
    ],
    "upload_bytes": 7_000_000,
    "received_bytes": 42_000_000,
    "peak_bytes": 35_000_000,
    "peak_site_bytes": 35_000_000,
    "least_s": 44_400.0,
    "gates": ["a canary of 2 finds, 9 times in 10, what fails on 68% of devices"],
    "warnings": ["7 of 12 devices cannot run it"],
}


DECISIONS: list[dict[str, Any]] = [
    {
        "gate": "errors",
        "kind": "errors",
        "bets": "mean",
        "stratum": "jetson-orin, from m@1",
        "at_s": 1.0,
        "allowed": 0.01,
        "alpha": 0.001,
        "verdict": "worse",
        "devices": [{"device": "gate-1", "place": 0, "after": [0.5, 1.0, 0.7]}],
        "reason": "errors on gate-1: 73.33%, 1.00% may",
    }
]


class Controller:
    found: ClassVar[list[dict[str, Any]]] = []
    said: ClassVar[list[tuple[object, ...]]] = []
    slots: ClassVar[dict[str, dict[str, Any]]] = {}

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rollouts(self) -> list[dict[str, Any]]:
        return self.found

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]

    def change_rollout(self, rollout_id: str, op: str) -> dict[str, Any]:
        self.said.append((op, rollout_id))
        return self.found[0]

    def decisions(self, rollout_id: str) -> list[dict[str, Any]]:
        self.said.append(("decisions", rollout_id))
        return DECISIONS

    def preview_rollout(self, **request: Any) -> dict[str, Any]:
        self.said.append(("preview", request))
        return PREVIEW

    def start_rollout(self, **request: Any) -> dict[str, Any]:
        self.said.append(("start", request))
        return rollout("running")

    def skip_device(self, rollout_id: str, device: str) -> dict[str, Any]:
        self.said.append(("skip", rollout_id, device))
        return self.found[0]

    def signed_file(self, name: str) -> None:
        return None

    def accept_trust(
        self, files: dict[str, bytes], withdraw: list[str], *, stop_rollouts: bool
    ) -> dict[str, Any]:
        self.said.append(("withdraw", *withdraw, stop_rollouts))
        return {}

    def clear_slot(self, slot: str, devices: list[str], labels: dict[str, str]) -> list[dict[str, Any]]:
        self.said.append(("clear", slot, *devices, labels))
        return [{"device": d, "gen": 2, "online": True, "active_release": "m@1"} for d in devices]

    def devices(self) -> list[dict[str, Any]]:
        return [
            {"name": n, "online": n != "gate-9", "reported": {"slots": {"gate": s}} if s else None}
            for n, s in self.slots.items()
        ]


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    monkeypatch.setattr(_controller, "client", lambda url, token_file: Controller())
    for name, value in (("found", []), ("said", []), ("slots", {})):
        monkeypatch.setattr(Controller, name, value)
    return Controller.said


def run(*words: str, ends: type[EdgectlError] | None = None) -> Any:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})
    assert type(result.exception) is (ends or type(None)), result.output
    return result


def test_rollback_with_nothing_to_take_back_says_so(said: list[tuple[object, ...]]) -> None:
    Controller.found.append(rollout("rolled_back"))
    assert "no device has m@2 by this rollout any more" in run("rollout", "rollback", "gate-1").output
    assert said == [("rollback", "gate-1")]


def test_status_tells_whom_a_rollout_waits_for(said: list[tuple[object, ...]]) -> None:
    Controller.found.append(rollout("running", note="nobody is there to be the canary: gate-2"))
    assert "nobody is there to be the canary: gate-2" in run("rollout", "skip", "gate-1", "gate-2").output
    assert said == [("skip", "gate-1", "gate-2")]


RETURNING = {"gate-7": {"wave": 0, "outcome": "returning", "admitted_s": 1.0, "before": BEFORE}}


@pytest.mark.parametrize(
    ("release", "found", "why"),
    [
        ("m@2", rollout("running"), "rollout gate-1 of it is running"),
        ("m@2", rollout("paused"), "rollout gate-1 of it is paused"),
        ("m@1", rollout("rolling_back", members=RETURNING), "rollout gate-1 takes gate-7 back to it"),
    ],
)
def test_withdrawing_what_a_rollout_needs_is_asked_before_anything_is_signed(
    said: list[tuple[object, ...]], tmp_path: Path, release: str, found: dict[str, Any], why: str
) -> None:
    Controller.found.append(found)
    init_keys(tmp_path / "keys")
    before = (tmp_path / "keys" / "targets.json").read_bytes()
    result = run("release", "withdraw", release, "--keys", str(tmp_path / "keys"), ends=RolloutError)
    assert isinstance(result.exception, RolloutError)
    assert result.exception.message == f"{release} is not withdrawn: {why}"
    assert f"edgectl release withdraw {release} --yes" in (result.exception.hint or "")
    assert said == []
    assert (tmp_path / "keys" / "targets.json").read_bytes() == before


def test_slot_that_is_not_emptied_in_time_is_told_and_who_is_away_is_not_waited_for(
    said: list[tuple[object, ...]],
) -> None:
    Controller.slots |= {
        "gate-1": {"gen": 2, "state": "cleared", "active_release": None},
        "gate-2": {"gen": 2, "state": "clearing", "stage": "frozen"},
        "gate-9": {"gen": 1, "state": "committed"},
    }
    devices = ("--device", "gate-1", "--device", "gate-2", "--device", "gate-9")
    result = run("slot", "clear", "gate", *devices, "--wait", "0.1", "--json", ends=RolloutError)
    assert isinstance(result.exception, RolloutError)
    assert result.exception.message == "gate-2: slot gate is not empty after 0.1 s"
    found = {c["device"]: c["state"] for c in json.loads(result.stdout)}
    assert found == {
        "gate-1": "cleared",
        "gate-2": "clearing: frozen",
        "gate-9": "away: empties it when it is back",
    }
    assert said == [("clear", "gate", "gate-1", "gate-2", "gate-9", {})]


def test_label_that_is_none_is_refused(said: list[tuple[object, ...]]) -> None:
    run("slot", "clear", "gate", "--label", "site", ends=UsageError)
    assert said == []


POLICY = "release: m@2\nslot: gate\nstart: 2026-12-01 02:00\nwaves: [{share: 20%, soak: 1h}, {share: 100%}]\n"


@pytest.mark.parametrize("columns", [80, 140])
def test_preview_shows_waves_bytes_time_gates_and_warnings(
    said: list[tuple[object, ...]], tmp_path: Path, columns: int
) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    words = ["rollout", "preview", "--policy", str(tmp_path / "p.yaml")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    assert result.exception is None, result.output
    assert max(map(len, result.output.splitlines())) <= columns
    text = " ".join(result.output.split())
    for part in (
        "m@2 to slot gate: 12 devices, 11 online, 1 run it already",
        "approval first",
        "35.0 MB",
        "takes 12h20m at least",
        "begins at 2026-12-01 02:00 UTC",
        "a canary of 2 finds",
        "cannot run it: d0: cpu/float needs arch:x86_64",
        "and 2 more",
        "never seen: ghost",
        "! 7 of 12 devices cannot run it",
    ):
        assert part in text
    ((what, request),) = said
    assert what == "preview"
    assert isinstance(request, dict)
    assert (request["waves"][0]["share"], request["waves"][0]["soak_s"]) == (0.2, 3600.0)


def test_start_by_a_policy_says_what_is_odd_about_it(said: list[tuple[object, ...]], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    output = run("rollout", "start", "m@3", "--policy", str(tmp_path / "p.yaml")).output
    assert "note: 7 of 12 devices cannot run it" in output
    assert [(what, r["release"]) for what, r in said] == [("preview", "m@3"), ("start", "m@3")]  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "a release is missing"),
        (["m@2"], "--slot is missing"),
        (["m@2", "--slot", "gate", "--select", "site = a"], "--select: column 1: there is no field 'site'"),
        (["m@2", "--slot", "gate", "--window", "nights"], "--window: 'nights' is not a maintenance window"),
        (["--policy", "POLICY", "--canary", "2"], "--canary does not go with --policy"),
        (["--policy", "POLICY", "--shared-plans"], "--shared-plans does not go with --policy"),
    ],
)
def test_terms_that_do_not_fit_together_are_one_sentence(
    said: list[tuple[object, ...]], tmp_path: Path, words: list[str], why: str
) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    words = [str(tmp_path / "p.yaml") if w == "POLICY" else w for w in words]
    result = run("rollout", "start", *words, ends=UsageError)
    assert result.exception.message.startswith(why)
    assert said == []


def test_abort_that_keeps_and_approval_of_a_wave_are_what_they_say(said: list[tuple[object, ...]]) -> None:
    Controller.found.append(rollout("aborted"))
    run("rollout", "abort", "gate-1", "--keep")
    run("rollout", "abort", "gate-1")
    run("rollout", "approve", "gate-1")
    assert said == [("halt", "gate-1"), ("abort", "gate-1"), ("approve", "gate-1")]
    run("rollout", "approve", "gate-1", "--show", ends=UsageError)


MEMBERS = {f"d{i:02}": {"wave": 1, "outcome": "committed"} for i in range(30)} | {
    "c0": {"wave": 0, "outcome": "committed"},
    "e0": {"wave": 1, "outcome": "failed", "detail": "rolled_back: too slow", "stratum": "north/jetson-orin"},
    "e1": {"wave": 1, "outcome": "admitted", "detail": None, "stratum": "north/jetson-orin"},
    **{f"w{i}": {"wave": 2, "outcome": "waiting"} for i in range(5)},
}
THIRD = rollout(
    "running",
    wave=1,
    members=MEMBERS,
    strata=["label.site", "profile"],
    soak_s=600.0,
    waves=[{"share": 0.5, "soak_s": 3600.0, "soak_inferences": 1000}, {"share": 1.0, "approval": True}],
    note="wave 1 soaks",
)


@pytest.mark.parametrize("columns", ["80", "140"])
def test_status_shows_waves_and_only_devices_that_somebody_has_to_look_at(columns: str) -> None:
    Controller.found.append(THIRD)
    result = CliRunner().invoke(app, ["rollout", "status", "gate-1"], env={"COLUMNS": columns})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= int(columns)
    text = " ".join(result.output.split())
    assert "m@2 to slot gate: running, wave 1 of 2" in text
    assert "rolled_back: too slow" in text
    assert "needs approval" in text
    assert "inferences" in text
    assert "d07" not in text
    assert "and 36 more devices: --all" in text
    every = CliRunner().invoke(app, ["rollout", "status", "gate-1", "--all"], env={"COLUMNS": columns}).output
    assert "d07" in every
    assert "--all" not in every


def test_watch_follows_to_the_end_and_exits_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl.cli.rollout._LOOK_S", 0.001)
    Controller.found[:] = [THIRD, THIRD, {**THIRD, "state": "done"}]
    assert "m@2 to slot gate: done" in run("rollout", "watch", "gate-1").output
    Controller.found[:] = [THIRD, {**THIRD, "state": "stopped", "reason": "2 of 2 devices failed"}]
    result = run("rollout", "watch", "gate-1", ends=RolloutError)
    assert result.exception.message == "rollout gate-1 of m@2 is stopped: 2 of 2 devices failed"


def test_explain_shows_each_verdict_with_its_numbers_and_works_it_out_again(
    said: list[tuple[object, ...]],
) -> None:
    Controller.found.append(rollout("stopped"))
    shown = run("rollout", "explain", "gate-1").output
    assert "errors on gate-1: 73.33%, 1.00% may" in " ".join(shown.split())
    assert said == [("decisions", "gate-1")]
    (told,) = json.loads(run("rollout", "explain", "gate-1", "--json").output)
    assert (told["verdict"], told["recomputed"]) == ("worse", "worse")
    assert told["devices"][0]["after"] == [0.5, 1.0, 0.7]


def test_gate_of_a_newer_controller_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    Controller.found.append(rollout("running"))
    monkeypatch.setitem(DECISIONS[0], "kind", "mood")
    assert "does not know the gate mood" in str(
        run("rollout", "explain", "gate-1", ends=UsageError).exception
    )
