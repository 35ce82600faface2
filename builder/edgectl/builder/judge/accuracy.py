"""How good a candidate is on a slice of samples, by the task's metric; the float model's own outputs are the
reference.

``detection``: AP at IoU 0.5 of the candidate's detections, the float model's being the truth, as far as float
itself is sure of them: an object counts if float reports it again in two copies of the picture with ± 1 grey
level of noise, less than any sensor adds. (FastestDet's own AP against itself falls by 2 % under that noise:
chairs that are mice in the next frame.) What float sees less surely than that, down to a quarter of the
threshold, is neither object nor background: finding it costs nothing and gains nothing, like the "difficult"
objects of PASCAL VOC. Of a model that finds keypoints, an
object is found again where their OKS (object keypoint similarity, COCO) is at least 0.75, in the place of IoU 0.5:
float's own points are the truth, and 0.5 would forgive all that int8 does. Of one that finds masks, where the IoU of
the masks is at least 0.5. ``top1``: how often the arg max agrees, of the samples on which float's own is the same
in two noisy copies (± 1 grey level, or the smallest step of the input). ``pixels``: how many pixels are of the class that float names, of
those that it names the same in both copies; each picture counts alike. ``sqnr`` (and where float detects
nothing): cosine, and signal to quantization noise in dB.

Every drop comes with its 95 % interval, from a bootstrap over blocks of neighbouring samples (frames of one
video are not independent).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.pixels import PixelTruth, class_decoder
from edgectl.builder.judge.similarity import measured_by, similar, similar_enough
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.decode.base import Detections

__all__ = ["Accuracy", "FloatTruth", "Judge", "Match", "average_precision", "grid_step", "match", "truth"]

# of the task's threshold: how far below it candidate boxes still enter the precision–recall curve
_LOW_SCORE = 0.25
_RESAMPLED = 200
_BLOCKS = 32
# samples after which a hopeless candidate is given up
_GLANCE = 48
_STEP_SAMPLES = 8  # among which every level of a picture comes up
_MAX_REFERENCE_BYTES = 128 << 20  # of float outputs that are held in memory

Sums = NDArray[np.float64]


@dataclass
class _Tally:
    """What was counted of a candidate's answers so far."""

    sums: list[Sums] = field(default_factory=list)
    rows: list[Match] = field(default_factory=list)
    same: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Accuracy:
    """``drop`` (0 = like float, 1 = all lost) is what the budget bounds; ``values`` are the figures behind
    it.

    ``low``/``high``: the 95 % interval of the drop; ``samples``: how many were judged (fewer than the slice
    has for a candidate that was certainly out). ``units``: of ``top1``, how many samples float is sure of:
    each answered otherwise is a drop of 1/units. ``objects``: of ``detection``, how many it is sure of (AP is
    no count: false boxes and the order of scores take part). 0 for other metrics.

    ``labelled``: judged by labels that people made (:mod:`edgectl.builder.judge.labelled`): ``drop`` is float's figure
    minus its own, ``values`` has both (``ap50``, ``float_ap50`` …), ``low`` may be below 0.
    """

    drop: float
    values: dict[str, float]
    low: float = 0.0
    high: float = 1.0
    samples: int = 0
    units: int = 0
    objects: int = 0
    labelled: bool = False

    @property
    def figures(self) -> dict[str, float]:
        """All of it by name, as a bundle carries it."""
        counted = {"objects": float(self.objects)} if self.labelled else {}
        return {
            "drop": self.drop,
            "drop_low": self.low,
            "drop_high": self.high,
            "samples": self.samples,
            **counted,
            **self.values,
        }


_NOT_FINITE = Accuracy(1.0, {"finite": 0.0}, 1.0, 1.0)


class Judge:
    """The float model's answers on a slice, computed once; any candidate is then judged against them."""

    def __init__(
        self,
        task: TaskSpec,
        samples: Sequence[Sample],
        reference: Engine,
        *,
        shown: tuple[TaskSpec, Sequence[Sample]] | None = None,
    ) -> None:
        """``shown``: the same pictures in another size and the task that says so, for candidates that do
        not take what the reference takes. Their outputs have other shapes: :class:`ModelError` unless the
        metric is ``detection`` or ``top1``. What each pixel is, is compared at one size alone."""
        self._samples = samples if shown is None else shown[1]
        self._metric = task.metric
        if self._metric in ("detection", "pixels") and any(s.meta is None for s in samples[:1]):
            # from an .npz: nothing says where the picture lies
            self._metric = "sqnr"
        low = task.decode.model_copy(update={"score": task.decode.score * _LOW_SCORE})
        decode = (
            make_decoder(task.model_copy(update={"decode": low})) if self._metric == "detection" else None
        )
        self._decode = decode
        if decode is not None and shown is not None:
            self._decode = make_decoder(shown[0].model_copy(update={"decode": low}))
        self._classes = class_decoder(task) if self._metric == "pixels" and shown is None else None
        self._pixels: list[PixelTruth] = []
        if self._metric == "pixels" and shown is not None:
            self._metric = "sqnr"
        self._threshold = task.decode.score
        self._truth: list[FloatTruth] = []
        self._top: list[int | None] = []
        """The class that float names; None where its own changes in the noise."""
        self._outputs: dict[int, Outputs] = {}
        stride = 1
        sha = hashlib.sha256((task if shown is None else shown[0]).model_dump_json().encode())
        own, finite = _Tally(), True
        noise = _noise(samples[0].feeds) if self._metric != "sqnr" else []
        steps = _steps(task, samples) if noise else {}
        for i, s in enumerate(samples):
            outputs = reference.run(s.feeds)
            for array in (*s.feeds.values(), *outputs.values()):
                sha.update(np.ascontiguousarray(array).data)
            if i == 0:
                size = sum(o.nbytes for o in outputs.values())
                stride = max(1, math.ceil(size * len(samples) / _MAX_REFERENCE_BYTES))
                if self._metric != "sqnr":  # there it only informs
                    stride = max(stride, math.ceil(len(samples) / _BLOCKS))
            if i % stride == 0 and shown is None:
                self._outputs[i] = outputs
            if decode is not None and s.meta is not None:
                copies = [
                    decode(reference.run(_noisy(s.feeds, steps, noise[(i + k) % len(noise)])), s.meta)
                    for k in (0, 1)
                ]
                self._truth.append(truth(decode(outputs, s.meta), copies, self._threshold))
            if self._classes is not None and s.meta is not None:
                noisy = [
                    self._classes(reference.run(_noisy(s.feeds, steps, noise[(i + k) % len(noise)])), s.meta)
                    for k in (0, 1)
                ]
                self._pixels.append(PixelTruth.of(self._classes(outputs, s.meta), noisy))
            if self._metric == "top1":
                top = _argmax(outputs)
                copies_of = (
                    (_noisy(s.feeds, steps, noise[(i + k) % len(noise)]) for k in (0, 1)) if steps else ()
                )
                self._top.append(top if all(_argmax(reference.run(c)) == top for c in copies_of) else None)
            if shown is None:
                finite = finite and _finite(outputs)
                if finite:
                    self._add(own, i, s, outputs)
        if self._metric == "top1" and all(t is None for t in self._top):
            self._metric = "sqnr"
        if self._decode is not None and not any(t.objects.any() for t in self._truth):
            self._metric, self._decode = "sqnr", None
        if shown is not None and self._metric == "sqnr":
            raise ModelError(
                "nothing tells how good another size of picture is: only detections that float sees and classes can be compared"
            )
        self.digest = "sha256:" + sha.hexdigest()
        """Of the samples, the reference's outputs and the task: two judges with one digest give the same
        verdicts."""
        self.of_float = None if shown is not None else self._verdict(own) if finite else _NOT_FINITE
        """What :meth:`judge` says of the reference itself; None where candidates take another size of picture."""

    def judge(self, candidate: Engine, *, limit: float | None = None) -> Accuracy:
        """Run the candidate over the slice; with ``limit``, give up once it has certainly lost more than
        that.

        Raises :class:`ModelError` for a candidate that does not run; one whose outputs are not finite has
        lost all.
        """
        tally = _Tally()
        result = _NOT_FINITE
        for i, sample in enumerate(self._samples):
            try:
                outputs = candidate.run(sample.feeds)
            except EdgectlError as e:
                raise ModelError(f"the candidate does not run: {e.message}") from e
            if not _finite(outputs):
                return _NOT_FINITE
            self._add(tally, i, sample, outputs)
            last = i == len(self._samples) - 1
            if last or (limit is not None and i + 1 in (_GLANCE, 2 * _GLANCE)):
                result = self._verdict(tally)
                if limit is not None and result.low > limit:
                    break
        return result

    def _add(self, tally: _Tally, i: int, sample: Sample, outputs: Outputs) -> None:
        if i in self._outputs:
            tally.sums.append(_signal_sums(self._outputs[i], outputs))
        if self._decode is not None and sample.meta is not None:
            tally.rows.append(match(self._truth[i], self._decode(outputs, sample.meta)))
        if self._metric == "top1" and self._top[i] is not None:
            tally.same.append(float(self._top[i] == _argmax(outputs)))
        if self._classes is not None and sample.meta is not None:
            share = self._pixels[i].agreement(self._classes(outputs, sample.meta))
            tally.same += [] if share is None else [share]

    def _verdict(self, tally: _Tally) -> Accuracy:
        sums, rows, same = np.asarray(tally.sums), tally.rows, tally.same
        values = _signal(sums) if len(sums) else {}
        measure: Callable[[NDArray[np.float64]], float]
        units = objects = 0
        if self._decode is not None:
            curve = _Curve(rows)
            measure, n, name = curve.average_precision, len(rows), measured_by(self._truth[0].boxes)
            objects = sum(r.objects for r in rows)
        elif self._metric in ("top1", "pixels"):
            agreed = np.asarray(same)
            name = "top1_agreement" if self._metric == "top1" else "pixels_vs_float"
            measure, n = (lambda w: float(w @ agreed / max(w.sum(), 1e-9))), len(same)
            # float was sure of none of those that were looked at so far
            if not n:
                return Accuracy(0.0, values, 0.0, 1.0, 0)
            units = n if self._metric == "top1" else 0
        else:
            measure, n, name = (lambda w: _cosine(np.tensordot(w, sums, 1))), len(sums), ""
        quality = measure(np.ones(n))
        if name:
            values[name] = round(quality, 6)
        low, high = np.percentile([measure(w) for w in _block_weights(n)], [2.5, 97.5])
        # what was never seen can still happen: the rule of three, for a run without an error
        if self._metric == "top1":
            low = min(low, 1 - 3 / n) if quality == 1.0 else low
        drop, worst, best = (round(min(1.0, max(0.0, 1 - q)), 6) for q in (quality, float(low), float(high)))
        return Accuracy(drop, values, best, worst, n, units, objects)


def _finite(outputs: Outputs) -> bool:
    return all(np.isfinite(o).all() for o in outputs.values() if o.dtype.kind == "f")


def _block_weights(n: int) -> list[NDArray[np.float64]]:
    """How often each sample counts in each bootstrap resample. Blocks of neighbours are drawn together;
    seeded."""
    length = max(1, math.ceil(n / _BLOCKS))
    blocks = math.ceil(n / length)
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, blocks, blocks), minlength=blocks) for _ in range(_RESAMPLED)]
    return [np.repeat(d, length)[:n].astype(np.float64) for d in drawn]


def _signal_sums(want: Outputs, got: Outputs) -> Sums:
    """Per output: want·got, want², got², (want - got)²; shape (outputs, 4)."""
    rows = []
    for name, reference in want.items():
        a, b = reference.astype(np.float64).ravel(), got[name].astype(np.float64).ravel()
        rows.append((a @ b, a @ a, b @ b, np.square(a - b).sum()))
    return np.asarray(rows, np.float64)


def _cosine(total: Sums) -> float:
    """Of the worst output."""
    norm = np.sqrt(total[:, 1] * total[:, 2])
    return float(np.where(norm > 0, total[:, 0] / np.where(norm > 0, norm, 1), total[:, 3] == 0).min())


def _signal(sums: Sums) -> dict[str, float]:
    """Cosine and SQNR in dB of the worst output, over all samples."""
    total = sums.sum(axis=0)
    ratios = [10 * math.log10(signal / noise) for _, signal, _, noise in total if noise > 0 and signal > 0]
    return {"cosine": round(_cosine(total), 6), "sqnr_db": round(min(120.0, *ratios, 120.0), 2)}


@dataclass(frozen=True)
class FloatTruth:
    """One picture: boxes, and which of them are objects; the others are ignored."""

    boxes: Detections
    objects: NDArray[np.bool_]


def truth(seen: Detections, copies: Sequence[Detections], threshold: float) -> FloatTruth:
    """What float is sure of: boxes of at least ``threshold`` that every copy of the picture shows again.

    All else that it sees in the picture or in a copy is ignored. The decoder has left out what is far below
    the threshold.
    """
    objects = seen.score >= threshold
    for copy in copies:
        again = copy.score >= threshold
        for i in np.flatnonzero(objects):
            near = similar(seen, int(i), copy)
            objects[i] = bool(np.any(again & (copy.cls == seen.cls[i]) & (near >= similar_enough(seen))))
    boxes = Detections.joined([seen, *copies])
    return FloatTruth(boxes, np.concatenate([objects, np.zeros(sum(len(c) for c in copies), bool)]))


@dataclass(frozen=True)
class Match:
    """One picture: the candidate's boxes that count, (score, is a hit), and how many objects there were."""

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    objects: int


def match(of: FloatTruth, found: Detections) -> Match:
    """Match boxes, best score first, each object once; the class must be right and the two similar enough.

    A box that matches no free object, but something that is ignored, does not count.
    """
    boxes, objects = of.boxes, of.objects
    free = objects.copy()
    enough = similar_enough(boxes)
    scores, hits = [], []
    for i in np.argsort(-found.score, kind="stable"):
        near = np.where(boxes.cls == found.cls[i], similar(found, int(i), boxes), 0.0)
        wanted = np.where(free, near, 0.0)
        hit = bool(wanted.max(initial=0.0) >= enough)
        if hit:
            free[int(wanted.argmax())] = False
        elif np.any(near[~objects] >= enough):
            continue
        scores.append(float(found.score[i]))
        hits.append(hit)
    return Match(np.asarray(scores, np.float64), np.asarray(hits, bool), int(objects.sum()))


def _noise(like: Feeds) -> list[dict[str, NDArray[np.float32]]]:
    """A few patterns of uniform noise in ± 1, used in turn: drawing them anew for every picture would cost
    more than running it."""
    rng = np.random.default_rng(0)
    return [{n: 2 * rng.random(x.shape, np.float32) - 1 for n, x in like.items()} for _ in range(5)]


def _steps(task: TaskSpec, samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
    """The smallest step of each input that has one: a grey level of a picture, or of values that lie on a
    grid. Empty if none has."""
    if isinstance(task.input, ImageInput):
        level = np.asarray(task.input.scale / np.asarray(task.input.std), np.float32)
        level = level.reshape(1, 3, 1, 1) if task.input.layout == "NCHW" else level
        return {
            n: np.ones((), np.float32) if x.dtype == np.uint8 else level for n, x in samples[0].feeds.items()
        }
    found = {}
    few = [s.feeds for s in samples[:_STEP_SAMPLES]]
    for name in few[0]:
        x = np.concatenate([np.atleast_1d(f[name]) for f in few])
        if x.dtype == np.uint8:
            found[name] = np.asarray(1, np.float32)
        elif x.dtype.kind == "f" and (step := grid_step(x)) is not None:
            found[name] = np.asarray(step, np.float32)
    return found


def grid_step(x: NDArray[Any]) -> NDArray[np.float64] | None:
    """The step of the grid on which the values of each channel lie (pixels that were scaled and shifted),
    broadcastable to ``x``; None for values that lie on none of at most 256 levels (audio features, noise)."""
    axis = (
        1
        if x.ndim == 4 and x.shape[1] in (1, 3)
        else x.ndim - 1
        if x.ndim == 4 and x.shape[3] in (1, 3)
        else None
    )
    planes = [x] if axis is None else [np.take(x, c, axis) for c in range(x.shape[axis])]
    steps = []
    for plane in planes:
        levels = np.unique(np.asarray(plane, np.float64))
        gaps = np.diff(levels)
        gaps = gaps[gaps > 1e-6 * max(1e-9, float(np.abs(levels).max(initial=0.0)))]
        if not len(gaps):
            return None
        step = float(gaps.min())
        codes = (levels - levels[0]) / step
        if codes[-1] > 255.5 or np.abs(codes - np.rint(codes)).max() > 0.05:
            return None
        steps.append(step)
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = len(steps)
    return np.asarray(steps).reshape(shape)


def _noisy(
    feeds: Feeds, steps: dict[str, NDArray[np.float32]], noise: dict[str, NDArray[np.float32]]
) -> Feeds:
    """A copy of the inputs with ± 1 step of noise on those that have one."""
    return {
        name: x
        if name not in steps
        else np.clip(np.rint(x + noise[name]), 0, 255).astype(np.uint8)
        if x.dtype == np.uint8
        else (x + steps[name] * noise[name]).astype(x.dtype)
        for name, x in feeds.items()
    }


class _Curve:
    """The boxes of all pictures in order of score, so that AP of any weighting of the pictures is one
    pass."""

    def __init__(self, rows: Sequence[Match]) -> None:
        scores = np.concatenate([r.scores for r in rows])
        order = np.argsort(-scores, kind="stable")
        self._hits = np.concatenate([r.hits for r in rows])[order]
        self._picture = np.repeat(np.arange(len(rows)), [len(r.scores) for r in rows])[order]
        self._objects = np.asarray([r.objects for r in rows], np.float64)

    def average_precision(self, weights: NDArray[np.float64]) -> float:
        total = float(self._objects @ weights)
        if not total:
            return 1.0
        count = weights[self._picture]
        hits, seen = np.cumsum(count * self._hits), np.cumsum(count)
        recall, precision = hits / total, hits / np.maximum(seen, 1e-9)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def average_precision(rows: Sequence[Match]) -> float:
    """AP at IoU 0.5 (area under the monotone precision–recall curve), all classes pooled.

    Pooled, because the float model's own detections are the truth: a mean over classes would let a class that
    it saw once, by mistake, weigh as much as all people together.
    """
    return _Curve(rows).average_precision(np.ones(len(rows)))


def _argmax(outputs: Outputs) -> int:
    return int(np.argmax(next(iter(outputs.values()))))
