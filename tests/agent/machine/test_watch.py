from __future__ import annotations

from pathlib import Path

import pytest
from support.boards import BOARDS, JETPACK_6, plant

from edgectl.agent.machine.watch import MachineWatch
from edgectl.core.wire import Telemetry


@pytest.mark.parametrize(
    ("board", "mode"),
    [("JetPack 5", "MODE_50W"), ("JetPack 6", "MAXN_SUPER"), ("JetPack 7", "MAXN"), ("laptop", None)],
)
def test_reading_of_a_board_fits_into_telemetry(board: str, mode: str | None, tmp_path: Path) -> None:
    found = MachineWatch(tmp_path, plant(tmp_path, BOARDS[board]), lambda: None).window()
    assert found.power_mode == mode
    told = Telemetry(
        epoch=1,
        seq=1,
        window_s=10,
        resources=found.resources,
        power_mode=found.power_mode,
        throttled=found.throttled,
    )
    assert Telemetry.model_validate_json(told.encode()) == told
    assert found.resources.core_load_pct
    assert found.resources.disk_free_mb


def test_over_current_in_a_part_of_the_window(tmp_path: Path) -> None:
    now = [0.0]
    plant(tmp_path, JETPACK_6)
    watch = MachineWatch(tmp_path, tmp_path, lambda: None, lambda: now[0])
    counter = tmp_path / "sys/class/hwmon/hwmon2/oc3_event_cnt"
    for second in range(11):
        now[0] = float(second)
        if second == 5:
            counter.write_text("90\n")
        watch.look()
    found = watch.window()
    assert found.throttled == ("instantaneous over-current",)
    assert found.resources.throttled_share == 0.2
    now[0] = 20.0
    assert watch.window().resources.throttled_share == 0


def test_machine_that_does_not_tell_what_slows_it_down_has_no_share(tmp_path: Path) -> None:
    now = [0.0]
    watch = MachineWatch(tmp_path, tmp_path, lambda: None, lambda: now[0])
    watch.look()
    now[0] = 10.0
    assert watch.window().resources.throttled_share is None
