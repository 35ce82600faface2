"""Voice activity: the Silero graph driven directly, and the segmenter that turns probabilities into speech
segments.

Silero VAD v5 at 16 kHz (MIT, github.com/snakers4/silero-vad): 512 new samples after 64 old ones, a state
tensor ``[2, 1, 128]`` carried from call to call. :class:`Segmenter` with its defaults gives exactly what the
reference ``VADIterator`` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine
from edgectl.pipelines.audio.blocks import RATE, Samples
from edgectl.pipelines.decoders import DecoderType

__all__ = ["DECODER", "Segmenter", "SpeechEdge", "VoiceActivity", "carry_state"]


def carry_state(
    feeds: dict[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], state_input: str
) -> None:
    """Feed the recurrent state of one call to the next: the output of the state's shape becomes
    ``state_input``."""
    shape = feeds[state_input].shape
    for value in outputs.values():
        if value.shape == shape:
            feeds[state_input] = value
            return
    raise ModelError(f"no output has the shape {shape} of the recurrent input {state_input!r}")


class VoiceActivity:
    """Speech probability of consecutive frames of one stream. One object per stream: it carries the state."""

    def __init__(self, engine: Engine, task: TaskSpec) -> None:
        """Raises :class:`ModelError` if the graph has no recurrent state or no audio input."""
        if task.input.kind != "audio" or task.decode.kind != "vad":
            raise ModelError(
                f"task {task.name!r} is not a voice activity task", hint="build it with --task silero-vad"
            )
        self.spec = task.input.features
        names = [t.name for t in engine.inputs]
        audio = task.input.tensor or names[0]
        states = [t for t in engine.inputs if t.name != audio and t.dtype == "float32" and len(t.shape) == 3]
        if audio not in names or len(states) != 1:
            raise ModelError(
                f"the voice activity graph has inputs {', '.join(names)}; expected audio and one state"
            )
        self._audio, self._state, self._spec_of_state = audio, states[0].name, states[0]
        self._fixed: dict[str, NDArray[Any]] = {
            t.name: np.full(t.shape, RATE, dtype=t.dtype)
            for t in engine.inputs
            if t.name not in (audio, self._state)
        }
        self.engine = engine
        self.reset()

    def reset(self) -> None:
        """Forget the past: at the start of a stream and after lost samples."""
        self._value: NDArray[Any] = np.zeros(self._spec_of_state.shape, dtype=np.float32)
        self._loud: NDArray[Any] | None = None

    def probability(self, frame: Samples, gain: float = 1.0) -> float:
        """Probability 0..1 of speech in ``context + window`` samples. Raises :class:`EngineError`; the past
        is forgotten then.

        With a ``gain`` above 1 the frame is heard twice, as it is and louder, each with a past of its own,
        and the higher probability counts. What is heard without gain is the same whether there was one before
        or not.
        """
        try:
            plain, self._value = self._run(frame, self._value)
            if gain <= 1:
                self._loud = None
                return plain
            before = np.zeros_like(self._value) if self._loud is None else self._loud
            loud, self._loud = self._run(np.asarray(frame * np.float32(gain), np.float32), before)
        except EngineError:
            self.reset()  # a past of NaN would never end
            raise
        return max(plain, loud)

    def _run(self, frame: Samples, state: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        feeds = {self._audio: frame.reshape(1, -1), self._state: state, **self._fixed}
        outputs = self.engine.run(feeds)
        carry_state(feeds, outputs, self._state)
        values = [v for v in outputs.values() if v.size == 1]
        if len(values) != 1 or not np.isfinite(values[0]).all():
            raise EngineError("the voice activity engine gave no single finite probability")
        return float(values[0].item()), feeds[self._state]


DECODER = DecoderType(
    "vad",
    VoiceActivity,
    "speech probability `[1, 1]` with a recurrent state tensor (Silero)",
    labels=False,
)


@dataclass(frozen=True)
class SpeechEdge:
    """``speech_start`` or ``speech_end`` at a sample index; ``cut`` where the stream ended inside speech."""

    kind: str
    sample: int
    probability: float
    cut: bool = False


class Segmenter:
    """Hysteresis over probabilities: pure, time is the sample index.

    Speech starts at ``on`` and ends after ``min_silence_ms`` below ``off``; edges are padded by ``pad_ms``.
    """

    def __init__(
        self, *, on: float = 0.5, off: float = 0.35, min_silence_ms: float = 100, pad_ms: float = 30
    ) -> None:
        self._on, self._off = on, off
        self._min_silence = RATE * min_silence_ms / 1000
        self._pad = RATE * pad_ms / 1000
        self.speaking = False
        self._quiet_since: int | None = None

    def step(self, end: int, window: int, probability: float) -> SpeechEdge | None:
        """One frame of ``window`` samples that ends before sample index ``end``."""
        if probability >= self._on:
            self._quiet_since = None
            if not self.speaking:
                self.speaking = True
                return SpeechEdge("speech_start", int(max(0, end - self._pad - window)), probability)
        elif probability < self._off and self.speaking:
            if self._quiet_since is None:
                self._quiet_since = end
            if end - self._quiet_since >= self._min_silence:
                sample = int(self._quiet_since + self._pad - window)
                self.speaking, self._quiet_since = False, None
                return SpeechEdge("speech_end", sample, probability)
        return None

    def finish(self, end: int) -> SpeechEdge | None:
        """The stream ended or lost samples at ``end``: close a segment that is still open."""
        if not self.speaking:
            return None
        self.speaking, self._quiet_since = False, None
        return SpeechEdge("speech_end", end, 0.0, cut=True)
