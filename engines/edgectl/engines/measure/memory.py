"""What an engine adds to the memory of a process: of several new processes one figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgectl.core.memory import EngineMemory

__all__ = ["median_memory"]


def median_memory(each: Sequence[EngineMemory]) -> EngineMemory | None:
    """The median of each figure; None of nothing."""
    if not each:
        return None

    def median(figures: Sequence[int | None]) -> int | None:
        known = [n for n in figures if n is not None]
        return int(statistics.median(known)) if known else None

    resident, peak = median([m.resident_bytes for m in each]), median([m.peak_bytes for m in each])
    return EngineMemory(
        source="measured",
        resident_bytes=resident,
        # of several processes the medians are of different ones
        peak_bytes=peak if resident is None or peak is None else max(resident, peak),
        process_bytes=median([m.process_bytes for m in each]),
        device_bytes=median([m.device_bytes for m in each]),
        runs=len(each),
    )
