"""Which variants fit into this process, here and now: for commands that choose one by hand."""

from __future__ import annotations

from collections.abc import Callable

from edgectl.core.bundle import Variant
from edgectl.core.memory import MIB, EngineMemory
from edgectl.device_profiles.admission import RESERVE_MB, Demand, MemoryRoom, admit, opening
from edgectl.device_profiles.memory import memory_room

__all__ = ["UnfitHere"]


class UnfitHere:
    """Asked for a variant, it says why that does not fit, and None for one that does (or that nobody knows); those have
    their memory promised, so that the next one is judged beside them. ``tell`` hears of each that does not fit, as a
    sentence. ``unified``: the GPU's memory is the machine's. ``demand``: what opening one takes."""

    def __init__(
        self,
        tell: Callable[[str], object],
        *,
        unified: bool = False,
        demand: Callable[[EngineMemory | None], Demand] = opening,
        room: Callable[[bool], MemoryRoom] | None = None,
    ) -> None:
        self._tell = tell
        self._demand = demand
        self._room = room or (lambda gpu: memory_room(gpu=gpu, unified=unified))
        self._promised: list[Demand] = []

    def __call__(self, variant: Variant) -> str | None:
        demand = self._demand(variant.config.memory)
        found = admit(demand, self._room(demand.device is not None), RESERVE_MB * MIB, self._promised)
        if found.fits is False:
            self._tell(f"{variant.config.profile}/{variant.config.variant} does not fit: {found.sentence}")
            return found.sentence
        self._promised.append(demand)
        return None
