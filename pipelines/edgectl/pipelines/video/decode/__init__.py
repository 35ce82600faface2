"""Boxes from engine outputs: one file per output format. The table is :mod:`edgectl.pipelines.decoders`."""

from __future__ import annotations

from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.video.decode.base import Decoder, Detections

__all__ = ["Decoder", "Detections", "make_decoder"]


def make_decoder(task: TaskSpec) -> Decoder:
    """The decoder of a detection task. Raises :class:`ModelError` if the task detects nothing (``vad``,
    ``keyword``, ``none``)."""
    decoder: Decoder = make_reader("detector", task, task)
    return decoder
