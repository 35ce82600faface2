"""The judges of one model, each made when it is first asked for: float runs over a slice only once a build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

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

_VERDICT = 0.8
"""Of the time that float takes over a slice, where it runs up to three times, two of them in noise: what judging a
candidate takes."""
_SEARCHED, _CONFIRMED = 3, 2
"""Candidates that are judged, and variants that are confirmed, in most searches."""
_ROUND_CALLS, _ROUNDS_MOST_S = 500, 30.0
"""What the fewest calls of all candidates take, in calls of float, and where calls are long."""
_PROCESSES_S, _PROCESS_CALLS = 20.0, 60
"""What the least of measuring in processes of their own takes, with their starts, and beside that in calls of float."""


class Judges:
    """``reference``: the float model that everything is judged against; a file where its weights lie beside
    it. ``labelled``: what people labelled; it judges in the place of the confirmation slice. ``shown``: the same
    pictures in another size, and the task that says so, for candidates that take those."""

    def __init__(
        self,
        task: TaskSpec,
        samples: Slices,
        reference: ModelProto | Path,
        monitor: BuildMonitor,
        *,
        labelled: LabelledSamples | None = None,
        shown: tuple[TaskSpec, Slices] | None = None,
        full_size: Judges | None = None,
    ) -> None:
        self._task, self._samples, self._reference = task, samples, reference
        self._monitor, self._shown, self._labelled = monitor, shown, labelled
        self._full_size = full_size
        self._sample_s = self._call_s = 0.0
        self._open: Engine | None = None

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
        if isinstance(self._reference, Path):
            return self._reference.read_bytes()
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
        self._monitor.tell("judge", 0.04, "float outputs of the search slice")
        start = self._monitor.budget.used
        with self._opened() as engine:
            found = Judge(self._task, self._samples.search, engine, shown=shown)
            ran = self._monitor.budget.used
            self._sample_s = (ran - start) / len(self._samples.search)
            engine.run(self._samples.search[0].feeds)
            self._call_s = self._monitor.budget.used - ran
        return found

    def search_s(self) -> float:
        """What the least of a search is expected to take, and confirming what it finds, in seconds, at the pace of the
        search slice; 0 before that pace is known."""
        if "search" not in self.__dict__:
            return 0.0
        judged = _SEARCHED * _VERDICT * len(self._samples.search) * self._sample_s
        return judged + self.measuring_s() + self.confirmation_s()

    def measuring_s(self) -> float:
        """What the least of measuring is expected to take, in seconds; 0 before the pace of the search slice is known."""
        if "search" not in self.__dict__:
            return 0.0
        rounds_s = min(_ROUNDS_MOST_S, _ROUND_CALLS * self._call_s)
        return rounds_s + _PROCESSES_S + _PROCESS_CALLS * self._call_s

    def confirmation_s(self) -> float:
        """What confirming is expected to take, in seconds, at that pace; 0 once it has begun, and where labels judge, whose
        time is bounded."""
        if "confirmation" in self.__dict__ or self.labels is not None:
            return 0.0
        return self._sample_s * len(self._samples.confirmation) * (1 + _CONFIRMED * _VERDICT)

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

    def ready(self) -> None:
        """Run float over all that judges in one opening of it; else each judge opens it when it is first asked for. Raises what
        :attr:`labels` does."""
        with self._opened() as engine:
            self._open = engine
            try:
                _ = self.labels, self.search, self.confirmation
            finally:
                self._open = None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Engine]:
        if self._open is not None:
            yield self._open
            return
        model = self._reference if isinstance(self._reference, Path) else self._reference.SerializeToString()
        engine = open_model(model, SessionSettings(threads=2))
        try:
            yield engine
        finally:
            engine.close()
