"""An operator says "not now", passes it, and takes back: over MQTT, as anybody with access would."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from queue import Queue
from typing import Any

from support_bundle import make_bundle
from support_fleet import POLICY, Fleet, wait_until

from edgectl.core.wire import Command, Reply

SLOT = "gate-detector"


class Operator:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._replies: Queue[Reply] = Queue()
        self._ids = itertools.count()
        fleet.spy.subscribe(fleet.topics.any_reply, lambda _, payload: self._replies.put(Reply.model_validate_json(payload)))

    def __call__(self, op: str, **more: Any) -> Reply:
        command = Command.model_validate(
            {"id": str(next(self._ids)), "op": op, "deadline_s": time.time() + 60, "owner": "anna", **more}
        )
        self._fleet.spy.publish(self._fleet.topics.command("gate-1"), command.encode()).wait(5)
        reply = self._replies.get(timeout=20)
        assert reply.id == command.id
        return reply


def test_lease_keeps_an_update_away_force_passes_it_cancel_takes_back_and_all_is_on_record(gate: Fleet, tmp_path: Path) -> None:
    ask = Operator(gate)
    assert not ask("cancel").ok, "nothing is under way"
    refused = ask("lock")
    assert refused.error is not None
    assert "ttl_s" in refused.error.detail
    assert ask("lock", ttl_s=3600, reason="night shift").ok
    rollout = gate.rollout(gate.publish(make_bundle(tmp_path / "v2", version="2.0.0")))

    def stage() -> str | None:
        return gate.reported["gate-1"][-1].slots[SLOT].stage

    wait_until(lambda: gate.state_of("gate-1") == "deferred" and stage() == "anna says not now: night shift", "it waits")
    assert ask("force", slot=SLOT, reason="security fix").ok
    gate.wait_rollout(rollout, "done")
    audit = [what for _, what in ask("logs").result["audit"]]
    assert audit == ["anna: lock: night shift", f"anna: force of {SLOT}: security fix"]
    events = ask("logs").result["events"]
    assert [(e["stream"], e["kind"]) for e in events][-1:] == [("yard", "started")]
    assert ask("unlock").ok
    assert not ask("unlock").ok

    before = gate.reported["gate-1"][-1].slots[SLOT].active
    release = gate.publish(make_bundle(tmp_path / "v3", version="3.0.0"))
    rollout = gate.rollout(release, policy=POLICY.model_copy(update={"probation_s": 60.0}))
    wait_until(lambda: gate.state_of("gate-1") == "probation", "on trial")
    assert ask("cancel", slot=SLOT).ok
    stopped = gate.wait_rollout(rollout, "stopped")
    assert "canceled by command" in stopped["reason"]
    assert gate.reported["gate-1"][-1].slots[SLOT].active == before
