"""Whether an engine's memory fits beside what runs: the sum, the reserve, and the verdict with its numbers. Nothing here
does IO; :mod:`edgectl.device_profiles.memory` reads what there is.

>>> swap = opening(EngineMemory(source="measured", resident_bytes=300 * MIB, peak_bytes=412 * MIB))
>>> room = MemoryRoom((MemoryBound(180 * MIB, 2048 * MIB, "this machine"),))
>>> print(admit(swap, room, reserve=64 * MIB).sentence)
needs 412 MiB beside what runs; 180 MiB of 2048 are free (this machine), of which 64 MiB are kept in reserve
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgectl.core.memory import MIB, EngineMemory

__all__ = [
    "NEXT_STEP",
    "RESERVE_MB",
    "Admission",
    "Demand",
    "MemoryBound",
    "MemoryRoom",
    "admit",
    "larger",
    "opening",
    "together",
    "warming",
]

RESERVE_MB = 64
"""What stays free beside an engine if nothing else is said. With less, `govern` of a camera stream does less work."""

NEXT_STEP = "stop a stream, prefer a smaller variant (small-input, low-power), or raise the limit"
"""What an operator can do about a refusal."""

_WORKER_BYTES = 128 * MIB
"""A worker before it has an engine, with one camera stream: interpreter, OpenCV, FFmpeg, a decoder. Resident, measured
on x86-64."""


@dataclass(frozen=True)
class MemoryBound:
    """One bound on memory, in bytes."""

    free: int
    total: int
    where: str
    """``this machine``, ``the cgroup /edgectl.slice``, ``the GPU``."""


@dataclass(frozen=True)
class MemoryRoom:
    """What there is. Empty where nothing can be read: then nothing is refused."""

    host: tuple[MemoryBound, ...] = ()
    """Every bound holds."""
    gpu: MemoryBound | None = None
    """Of a GPU with memory of its own; None: there is none, or nobody knows."""
    unified: bool = False
    """The GPU's memory is the machine's, as on a Jetson."""


@dataclass(frozen=True)
class Demand:
    """Bytes that something is about to take beside what runs. None: not known."""

    resident: int | None = None
    device: int | None = None


@dataclass(frozen=True)
class Admission:
    """``fits`` None: nobody knows what is needed, or what there is; ``sentence`` says so."""

    fits: bool | None
    sentence: str
    waits: bool = False
    """It does not fit only because of what was promised to others, who may give it back."""


def opening(
    memory: EngineMemory | None,
    lighter: Iterable[EngineMemory | None] = (),
    *,
    running: int = 1,
    new: int = 0,
    again: int = 0,
) -> Demand:
    """To open an engine in each of the ``running`` processes beside what they have, one after the other, and in ``new``
    ones that have yet to start. One of the ``lighter`` engines may be open beside it later on; one that nobody knows
    is counted like the engine itself. ``again``: in how many of the running ones this very engine serves, which share it
    then."""
    if memory is None:
        return Demand()
    if running + new == 0:
        return Demand(0, None if memory.device_bytes is None else 0)
    others = [memory if m is None or m.resident_bytes is None else m for m in lighter]
    return Demand(
        _resident(memory, others, running, new, again),
        _times(memory.device_bytes, others, running + new, again),
    )


def warming(memory: EngineMemory | None) -> Demand:
    """To open an engine in a process of its own, which ends afterwards."""
    if memory is None:
        return Demand()
    process, peak = memory.process_bytes, memory.peak_bytes
    return Demand(None if peak is None else peak + (process or 0), memory.device_bytes)


def together(demand: Demand, engines: Iterable[EngineMemory | None]) -> Demand:
    """With further engines that are opened in the same processes. What nobody knows of those is not counted; what is not
    known of ``demand`` itself stays unknown."""
    others = [m for m in engines if m is not None]
    resident = sum(m.resident_bytes or 0 for m in others)
    devices = [n for n in (demand.device, *(m.device_bytes for m in others)) if n is not None]
    return Demand(
        None if demand.resident is None else demand.resident + resident, sum(devices) if devices else None
    )


def larger(one: Demand, other: Demand) -> Demand:
    """Of two that come one after the other. What is not known of one is left to the other."""

    def most(a: int | None, b: int | None) -> int | None:
        return b if a is None else a if b is None else max(a, b)

    return Demand(most(one.resident, other.resident), most(one.device, other.device))


def admit(demand: Demand, room: MemoryRoom, reserve: int, promised: Iterable[Demand] = ()) -> Admission:
    """Whether ``demand`` fits with ``reserve`` bytes to spare, beside what runs and what was ``promised`` to others that
    have not taken it yet."""
    promised = tuple(promised)
    verdict = _admit(demand, room, reserve, promised)
    if verdict.fits is False and promised and _admit(demand, room, reserve, ()).fits is not False:
        return replace(verdict, waits=True)
    return verdict


def _admit(demand: Demand, room: MemoryRoom, reserve: int, promised: tuple[Demand, ...]) -> Admission:
    needed, taken = demand.resident, sum(p.resident or 0 for p in promised)
    if room.unified:
        needed = None if needed is None and demand.device is None else (needed or 0) + (demand.device or 0)
        taken += sum(p.device or 0 for p in promised)
    judged: list[Admission] = []
    host = min(room.host, key=lambda r: r.free, default=None)
    if host is not None and needed is not None:
        judged.append(_compared(needed, host, reserve, taken, ""))
    if room.gpu is not None and not room.unified and demand.device is not None:
        taken = sum(p.device or 0 for p in promised)
        judged.append(_compared(demand.device, room.gpu, reserve, taken, " of the GPU"))
    refused = [v for v in judged if not v.fits]
    if refused:
        return Admission(False, "; ".join(v.sentence for v in refused))
    if needed is None:
        return Admission(None, "what it needs is not known")
    if host is None:
        return Admission(None, "what is free is not known")
    return Admission(True, "; ".join(v.sentence for v in judged))


def _compared(needed: int, room: MemoryBound, reserve: int, promised: int, of: str) -> Admission:
    kept = f", of which {_mib(reserve)} MiB are kept in reserve" if reserve else ""
    others = f" and {_up(promised)} MiB promised to others" if promised else ""
    free = f"{_mib(max(0, room.free))} MiB of {_mib(room.total)} are free ({room.where})"
    return Admission(
        not needed or needed + reserve + promised <= room.free,
        f"needs {_up(needed)} MiB{of} beside what runs; {free}{kept}{others}",
    )


def _resident(
    memory: EngineMemory, lighter: list[EngineMemory], running: int, new: int, again: int
) -> int | None:
    if memory.resident_bytes is None or memory.peak_bytes is None:
        return None
    steady = memory.resident_bytes + max((m.resident_bytes or 0 for m in lighter), default=0)
    # one process opens after the other: one of them is above what it keeps at any moment
    opened = lighter if again == running + new else [memory, *lighter]
    above = max(((m.peak_bytes or 0) - (m.resident_bytes or 0) for m in opened), default=0)
    process = max(memory.process_bytes or 0, _WORKER_BYTES)
    return (running + new) * steady - again * memory.resident_bytes + above + new * process


def _times(device: int | None, lighter: list[EngineMemory], processes: int, again: int) -> int | None:
    if device is None:
        return None
    return processes * (device + max((m.device_bytes or 0 for m in lighter), default=0)) - again * device


def _mib(n: int) -> int:
    return n // MIB


def _up(n: int) -> int:
    """Rounded up, so that no sentence refuses a number that it calls free."""
    return -(-n // MIB)
