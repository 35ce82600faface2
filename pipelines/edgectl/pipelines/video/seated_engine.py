"""A stream's half of an engine: what goes before it, and its seat. The other half, the engine itself, is shared
(:mod:`edgectl.pipelines.video.engine_pool`). What a hot swap replaces is one of these."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import ImageInput
from edgectl.engines.base import Outputs
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EngineSeat, EngineWork, PooledEngine, Ran
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor, Staging

__all__ = ["SeatedEngine"]

_DRAIN_S = 20.0


class SeatedEngine:
    """An engine that takes pictures, joined. ``prepare`` belongs to one thread."""

    def __init__(self, slot: PartVariant, engine: PooledEngine, *, spare: int) -> None:
        """Takes over this user's hold of the engine. ``spare``: staging tensors that are kept. Raises
        :class:`ModelError` or :class:`EngineError` and lets it go then."""
        self.slot = slot
        self.task = slot.variant.config.task
        self.labels = self.task.labels
        self.seat: EngineSeat | None = None
        self._engine = engine
        self._spare: deque[Staging] = deque(maxlen=spare)
        self._under_way = 0
        self._closed = False
        self._change = threading.Condition()
        try:
            if not isinstance(self.task.input, ImageInput):
                raise ModelError(
                    f"task {self.task.name} takes no pictures", hint="this part needs a model of pictures"
                )
            self.size = (self.task.input.width, self.task.input.height)
            """Of its input: width and height."""
            self._preprocess = Preprocessor(self.task.input)
            _check_input(engine, self.task.input)
        except BaseException:
            engine.close()
            raise

    def try_out(self) -> tuple[Outputs, LetterboxMeta]:
        """What it makes of a grey picture. Raises :class:`EngineError`."""
        spec = self._preprocess.spec
        staging, meta = self.prepare(np.full((spec.height, spec.width, 3), 128, np.uint8))
        outputs = self._engine.sample(staging.tensor)
        self.give_back(staging)
        return outputs, meta

    def sit_down(self, size: int, waits: bool, ready: Callable[[], bool]) -> None:
        """Take a seat at the engine. See :meth:`PooledEngine.seat`."""
        self.seat = self._engine.seat(size, waits, ready)

    def prepare(self, frame: Frame | NDArray[np.uint8]) -> tuple[Staging, LetterboxMeta]:
        """A frame as a tensor, in memory that is this frame's until :meth:`give_back`."""
        staging = self._spare.pop() if self._spare else self._preprocess.staging()
        _, meta = self._preprocess(frame, staging)
        return staging, meta

    def give_back(self, staging: Staging) -> None:
        """From any thread."""
        self._spare.append(staging)

    def run(self, staging: Staging) -> Ran:
        """Run at once, beside the seats, when it is this caller's turn. Raises :class:`EngineError`."""
        (outputs,), started, ended = self._engine.infer([staging.tensor])
        return Ran(outputs, started, ended)

    def work(self) -> EngineWork:
        """What its engine did, for all of the engine's streams."""
        return self._engine.work()

    def stuck_s(self, now_ns: int) -> float | None:
        """For how long the engine's present call has run, if that is too long."""
        return self._engine.stuck_s(now_ns)

    def begin(self) -> None:
        """A frame more is under way with this engine."""
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
