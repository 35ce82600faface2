"""What a machine tells of itself, and what it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from edgectl.pipelines.stream.machine import MachineReadings, MachineState, machine_state, state_of

CONF = """
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_15W >
"""


def set_sensors(monkeypatch: pytest.MonkeyPatch, temperatures: list[float | None], battery: Any) -> None:
    readings = {"chip": [SimpleNamespace(current=t) for t in temperatures]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: readings, raising=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=512 << 20))


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(("plugged", "on_battery"), [(True, False), (False, True), (None, False)])
def test_the_hottest_sensor_counts_and_a_battery_that_is_not_charged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plugged: bool | None, on_battery: bool
) -> None:
    set_sensors(monkeypatch, [41.0, None, 77.5, 60.0], SimpleNamespace(power_plugged=plugged))
    state = machine_state(tmp_path)
    assert (state.temperature_c, state.memory_mb, state.on_battery) == (77.5, 512.0, on_battery)


def test_a_machine_without_sensors_and_battery_says_what_it_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = MachineState(None, 512.0, False, None, ("temperature", "battery", "power mode"))
    set_sensors(monkeypatch, [], None)
    assert machine_state(tmp_path) == nothing
    monkeypatch.delattr(psutil, "sensors_temperatures")
    monkeypatch.delattr(psutil, "sensors_battery")
    assert machine_state(tmp_path) == nothing


def test_a_sensor_that_cannot_be_read_is_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gone() -> None:
        raise OSError("no such device")

    set_sensors(monkeypatch, [50.0], SimpleNamespace(power_plugged=False))
    monkeypatch.setattr(psutil, "sensors_temperatures", gone)
    assert machine_state(tmp_path) == MachineState(None, 512.0, True, None, ("temperature", "power mode"))
    monkeypatch.setattr(psutil, "sensors_battery", gone)
    monkeypatch.setattr(psutil, "virtual_memory", gone)
    assert machine_state(tmp_path).untold == ("temperature", "memory", "battery", "power mode")


def test_a_jetson_tells_by_its_zones_and_its_power_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_sensors(monkeypatch, [48.0], None)
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "61500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "-256000\n")
    write(tmp_path, "sys/class/thermal/cooling_device0/type", "pwm-fan\n")
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002\n")
    write(tmp_path, "etc/nvpmodel.conf", CONF)
    assert machine_state(tmp_path) == MachineState(61.5, 512.0, False, "MODE_15W", ("battery",))


@pytest.mark.parametrize(
    ("readings", "mode"),
    [
        (MachineReadings(nvpmodel_status="pmode:0002 fmode:cool", nvpmodel_conf=CONF), "MODE_15W"),
        (MachineReadings(nvpmodel_status="pmode:0000", nvpmodel_conf=CONF), "MAXN"),
        (MachineReadings(nvpmodel_status="pmode:0008", nvpmodel_conf=CONF), "8"),
        (MachineReadings(nvpmodel_status="pmode:0002"), "2"),
        (MachineReadings(nvpmodel_status="what?", nvpmodel_conf=CONF), None),
        (MachineReadings(platform_profile="low-power\n"), "low-power"),
        (MachineReadings(), None),
    ],
)
def test_the_power_mode_has_its_name(readings: MachineReadings, mode: str | None) -> None:
    assert state_of(readings).power_mode == mode


@pytest.mark.parametrize("text", ["", "hot", "99999999", "-273000"])
def test_a_zone_that_makes_no_sense_is_no_temperature(text: str) -> None:
    assert state_of(MachineReadings(zones={"cpu": text})).temperature_c is None
