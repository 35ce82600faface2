"""Run a second engine of a second stage on some of the crops and compare its answers; none of them is a vote."""

from __future__ import annotations

from edgectl.core.errors import EngineError, ModelError
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Looked, make_answers
from edgectl.pipelines.video.second_stage.config import SecondStageConfig
from edgectl.pipelines.video.second_stage.crop_engine import CropEngine
from edgectl.pipelines.video.shadow import Comparison, Done

__all__ = ["CropShadow"]


class CropShadow:
    """Of a part. Found is an answer that an engine is sure enough of, matched two that say the same: where neither is
    sure, they agree."""

    def __init__(
        self,
        engine: CropEngine,
        serving: CropEngine,
        config: SecondStageConfig,
        percent: float,
        crops: int,
        done: Done,
    ) -> None:
        self.comparison = Comparison(engine, percent, crops, done)
        self._engine = engine
        # for one thread: not the one that the stream uses
        self._answer_old = make_answers(serving.task, config)

    def step(self, crop: Frame, ran: Ran, meta: LetterboxMeta, looked: Looked) -> bool:
        """One crop, and what the engine which serves has made of it. True: that was the last one."""
        if not self.comparison.is_due():
            return False
        try:
            old = self._answer_old(ran.outputs, meta, looked)
        except (EngineError, ModelError):
            # it has failed on its own: nothing to compare with
            return False
        try:
            staging, own = self._engine.prepare(crop)
            result = self._engine.run(staging)
            new = self._engine.answer(result.outputs, own, looked)
            self._engine.give_back(staging)
        except (EngineError, ModelError):
            return self.comparison.count(ran, None, 0, int(old is not None), 0)
        same = old is not None and new is not None and old.value == new.value
        return self.comparison.count(ran, result, int(same), int(old is not None), int(new is not None))
