"""What a machine tells of itself, and what it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from edgectl.pipelines.stream.machine import MachineState, machine_state


def set_sensors(monkeypatch: pytest.MonkeyPatch, temperatures: list[float | None], battery: Any) -> None:
    readings = {"chip": [SimpleNamespace(current=t) for t in temperatures]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: readings, raising=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=512 << 20))


@pytest.mark.parametrize(("plugged", "on_battery"), [(True, False), (False, True), (None, False)])
def test_the_hottest_sensor_counts_and_a_battery_that_is_not_charged(
    monkeypatch: pytest.MonkeyPatch, plugged: bool | None, on_battery: bool
) -> None:
    set_sensors(monkeypatch, [41.0, None, 77.5, 60.0], SimpleNamespace(power_plugged=plugged))
    assert machine_state() == MachineState(77.5, 512.0, on_battery)


def test_a_machine_without_sensors_and_battery_tells_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sensors(monkeypatch, [], None)
    assert machine_state() == MachineState(None, 512.0, False)
    monkeypatch.delattr(psutil, "sensors_temperatures")
    monkeypatch.delattr(psutil, "sensors_battery")
    assert machine_state() == MachineState(None, 512.0, False)


def test_a_sensor_that_cannot_be_read_is_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise OSError("no such device")

    set_sensors(monkeypatch, [50.0], SimpleNamespace(power_plugged=False))
    monkeypatch.setattr(psutil, "sensors_temperatures", gone)
    assert machine_state() == MachineState(None, 512.0, True)
    monkeypatch.setattr(psutil, "sensors_battery", gone)
    assert machine_state() == MachineState(None, 512.0, False)
