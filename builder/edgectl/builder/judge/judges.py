"""The judges of one model, each made when it is first asked for: float runs over a slice only once a build."""

from __future__ import annotations

from functools import cached_property

from onnx import ModelProto

from edgectl.builder.ingest.samples import Slices
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec
from edgectl.engines.finalise.open import open_model

__all__ = ["Judges"]


class Judges:
    """``reference``: the float model that everything is judged against. ``shown``: the same pictures in
    another size, and the task that says so, for candidates that take those."""

    def __init__(
        self,
        task: TaskSpec,
        samples: Slices,
        reference: ModelProto,
        monitor: BuildMonitor,
        *,
        shown: tuple[TaskSpec, Slices] | None = None,
    ) -> None:
        self._task, self._samples, self._reference = task, samples, reference
        self._monitor, self._shown = monitor, shown

    def resized(self, task: TaskSpec, samples: Slices) -> Judges:
        """The same judges for candidates that take the pictures in another size."""
        return Judges(self._task, self._samples, self._reference, self._monitor, shown=(task, samples))

    @cached_property
    def search(self) -> Judge:
        shown = None if self._shown is None else (self._shown[0], self._shown[1].search)
        self._monitor.tell("judge", 0.15, "float outputs of the search slice")
        engine = open_model(self._reference.SerializeToString(), SessionSettings(threads=2))
        try:
            return Judge(self._task, self._samples.search, engine, shown=shown)
        finally:
            engine.close()

    @cached_property
    def confirmation(self) -> Judge:
        shown = None if self._shown is None else (self._shown[0], self._shown[1].confirmation)
        self._monitor.tell("judge", 0.15, "float outputs of the confirmation slice")
        engine = open_model(self._reference.SerializeToString(), SessionSettings(threads=2))
        try:
            return Judge(self._task, self._samples.confirmation, engine, shown=shown)
        finally:
            engine.close()
