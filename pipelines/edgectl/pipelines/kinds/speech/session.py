"""What is heard: blocks in, events out. Synchronous, no clock, no thread: the same samples give the same
events for any block sizes.

A part whose engine is missing is not heard, and says so once as a ``capability`` event: a silent keyword
spotter would be worse than none. So do a source that has gone away and sound that cannot be understood.

Whatever a block completes (a window of a model, a stretch of sound that is looked at) is done in the order of
the sample at which it is complete, so the order of events does not depend on how the samples were cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.errors import EngineError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine
from edgectl.pipelines.audio.blocks import RATE, AudioBlock, Reframer, Samples
from edgectl.pipelines.audio.features import FeatureWindow
from edgectl.pipelines.audio.keyword import KeywordScores, Trigger
from edgectl.pipelines.audio.level import STRETCH, Loudness, SoundCheck
from edgectl.pipelines.audio.vad import Segmenter, SpeechEdge, VoiceActivity
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.stream.events import Event

__all__ = ["SpeechConfig", "SpeechPart", "SpeechSession"]

SpeechPart = Literal["vad", "keyword"]
Timer = Callable[[SpeechPart], Callable[[], None]]


class SpeechConfig(Config):
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Keyword probability; None: the task's ``decode.score``."""
    smooth_s: float = Field(default=0.24, ge=0, le=5)
    """Over which keyword probabilities are averaged."""
    patience: int = Field(default=2, ge=1, le=100)
    """Windows in a row above the threshold that make a keyword."""
    refractory_s: float = Field(default=1.0, ge=0, le=60)
    """Nothing is heard for so long after a keyword."""
    hop_frames: int = Field(default=4, ge=1, le=1000)
    """Feature frames between two runs of the keyword net."""
    vad_on: float = Field(default=0.5, gt=0, lt=1)
    """Speech begins at this probability."""
    vad_off: float = Field(default=0.35, gt=0, lt=1)
    """Speech may end below this probability."""
    min_silence_ms: float = Field(default=100, ge=0, le=60_000)
    """So long below it, and speech has ended."""
    pad_ms: float = Field(default=30, ge=0, le=5_000)
    """Speech is made longer by this at both ends."""
    vad_gain_db: float = Field(default=40, ge=0, le=60)
    """Speech softer than it should be is listened to with up to so much gain; 0: never."""


class SpeechSession:
    """One stream of audio. ``emit`` receives events; their ``t_s`` is stream time (sample index / 16000)."""

    def __init__(
        self, config: SpeechConfig, emit: Callable[[Event], None], *, timer: Timer | None = None
    ) -> None:
        self._config = config
        self._emit = emit
        self._timer = timer or (lambda _part: lambda: None)
        self._vad: VoiceActivity | None = None
        self._segmenter = Segmenter(
            on=config.vad_on, off=config.vad_off, min_silence_ms=config.min_silence_ms, pad_ms=config.pad_ms
        )
        self._keyword: KeywordScores | None = None
        self._trigger: Trigger | None = None
        self._loudness = Loudness(config.vad_gain_db)
        self._check = SoundCheck()
        self._stretches, self._unmixed = Reframer(STRETCH), Reframer(STRETCH)
        self._outage: str | None = None
        self._end = 0
        self.errors = 0
        self.counts: dict[str, int] = {}

    def use(self, part: SpeechPart, engine: Engine, task: TaskSpec) -> None:
        """Take an engine for a part, now and between two blocks later. Audio that is half heard stays half
        heard."""
        if part == "vad":
            first = self._vad is None
            self._vad = make_reader(part, task, engine, task)
            if first:
                self._frames = Reframer(self._vad.spec.window, self._vad.spec.context)
        else:
            scores: KeywordScores = make_reader(part, task, engine, task)
            # A model with other features starts with an empty window; one with the same keeps listening.
            if self._keyword is None or self._keyword.audio != scores.audio:
                self._window = FeatureWindow(scores.audio, every=self._config.hop_frames)
            if self._keyword is None or self._keyword.labels != scores.labels or self._trigger is None:
                self._trigger = Trigger(
                    task.labels,
                    task.background,
                    threshold=self._config.threshold or task.decode.score,
                    smooth_s=self._config.smooth_s,
                    patience=self._config.patience,
                    refractory_s=self._config.refractory_s,
                )
            self._keyword = scores

    def announce(self) -> None:
        """Say which parts are missing."""
        for part, model in (("vad", self._vad), ("keyword", self._keyword)):
            if model is None:
                self._event("capability", 0, name=part, available=False, reason="no_engine")

    def push(self, block: AudioBlock) -> int:
        """Hear a block. Returns how many times an engine ran."""
        self._end = block.first + len(block.data)
        if block.outage is not None:
            self._away(block.outage, block.first)
        if block.gap:
            self._lost(block)
        if self._outage is not None and block.outage is None:
            self.tell("source", block.first, available=True, reason=self._outage, lost_samples=block.gap)
            self._outage = None
        # A window that ends at the same sample as another: voice activity first, the level last, as it asks
        # whether there is speech.
        due: list[tuple[int, int, Callable[[], int]]] = []
        if self._vad is not None:
            due += [
                (end, 0, partial(self._hear_voice, self._vad, end, frame))
                for end, frame in self._frames.push(block)[1]
            ]
        if self._keyword is not None and self._trigger is not None:
            window = self._window.push(block)
            due += [
                (end, 1, partial(self._hear_word, self._keyword, self._trigger, end, tensor))
                for end, tensor in window
            ]
        stretches = self._stretches.push(block)[1]
        unmixed = (
            self._unmixed.push(replace(block, data=block.unmixed))[1] if block.unmixed is not None else []
        )
        for (end, frame), other in zip_longest(stretches, (frame for _, frame in unmixed)):
            due.append((end, 2, partial(self._look, end, frame, other)))
        return sum(task() for _, _, task in sorted(due, key=lambda d: d[:2]))

    def tell(self, name: str, at: int, *, available: bool, reason: str | None, **more: object) -> None:
        """Say that something cannot be relied on from sample ``at`` on, or can again."""
        self._event(
            "capability",
            at,
            "end" if available else "start",
            name=name,
            available=available,
            reason=reason,
            **more,
        )

    def finish(self) -> None:
        """The stream ended: close what is open."""
        self._edge(self._segmenter.finish(self._end))

    def _hear_voice(self, vad: VoiceActivity, end: int, frame: Samples) -> int:
        self._loudness.step(end, frame[-vad.spec.window :])
        done = self._timer("vad")
        try:
            probability = vad.probability(frame, self._loudness.gain)
        except EngineError as e:
            self._failed("vad", end, e)
            return 0
        finally:
            done()
        self._edge(self._segmenter.step(end, vad.spec.window, probability))
        return 1

    def _hear_word(
        self, keyword: KeywordScores, trigger: Trigger, end: int, tensor: NDArray[np.float32]
    ) -> int:
        done = self._timer("keyword")
        try:
            scores = keyword(tensor)
        except EngineError as e:
            self._failed("keyword", end, e)
            return 0
        finally:
            done()
        if found := trigger.step(end, scores):
            self._event("keyword", end, label=found.label, score=round(found.score, 4), sample=end)
        return 1

    def _look(self, end: int, frame: Samples, unmixed: Samples | None) -> int:
        soft = False if not self._loudness.quiet else True if self._segmenter.speaking else None
        before = self._check.fault
        change = self._check.step(frame, unmixed, soft)
        if change == "over":
            self.tell("sound", end, available=True, reason=before)
        elif change is not None:
            loud = (
                {"peak_dbfs": round(20 * math.log10(self._loudness.peak), 1)} if change == "too_quiet" else {}
            )
            self.tell("sound", end, available=False, reason=change, **loud)
        return 0

    def _away(self, reason: str, at: int) -> None:
        if self._outage is None:
            self._edge(self._segmenter.finish(at))
            self.tell("source", at, available=False, reason=reason)
            self._outage = reason

    def _lost(self, block: AudioBlock) -> None:
        self._edge(self._segmenter.finish(block.first - block.gap))
        if self._vad is not None:
            self._vad.reset()
        if self._trigger is not None:
            self._trigger.reset()
        self.counts["lost_samples"] = self.counts.get("lost_samples", 0) + block.gap

    def _edge(self, edge: SpeechEdge | None) -> None:
        if edge is None:
            return
        extra: dict[str, Any] = {"cut": True} if edge.cut else {}
        kind: Literal["speech_start", "speech_end"] = (
            "speech_start" if edge.kind == "speech_start" else "speech_end"
        )
        self._event(kind, edge.sample, sample=edge.sample, score=round(edge.probability, 4), **extra)

    def _failed(self, part: SpeechPart, end: int, error: EngineError) -> None:
        self.errors += 1
        self._event("inference_failed", end, part=part, detail=error.message)

    def _event(
        self,
        kind: Literal["speech_start", "speech_end", "keyword", "capability", "inference_failed"],
        at: int,
        phase: str | None = None,
        **data: object,
    ) -> None:
        key = f"keyword:{data['label']}" if kind == "keyword" else kind
        self.counts[key] = self.counts.get(key, 0) + 1
        self._emit(Event(kind, at / RATE, phase, data=data))
