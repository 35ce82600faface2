"""How good a model is by labels: float's own figures, and what a variant loses of them.

The drop is float's figure minus the variant's, on the same pictures: AP at IoU 0.5 and AP as COCO defines them (the
larger loss of the two), top-1, or word error. Its 95 % interval is a paired bootstrap over the pictures; where nothing
was lost on n pictures, more than 3/n hardly can be (the rule of three).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.ingest.labelled_samples import LEAST_LABELLED, LabelledSample, LabelledSamples
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.labelled_scores import Figures, Scorer, Weights, scorer_for
from edgectl.builder.truth.labelled import TrueObjects
from edgectl.core.errors import DataError, EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine

__all__ = ["FloatByLabels", "LabelledFigures", "LabelledJudge", "content_of"]

_RESAMPLED, _GLANCED = 200, 50
"""Bootstrap resamples of all pictures, and of a part of them."""
_LEAST_JUDGED = 64
"""Pictures that are judged by however little time there is."""
_GLANCES = (0.25, 0.5)
"""Of the pictures: after them a candidate that is certainly out is given up."""
_LEAST_GLANCE = 48


@dataclass(frozen=True)
class LabelledFigures:
    """What a build says of its labels: ``layout`` as people call it, ``pictures`` that judge of ``given`` ones (the
    rest was calibration data too, or there was no time), ``objects`` in them, and float's own figures."""

    layout: str
    kind: str
    pictures: int
    given: int
    objects: int
    values: dict[str, float]


def content_of(sample: Sample) -> bytes:
    """What tells whether two samples are the same picture."""
    sha = hashlib.sha256()
    for name in sorted(sample.feeds):
        sha.update(np.ascontiguousarray(sample.feeds[name]).data)
    return sha.digest()


class FloatByLabels:
    """Float's answers to all that is labelled, run once."""

    def __init__(
        self,
        task: TaskSpec,
        samples: LabelledSamples,
        reference: Engine,
        *,
        seen: Iterable[Sample] = (),
        enough: Callable[[int], bool] = lambda n: False,
        progress: Callable[[int, int], None] = lambda n, of: None,
    ) -> None:
        """``seen``: what calibrated or searched; pictures among them do not judge. ``enough`` is asked after n pictures
        whether to stop.

        Raises :class:`DataError` for labels that do not fit the pictures or the model, and if too few are left."""
        self.task, self.samples = task, samples
        labelled = samples.labelled
        self.scorer: Scorer = scorer_for(labelled.kind, task, labelled.classes)
        known = {content_of(s) for s in seen}
        self.judged: list[int] = []
        """Places in ``samples`` of what judges."""
        self.seen_before = 0
        self._rows: list[Any] = []
        self._objects = 0
        sha = hashlib.sha256(task.model_dump_json().encode() + repr(labelled.classes).encode())
        for i in range(len(samples)):
            if len(self.judged) >= _LEAST_JUDGED and enough(len(samples) - i):
                break
            one = samples[i]
            content = content_of(one.sample)
            if content in known:
                self.seen_before += 1
                continue
            outputs = reference.run(one.sample.feeds)
            row = self.scorer.row(outputs, one.sample.meta, one.truth)
            sha.update(content + repr(row).encode())
            self.judged.append(i)
            self._rows.append(row)
            self._objects += _objects(one)
            progress(i + 1, len(samples))
        if len(self.judged) < LEAST_LABELLED:
            raise DataError(
                f"{self.seen_before} of the {len(samples)} labelled pictures are calibration data, too: {len(self.judged)} are left to judge by",
                hint="calibrate with other pictures: what scales were fitted on says nothing about the rest",
            )
        self.digest = "sha256:" + sha.hexdigest()

    @cached_property
    def weights(self) -> list[Weights]:
        """How often each picture counts in each bootstrap resample; seeded."""
        rng, n = np.random.default_rng(0), len(self.judged)
        return [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(_RESAMPLED)]

    @cached_property
    def figures(self) -> Figures:
        return self.scorer.measured(self._rows)(np.ones(len(self._rows)))

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """(resamples, figures)."""
        measured = self.scorer.measured(self._rows)
        return np.asarray([measured(w) for w in self.weights])

    @property
    def knows_nothing(self) -> bool:
        """Whether float answers no better than a model that knows nothing of these labels."""
        return self.scorer.is_nothing(self.figures)

    @property
    def about(self) -> LabelledFigures:
        labelled = self.samples.labelled
        return LabelledFigures(
            labelled.layout,
            labelled.kind,
            len(self.judged),
            len(self.samples),
            self._objects,
            self.values(self.figures),
        )

    @property
    def accuracy(self) -> Accuracy:
        """Of float itself."""
        values = self.values(self.figures)
        values |= {f"float_{name}": v for name, v in self.values(self.figures).items()}
        n = len(self.judged)
        return Accuracy(0.0, values, 0.0, 0.0, n, objects=self._objects, labelled=True)

    def values(self, figures: Figures) -> dict[str, float]:
        return {name: round(float(f), 6) for name, f in zip(self.scorer.names, figures, strict=True)}

    def first(self, n: int) -> tuple[Figures, list[Any], int]:
        """Float's figures on the first ``n`` pictures, with their rows and the number of objects in all."""
        return self.scorer.measured(self._rows[:n])(np.ones(n)), self._rows[:n], self._objects


class LabelledJudge:
    """Judges candidates by labels, as :class:`~edgectl.builder.judge.accuracy.Judge` does by float's answers."""

    def __init__(self, truth: FloatByLabels, shown: tuple[TaskSpec, LabelledSamples] | None = None) -> None:
        """``shown``: the same pictures in another size and the task that says so, for candidates that take that."""
        self._truth = truth
        task, self._samples = (truth.task, truth.samples) if shown is None else shown
        labelled = truth.samples.labelled
        self._scorer = truth.scorer if shown is None else scorer_for(labelled.kind, task, labelled.classes)
        sha = hashlib.sha256(truth.digest.encode() + task.model_dump_json().encode())
        self.digest = "sha256:" + sha.hexdigest()

    def judge(self, candidate: Engine, *, limit: float | None = None) -> Accuracy:
        """Run the candidate over the labelled pictures; with ``limit``, give up once it has certainly lost more than
        that.

        Raises :class:`ModelError` for a candidate that does not run; one whose outputs are not finite has
        lost all.
        """
        rows: list[Any] = []
        n = len(self._truth.judged)
        glances = {max(_LEAST_GLANCE, round(n * g)) for g in _GLANCES} if limit is not None else set()
        for i in self._truth.judged:
            sample = self._samples[i]
            try:
                outputs = candidate.run(sample.sample.feeds)
            except EdgectlError as e:
                raise ModelError(f"the candidate does not run: {e.message}") from e
            if not all(np.isfinite(o).all() for o in outputs.values() if o.dtype.kind == "f"):
                return Accuracy(1.0, {"finite": 0.0}, 1.0, 1.0, len(rows), labelled=True)
            rows.append(self._scorer.row(outputs, sample.sample.meta, sample.truth))
            if len(rows) in glances and len(rows) < n:
                part = self._verdict(rows)
                if limit is not None and part.low > limit:
                    return part
        return self._verdict(rows)

    def _verdict(self, rows: list[Any]) -> Accuracy:
        truth, n = self._truth, len(rows)
        whole = n == len(truth.judged)
        float_figures, float_rows, objects = truth.first(n)
        measured = self._scorer.measured(rows)
        figures = measured(np.ones(n))
        if whole:
            float_resampled = truth.resampled
            resampled = np.asarray([measured(w) for w in truth.weights])
        else:
            of_float, weights = truth.scorer.measured(float_rows), [w[:n] for w in truth.weights[:_GLANCED]]
            weights = [w for w in weights if w.any()]
            float_resampled = np.asarray([of_float(w) for w in weights])
            resampled = np.asarray([measured(w) for w in weights])
        drop = self._lost(float_figures, figures)
        lost = [self._lost(a, b) for a, b in zip(float_resampled, resampled, strict=True)]
        low, high = np.nanpercentile(lost, [2.5, 97.5]).tolist()
        values = truth.values(figures)
        values |= {f"float_{name}": v for name, v in truth.values(float_figures).items()}
        return Accuracy(
            round(min(1.0, max(0.0, drop)), 6),
            values,
            round(max(-1.0, min(low, drop)), 6),
            round(min(1.0, max(high, drop, 3 / n)), 6),
            n,
            objects=objects,
            labelled=True,
        )

    def _lost(self, of_float: Figures, of_candidate: Figures) -> float:
        """Of the figures that the budget bounds, the largest loss."""
        lost = (of_float - of_candidate) * self._scorer.sign
        return float(lost[: self._scorer.decides].max())


def _objects(one: LabelledSample) -> int:
    return int((~one.truth.crowd).sum()) if isinstance(one.truth, TrueObjects) else 1
