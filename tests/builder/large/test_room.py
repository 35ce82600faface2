"""A model that is too large for the machine is refused with numbers."""

import pytest

from edgectl.builder.large.room import check_room, needs_of
from edgectl.core.errors import ModelError
from edgectl.device_profiles.admission import MemoryBound, MemoryRoom

GIB = 1 << 30
ROOM = MemoryRoom(
    (MemoryBound(16 * GIB, 16 * GIB, "this machine"), MemoryBound(2 * GIB, 4 * GIB, "the cgroup /a"))
)


def test_what_fits_passes_also_where_nobody_knows_what_there_is() -> None:
    check_room("m.onnx", needs_of(GIB), ROOM, 4 * GIB, "/out")
    check_room("m.onnx", needs_of(100 * GIB), MemoryRoom(), 151 * GIB, "/out")


def test_the_tightest_bound_is_told_with_its_numbers() -> None:
    with pytest.raises(ModelError) as e:
        check_room("m.onnx", needs_of(3 * GIB), ROOM, 99 * GIB, "/out")
    assert e.value.message == (
        "building m.onnx takes 3891 MiB of memory; 2048 MiB of 4096 are free (the cgroup /a)"
    )


def test_a_disk_that_is_too_small_is_told() -> None:
    with pytest.raises(ModelError, match=r"takes 1536 MiB of disk; 1024 MiB are free in /out"):
        check_room("m.onnx", needs_of(GIB), ROOM, GIB, "/out")
