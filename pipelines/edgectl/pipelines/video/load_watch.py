"""What a stream's governor decides on, measured: frames that are due and lost, what its engine is asked for, how
the machine is.

Decides nothing: that is :mod:`edgectl.pipelines.stream.governor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgectl.core.wire import Frames
from edgectl.pipelines.stream.governor import Change, Governor, LoadLimits, Rung, StreamLoad
from edgectl.pipelines.stream.machine import MachineState, machine_state
from edgectl.pipelines.video.engine_pool import EngineWork

__all__ = ["LoadWatch"]

_LOOK_S = 0.5
_MACHINE_S = 2.0
_WARM_S = 2.0
"""What is lost so soon after the first frame came through, is not judged: a camera sends several frames at once
when it is connected, and the first calls of an engine are slow."""
_LOST = ("superseded", "stale", "deadline")
_NOT_DUE = ("gated", "degraded", "paused", "decode_error", "corrupt", "shutdown")


class LoadWatch:
    """One per live stream. Times are seconds of a monotonic clock."""

    def __init__(
        self,
        config: LoadLimits,
        rungs: Sequence[Rung],
        frames: Callable[[], Frames],
        work: Callable[[], EngineWork],
        machine: Callable[[], MachineState] = machine_state,
    ) -> None:
        """``rungs``: what can be left out, everything first. ``frames``: the stream's ledger. ``work``: of the engine that it runs on now, which may become another
        one. ``machine``: it is asked every other second."""
        self._config = config
        self._governor = Governor(config, rungs)
        self._frames = frames
        self._work = work
        self._machine = machine
        self._state = MachineState()
        self._machine_s = float("-inf")
        self._warm_s: float | None = None
        self._next_s = float("-inf")
        self._last: tuple[float, Frames, EngineWork] | None = None
        self._changed_s: float | None = None

    @property
    def level(self) -> int:
        """Index of the rung; 0 is everything."""
        return self._governor.level

    @property
    def rungs(self) -> int:
        """How many there are."""
        return self._governor.rungs

    def take(self, rungs: Sequence[Rung]) -> Rung:
        """Another ladder. Returns the rung to be on."""
        return self._governor.take(rungs)

    def look(self, now_s: float) -> tuple[Change, float] | None:
        """Call it as often as you like. The rung to go to, where it is another one, and how long the one before
        has held, in seconds; the first one since the stream runs."""
        if now_s < self._next_s:
            return None
        self._next_s = now_s + _LOOK_S
        frames, work = self._frames(), self._work()
        if self._warm_s is None:
            if not frames.processed:
                return None
            self._warm_s = self._changed_s = now_s
        if now_s - self._warm_s < _WARM_S:
            return None
        last, self._last = self._last, (now_s, frames, work)
        if last is None:
            return None
        change = self._governor.step(self._load(last, self._last))
        if change is None:
            return None
        before_s, self._changed_s = self._changed_s, now_s
        assert before_s is not None
        return change, now_s - before_s

    def _load(
        self, last: tuple[float, Frames, EngineWork], now: tuple[float, Frames, EngineWork]
    ) -> StreamLoad:
        (last_s, before, did), (now_s, after, work) = last, now
        if now_s - self._machine_s >= _MACHINE_S:
            self._state, self._machine_s = self._machine(), now_s
        return StreamLoad(
            now_s,
            due=max(0, _due(after) - _due(before)),
            lost=sum(after.dropped.get(cause, 0) - before.dropped.get(cause, 0) for cause in _LOST),
            demand=work.demand_since(did, now_s - last_s),
            temperature_c=self._state.temperature_c,
            memory_mb=self._state.memory_mb,
            low_power=self._state.on_battery or self._state.power_mode in self._config.power_modes,
        )


def _due(frames: Frames) -> int:
    """How many frames were wanted, whatever became of them."""
    return frames.captured - sum(frames.dropped.get(cause, 0) for cause in _NOT_DUE)
