from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.boards import BOARDS, JETPACK_6, plant

from edgectl.agent.machine.boards import BoardReadings, BoardState, board_state, read_board
from edgectl.agent.machine.host import hottest
from edgectl.agent.machine.throttling import ThrottleMeter
from edgectl.core.resources import MAX_GPUS, GpuReading, Resources, plausible


def seen(root: Path, board: str) -> BoardState:
    return board_state(read_board(plant(root, BOARDS[board])))


def test_jetpack_5(tmp_path: Path) -> None:
    found = seen(tmp_path, "JetPack 5")
    assert found.gpus == (
        GpuReading(name="17000000.ga10b", load_pct=43.7, clock_mhz=1236.75, clock_max_mhz=1300.5),
    )
    assert found.temperatures == (("CPU-therm", 48.718), ("GPU-therm", -256.0))
    assert found.power_w is None, "there is no rail of the whole board"
    assert (found.slowed_by, found.counts, found.tells) == (frozenset(), {}, True), "the fan slows nothing"


def test_jetpack_6(tmp_path: Path) -> None:
    found = seen(tmp_path, "JetPack 6")
    assert found.gpus == (GpuReading(name="17000000.gpu", load_pct=100, clock_mhz=612, clock_max_mhz=1020),)
    assert found.power_w == 9.25
    assert found.counts == {
        "under-voltage": 0,
        "average over-current": 15,
        "instantaneous over-current": 37,
    }


def test_jetpack_7_has_no_load_below_devfreq_and_none_is_made_up(tmp_path: Path) -> None:
    found = seen(tmp_path, "JetPack 7")
    assert found.gpus == (GpuReading(name="gpu-gpc-0", clock_mhz=1574, clock_max_mhz=1575, power_w=37.94),)
    assert found.power_w == 124.48
    assert found.counts == {"under-voltage": 0, "instantaneous over-current": 179}


def test_raspberry_tells_in_bits_what_holds_now(tmp_path: Path) -> None:
    found = seen(tmp_path, "Raspberry Pi")
    assert found.slowed_by == {"under-voltage", "throttled"}, "bits from 16 on are of the past"
    assert found.tells


def test_processor_that_counts_its_throttling(tmp_path: Path) -> None:
    found = seen(tmp_path, "laptop")
    assert (found.counts, found.slowed_by) == ({"processor too hot": 6}, frozenset())


def test_cooling_that_slows_a_processor_down(tmp_path: Path) -> None:
    hot = JETPACK_6 | {"sys/class/thermal/cooling_device2/cur_state": "4"}
    assert board_state(read_board(plant(tmp_path, hot))).slowed_by == {"too hot: cpufreq-cpu0"}


def test_machine_that_tells_nothing_tells_nothing(tmp_path: Path) -> None:
    assert board_state(read_board(tmp_path)) == BoardState()


TEXT = st.text(max_size=20) | st.integers(-(10**20), 10**20).map(str)


@given(
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.dictionaries(TEXT, st.fixed_dictionaries({"load": TEXT, "cur_freq": TEXT}), max_size=3),
    st.lists(st.tuples(st.sampled_from(["VDD_IN", "VDD_GPU", "x"]), TEXT, TEXT), max_size=3),
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
    TEXT,
)
def test_whatever_stands_in_the_files_is_a_reading_or_left_out(
    zones: dict[str, str],
    gpus: dict[str, dict[str, str]],
    rails: list[tuple[str, str, str]],
    cooling: list[tuple[str, str]],
    raspberry: str,
) -> None:
    state = board_state(
        BoardReadings(
            zones=tuple(zones.items()),
            gpus=gpus,
            rails=tuple(rails),
            alarms={"oc1": raspberry},
            cooling=tuple(cooling),
            core_throttles=(raspberry,),
            raspberry=raspberry,
        )
    )
    told = {
        "temperatures_c": hottest(state.temperatures),
        "power_w": state.power_w,
        "gpus": state.gpus[:MAX_GPUS],
    }
    assert plausible(Resources, **told) == Resources(**told), "nothing of it has to be left out any more"


@pytest.mark.parametrize("board", BOARDS)
def test_file_that_cannot_be_read_is_not_there(board: str, tmp_path: Path) -> None:
    plant(tmp_path, BOARDS[board])
    for file in list(tmp_path.rglob("*")):
        if file.is_file():
            file.unlink()
            file.mkdir()
    assert board_state(read_board(tmp_path)).tells is False


def test_hottest_of_two_zones_of_one_type_is_told() -> None:
    found = board_state(BoardReadings(zones=(("acpitz", "90000"), ("acpitz", "30000"))))
    assert hottest(found.temperatures) == {"acpitz": 90.0}


def test_core_that_cannot_be_read_for_once_is_no_throttling() -> None:
    meter = ThrottleMeter()
    for k, cores in enumerate([("10", "10"), ("10", ""), ("10", "10"), ("10", "12")]):
        state = board_state(BoardReadings(core_throttles=cores, cooling=(("Processor", "0"),)))
        meter.look(2.0 * k, state.slowed_by, state.counts)
    assert meter.window().share == pytest.approx(1 / 3)
