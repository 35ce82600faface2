"""A configuration that is delivered as a release: real controller, broker and agents; the worker takes or refuses it as
its ``update_s`` says (:mod:`support.worker`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bundle import make_bundle
from support.fleet import POLICY, Fleet, wait_until

from edgectl.core.bundle.config_release import ConfigRelease
from edgectl.core.errors import UsageError
from edgectl.fleet.client.config_writer import write_config

SLOT = "gate-rules"
FIRST = {"update_s": 77.0}
PIPELINE = {
    "kind": "surveillance",
    "source": "synth://yard",
    "slots": {"detector": "gate-detector"},
    "config_slot": SLOT,
    "config": FIRST,
    "stall_s": 10.0,
}
REFUSED, WENT_BACK, CRASHES = 1, 5, 8
"""Values of ``update_s`` that the worker double knows."""


class Site:
    """A controller and the device gate-1, which runs an engine with what stands in its agent.toml."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.events: list[dict[str, Any]] = []
        fleet.spy.subscribe(fleet.topics.any_event, self._heard)
        fleet.start_controller()
        fleet.enroll("gate-1", {"yard": PIPELINE})
        fleet.start_agent("gate-1")
        release = fleet.publish(make_bundle(folder / "v1", version="1.0.0"))
        fleet.wait_rollout(fleet.rollout(release), "done")
        self.wait_started_with(FIRST)

    def _heard(self, _topic: str, payload: bytes) -> None:
        import json

        self.events.append(json.loads(payload))

    def publish(self, version: str, update_s: object, kind: str = "surveillance") -> str:
        place = self.folder / f"rules-{version}"
        place.mkdir()
        write_config(
            place, ConfigRelease(name="rules", version=version, kind=kind), f"update_s: {update_s}\n".encode()
        )
        return self.fleet.publish(place)

    def roll(self, version: str, update_s: object, *states: str, **policy: Any) -> dict[str, Any]:
        rollout = self.fleet.rollout(
            self.publish(version, update_s), POLICY.model_copy(update=policy), slot=SLOT
        )
        return self.fleet.wait_rollout(rollout, *states)

    def wait_started_with(self, config: dict[str, Any]) -> None:
        """The worker's last start had this configuration."""
        self.wait(lambda: self._last("started").get("config") == config, f"it starts with {config}")

    def _last(self, kind: str) -> dict[str, Any]:
        return next((e for e in reversed(self.events) if e.get("kind") == kind), {})

    @staticmethod
    def wait(condition: Any, what: str) -> None:
        wait_until(condition, what)

    @property
    def active(self) -> str | None:
        return self.fleet.reported["gate-1"][-1].slots[SLOT].active_release

    @property
    def error(self) -> str:
        error = self.fleet.reported["gate-1"][-1].slots[SLOT].error
        return f"{error.code}: {error.detail}" if error else ""


@pytest.fixture
def site(fleet: Fleet, tmp_path: Path) -> Site:
    return Site(fleet, tmp_path)


def test_configuration_takes_over_in_the_running_stream_and_outlives_a_restart(site: Site) -> None:
    site.roll("1", 20, "done")
    assert site.fleet.history("gate-1", SLOT)[-1] == "committed"
    assert site._last("configured")["name"] == "rules@1", "the event says which release it is"
    assert site.active == "rules@1"
    site.events.clear()
    site.fleet.kill_agent("gate-1")
    site.fleet.start_agent("gate-1")
    site.wait_started_with({"update_s": 20})


def test_configuration_that_a_stream_refuses_never_takes_over(site: Site) -> None:
    site.roll("1", 20, "done")
    found = site.roll("2", REFUSED, "stopped")
    assert "yard does not take rules@2: update_s: it is too small" in found["reason"]
    assert "activating" not in site.fleet.history("gate-1", SLOT)[-6:]
    wait_until(lambda: site.fleet.state_of("gate-1", SLOT) == "committed", "it is back")
    assert site.active == "rules@1"


@pytest.mark.parametrize("update_s", [WENT_BACK, CRASHES])
def test_configuration_that_does_not_survive_gives_way_to_the_one_before(site: Site, update_s: int) -> None:
    site.roll("1", 20, "done")
    found = site.roll("2", update_s, "stopped", probation_s=3.0)
    assert found["members"]["gate-1"]["outcome"] == "restored"
    assert site.active == "rules@1"
    if update_s == CRASHES:
        site.wait_started_with({"update_s": 20})


def test_configuration_that_is_taken_back_does_not_cost_the_engine(site: Site) -> None:
    newer = site.fleet.publish(make_bundle(site.folder / "v2", version="2.0.0"))
    site.fleet.wait_rollout(site.fleet.rollout(newer), "done")
    site.roll("1", 20, "done")
    site.roll("2", CRASHES, "stopped", probation_s=3.0)
    site.wait_started_with({"update_s": 20})
    fresh = len(site.fleet.telemetry["gate-1"])
    wait_until(lambda: len(site.fleet.telemetry["gate-1"]) > fresh + 2, "it goes on for a while")
    engine = site.fleet.reported["gate-1"][-1].slots["gate-detector"]
    assert (engine.active_release, engine.error) == ("gate-detector@2.0.0", None)


def test_first_configuration_that_fails_gives_way_to_what_stands_in_agent_toml(site: Site) -> None:
    site.roll("1", WENT_BACK, "stopped", probation_s=3.0)
    assert site.active is None
    site.events.clear()
    site.fleet.kill_agent("gate-1")
    site.fleet.start_agent("gate-1")
    site.wait_started_with(FIRST)


def test_slot_that_is_cleared_gives_the_stream_back_what_stands_in_agent_toml(site: Site) -> None:
    site.roll("1", 20, "done")
    site.events.clear()
    site.fleet.client.clear_slot(SLOT, ["gate-1"])
    wait_until(lambda: site.fleet.state_of("gate-1", SLOT) == "cleared", "it is cleared")
    wait_until(lambda: site._last("configured"), "the stream goes on with another one")
    assert "name" not in site._last("configured")


@pytest.mark.parametrize("state", ["activating", "probation"])
def test_kill_while_it_takes_over_or_is_judged_ends_committed(site: Site, state: str) -> None:
    site.roll("1", 20, "done")
    rollout = site.fleet.rollout(
        site.publish("2", 21), POLICY.model_copy(update={"probation_s": 2.0}), slot=SLOT
    )
    wait_until(lambda: state in site.fleet.history("gate-1", SLOT)[-3:], f"{state} has begun")
    site.fleet.kill_agent("gate-1")
    site.fleet.start_agent("gate-1")
    site.fleet.wait_rollout(rollout, "done")
    assert site.active == "rules@2"
    site.events.clear()
    site.fleet.stop_agent("gate-1")
    site.fleet.start_agent("gate-1")
    site.wait_started_with({"update_s": 21})


def test_release_of_the_wrong_type_or_kind_is_refused_with_the_reason(site: Site) -> None:
    engines = site.fleet.publish(make_bundle(site.folder / "v2", version="2.0.0"))
    found = site.fleet.wait_rollout(site.fleet.rollout(engines, slot=SLOT), "stopped")
    assert "is no configuration, and this slot holds one" in found["reason"]
    rules = site.publish("1", 20)
    found = site.fleet.wait_rollout(site.fleet.rollout(rules), "stopped")
    assert "rules@1 is a configuration, and this slot holds engines" in found["reason"]
    driving = site.publish("3", 20, kind="driving")
    found = site.fleet.wait_rollout(site.fleet.rollout(driving, slot=SLOT), "stopped")
    assert "rules@3 is for a driving pipeline, yard is a surveillance pipeline" in found["reason"]


def test_configuration_that_is_to_soak_by_inferences_is_refused_before_it_begins(site: Site) -> None:
    with pytest.raises(UsageError, match="rules@1 is a configuration and makes no inferences"):
        site.fleet.rollout(site.publish("1", 20), slot=SLOT, soak_inferences=5)
    assert len(site.fleet.client.rollouts()) == 1


def test_preview_of_a_configuration_names_devices_without_such_a_pipeline(site: Site) -> None:
    found = site.fleet.client.preview_rollout(site.publish("1", 20), SLOT)
    assert (found["devices"], found["unfit"]) == (1, {})
    assert 0 < found["received_bytes"] < 1000
    found = site.fleet.client.preview_rollout(site.publish("2", 20, kind="driving"), SLOT)
    assert found["unfit"] == {"gate-1": "it has no pipeline of the kind driving"}
    assert site.fleet.client.configuration("rules@1") == {
        "release": "rules@1",
        "kind": "surveillance",
        "text": "update_s: 20\n",
    }
