"""What is heard: blocks in, events out. Synchronous, no clock, no thread: the same samples give the same events for any
block sizes.

A part whose engine is missing is not heard, and says so once as a ``capability`` event: a silent keyword spotter would be
worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from edgectl.core.errors import EngineError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine
from edgectl.pipelines.config import SpeechConfig
from edgectl.pipelines.events import Event
from edgectl.pipelines.speech.blocks import RATE, AudioBlock, Reframer
from edgectl.pipelines.speech.features import FeatureWindow
from edgectl.pipelines.speech.keyword import KeywordScores, Trigger
from edgectl.pipelines.speech.vad import Segmenter, SpeechEdge, VoiceActivity

__all__ = ["Role", "SpeechSession"]

Role = Literal["vad", "keyword"]
Timer = Callable[[Role], Callable[[], None]]


class SpeechSession:
    """One stream of audio. ``emit`` receives events; their ``t_s`` is stream time (sample index / 16000)."""

    def __init__(self, config: SpeechConfig, emit: Callable[[Event], None], *, timer: Timer | None = None) -> None:
        self._config = config
        self._emit = emit
        self._timer = timer or (lambda _role: lambda: None)
        self._vad: VoiceActivity | None = None
        self._segmenter = Segmenter(
            on=config.vad_on, off=config.vad_off, min_silence_ms=config.min_silence_ms, pad_ms=config.pad_ms
        )
        self._keyword: KeywordScores | None = None
        self._trigger: Trigger | None = None
        self._end = 0
        self.errors = 0
        self.counts: dict[str, int] = {}

    def use(self, role: Role, engine: Engine, task: TaskSpec) -> None:
        """Take an engine for a role, now and between two blocks later. Audio that is half heard stays half heard."""
        if role == "vad":
            first = self._vad is None
            self._vad = VoiceActivity(engine, task)
            if first:
                self._frames = Reframer(self._vad.spec.window, self._vad.spec.context)
        else:
            scores = KeywordScores(engine, task)
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
        for role, part in (("vad", self._vad), ("keyword", self._keyword)):
            if part is None:
                self._event("capability", 0, name=role, available=False, reason="no_engine")

    def push(self, block: AudioBlock) -> int:
        """Hear a block. Returns how many times an engine ran."""
        self._end = block.first + len(block.data)
        if block.gap:
            self._lost(block)
        runs = 0
        if self._vad is not None:
            for end, frame in self._frames.push(block)[1]:
                done = self._timer("vad")
                try:
                    probability = self._vad.probability(frame)
                except EngineError as e:
                    self._failed("vad", end, e)
                    continue
                finally:
                    done()
                runs += 1
                self._edge(self._segmenter.step(end, self._vad.spec.window, probability))
        if self._keyword is not None and self._trigger is not None:
            for end, tensor in self._window.push(block):
                done = self._timer("keyword")
                try:
                    scores = self._keyword(tensor)
                except EngineError as e:
                    self._failed("keyword", end, e)
                    continue
                finally:
                    done()
                runs += 1
                if found := self._trigger.step(end, scores):
                    self._event("keyword", end, label=found.label, score=round(found.score, 4), sample=end)
        return runs

    def finish(self) -> None:
        """The stream ended: close what is open."""
        self._edge(self._segmenter.finish(self._end))

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
        extra = {"cut": True} if edge.cut else {}
        kind: Literal["speech_start", "speech_end"] = "speech_start" if edge.kind == "speech_start" else "speech_end"
        self._event(kind, edge.sample, sample=edge.sample, score=round(edge.probability, 4), **extra)

    def _failed(self, role: Role, end: int, error: EngineError) -> None:
        self.errors += 1
        self._event("inference_failed", end, role=role, detail=error.message)

    def _event(
        self,
        kind: Literal["speech_start", "speech_end", "keyword", "capability", "inference_failed"],
        at: int,
        **data: object,
    ) -> None:
        key = f"keyword:{data['label']}" if kind == "keyword" else kind
        self.counts[key] = self.counts.get(key, 0) + 1
        self._emit(Event(kind, at / RATE, data=data))
