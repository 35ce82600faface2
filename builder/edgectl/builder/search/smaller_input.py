"""A variant for a smaller picture: less work an inference, at an accuracy that the user allows for it and for
nothing else.

The same weights, fewer pixels: calibrated, quantized and searched like the model itself, but judged on the
same pictures against what float sees at full size. A device takes it only if its configuration asks for the
role ``small-input``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from onnx import ModelProto

from edgectl.builder.ingest.pixels import pixel_feeds, pixels_of
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.passes.base import PassLog
from edgectl.builder.passes.rescale import rescale, smaller_size
from edgectl.builder.search.draft import VariantDraft
from edgectl.builder.search.work import Work
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.files import digest_of
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.open import open_model
from edgectl.engines.timing import Ratio, interleave, paired_ratio
from edgectl.pipelines.preprocess import LetterboxMeta, Preprocessor

__all__ = [
    "ResizedSamples",
    "SmallerInput",
    "check_takes_picture",
    "paired_time",
    "parse_smaller_input",
    "smaller_work",
]

WORTH = 0.95
"""Of the time: below this the whole interval of the ratio to the fast variant must lie."""
_SECONDS = 2.0


@dataclass(frozen=True)
class SmallerInput:
    """``factor``: of the picture's width and height (0.1 … 0.95). ``max_drop``: what this variant may
    lose; None: as the others."""

    factor: float
    max_drop: float | None = None


def parse_smaller_input(text: str) -> SmallerInput:
    """``0.75`` or ``0.75:0.05``. Raises :class:`UsageError`."""
    factor, colon, drop = text.partition(":")
    try:
        found = SmallerInput(float(factor), float(drop) if colon else None)
    except ValueError:
        found = SmallerInput(0.0)
    if not 0.1 <= found.factor <= 0.95 or not 0.0 <= (found.max_drop or 0.0) <= 1.0:
        raise UsageError(
            f"--smaller-input {text} is not known",
            hint="FACTOR from 0.1 to 0.95, or FACTOR:DROP with the accuracy that it may lose",
        )
    return found


def check_takes_picture(task: TaskSpec, inputs: Sequence[TensorSpec]) -> None:
    """Raises :class:`UsageError` for a model that does not take one float picture."""
    if not isinstance(task.input, ImageInput) or task.input.dtype != "float32" or len(inputs) != 1:
        raise UsageError("--smaller-input is for models that take one float picture", hint="leave it out")


class ResizedSamples(Sequence[Sample]):
    """The same pictures at another size."""

    def __init__(self, samples: Sequence[Sample], spec: ImageInput, small: ImageInput) -> None:
        self._samples, self._spec = samples, spec
        self._small = small
        self._preprocess = Preprocessor(small)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._shrunk(s) for s in self._samples[index]]
        return self._shrunk(self._samples[index])

    def _shrunk(self, sample: Sample) -> Sample:
        (name, tensor), *_ = sample.feeds.items()
        picture = pixels_of(np.asarray(tensor, np.float32), self._spec)
        h, w = self._small.height, self._small.width
        small = np.asarray(cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
        return Sample({name: self._preprocess(small)[0].copy()}, sample.meta and self._moved(sample.meta))

    def _moved(self, m: LetterboxMeta) -> LetterboxMeta:
        down, across = self._small.height / self._spec.height, self._small.width / self._spec.width
        return replace(
            m,
            sx=m.sx * across,
            sy=m.sy * down,
            left=round(m.left * across),
            top=round(m.top * down),
            input_width=self._small.width,
            input_height=self._small.height,
        )


def smaller_work(work: Work, wanted: SmallerInput) -> Work:
    """What the variants of a smaller picture start from; judged against the model at full size.

    Raises :class:`ModelError` if this model cannot be made smaller, or float itself loses more than allowed
    then.
    """
    spec = work.task.input
    assert isinstance(spec, ImageInput)
    if work.table is None:
        raise ModelError("a model that ships as it came is not made smaller")
    work.tell("search", 0.9, f"a picture of {wanted.factor:g} × the size", "")
    height, width = smaller_size(work.model, spec, wanted.factor)
    graph = rescale(work.model, spec, height, width)
    small = spec.model_copy(update={"height": height, "width": width})
    task = work.task.model_copy(update={"input": small})
    s = work.slices
    calibration, seen, confirmation = (
        ResizedSamples(part, spec, small) for part in (s.calibration, s.search, s.confirmation)
    )
    data = digest_of(f"{s.digest} at {width}x{height}".encode())
    slices = Slices(calibration, seen, confirmation, data, s.random)
    limit = 1.0 if s.random else work.max_drop if wanted.max_drop is None else wanted.max_drop
    judges = _judges(work, task, slices)
    lost = _float_loses(graph, judges["search"], limit)
    if lost > limit:
        raise ModelError(f"at {width}x{height} float itself loses {lost:.4f}, more than {limit:g}")
    table = calibrate(graph, (x.feeds for x in slices.calibration), data_digest=slices.digest)
    log = PassLog([*work.log.ran, "rescale"], list(work.log.modified))
    return replace(
        work,
        model=graph,
        table=table,
        slices=slices,
        task=task,
        log=log,
        max_drop=limit,
        judge_cache=judges,
        bases={},
        rungs={},
        recover_minutes=0.0,
        release=None,
        given=None,
    )


def _judges(work: Work, task: TaskSpec, small: Slices) -> dict[str, Judge]:
    reference = open_model((work.original or work.model).SerializeToString(), SessionSettings(threads=2))
    try:
        return {
            "search": Judge(work.task, work.slices.search, reference, shown=(task, small.search)),
            "confirmation": Judge(
                work.task, work.slices.confirmation, reference, shown=(task, small.confirmation)
            ),
        }
    finally:
        reference.close()


def _float_loses(graph: ModelProto, judge: Judge, limit: float) -> float:
    engine = open_model(graph.SerializeToString(), SessionSettings(threads=2))
    try:
        return judge.judge(engine, limit=limit).drop
    finally:
        engine.close()


def paired_time(small: tuple[VariantDraft, Work], fast: tuple[VariantDraft, Work]) -> Ratio:
    """The time of one inference of ``small`` in that of ``fast``, in turn, each on its own pictures."""
    with contextlib.ExitStack() as stack:
        runs = {}
        for which, (plan, work) in {"small": small, "fast": fast}.items():
            engine = open_model(plan.model, plan.session, runtime=plan.runtime)
            stack.callback(engine.close)
            runs[which] = functools.partial(_next, engine, itertools.cycle(_feeds(plan, work)))
        times = interleave(runs, seconds=_SECONDS, min_rounds=20, max_rounds=400)
    return paired_ratio(times["small"], times["fast"])


def _next(engine: Engine, feeds: Iterator[Feeds]) -> Outputs:
    return engine.run(next(feeds))


def _feeds(plan: VariantDraft, work: Work) -> list[Feeds]:
    spec = work.task.input
    plain = [s.feeds for s in work.slices.search[:8]]
    return (
        [pixel_feeds(f, spec) for f in plain]
        if plan.picture is not None and isinstance(spec, ImageInput)
        else plain
    )
