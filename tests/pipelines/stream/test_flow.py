"""How many frames wait, and what goes for a newer one."""

from __future__ import annotations

import pytest

from edgectl.pipelines.stream.flow import FlowConfig, Room, room


@pytest.mark.parametrize(
    ("mode", "realtime", "expected"),
    [
        ("auto", True, Room(1, False, 1)),
        ("auto", False, Room(2, True, 2)),
        ("latest", False, Room(1, False, 1)),
        ("every", True, Room(2, True, 2)),
        ("fifo", True, Room(5, False, 1)),
    ],
)
def test_a_camera_loses_old_frames_and_a_file_waits_unless_the_configuration_says_otherwise(
    mode: str, realtime: bool, expected: Room
) -> None:
    assert room(FlowConfig.model_validate({"mode": mode, "max_queue": 5}), realtime) == expected
