"""Who else computes on this machine: counters in, evidence out; waiting is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.engines.measure import conditions
from edgectl.engines.measure.conditions import (
    CpuTimes,
    Heat,
    evidence_of,
    read_cpu,
    read_heat,
    wait_until_quiet,
)

STAT = """cpu  1000 200 300 9000 50 10 40 60 0 0
cpu0 500 100 150 4500 25 5 20 30 0 0
cpu1 500 100 150 4500 25 5 20 30 0 0
intr 12345
"""


def test_counters_are_read_where_the_machine_has_them(tmp_path: Path) -> None:
    assert read_cpu(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu broken\n")
    assert read_cpu(tmp_path) is None
    (tmp_path / "proc/stat").write_text(STAT)
    found = read_cpu(tmp_path)
    assert found is not None
    assert found.cores == 2
    # idle, waiting for disks and steal are not computing
    assert found.busy_s / found.steal_s == pytest.approx(1550 / 60)


def test_heat_is_what_the_machine_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86 machine counts, an ARM one has cooling devices; a fan is no throttling, and a chip that is off no frost."""
    monkeypatch.setattr(conditions, "_sensors_c", list)
    assert read_heat(tmp_path) == Heat()
    for path, text in {
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1200000\n",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4",
        "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "20",
        "devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "20",
        "class/thermal/thermal_zone0/temp": "71500",
        "class/thermal/thermal_zone1/temp": "-256000",
        "class/thermal/thermal_zone2/temp": "broken",
        "class/thermal/cooling_device0/type": "pwm-fan",
        "class/thermal/cooling_device0/cur_state": "3",
        "class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "class/thermal/cooling_device1/cur_state": "0",
    }.items():
        (tmp_path / "sys" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / path).write_text(text)
    assert read_heat(tmp_path) == Heat(temperature_c=71.5, mhz=1500.0, throttles=27, cooling=False)
    (tmp_path / "sys/class/thermal/cooling_device1/cur_state").write_text("2\n")
    assert read_heat(tmp_path).cooling is True


def test_what_was_measured_itself_is_not_others() -> None:
    before, after = CpuTimes(100, 1, 2, at_s=50), CpuTimes(115, 1.4, 2, at_s=60)
    seen = evidence_of(before, after, own_s=10.0, spread=0.03)
    assert (seen.others, seen.cores, seen.steal, seen.spread) == (0.5, 2, pytest.approx(0.02), 0.03)
    assert evidence_of(before, after, own_s=99.0).others == 0.0  # counters tick in hundredths
    assert evidence_of(None, after, 1.0).others is None
    assert evidence_of(before, before, 1.0).others is None


class Machine:
    """A fake clock and a machine whose load is given second by second."""

    def __init__(self, load: list[float]) -> None:
        self.load, self.now, self.busy = load, 0.0, 0.0

    def read(self) -> CpuTimes:
        return CpuTimes(self.busy, 0.0, 2, self.now)

    def sleep(self, seconds: float) -> None:
        self.busy += self.load[min(int(self.now), len(self.load) - 1)] * seconds
        self.now += seconds


def waited(load: list[float], seconds: float) -> tuple[bool, float]:
    m = Machine(load)
    return wait_until_quiet(seconds, read=m.read, clock=lambda: m.now, sleep=m.sleep), m.now


def test_waiting_ends_with_the_first_quiet_second_or_when_time_is_up() -> None:
    assert waited([2.0, 2.0, 0.1, 2.0], 30) == (True, 3.0)
    assert waited([2.0], 10) == (False, 10.0)
    assert waited([0.0], 0.5) == (False, 0.0)
    assert not wait_until_quiet(5, read=lambda: None, clock=lambda: 0.0, sleep=lambda s: None)
