"""An operator says "not now", passes it, and takes back: with `edgectl device`, through controller, broker and agent. And nobody else can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support_bundle import make_bundle
from support_fleet import POLICY, Fleet, wait_until
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import UsageError

SLOT = "gate-detector"


def edgectl(fleet: Fleet, *words: str) -> dict[str, Any]:
    where = ["--controller", f"http://127.0.0.1:{fleet.api_port}", "--token-file", str(fleet.config.state_dir / "token")]
    told = CliRunner().invoke(app, ["device", *words, *where, "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_lease_keeps_an_update_away_force_passes_it_cancel_takes_back_and_all_is_on_record(gate: Fleet, tmp_path: Path) -> None:
    anna = ("gate-1", "--owner", "anna")
    with pytest.raises(UsageError, match=f"gate-1 refuses: cancel is not possible now: {SLOT} is committed"):
        edgectl(gate, "cancel", *anna)
    assert edgectl(gate, "lock", *anna, "--for", "1h", "--reason", "night shift") == {
        "device": "gate-1",
        "owner": "anna",
        "ttl_s": 3600.0,
    }
    rollout = gate.rollout(gate.publish(make_bundle(tmp_path / "v2", version="2.0.0")))

    def stage() -> str | None:
        return gate.reported["gate-1"][-1].slots[SLOT].stage

    wait_until(lambda: gate.state_of("gate-1") == "deferred" and stage() == "anna says not now: night shift", "it waits")
    assert edgectl(gate, "force", *anna, "--slot", SLOT, "--reason", "security fix")["slots"] == [SLOT]
    gate.wait_rollout(rollout, "done")
    logs = edgectl(gate, "logs", "gate-1")
    assert [what for _, what in logs["audit"]] == ["anna: lock: night shift", f"anna: force of {SLOT}: security fix"]
    assert [(e["stream"], e["kind"]) for e in logs["events"]][-1:] == [("yard", "started")]
    edgectl(gate, "unlock", *anna)
    with pytest.raises(UsageError, match="anna holds no lease; who does: nobody"):
        edgectl(gate, "unlock", *anna)
    told = [e["text"] for e in gate.client.events() if e["kind"] == "command"]
    assert told[2:6] == [
        "anna: lock for 3600 s: night shift",
        "lock: done",
        f"anna: force of {SLOT}: security fix",
        "force: done",
    ]
    assert "cancel: refused: cancel is not possible now" in told[1]

    before = gate.reported["gate-1"][-1].slots[SLOT].active
    release = gate.publish(make_bundle(tmp_path / "v3", version="3.0.0"))
    rollout = gate.rollout(release, policy=POLICY.model_copy(update={"probation_s": 60.0}))
    wait_until(lambda: gate.state_of("gate-1") == "probation", "on trial")
    edgectl(gate, "cancel", *anna, "--slot", SLOT)
    stopped = gate.wait_rollout(rollout, "stopped")
    assert "canceled by command" in stopped["reason"]
    assert gate.reported["gate-1"][-1].slots[SLOT].active == before
