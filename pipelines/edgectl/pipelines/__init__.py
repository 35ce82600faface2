"""What runs on every frame and every stretch of sound: sources, preprocessing, decoding, tracking, rules, sinks.

This is the front door: what other components and other packages may rely on. Everything here is imported when
it is first used; importing the door costs nothing.

::

    from edgectl.pipelines import run

    with run("surveillance", "gate-bundle", "clip.mp4", config="gate.yaml") as events:
        for event in events:
            print(event["type"], event["t_s"])
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

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
    "ShownFrame",
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
    from edgectl.pipelines.video.shown import ShownFrame
    from edgectl.pipelines.video.tracker import Tracks
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.pipelines.audio.blocks": (
                "AudioBlock",
                "AudioSource",
            ),
            "edgectl.pipelines.decoders": (
                "DECODERS",
                "DecoderType",
                "decoder_options",
            ),
            "edgectl.pipelines.host.config": (
                "load_config",
                "parse_config",
            ),
            "edgectl.pipelines.host.event_run": (
                "EventRun",
                "run",
            ),
            "edgectl.pipelines.host.run": (
                "RunSummary",
                "run_stream",
            ),
            "edgectl.pipelines.kinds": (
                "KINDS",
                "KindType",
            ),
            "edgectl.pipelines.kinds.base": (
                "Pipeline",
                "PipelineArgs",
            ),
            "edgectl.pipelines.kinds.config": (
                "PipelineConfig",
                "VideoConfig",
            ),
            "edgectl.pipelines.kinds.video_runner": (
                "Analyser",
                "VideoPipeline",
            ),
            "edgectl.pipelines.registry": ("Registry",),
            "edgectl.pipelines.rules": (
                "RULES",
                "RuleSet",
            ),
            "edgectl.pipelines.rules.base": (
                "RuleConfig",
                "RuleContext",
                "RuleType",
            ),
            "edgectl.pipelines.rules.observation": (
                "Observation",
                "Rule",
                "describe",
                "wanted",
            ),
            "edgectl.pipelines.rules.zone": ("ZoneRule",),
            "edgectl.pipelines.sinks": ("SINKS",),
            "edgectl.pipelines.sinks.base": (
                "Record",
                "Sink",
                "SinkContext",
                "SinkOptions",
                "SinkType",
                "StreamOutput",
            ),
            "edgectl.pipelines.sources": (
                "SOURCES",
                "open_audio",
                "open_source",
            ),
            "edgectl.pipelines.sources.base": (
                "EndOfStream",
                "Source",
                "SourceInfo",
                "SourceType",
                "parse_options",
            ),
            "edgectl.pipelines.stream.events": ("Event",),
            "edgectl.pipelines.stream.frame": (
                "Frame",
                "Notice",
                "Stamp",
            ),
            "edgectl.pipelines.tasks": ("load_task",),
            "edgectl.pipelines.video.decode.base": (
                "Decoder",
                "Detections",
                "expect",
                "finish",
                "only_output",
            ),
            "edgectl.pipelines.video.lanes": ("Lanes",),
            "edgectl.pipelines.video.preprocess": ("LetterboxMeta",),
            "edgectl.pipelines.video.shown": ("ShownFrame",),
            "edgectl.pipelines.video.tracker": ("Tracks",),
        },
    )
