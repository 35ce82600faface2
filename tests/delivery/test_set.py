"""A configuration that names the releases of its parts: real controller, broker, agent and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import Fleet, wait_until
from support.set_site import DETECTOR, PLATES, RULES, SetSite

from edgectl.core.errors import RolloutError


@pytest.fixture
def site(fleet: Fleet, tmp_path: Path) -> SetSite:
    return SetSite(fleet, tmp_path)


def test_engines_and_rules_come_into_force_and_go_as_one(site: SetSite) -> None:
    release = site.publish(1)
    preview = site.fleet.client.preview_rollout(release, RULES)
    assert preview["received_bytes"] > 6000, preview
    site.roll(release, "done")
    site.wait_running(101.0)
    assert site.slot().parts == {DETECTOR: f"{DETECTOR}@1.0.0", PLATES: f"{PLATES}@1.0.0"}
    assert site.slot(DETECTOR).set == "rules@1 in slot gate-rules"
    preview = site.fleet.client.preview_rollout("rules@1", RULES)
    assert (preview["current"], preview["unfit"]) == (1, {})
    newer = site.engine(DETECTOR, 9)
    with pytest.raises(RolloutError, match="slot gate-detector of gate-1 belongs to the set rules@1 in slot"):
        site.fleet.rollout(newer, slot=DETECTOR)
    preview = site.fleet.client.preview_rollout(newer, DETECTOR)
    assert preview["unfit"] == {
        "gate-1": "its slot gate-detector belongs to the set rules@1 in slot gate-rules"
    }
    bad = site.roll(site.publish(2, latency_ms=50.0), "stopped")
    assert bad["members"]["gate-1"]["outcome"] == "restored"
    assert "gate-detector: p95 latency is" in bad["reason"]
    site.wait_running(101.0)
    assert site.slot().active_release == "rules@1"
    site.fleet.client.clear_slot(RULES, ["gate-1"])
    wait_until(lambda: site.fleet.state_of("gate-1", RULES) == "cleared", "it is cleared")
    site.wait_running(77.0)
    assert site.mixed() == []


def test_kill_at_any_step_leaves_the_old_set_or_the_new_one(site: SetSite) -> None:
    """A choice of the steps; ``bench/set_kills.py`` goes over all of them."""
    steps = [site.kill_at(number, n) for n, number in enumerate((27, 33), 1)]
    assert None not in steps, steps
    site.wait_running(102.0)
    assert site.slot().active_release == "rules@2"
    assert site.kill_at(40, 3, latency_ms=50.0) is not None
    site.wait_running(102.0)
    assert site.mixed() == []
