"""The same pictures at another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from edgectl.builder.ingest.pixels import pixels_of
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.core.files import digest_of
from edgectl.core.task import ImageInput
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor

__all__ = ["ResizedSamples", "resized"]


def resized(samples: Slices, spec: ImageInput, small: ImageInput) -> Slices:
    """Three slices of smaller pictures. ``spec``: the input that they were made for."""
    calibration, search, confirmation = (
        ResizedSamples(part, spec, small)
        for part in (samples.calibration, samples.search, samples.confirmation)
    )
    digest = digest_of(f"{samples.digest} at {small.width}x{small.height}".encode())
    return Slices(calibration, search, confirmation, digest, samples.random)


class ResizedSamples(Sequence[Sample]):
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
