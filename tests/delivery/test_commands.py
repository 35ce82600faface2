"""An operator says "not now", passes it, and takes back: with `edgectl device`, through controller, broker
and agent. And nobody else can."""

from __future__ import annotations

import json
import time
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from support.bundle import make_bundle
from support.fleet import POLICY, Fleet, wait_until
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import UsageError
from edgectl.core.wire import Command, ControllerState, Reply

SLOT = "gate-detector"


def edgectl(fleet: Fleet, *words: str) -> dict[str, Any]:
    where = [
        "--controller",
        f"http://127.0.0.1:{fleet.api_port}",
        "--token-file",
        str(fleet.config.state_dir / "token"),
    ]
    told = CliRunner().invoke(app, ["device", *words, *where, "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_lease_keeps_an_update_away_force_passes_it_cancel_takes_back_and_nobody_else_can(
    gate: Fleet, tmp_path: Path
) -> None:
    commands: list[bytes] = []
    states: list[bytes] = []
    replies: Queue[Reply] = Queue()
    gate.spy.subscribe(gate.topics.command("gate-1"), lambda _, payload: commands.append(payload))
    gate.spy.subscribe(gate.topics.ctl, lambda _, payload: states.append(payload))
    gate.spy.subscribe(
        gate.topics.any_reply, lambda _, payload: replies.put(Reply.model_validate_json(payload))
    )
    anna = ("gate-1", "--owner", "anna")
    with pytest.raises(
        UsageError, match=rf"gate-1 refuses: cancel is not possible now \({SLOT}: committed\)"
    ):
        edgectl(gate, "cancel", *anna)
    lease = edgectl(gate, "lock", *anna, "--for", "1h", "--reason", "night shift")
    assert lease == {"device": "gate-1", "owner": "anna", "ttl_s": 3600.0}
    rollout = gate.rollout(gate.publish(make_bundle(tmp_path / "v2", version="2.0.0")))

    def stage() -> str | None:
        return gate.reported["gate-1"][-1].slots[SLOT].stage

    wait_until(
        lambda: gate.state_of("gate-1") == "deferred" and stage() == "anna says not now: night shift",
        "it waits",
    )
    assert edgectl(gate, "force", *anna, "--slot", SLOT, "--reason", "security fix")["slots"] == [SLOT]
    gate.wait_rollout(rollout, "done")
    logs = edgectl(gate, "logs", "gate-1")
    assert [what for _, what in logs["audit"]] == [
        "anna: lock: night shift",
        f"anna: force of {SLOT}: security fix",
    ]
    assert [(e["stream"], e["kind"]) for e in logs["events"]][-1:] == [("yard", "started")]
    edgectl(gate, "unlock", *anna)
    with pytest.raises(UsageError, match="anna holds no lease; who does: nobody"):
        edgectl(gate, "unlock", *anna)
    told = [e["text"] for e in gate.client.events() if e["kind"] == "command"]
    assert told[0] == "anna: cancel"
    assert told[1].startswith("cancel: refused: cancel is not possible now")
    assert told[2:4] == ["anna: lock for 3600 s: night shift", "lock: done"]
    assert told[4:6] == [f"anna: force of {SLOT}: security fix", "force: done"]

    # Who holds the broker has every message that went over it, and can use none of them.
    gate.client.freeze(True)
    lock = next(c for c in commands if b'"lock"' in c)
    unsigned = Command(id="forged", op="lock", deadline_s=time.time() + 60, ttl_s=3600)
    while not replies.empty():
        replies.get()
    for topic, payload, retain in (
        (gate.topics.command("gate-1"), unsigned.encode(), False),
        (gate.topics.command("gate-1"), lock, False),
        (gate.topics.ctl, states[0], True),
        (gate.topics.ctl, ControllerState(epoch=99, online=True, freeze=False).encode(), True),
    ):
        gate.spy.publish(topic, payload, retain=retain).wait(5)
    refused = replies.get(timeout=20)
    assert refused.error is not None
    assert (refused.id, refused.error.code) == (json.loads(lock)["signed"]["id"], "trust"), (
        "the unsigned one before it is not answered"
    )
    before = gate.reported["gate-1"][-1].slots[SLOT].active
    release = gate.publish(make_bundle(tmp_path / "v3", version="3.0.0"))
    rollout = gate.rollout(release, policy=POLICY.model_copy(update={"probation_s": 60.0}))
    wait_until(lambda: stage() == "frozen", "neither the lease nor the end of the freeze came back")
    gate.client.freeze(False)
    wait_until(lambda: gate.state_of("gate-1") == "probation", "on trial")
    edgectl(gate, "cancel", *anna, "--slot", SLOT)
    stopped = gate.wait_rollout(rollout, "stopped")
    assert "canceled by command" in stopped["reason"]
    assert gate.reported["gate-1"][-1].slots[SLOT].active == before
