from __future__ import annotations

from edgectl.core.resources import GpuReading, Resources
from edgectl.core.wire import Telemetry
from edgectl.fleet.control.machine_view import machine_of


def told(**fields: object) -> Telemetry:
    return Telemetry(epoch=1, seq=1, window_s=10.0).model_copy(update=fields)


def test_machine_in_words() -> None:
    gpu = GpuReading(
        name="RTX",
        load_pct=87,
        memory_used_mb=4096,
        memory_total_mb=12288,
        clock_mhz=1920,
        clock_max_mhz=3105,
        temperature_c=83,
        power_w=198.5,
        power_limit_w=200,
    )
    r = Resources(
        core_load_pct=(10, 90),
        memory_total_mb=8000,
        memory_available_mb=2000,
        swap_total_mb=1000,
        swap_used_mb=1,
        disk_total_mb=32000,
        disk_free_mb=9000,
        temperatures_c={"cpu": 63.6, "gpu": 71.2},
        power_w=9.25,
        gpus=(gpu,),
        throttled_share=0.2,
    )
    rows = dict(machine_of(told(resources=r, power_mode="15W", throttled=("under-voltage",))).rows())
    assert rows == {
        "power mode": "15W",
        "slowed down": "20% of the time: under-voltage",
        "cores": "2, 50 % busy, the busiest 90 %",
        "memory": "2,000 of 8,000 MiB free",
        "disk": "9,000 of 32,000 MiB free",
        "swap": "1 of 1,000 MiB used",
        "power": "9.2 W",
        "temperatures": "gpu 71 °C, cpu 64 °C",
        "GPU RTX": "87 % busy, 4,096 of 12,288 MiB used, 1,920 MHz of 3,105, 83 °C, 198.5 W of 200",
    }


def test_what_is_not_known_is_not_shown() -> None:
    assert machine_of(None).rows() == []
    assert machine_of(told()).rows() == [], "an agent from before"
    assert machine_of(told(resources=Resources())).rows() == []
    bare = Resources(gpus=(GpuReading(name="Orin"),), throttled_share=0.0)
    assert machine_of(told(resources=bare)).rows() == [
        ("slowed down", "0% of the time"),
        ("GPU Orin", "tells nothing"),
    ]
