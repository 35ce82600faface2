"""What a live camera leaves out when the machine cannot do all of it: the governor's rungs carried out, and told.

A rung is fewer frames for the detector, no regions, another variant of the detector, key frames alone. Left out: when
which one is right (:mod:`edgectl.pipelines.stream.governor`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
        self._failed: frozenset[str] = frozenset()
        """Digests of variants that could not be opened."""
        self._seen = self._at_hand()
        """What the ladder was made for."""
        self._lighter = self._now_lighter()
        self._stand_in = StandIn(stream, engines, open_detector, self._variant_failed)
        self._rung = Rung()
        self._load = LoadWatch(config, self._ladder(), frames, lambda: engines.running.work())

    @property
    def level(self) -> int | None:
        """Of the ladder; 0 is everything. None: there is nothing to leave out."""
        return self._load.level if self._load.rungs > 1 else None

    def look(self, now_s: float) -> None:
        """Now and then. ``now_s``: of a monotonic clock."""
        if (at_hand := self._at_hand()) != self._seen:
            self._seen = at_hand
            self._lighter = self._now_lighter()
            self._go(self._load.take(self._ladder()))
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
            self._lighter,
            regions=self._regions is not None,
            # as it is: this only asks whether the source can
            key_frames=self._only_key_frames(self._rung.key_frames),
        )

    def _at_hand(self) -> tuple[Detector, bool, frozenset[str]]:
        """What decides which variants there are."""
        return self._engines.engine, self._engines.on_trial, self._failed

    def _now_lighter(self) -> list[Lighter]:
        """Of the engine that the slot has now. On trial it runs alone, so that it is judged itself."""
        engine, on_trial, failed = self._seen
        if on_trial:
            return []
        found = lighter_variants(engine.slot, self._config.variants)
        return [one for one in found if engine.slot.lighter[one.name].digest not in failed]

    def _go(self, rung: Rung) -> None:
        if rung.key_frames != self._rung.key_frames:
            self._only_key_frames(rung.key_frames)
        self._rung = rung
        if self._regions is not None:
            self._regions.on = rung.regions
        engine = self._seen[0]
        variant = None if rung.variant is None else engine.slot.lighter_one(rung.variant.name)
        self._stand_in.want(engine, variant)
        self._look_at_frames()

    def _look_at_frames(self) -> None:
        """Until the other variant is there, the present one looks at as few frames as it may."""
        every = self._rung.detect_every
        if not self._stand_in.settled:
            every = max((every, *self._config.every))
        self._choice.detect_every = every

    def _variant_failed(self, slot: PartVariant, e: EdgectlError) -> None:
        """From the thread of the other variant."""
        self._failed = self._failed | {slot.variant.digest}
        data = {
            "name": "variant",
            "available": False,
            "reason": e.code,
            "part": PART,
            "variant": slot.stands_in,
        }
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
