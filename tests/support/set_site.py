"""A controller and a device whose two streams take sets: what every worker ever said that it runs is compared with the
sets that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.bundle import make_bundle
from support.deaths import died_at, spare, tell_to_die
from support.fleet import POLICY, Fleet, wait_until
from support.pipelines import class_task

from edgectl.core.bundle import Bundle
from edgectl.core.bundle.config_release import ConfigRelease, PartRelease
from edgectl.core.wire import Policy, ReportedSlot
from edgectl.fleet.client.config_writer import write_config

__all__ = ["RULES", "SetSite"]

RULES, DETECTOR, PLATES = "gate-rules", "gate-detector", "gate-plates"
STREAMS = ("yard", "door")
_STAGE = [{"part": "plates"}]
_FIRST = {"update_s": 77.0, "second_stage": _STAGE}


class SetSite:
    def __init__(self, fleet: Fleet, folder: Path, **settings: Any) -> None:
        self.fleet, self.folder = fleet, folder
        self.device = fleet.folder / "gate-1"
        self.events: list[dict[str, Any]] = []
        """What workers said that they run, in order."""
        self.sets: dict[float, dict[str, str]] = {}
        """What is whole: ``update_s`` of a configuration → part → release."""
        fleet.spy.subscribe(fleet.topics.any_event, self._heard)
        fleet.start_controller()
        pipeline = {
            "kind": "surveillance",
            "source": "synth://yard",
            "slots": {"detector": DETECTOR, "plates": PLATES},
            "config_slot": RULES,
            "config": _FIRST,
            "stall_s": 10.0,
        }
        fleet.enroll("gate-1", dict.fromkeys(STREAMS, pipeline), **settings)
        fleet.start_agent("gate-1")
        for slot in (DETECTOR, PLATES):
            self.fleet.wait_rollout(self.fleet.rollout(self.engine(slot, 0), slot=slot), "done")
        self.sets[77.0] = {"detector": f"{DETECTOR}@0.0.0", "plates": f"{PLATES}@0.0.0"}
        self.wait_running(77.0)

    def _heard(self, _topic: str, payload: bytes) -> None:
        event = json.loads(payload)
        if event.get("kind") in ("started", "configured"):
            self.events.append(event)

    def engine(self, name: str, n: int, **behaviour: Any) -> str:
        """Publish an engine. Returns its release."""
        task = class_task() if name == PLATES else None
        place = self.folder / f"{name}-{n}"
        return self.fleet.publish(make_bundle(place, name, f"{n}.0.0", size=3000, task=task, **behaviour))

    def publish(self, n: int, *, update_s: float | None = None, **detector: Any) -> str:
        """Publish set ``n``, its engines before it. ``detector``: how that engine behaves."""
        parts = {
            part: PartRelease(
                release=self.engine(slot, n, **behaviour),
                digest=Bundle(self.folder / f"{slot}-{n}").digest,
            )
            for part, slot, behaviour in (("detector", DETECTOR, detector), ("plates", PLATES, {}))
        }
        told = 100.0 + n if update_s is None else update_s
        self.sets[told] = {part: one.release for part, one in parts.items()}
        place = self.folder / f"rules-{n}"
        place.mkdir()
        text = f"update_s: {told}\nsecond_stage: {json.dumps(_STAGE)}\n"
        release = ConfigRelease(name="rules", version=str(n), kind="surveillance", parts=parts)
        write_config(place, release, text.encode())
        return self.fleet.publish(place)

    def roll(self, release: str, *states: str, slot: str = RULES, **policy: Any) -> dict[str, Any]:
        terms = POLICY.model_copy(update=policy)
        return self.fleet.wait_rollout(self.fleet.rollout(release, terms, slot=slot), *states)

    def mixed(self) -> list[dict[str, Any]]:
        """What a worker ever ran that is no set as a whole."""
        return [e for e in self.events if self.sets.get(e["config"].get("update_s")) != e["releases"]]

    def running(self) -> dict[str, float]:
        """Stream → ``update_s`` of what it said last that it runs."""
        return {e["stream"]: e["config"]["update_s"] for e in self.events}

    def wait_running(self, update_s: float) -> None:
        wait_until(
            lambda: self.running() == dict.fromkeys(STREAMS, update_s),
            f"both streams run with {update_s}, not {self.running()}",
        )

    def slot(self, name: str = RULES) -> ReportedSlot:
        return self.fleet.reported["gate-1"][-1].slots[name]

    def kill_at(self, number: int, n: int, policy: Policy = POLICY, **detector: Any) -> str | None:
        """Roll set ``n`` out to an agent that dies at this step of it, start the agent again, and wait for the end. Returns
        the step; None: there are not so many."""
        release = self.publish(n, **detector)
        tell_to_die(self.device, number)
        pid = self.fleet.agents["gate-1"].pid
        rollout = self.fleet.rollout(release, policy, slot=RULES)

        def over() -> bool:
            if self.fleet.agents["gate-1"].poll() is not None:
                self.fleet.start_agent("gate-1")
            return self.fleet.client.rollout(rollout)["state"] in ("done", "stopped")

        wait_until(over, f"set {n} comes to its end", 90)
        spare(self.device)
        step = died_at(self.device)
        if step is not None and pid == self.fleet.agents["gate-1"].pid:
            # it died behind the end
            self.fleet.agents["gate-1"].wait(20)
            self.fleet.start_agent("gate-1")
        return step
