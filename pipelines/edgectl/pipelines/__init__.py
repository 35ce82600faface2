"""What runs on every frame and every stretch of sound: sources, preprocessing, decoding, tracking, rules, sinks.

This is the front door: what other components and other packages may rely on. Everything here is imported when
it is first used; importing the door costs nothing.

::

    from edgectl.pipelines import run

    with run("surveillance", "gate-bundle", "clip.mp4", config="gate.yaml") as events:
        for event in events:
            print(event["type"], event["t_s"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgectl.pipelines.audio.blocks import AudioBlock, AudioSource
    from edgectl.pipelines.decoders import DECODERS, DecoderType, decoder_options
    from edgectl.pipelines.host.config import load_config, parse_config
    from edgectl.pipelines.host.event_run import EventRun, run
    from edgectl.pipelines.host.run import RunSummary, run_stream
    from edgectl.pipelines.kinds import KINDS, KindType
    from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs
    from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
    from edgectl.pipelines.kinds.video_runner import Analyser, VideoPipeline
    from edgectl.pipelines.registry import Registry
    from edgectl.pipelines.rules import RULES, RuleSet
    from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
    from edgectl.pipelines.rules.observation import Observation, Rule, describe, wanted
    from edgectl.pipelines.rules.zone import ZoneRule
    from edgectl.pipelines.sinks import SINKS
    from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
    from edgectl.pipelines.sources import SOURCES, open_audio, open_source
    from edgectl.pipelines.sources.base import EndOfStream, Source, SourceInfo, SourceType, parse_options
    from edgectl.pipelines.stream.events import Event
    from edgectl.pipelines.stream.frame import Frame, Notice, Stamp
    from edgectl.pipelines.tasks import load_task
    from edgectl.pipelines.video.decode.base import Decoder, Detections, expect, finish, only_output
    from edgectl.pipelines.video.lanes import Lanes
    from edgectl.pipelines.video.preprocess import LetterboxMeta
    from edgectl.pipelines.video.tracker import Tracks

_FROM = {
    "Analyser": "kinds.video_runner",
    "AudioBlock": "audio.blocks",
    "AudioSource": "audio.blocks",
    "DECODERS": "decoders",
    "Decoder": "video.decode.base",
    "DecoderType": "decoders",
    "Detections": "video.decode.base",
    "EndOfStream": "sources.base",
    "Event": "stream.events",
    "EventRun": "host.event_run",
    "Frame": "stream.frame",
    "KINDS": "kinds",
    "KindType": "kinds",
    "Lanes": "video.lanes",
    "LetterboxMeta": "video.preprocess",
    "Notice": "stream.frame",
    "Observation": "rules.observation",
    "Pipeline": "kinds.base",
    "PipelineArgs": "kinds.base",
    "PipelineConfig": "kinds.config",
    "RULES": "rules",
    "Record": "sinks.base",
    "Registry": "registry",
    "Rule": "rules.observation",
    "RuleConfig": "rules.base",
    "RuleContext": "rules.base",
    "RuleSet": "rules",
    "RuleType": "rules.base",
    "RunSummary": "host.run",
    "SINKS": "sinks",
    "SOURCES": "sources",
    "Sink": "sinks.base",
    "SinkContext": "sinks.base",
    "SinkOptions": "sinks.base",
    "SinkType": "sinks.base",
    "Source": "sources.base",
    "SourceInfo": "sources.base",
    "SourceType": "sources.base",
    "Stamp": "stream.frame",
    "StreamOutput": "sinks.base",
    "Tracks": "video.tracker",
    "VideoConfig": "kinds.config",
    "VideoPipeline": "kinds.video_runner",
    "ZoneRule": "rules.zone",
    "decoder_options": "decoders",
    "describe": "rules.observation",
    "expect": "video.decode.base",
    "finish": "video.decode.base",
    "load_config": "host.config",
    "load_task": "tasks",
    "only_output": "video.decode.base",
    "open_audio": "sources",
    "open_source": "sources",
    "parse_config": "host.config",
    "parse_options": "sources.base",
    "run": "host.event_run",
    "run_stream": "host.run",
    "wanted": "rules.observation",
}

__all__ = [
    "DECODERS",
    "KINDS",
    "RULES",
    "SINKS",
    "SOURCES",
    "Analyser",
    "AudioBlock",
    "AudioSource",
    "Decoder",
    "DecoderType",
    "Detections",
    "EndOfStream",
    "Event",
    "EventRun",
    "Frame",
    "KindType",
    "Lanes",
    "LetterboxMeta",
    "Notice",
    "Observation",
    "Pipeline",
    "PipelineArgs",
    "PipelineConfig",
    "Record",
    "Registry",
    "Rule",
    "RuleConfig",
    "RuleContext",
    "RuleSet",
    "RuleType",
    "RunSummary",
    "Sink",
    "SinkContext",
    "SinkOptions",
    "SinkType",
    "Source",
    "SourceInfo",
    "SourceType",
    "Stamp",
    "StreamOutput",
    "Tracks",
    "VideoConfig",
    "VideoPipeline",
    "ZoneRule",
    "decoder_options",
    "describe",
    "expect",
    "finish",
    "load_config",
    "load_task",
    "only_output",
    "open_audio",
    "open_source",
    "parse_config",
    "parse_options",
    "run",
    "run_stream",
    "wanted",
]


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
