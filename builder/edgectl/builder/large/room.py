"""Whether a machine has the memory and the disk for a large model, before any work begins. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edgectl.core.errors import ModelError
from edgectl.core.memory import MIB
from edgectl.device_profiles.admission import MemoryRoom

__all__ = ["Needs", "check_room", "needs_of"]

_OF_MEMORY = 1.1
"""An engine of the model, as ONNX Runtime opens it: 1.02 × its weights (bench/big_model.py)."""
_BESIDE = 512 * MIB
"""The build itself, and a weight that is being coded."""
_OF_DISK = 1.5
"""Weights as float32, in 8 bits (0.28) and in 4 (0.16)."""


@dataclass(frozen=True)
class Needs:
    """Bytes."""

    memory: int
    disk: int


def needs_of(weights: int) -> Needs:
    """``weights``: bytes of them as float32."""
    return Needs(int(_OF_MEMORY * weights) + _BESIDE, int(_OF_DISK * weights))


def check_room(name: str, needs: Needs, memory: MemoryRoom, disk_free: int, where: str) -> None:
    """Raise :class:`ModelError` with the numbers where something is too small. ``where``: the folder of the bundle, in which
    the build works, too."""
    tight = min((b for b in memory.host if b.free < needs.memory), key=lambda b: b.free, default=None)
    if tight is not None:
        raise ModelError(
            f"building {name} takes {needs.memory / MIB:.0f} MiB of memory; {tight.free / MIB:.0f} MiB of "
            f"{tight.total / MIB:.0f} are free ({tight.where})",
            hint="end what else runs, or build on a machine with more memory",
        )
    if disk_free < needs.disk:
        raise ModelError(
            f"building {name} takes {needs.disk / MIB:.0f} MiB of disk; {disk_free / MIB:.0f} MiB are free in {where}",
            hint="free some space, or give --out a folder on another disk",
        )
