"""Which variants fit here: what a command is told, and that two of them do not count on the same bytes."""

from __future__ import annotations

from pathlib import Path

from support.bundle import make_bundle

from edgectl.core.bundle import Bundle
from edgectl.core.memory import MIB, EngineMemory
from edgectl.device_profiles.admission import MemoryBound, MemoryRoom, warming
from edgectl.device_profiles.fitting import UnfitHere


def test_each_that_fits_is_counted_for_the_next_and_each_that_does_not_is_told(tmp_path: Path) -> None:
    memory = EngineMemory(
        source="measured", resident_bytes=100 * MIB, peak_bytes=100 * MIB, process_bytes=70 * MIB
    )
    (variant,) = Bundle(make_bundle(tmp_path / "b", memory=memory, size=2000)).variants
    (unknown,) = Bundle(make_bundle(tmp_path / "c", size=2000)).variants
    room = MemoryRoom((MemoryBound(300 * MIB, 400 * MIB, "the cgroup /x"),))
    told: list[str] = []
    unfit = UnfitHere(told.append, room=lambda gpu: room)
    assert unfit(unknown) is None
    assert unfit(variant) is None
    assert unfit(variant) is None
    why = unfit(variant)
    assert why is not None
    assert "needs 100 MiB" in why
    assert "200 MiB promised to others" in why
    assert told == [f"cpu/float does not fit: {why}"]
    assert UnfitHere(told.append, room=lambda gpu: room, demand=warming)(variant) is None
    small = MemoryRoom((MemoryBound(170 * MIB, 400 * MIB, "the cgroup /x"),))
    assert "needs 170 MiB" in (UnfitHere(told.append, room=lambda gpu: small, demand=warming)(variant) or "")
