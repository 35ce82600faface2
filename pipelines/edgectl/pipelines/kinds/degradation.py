"""What a live camera leaves out when the machine cannot do all of it: the governor's rungs carried out, and told.

A rung is fewer frames for the detector, no regions, another variant of the detector, key frames alone. Left out: when
which one is right (:mod:`edgectl.pipelines.stream.governor`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from edgectl.core.bundle import Variant
from edgectl.core.errors import EdgectlError
from edgectl.core.task import ImageInput
from edgectl.core.wire import Frames
from edgectl.pipelines.kinds.analysis import PART
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.governor import Change, Lighter, LoadLimits, Rung, ladder
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.load_watch import LoadWatch
from edgectl.pipelines.video.regions.choice import RegionChoice
from edgectl.pipelines.video.stand_in import StandIn
from edgectl.pipelines.video.swap import HotSwap

__all__ = ["Degradation", "lighter_variants"]


class Degradation:
    """One per stream. :meth:`look` belongs to the analysis thread."""

    def __init__(
        self,
        stream: str,
        config: LoadLimits,
        engines: HotSwap[Detector],
        frames: Callable[[], Frames],
        choice: FrameChoice,
        regions: RegionChoice | None,
        open_detector: Callable[[PartVariant], Detector],
        only_key_frames: Callable[[bool], bool],
        say: Callable[[Callable[[float], Event]], None],
    ) -> None:
        """``frames``: the stream's ledger. ``regions``: None where the stream looks at the whole picture anyway.
        ``open_detector``: opened, warm and with its seat. ``only_key_frames``: of the source; False: it cannot.
        ``say``: tells an event, made from the time of now."""
        self._config = config
        self._engines = engines
        self._choice = choice
        self._regions = regions
        self._only_key_frames = only_key_frames
        self._say = say
        self._detector = engines.engine
        slot = engines.engine.slot
        self._lighter = {v.name: v for v in lighter_variants(slot, config.variants)}
        self._failed: set[str] = set()
        self._stand_in = StandIn(
            stream,
            engines,
            {
                name: replace(slot, variant=slot.lighter[name], lighter={})
                for name in config.variants
                if name in self._lighter
            },
            open_detector,
            self._variant_failed,
        )
        self._rung = Rung()
        self._load = LoadWatch(config, self._ladder(), frames, lambda: engines.running.work())

    @property
    def level(self) -> int | None:
        """Of the ladder; 0 is everything. None: there is nothing to leave out."""
        return self._load.level if self._load.rungs > 1 else None

    def look(self, now_s: float) -> None:
        """Now and then. ``now_s``: of a monotonic clock."""
        if self._engines.engine is not self._detector:
            # the slot has another engine, whose other variants nobody knows
            self._detector = self._engines.engine
            self._forget(self._lighter)
        if self._failed:
            self._forget(self._failed)
        before = self._load.level
        if (changed := self._load.look(now_s)) is not None:
            change, since_s = changed
            self._go(change.rung)
            self._say(lambda t_s: _degradation_event(t_s, before, change, since_s))
        else:
            self._look_at_frames()

    def close(self) -> None:
        """After the stream's threads have ended."""
        self._stand_in.close()

    def _ladder(self) -> tuple[Rung, ...]:
        return ladder(
            self._config,
            [*self._lighter.values()],
            regions=self._regions is not None,
            # as it is: this only asks whether the source can
            key_frames=self._only_key_frames(self._rung.key_frames),
        )

    def _forget(self, names: Collection[str]) -> None:
        """These variants are not there any more."""
        kept = {name: one for name, one in self._lighter.items() if name not in names}
        self._failed = set()
        if kept != self._lighter:
            self._lighter = kept
            self._go(self._load.take(self._ladder()))

    def _go(self, rung: Rung) -> None:
        if rung.key_frames != self._rung.key_frames:
            self._only_key_frames(rung.key_frames)
        self._rung = rung
        if self._regions is not None:
            self._regions.on = rung.regions
        self._stand_in.want(None if rung.variant is None else rung.variant.name)
        self._look_at_frames()

    def _look_at_frames(self) -> None:
        """Until the other variant is there, the present one looks at as few frames as it may."""
        every = self._rung.detect_every
        if not self._stand_in.settled:
            every = max((every, *self._config.every))
        self._choice.detect_every = every

    def _variant_failed(self, name: str, e: EdgectlError) -> None:
        """From the thread of the other variant."""
        self._failed = self._failed | {name}
        data = {"name": "variant", "available": False, "reason": e.code, "part": PART, "variant": name}
        self._say(lambda t_s: Event("capability", t_s, "start", None, {**data, "detail": e.message[:500]}))


def lighter_variants(slot: PartVariant, names: Collection[str]) -> list[Lighter]:
    """Those of the names that the slot's bundle has and that take less engine time, as far as that is known: from what
    was measured where they were built, or from the size of their pictures."""
    found = []
    for name, variant in slot.lighter.items():
        cost = _cost(variant, slot.variant) if name in names else None
        if cost is not None and cost < 1:
            found.append(Lighter(name, cost))
    return found


def _cost(variant: Variant, own: Variant) -> float | None:
    ours, theirs = own.config.measured, variant.config.measured
    if ours is not None and theirs is not None and ours.machine == theirs.machine and ours.p50_ms > 0:
        return theirs.p50_ms / ours.p50_ms
    small, large = variant.config.task.input, own.config.task.input
    if isinstance(small, ImageInput) and isinstance(large, ImageInput):
        pixels = small.width * small.height / (large.width * large.height)
        return pixels if pixels < 1 else None
    return None


def _degradation_event(t_s: float, before: int, change: Change, since_s: float) -> Event:
    """Another rung. ``since_s``: how long the one before has held."""
    phase = "start" if before == 0 else "end" if change.level == 0 else "update"
    rung = change.rung
    data: Mapping[str, Any] = {
        "level": change.level,
        "detect_every": rung.detect_every,
        "reason": change.reason,
        **({"variant": rung.variant.name} if rung.variant is not None else {}),
        **({"regions": False} if not rung.regions else {}),
        **({"key_frames": True} if rung.key_frames else {}),
        "after_s": round(since_s, 1),
    }
    return Event("degradation", t_s, phase, None, data)
