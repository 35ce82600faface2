from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until


@pytest.fixture
def fleet(mosquitto: Broker, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet without controller and agents yet."""
    fleet = Fleet(tmp_path, mosquitto.port, free_port())
    yield fleet
    fleet.close()


@pytest.fixture
def gate(fleet: Fleet, tmp_path: Path) -> Fleet:
    """A controller, and the device gate-1 that has committed v1 and runs it."""
    fleet.start_controller()
    fleet.enroll("gate-1")
    fleet.start_agent("gate-1")
    release = fleet.publish(make_bundle(tmp_path / "v1", version="1.0.0"))
    fleet.wait_rollout(fleet.rollout(release), "done")
    wait_until(lambda: fleet.state_of("gate-1") == "committed", "v1 is committed")
    return fleet
