"""Smaller pictures of the same things."""

from __future__ import annotations

import numpy as np

from edgectl.builder.ingest.resized import ResizedSamples
from edgectl.builder.ingest.samples import Sample
from edgectl.core.task import ImageInput
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor, unletterbox


def test_boxes_of_the_smaller_picture_lie_where_those_of_the_larger_lie() -> None:
    spec = ImageInput(width=64, height=64)
    preprocess = Preprocessor(spec)
    frame = np.zeros((48, 96, 3), np.uint8)
    frame[12:24, 48:60] = 255
    tensor, meta = preprocess(frame)
    (shrunk,) = ResizedSamples(
        [Sample({"image": tensor.copy()}, meta)], spec, ImageInput(width=32, height=48)
    )
    picture = next(iter(shrunk.feeds.values()))
    assert picture.shape == (1, 3, 48, 32)
    bright = np.argwhere(picture[0, 0] > 0.6)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
    assert isinstance(shrunk.meta, LetterboxMeta)
    box = unletterbox(np.asarray([[left, top, right, bottom]], np.float32), shrunk.meta)[0]
    np.testing.assert_allclose(box, [48, 12, 60, 24], atol=3.5)
