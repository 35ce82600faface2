"""How much resident memory this process takes, and what something adds to it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Mapping
from typing import Any

from edgectl.core.memory import EngineMemory

__all__ = ["MemoryGrowth", "give_back", "memory_in", "peak_rss_mb"]


class MemoryGrowth:
    """What is added to this process from here on."""

    def __init__(self) -> None:
        # proc(5): 5 makes the largest resident set what it is now. Where that is not allowed, it is that of the
        # whole life of the process, in which imports only add.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
            f.write("5")
        self._before, self._peak_before = _resident()

    def figures(self) -> dict[str, int]:
        """``process_bytes``, ``resident_bytes`` and ``peak_bytes`` of an :class:`edgectl.core.memory.EngineMemory`;
        empty where the kernel does not tell."""
        now, peak = _resident()
        if not self._before or not now:
            return {}
        grown = max(0, now - self._before)
        most = max(grown, peak - self._before if peak > self._peak_before else 0)
        return {"process_bytes": self._before, "resident_bytes": grown, "peak_bytes": most}


def give_back() -> None:
    """What is free in this process goes back to the system (malloc_trim(3), of glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def memory_in(answer: Mapping[str, Any]) -> tuple[EngineMemory, ...]:
    """Of what one process said (:meth:`MemoryGrowth.figures`); nothing where it could not
    tell."""
    if "resident_bytes" not in answer:
        return ()
    return (
        EngineMemory(
            source="measured",
            resident_bytes=int(answer["resident_bytes"]),
            peak_bytes=int(answer["peak_bytes"]),
            process_bytes=int(answer["process_bytes"]),
            device_bytes=answer.get("device_bytes"),
            runs=1,
        ),
    )


def peak_rss_mb() -> float | None:
    """Largest resident memory of this program (MiB): ``getrusage`` would count the parent's memory before
    the exec, too."""
    peak = _resident()[1]
    return peak / (1 << 20) if peak else None


def _resident() -> tuple[int, int]:
    """Bytes now and at most; 0 where it is not told."""
    found = {"VmRSS:": 0, "VmHWM:": 0}
    with open("/proc/self/status") as f:
        for line in f:
            name, *value = line.split()
            if name in found:
                found[name] = int(value[0]) * 1024
    return found["VmRSS:"], found["VmHWM:"]
