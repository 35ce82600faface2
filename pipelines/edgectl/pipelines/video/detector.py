"""A stream's half of a detection engine: what goes before it and what comes after. The other half, the engine
itself, is shared (:mod:`edgectl.pipelines.video.engine_pool`). What a hot swap replaces is one of these."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import ImageInput
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.engine_pool import EngineSeat, EngineWork, PooledEngine, Ran
from edgectl.pipelines.video.keypoints import KeypointLayout
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor, Staging
from edgectl.pipelines.video.regions.plan import Region

__all__ = ["Detector"]

_SPARE = 3
"""Staging tensors that are kept: one being filled, one that waits, one in the engine."""
_SPARE_REGIONS = 6
"""The same of regions, whose padding is another one."""
_DRAIN_S = 20.0


class Detector:
    """Joined, and proven on a grey picture. ``prepare`` belongs to one thread, ``decode`` to one other."""

    def __init__(self, slot: PartVariant, engine: PooledEngine) -> None:
        """Takes over this user's hold of the engine. Raises :class:`ModelError` or :class:`EngineError` and
        lets it go then."""
        self.slot = slot
        self.task = slot.variant.config.task
        self.labels = self.task.labels
        self.seat: EngineSeat | None = None
        self._engine = engine
        self._spare: dict[bool, deque[Staging]] = {
            True: deque(maxlen=_SPARE),
            False: deque(maxlen=_SPARE_REGIONS),
        }
        self._under_way = 0
        self._closed = False
        self._change = threading.Condition()
        try:
            if not isinstance(self.task.input, ImageInput):
                raise ModelError(
                    f"task {self.task.name} takes no pictures", hint="this pipeline needs a detector"
                )
            self.size = (self.task.input.width, self.task.input.height)
            """Of its input: width and height."""
            self._preprocess = {whole: Preprocessor(self.task.input) for whole in (True, False)}
            self._decode = make_decoder(self.task)
            self.keypoints: KeypointLayout | None = getattr(self._decode, "layout", None)
            """What its keypoints are; None: it finds none."""
            _check_input(engine, self.task.input)
            grey = np.full((self.task.input.height, self.task.input.width, 3), 128, np.uint8)
            staging, meta = self.prepare(grey)
            self.decode(engine.sample(staging.tensor), meta)
            self.give_back(staging)
        except BaseException:
            engine.close()
            raise

    def sit_down(self, size: int, waits: bool, ready: Callable[[], bool]) -> None:
        """Take a seat at the engine. See :meth:`PooledEngine.seat`."""
        self.seat = self._engine.seat(size, waits, ready)

    def prepare(
        self, frame: Frame | NDArray[np.uint8], region: Region | None = None
    ) -> tuple[Staging, LetterboxMeta]:
        """A frame, or a region of one, as a tensor, in memory that is its own until :meth:`give_back`."""
        whole = region is None
        spare, preprocess = self._spare[whole], self._preprocess[whole]
        staging = spare.pop() if spare else preprocess.staging(whole)
        if region is None:
            return staging, preprocess(frame, staging)[1]
        assert isinstance(frame, Frame)
        _, meta = preprocess(frame.part(*region), staging)
        return staging, replace(meta, x=region.x, y=region.y)

    def give_back(self, staging: Staging) -> None:
        """From any thread."""
        self._spare[staging.whole].append(staging)

    def run(self, staging: Staging) -> Ran:
        """Run at once, beside the seats, when it is this caller's turn. Raises :class:`EngineError`."""
        (outputs,), started, ended = self._engine.infer([staging.tensor])
        return Ran(outputs, started, ended)

    def decode(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        """Raises :class:`ModelError` or :class:`EngineError`."""
        with DECODERS.using(self.task.decode.kind):
            return self._decode(outputs, meta)

    def sharing(self) -> tuple[int, int]:
        """What a call for one picture takes, ns (0: not known yet), and how many streams share the engine."""
        return self._engine.work().recent_ns, len(self._engine.turns.seats)

    def work(self) -> EngineWork:
        """What its engine did, for all of the engine's streams."""
        return self._engine.work()

    def stuck_s(self, now_ns: int) -> float | None:
        """For how long the engine's present call has run, if that is too long."""
        return self._engine.stuck_s(now_ns)

    def begin(self) -> None:
        """A frame more is under way with this detector."""
        with self._change:
            self._under_way += 1

    def end(self) -> None:
        """A frame less."""
        with self._change:
            self._under_way -= 1
            self._change.notify_all()

    def close(self) -> bool:
        """Leave the engine once every frame that is under way has come back from it. False: one has not, its
        call is stuck. Safe to call twice."""
        with self._change:
            back = self._change.wait_for(lambda: not self._under_way, _DRAIN_S)
            closed, self._closed = self._closed, True
        if not closed:
            if self.seat is not None:
                self.seat.close()
            self._engine.close()
        return back


def _check_input(engine: PooledEngine, spec: ImageInput) -> None:
    """The input that takes the picture, its name, shape and type checked against the task."""
    (input_,) = engine.inputs
    if spec.tensor not in (None, input_.name):
        raise ModelError(
            f"the task's input {spec.tensor or ''!r} is not the only one of the model's ({input_.name})"
        )
    shape = (1, 3, spec.height, spec.width) if spec.layout == "NCHW" else (1, spec.height, spec.width, 3)
    if input_.shape[1:] != shape[1:] or input_.dtype != spec.dtype:
        raise EngineError(
            f"input {input_.name} takes {input_.shape} {input_.dtype}, the task gives {shape} {spec.dtype}"
        )
