"""Labelled pictures and recordings as engine inputs. They are read anew in each pass over them: a set of thousands
takes neither memory nor disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.ingest.samples import Sample, check_feeds
from edgectl.builder.truth.labelled import LabelledItem, LabelledSet, TrueObjects, Truth
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import DataError, EdgectlError, UsageError
from edgectl.core.task import AudioInput, ImageInput, TaskSpec
from edgectl.pipelines.audio.features import windows
from edgectl.pipelines.sources import EndOfStream, read_audio
from edgectl.pipelines.sources.media.images import ImagesSource
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.preprocess import Preprocessor

__all__ = ["LEAST_LABELLED", "LabelledSample", "LabelledSamples"]

LEAST_LABELLED = 8


@dataclass(frozen=True)
class LabelledSample:
    """Objects are in pixels of the picture."""

    sample: Sample
    truth: Truth


class LabelledSamples(Sequence[LabelledSample]):
    """In a seeded order, so that the first few speak for all."""

    def __init__(self, labelled: LabelledSet, task: TaskSpec, inputs: tuple[TensorSpec, ...]) -> None:
        """Raises :class:`DataError` for fewer than :data:`LEAST_LABELLED`, :class:`UsageError` for a model that takes
        something else than one picture or recording."""
        self.labelled, self.inputs, self._task = labelled, inputs, task
        if len(labelled.items) < LEAST_LABELLED:
            raise DataError(
                f"the labels are of {len(labelled.items)} pictures or recordings; at least {LEAST_LABELLED} are needed",
                hint="label more; about 300 tell a loss of 0.01 at all",
            )
        main = task.input.tensor if isinstance(task.input, ImageInput | AudioInput) else None
        self._main = next((i for i in inputs if i.name == (main or inputs[0].name)), inputs[0])
        others = [i for i in inputs if i.name != self._main.name]
        if isinstance(task.input, ImageInput):
            self._preprocess = Preprocessor(task.input)
            others_fit = not others
        else:
            others_fit = all(not i.shape and np.dtype(i.dtype).kind == "i" for i in others)
        if not others_fit:
            raise UsageError(
                f"input {others[0].name} is fed by neither a picture nor a recording, so labels cannot judge the model",
                hint="leave the labels out: it is judged against what float answers",
            )
        self._order = np.random.default_rng(0).permutation(len(labelled.items)).tolist()

    def fitted(self, task: TaskSpec) -> LabelledSamples:
        """The same for an input of another size."""
        assert isinstance(task.input, ImageInput)
        width, height = task.input.width, task.input.height
        shape = (1, 3, height, width) if task.input.layout == "NCHW" else (1, height, width, 3)
        spec = TensorSpec(name=self._main.name, shape=shape, dtype=self._main.dtype)
        return LabelledSamples(self.labelled, task, (spec,))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> LabelledSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledSample]: ...
    def __getitem__(self, index: int | slice) -> LabelledSample | list[LabelledSample]:
        """Raises :class:`DataError` for a file that cannot be read, or is not as large as the labels say."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self.labelled.items[self._order[index]]
        sample, truth = self._heard(item) if isinstance(self._task.input, AudioInput) else self._seen(item)
        check_feeds(index + 1, sample.feeds, self.inputs)
        return LabelledSample(sample, truth)

    def _seen(self, item: LabelledItem) -> tuple[Sample, Truth]:
        frame = _picture(item)
        if item.size is not None and item.size != (frame.width, frame.height):
            raise DataError(
                f"{item.path.name} has {frame.width}x{frame.height} pixels, the labels say {item.size[0]}x{item.size[1]}",
                hint="label the pictures as they are, or take the ones that were labelled (upright, by their EXIF data)",
            )
        tensor, meta = self._preprocess(frame)
        truth = item.truth
        if isinstance(truth, TrueObjects):
            truth = truth.in_pixels(frame.width, frame.height)
        return Sample({self._main.name: tensor.copy()}, meta), truth

    def _heard(self, item: LabelledItem) -> tuple[Sample, Truth]:
        """The middle of a recording, as long as one input; a shorter one has silence around it. Of a text all must be heard:
        raises :class:`DataError` for a recording that is longer."""
        assert isinstance(self._task.input, AudioInput)
        spec = self._task.input
        heard = read_audio(item.path)
        needed = spec.features.samples
        if isinstance(item.truth, str) and len(heard) > needed:
            raise DataError(
                f"{item.path.name} lasts {len(heard) / spec.rate:.1f} s, and the model hears {needed / spec.rate:.1f} s at once: "
                "its text says more than the model can hear",
                hint="cut recordings and texts into utterances of that length",
            )
        missing = max(0, needed - len(heard))
        heard = np.pad(heard, (missing // 2, missing - missing // 2))
        start = (len(heard) - needed) // 2
        tensor = next(iter(windows(spec, heard[start : start + needed])))
        feeds: dict[str, NDArray[Any]] = {
            i.name: tensor.copy() if i.name == self._main.name else np.asarray(spec.rate, i.dtype)
            for i in self.inputs
        }
        return Sample(feeds), item.truth


def _picture(item: LabelledItem) -> Frame:
    source = ImagesSource(item.path)
    try:
        source.open()
        frame = source.read(0.0)
    except (EdgectlError, EndOfStream) as e:
        raise DataError(
            f"the labelled picture {item.path} cannot be decoded",
            hint="take it out of the labels, or mend it",
        ) from e
    finally:
        source.close()
    assert frame is not None
    return frame
