"""A detection engine of a stream: frames, and regions of frames, to boxes."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.engine_pool import PooledEngine
from edgectl.pipelines.video.keypoints import KeypointLayout
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor, Staging
from edgectl.pipelines.video.regions.cover import Region
from edgectl.pipelines.video.seated_engine import SeatedEngine

__all__ = ["Detector"]

_SPARE = 3
"""Staging tensors that are kept: one being filled, one that waits, one in the engine."""
_SPARE_REGIONS = 6
"""The same of regions, whose padding is another one."""


class Detector(SeatedEngine):
    """Joined, and proven on a grey picture. ``prepare`` belongs to one thread, ``decode`` to one other."""

    def __init__(self, slot: PartVariant, engine: PooledEngine) -> None:
        """Takes over this user's hold of the engine. Raises :class:`ModelError` or :class:`EngineError` and
        lets it go then."""
        engine.vital = True
        super().__init__(slot, engine, spare=_SPARE)
        self._of_regions: deque[Staging] = deque(maxlen=_SPARE_REGIONS)
        try:
            self._preprocess_region = Preprocessor(self._preprocess.spec)
            self._decode = make_decoder(self.task)
            self.keypoints: KeypointLayout | None = getattr(self._decode, "layout", None)
            """What its keypoints are; None: it finds none."""
            self.finds_masks = self.decode(*self.try_out()).masks is not None
        except BaseException:
            engine.close()
            raise

    def prepare(
        self, frame: Frame | NDArray[np.uint8], region: Region | None = None
    ) -> tuple[Staging, LetterboxMeta]:
        """A frame, or a region of one, as a tensor, in memory that is its own until :meth:`give_back`."""
        if region is None:
            return super().prepare(frame)
        assert isinstance(frame, Frame)
        spare = self._of_regions
        staging = spare.pop() if spare else self._preprocess_region.staging(whole=False)
        _, meta = self._preprocess_region(frame.part(*region), staging)
        return staging, replace(meta, x=region.x, y=region.y)

    def give_back(self, staging: Staging) -> None:
        """From any thread."""
        if staging.whole:
            super().give_back(staging)
        else:
            self._of_regions.append(staging)

    def decode(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        """Raises :class:`ModelError` or :class:`EngineError`."""
        with DECODERS.using(self.task.decode.kind):
            return self._decode(outputs, meta)

    def sharing(self) -> tuple[int, int]:
        """What a call for one picture takes, ns (0: not known yet), and how many streams share the engine."""
        return self._engine.work().recent_ns, len(self._engine.turns.seats)
