"""The further engines of a stream, which look at crops or at the scene: opened, and what they can say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from edgectl.core.errors import UsageError
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.second_stage.answers import answer_values
from edgectl.pipelines.video.second_stage.config import SecondStageConfig, still_config
from edgectl.pipelines.video.second_stage.crop_engine import CropEngine
from edgectl.pipelines.video.second_stage.stage import SecondStage
from edgectl.pipelines.video.second_stage.stages import SecondStages
from edgectl.pipelines.video.swap import HotSwap

__all__ = ["CropEngines", "attribute_values", "make_stages", "open_crop_engine", "open_second_stage"]

CropEngines = list[tuple[SecondStageConfig, HotSwap[CropEngine]]]


def open_second_stage(
    args: PipelineArgs, config: VideoConfig, over: Callable[[], bool], undo: contextlib.ExitStack
) -> CropEngines:
    """The engine of each part, open and warm; ``undo`` closes them. Raises :class:`EdgectlError`."""
    opened: CropEngines = []
    for scene in config.scene:
        kind = args.engines[scene.part].variant.config.task.decode.kind
        if kind != "none" and DECODERS.get(kind).part == "detector":
            raise UsageError(
                f"the part {scene.part!r} of scene is a detector: it does not say which state a picture is in",
                hint="it takes a model whose decoder is classify, semantic or ctc",
            )
    for stage in (*config.second_stage, *(scene.stage() for scene in config.scene)):
        engines = HotSwap(open_crop_engine(args, stage, args.engines[stage.part]), over)
        undo.callback(engines.close)
        opened.append((stage, engines))
    return opened


def make_stages(
    config: VideoConfig,
    opened: CropEngines,
    labels: Sequence[str],
    tracer: Tracer,
    *,
    waits: bool,
    still: bool,
) -> SecondStages:
    """``labels``: of the tracks. ``still``: the source is still pictures. ``waits``: it is a recording. Raises
    :class:`UsageError` for classes that a model cannot say anything of."""
    scenes = {scene.part: scene.region for scene in config.scene}
    stages = [
        SecondStage(
            still_config(stage) if still else stage,
            engines,
            (stage.part,) if stage.part in scenes else labels,
            config,
            tracer,
            waits=waits,
        )
        for stage, engines in opened
    ]
    return SecondStages(stages, scenes, still=still)


def open_crop_engine(args: PipelineArgs, config: SecondStageConfig, slot: PartVariant) -> CropEngine:
    """Raises :class:`EdgectlError`."""
    return CropEngine(slot, args.pool.join(slot.variant, args.open_engine, slot.edition), config)


def attribute_values(args: PipelineArgs) -> dict[str, tuple[str, ...]]:
    """Part → what it can decide for; empty: any text. Raises :class:`UsageError` for a model that cannot look at
    crops."""
    assert isinstance(args.config, VideoConfig)
    parts = args.config.attribute_parts()
    return answer_values({part: args.engines[part].variant.config.task for part in parts})
