"""Watches the machine between two messages of telemetry. For one thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgectl.agent.machine.boards import board_state, read_board
from edgectl.agent.machine.host import read_host
from edgectl.agent.machine.nvml import Nvml, load_nvml
from edgectl.agent.machine.throttling import ThrottleMeter
from edgectl.core.resources import MAX_GPUS, Resources
from edgectl.pipelines.stream.machine import machine_state

__all__ = ["MachineWatch", "MachineWindow"]

_LOOK_S = 2.0
_MODE = 64
"""Characters of a power mode."""


@dataclass(frozen=True)
class MachineWindow:
    resources: Resources
    power_mode: str | None
    throttled: tuple[str, ...]


class MachineWatch:
    def __init__(
        self,
        disk: Path,
        root: Path = Path("/"),
        nvml: Callable[[], Nvml | None] = load_nvml,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``root``: where ``sys``, ``var`` and ``etc`` lie."""
        self._disk = disk
        self._root = root
        self._nvml = nvml()
        self._clock = clock
        self._meter = ThrottleMeter()
        self._looked_s = -math.inf
        read_host(disk)  # loads are since the call before

    def look(self) -> None:
        """Whenever there is time: what slows the machine down is looked at every two seconds."""
        if self._clock() - self._looked_s >= _LOOK_S:
            self._look()

    def window(self) -> MachineWindow:
        """Since the last call."""
        self._look()
        board = board_state(read_board(self._root))
        host = read_host(self._disk, board.temperatures)
        slowed = self._meter.window()
        gpus = (*board.gpus, *(self._nvml.gpus() if self._nvml is not None else ()))
        resources = host.model_copy(
            update={"power_w": board.power_w, "gpus": gpus[:MAX_GPUS], "throttled_share": slowed.share}
        )
        mode = machine_state(self._root).power_mode
        return MachineWindow(resources, mode[:_MODE] if mode else None, slowed.reasons)

    def _look(self) -> None:
        self._looked_s = self._clock()
        board = board_state(read_board(self._root))
        gpu = self._nvml.slowed_by() if self._nvml is not None else None
        tells = board.tells or gpu is not None
        self._meter.look(
            self._looked_s, board.slowed_by | (gpu or frozenset()) if tells else None, board.counts
        )
