"""A detection engine with everything around it: preprocess, run, decode. What a hot swap replaces is one
of these."""

from __future__ import annotations

import numpy as np

from edgectl.core.bundle import VariantConfig
from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import ImageInput
from edgectl.engines.base import Engine, Outputs
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor

__all__ = ["Detector"]


class Detector:
    """Opened and warmed up. ``prepare``, ``run`` and ``decode`` are apart so that each can be timed; one
    thread."""

    def __init__(self, config: VariantConfig, engine: Engine) -> None:
        """Takes the engine over and runs it twice on grey. Raises :class:`ModelError` or
        :class:`EngineError` and closes it then."""
        self.task = config.task
        self.labels = config.task.labels
        self._engine = engine
        try:
            if not isinstance(self.task.input, ImageInput):
                raise ModelError(
                    f"task {self.task.name} takes no pictures", hint="this pipeline needs a detector"
                )
            self._preprocess = Preprocessor(self.task.input)
            self._decode = make_decoder(self.task)
            self._input = _input_name(engine, self.task.input)
            grey = np.full((self.task.input.height, self.task.input.width, 3), 128, np.uint8)
            meta = self.prepare(grey)
            self.run()
            self.decode(self.run(), meta)
        except BaseException:
            engine.close()
            raise

    def prepare(self, frame: Frame | np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> LetterboxMeta:
        """Fill the input tensor."""
        self._tensor, meta = self._preprocess(frame)
        return meta

    def run(self) -> Outputs:
        """Run on what :meth:`prepare` filled in. Raises :class:`EngineError`."""
        return self._engine.run({self._input: self._tensor})

    def decode(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        """Raises :class:`ModelError` or :class:`EngineError`."""
        with DECODERS.using(self.task.decode.kind):
            return self._decode(outputs, meta)

    def close(self) -> None:
        self._engine.close()


def _input_name(engine: Engine, spec: ImageInput) -> str:
    """The input that takes the picture, its shape and type checked against the task."""
    named = [t for t in engine.inputs if spec.tensor is None or t.name == spec.tensor]
    if len(named) != 1 or len(engine.inputs) != 1:
        raise ModelError(
            f"the task's input {spec.tensor or ''!r} is not the only one of the model's ({', '.join(t.name for t in engine.inputs)})"
        )
    shape = (1, 3, spec.height, spec.width) if spec.layout == "NCHW" else (1, spec.height, spec.width, 3)
    if named[0].shape != shape or named[0].dtype != spec.dtype:
        raise EngineError(
            f"input {named[0].name} takes {named[0].shape} {named[0].dtype}, the task gives {shape} {spec.dtype}"
        )
    return named[0].name
