"""The judges of one model, each made when it is first asked for: float runs over a slice only once a build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property

from onnx import ModelProto

from edgectl.builder.ingest.labelled_samples import LabelledSamples
from edgectl.builder.ingest.samples import Slices
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.judge.labelled import FloatByLabels, LabelledJudge
from edgectl.builder.judge.suspects import explain_nothing
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model

__all__ = ["Judges"]

_LABELS_SHARE = 0.05
"""Of the time of the build: what float may take over the labels. Each variant that is to ship takes as long again."""


class Judges:
    """``reference``: the float model that everything is judged against. ``labelled``: what people labelled; it judges
    in the place of the confirmation slice. ``shown``: the same pictures in another size, and the task that says so, for
    candidates that take those."""

    def __init__(
        self,
        task: TaskSpec,
        samples: Slices,
        reference: ModelProto,
        monitor: BuildMonitor,
        *,
        labelled: LabelledSamples | None = None,
        shown: tuple[TaskSpec, Slices] | None = None,
        full_size: Judges | None = None,
    ) -> None:
        self._task, self._samples, self._reference = task, samples, reference
        self._monitor, self._shown, self._labelled = monitor, shown, labelled
        self._full_size = full_size

    def resized(self, task: TaskSpec, samples: Slices) -> Judges:
        """The same judges for candidates that take the pictures in another size."""
        return Judges(
            self._task,
            self._samples,
            self._reference,
            self._monitor,
            labelled=self._labelled,
            shown=(task, samples),
            full_size=self,
        )

    @cached_property
    def reference(self) -> bytes:
        """The float model, as a file."""
        return bytes(self._reference.SerializeToString(deterministic=True))

    @cached_property
    def labels(self) -> FloatByLabels | None:
        """Float's own figures by the labels; None where there are none.

        Raises :class:`DataError` for labels that do not fit, and for a float model that knows nothing of them: the
        sentence says what may be wrong."""
        if self._full_size is not None:
            return self._full_size.labels
        if self._labelled is None:
            return None
        start, monitor = self._monitor.budget.used, self._monitor
        most = _LABELS_SHARE * monitor.budget.seconds

        def enough(left: int) -> bool:
            late = monitor.budget.used - start > most
            if late:
                monitor.budget.leave_out(f"{left} of {len(self._labelled or ())} labelled pictures")
            return late

        with self._opened() as engine:
            found = FloatByLabels(
                self._task,
                self._labelled,
                engine,
                seen=(s for part in self._samples.seen for s in part),
                enough=enough,
                progress=lambda n, of: monitor.tell("labels", 0.04, f"float by the labels: {n}/{of}"),
            )
            if found.knows_nothing:
                raise explain_nothing(found, engine)
        if found.seen_before:
            monitor.note(
                f"{found.seen_before} labelled pictures are calibration data, too, and do not judge: "
                f"{len(found.judged)} do"
            )
        monitor.notes += found.samples.labelled.notes
        return found

    @cached_property
    def search(self) -> Judge:
        shown = None if self._shown is None else (self._shown[0], self._shown[1].search)
        self._monitor.tell("judge", 0.15, "float outputs of the search slice")
        with self._opened() as engine:
            return Judge(self._task, self._samples.search, engine, shown=shown)

    @cached_property
    def confirmation(self) -> Judge | LabelledJudge:
        """By labels, where there are some."""
        if self.labels is not None:
            task = None if self._shown is None else self._shown[0]
            return LabelledJudge(
                self.labels, None if task is None else (task, self.labels.samples.fitted(task))
            )
        shown = None if self._shown is None else (self._shown[0], self._shown[1].confirmation)
        self._monitor.tell("judge", 0.15, "float outputs of the confirmation slice")
        with self._opened() as engine:
            return Judge(self._task, self._samples.confirmation, engine, shown=shown)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Engine]:
        engine = open_model(self._reference.SerializeToString(), SessionSettings(threads=2))
        try:
            yield engine
        finally:
            engine.close()
