"""A detection engine of a stream: frames to boxes."""

from __future__ import annotations

from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.engine_pool import PooledEngine
from edgectl.pipelines.video.keypoints import KeypointLayout
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.seated_engine import SeatedEngine

__all__ = ["Detector"]

_SPARE = 3
"""Staging tensors that are kept: one being filled, one that waits, one in the engine."""


class Detector(SeatedEngine):
    """Joined, and proven on a grey picture. ``prepare`` belongs to one thread, ``decode`` to one other."""

    def __init__(self, slot: PartVariant, engine: PooledEngine) -> None:
        """Takes over this user's hold of the engine. Raises :class:`ModelError` or :class:`EngineError` and
        lets it go then."""
        engine.vital = True
        super().__init__(slot, engine, spare=_SPARE)
        try:
            self._decode = make_decoder(self.task)
            self.keypoints: KeypointLayout | None = getattr(self._decode, "layout", None)
            """What its keypoints are; None: it finds none."""
            self.decode(*self.try_out())
        except BaseException:
            engine.close()
            raise

    def decode(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        """Raises :class:`ModelError` or :class:`EngineError`."""
        with DECODERS.using(self.task.decode.kind):
            return self._decode(outputs, meta)
