"""The second engine of a stream: crops to answers."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl.core.errors import EngineError, ModelError
from edgectl.engines.base import Outputs
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import PooledEngine
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.seated_engine import SeatedEngine
from edgectl.pipelines.video.second_stage.answers import Answer, Looked, make_answers
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

__all__ = ["MOST_CROPS", "CropEngine"]

_SPARE = 4
"""Staging tensors that are kept."""
MOST_CROPS = 16
"""Crops of one stream that wait for an engine, at most."""


class CropEngine(SeatedEngine):
    """Joined, and proven on a grey picture. ``prepare`` belongs to one thread, ``answer`` to one other."""

    def __init__(self, slot: PartVariant, engine: PooledEngine, config: SecondStageConfig) -> None:
        """Takes over this user's hold of the engine. Raises :class:`ModelError`, :class:`UsageError` or
        :class:`EngineError` and lets it go then."""
        super().__init__(slot, engine, spare=_SPARE)
        try:
            self._answers = make_answers(self.task, config)
            outputs, meta = self.try_out()
            self.answer(outputs, meta, Looked(self.labels[:1], (0, 0, meta.width, meta.height)))
        except BaseException:
            engine.close()
            raise

    def knows(self, labels: Sequence[str]) -> bool:
        """Whether it can say something of a track whose label is one of these."""
        return self._answers.knows(labels)

    def answer(self, outputs: Outputs, meta: LetterboxMeta, looked: Looked) -> Answer | None:
        """None: it is not sure enough. Raises :class:`ModelError` or :class:`EngineError`, also for a defect of a
        decoder: the stream goes on."""
        try:
            return self._answers(outputs, meta, looked)
        except (EngineError, ModelError):
            raise
        except Exception as e:
            raise EngineError(f"task {self.task.name}: {type(e).__name__}: {e}") from e
