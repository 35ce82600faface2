"""The table of decoders: what turns an engine's outputs into boxes, probabilities or words.

A decoder is one file with its options, its code and its line of documentation; which part of a pipeline it
serves says which shape it has. ``detector``: ``make(task)`` gives a
:class:`~edgectl.pipelines.video.decode.base.Decoder`. ``classifier``: ``make(task)`` gives an object like
:class:`~edgectl.pipelines.video.decode.classify.Classify`. ``reader``: one like
:class:`~edgectl.pipelines.video.decode.ctc.Ctc`. ``segmenter``: one like
:class:`~edgectl.pipelines.video.decode.semantic.Semantic`. ``vad`` and ``keyword``: ``make(engine, task)`` gives an
object like :class:`~edgectl.pipelines.audio.vad.VoiceActivity` or
:class:`~edgectl.pipelines.audio.keyword.KeywordScores`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from edgectl.core.errors import ModelError, UsageError
from edgectl.core.schema import Config, first_problem
from edgectl.core.task import TaskSpec
from edgectl.pipelines.registry import Registry

__all__ = ["DECODERS", "DecoderType", "check_decode", "decoder_options", "make_reader"]

O = TypeVar("O", bound=Config)  # noqa: E741


@dataclass(frozen=True)
class DecoderType:
    part: str
    """The part of a pipeline whose engine it reads: ``detector``, ``classifier``, ``reader``, ``vad``, ``keyword`` …"""
    make: Callable[..., Any]
    """See the module."""
    doc: str
    """One line: the outputs that it reads."""
    options: type[Config] = Config
    """What ``[decode]`` of a task may say besides ``kind``, ``score``, ``iou`` and ``max_detections``."""
    labels: bool = True
    """Whether the task must name the classes."""


DECODERS = Registry(
    "decoder",
    "edgectl.decoders",
    DecoderType,
    {
        "yolov5": "edgectl.pipelines.video.decode.yolov5:DECODER",
        "yolov8": "edgectl.pipelines.video.decode.yolov8:DECODER",
        "yolov8-pose": "edgectl.pipelines.video.decode.yolov8_pose:DECODER",
        "yolov8-seg": "edgectl.pipelines.video.decode.yolov8_seg:DECODER",
        "end2end": "edgectl.pipelines.video.decode.end2end:DECODER",
        "end2end-pose": "edgectl.pipelines.video.decode.end2end_pose:DECODER",
        "end2end-seg": "edgectl.pipelines.video.decode.end2end_seg:DECODER",
        "yolox": "edgectl.pipelines.video.decode.yolox:DECODER",
        "detr": "edgectl.pipelines.video.decode.detr:DECODER",
        "ssd": "edgectl.pipelines.video.decode.ssd:DECODER",
        "nanodet": "edgectl.pipelines.video.decode.nanodet:DECODER",
        "fastestdet": "edgectl.pipelines.video.decode.fastestdet:DECODER",
        "boxes-scores": "edgectl.pipelines.video.decode.boxes_scores:DECODER",
        "boxes-labels": "edgectl.pipelines.video.decode.boxes_labels:DECODER",
        "classify": "edgectl.pipelines.video.decode.classify:DECODER",
        "ctc": "edgectl.pipelines.video.decode.ctc:DECODER",
        "semantic": "edgectl.pipelines.video.decode.semantic:DECODER",
        "vad": "edgectl.pipelines.audio.vad:DECODER",
        "keyword": "edgectl.pipelines.audio.keyword:DECODER",
    },
)


def check_decode(task: TaskSpec) -> None:
    """Raises :class:`UsageError` for a decoder that nobody has, an option that it does not have, and missing
    labels. ``none`` is no decoder: the outputs are left as they are."""
    if task.decode.kind == "none":
        if unknown := next(iter(task.decode.options), None):
            raise UsageError(f"task {task.name} is not valid: decode.{unknown}: there is no such setting")
        return
    decoder = DECODERS.get(task.decode.kind)
    try:
        decoder.options.model_validate(task.decode.options)
    except ValidationError as e:
        raise UsageError(
            f"task {task.name} is not valid: decode.{first_problem(e)}",
            hint=f"options of the decoder {task.decode.kind}: {', '.join(decoder.options.model_fields) or 'none'}",
        ) from e
    if decoder.labels and not task.labels:
        raise UsageError(f"task {task.name} is not valid: decoder {task.decode.kind!r} needs labels")


def make_reader(part: str, task: TaskSpec, *made_of: Any) -> Any:
    """What the task's decoder makes for ``part`` (see the module). Raises :class:`ModelError` where it is for
    another part, :class:`UsageError` where nobody has it."""
    kind = task.decode.kind
    decoder = None if kind == "none" else DECODERS.get(kind)
    if decoder is None or decoder.part != part:
        fitting = [name for name in DECODERS.own if DECODERS.get(name).part == part]
        raise ModelError(
            f"task {task.name} is not for the part {part} (its decoder is {kind!r})",
            hint=f"decoders of this part: {', '.join(fitting)}",
        )
    with DECODERS.using(kind):
        return decoder.make(*made_of)


def decoder_options(model: type[O], task: TaskSpec) -> O:
    """The options of a task's decoder, for the decoder itself. Raises :class:`ModelError`."""
    try:
        return model.model_validate(task.decode.options)
    except ValidationError as e:
        raise ModelError(f"task {task.name}: decode.{first_problem(e)}") from e
