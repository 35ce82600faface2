"""What of a video stream is made of its configuration, and made again when that becomes another one while it runs.

Left out: what is decided once, when the stream starts (:mod:`edgectl.pipelines.kinds.video_runner`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from edgectl.core.errors import EngineError
from edgectl.pipelines.kinds.analysis import Analysis, Reconfigurable
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.camera_view import CameraView
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
from edgectl.pipelines.kinds.config_change import ConfigChange, Reconfigured
from edgectl.pipelines.kinds.difference import NewStartNeeded, difference
from edgectl.pipelines.kinds.second_stage import attribute_values, open_crop_engine
from edgectl.pipelines.kinds.source_facts import period_s
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.line import LineConfig, counted
from edgectl.pipelines.sinks import open_sink
from edgectl.pipelines.sinks.base import Sink, SinkContext, StreamControl
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.frame_path import FramePath
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.labels import LabelMap
from edgectl.pipelines.video.object_filter import ObjectFilters
from edgectl.pipelines.video.privacy import Privacy
from edgectl.pipelines.video.second_stage.crop_engine import CropEngine
from edgectl.pipelines.video.second_stage.stage import SecondStage
from edgectl.pipelines.video.second_stage.stages import SecondStages
from edgectl.pipelines.video.swap import HotSwap, OtherLabels
from edgectl.pipelines.video.tracker import ObjectTracker

__all__ = ["Configurable", "naming"]

_IN_FORCE_S = 2.0
"""The answer to another configuration does not wait longer for a frame of a camera that is away."""


@dataclass(frozen=True)
class _OtherEngines:
    """That take over with another configuration."""

    detector: Detector | None = None
    crops: tuple[tuple[SecondStage, CropEngine], ...] = ()


class Configurable:
    """The half of a :class:`~edgectl.pipelines.kinds.video_runner.VideoPipeline` that its configuration decides."""

    _kind: str
    _args: PipelineArgs
    _config: VideoConfig
    _before: VideoConfig | None
    """The configuration before this one."""
    _complete: Callable[[PipelineConfig], VideoConfig]
    _fitting: Callable[[str, PartVariant], Detector]
    _health_of: Callable[[VideoConfig], HealthConfig | None]
    _configuring: threading.Lock
    _done: threading.Event
    _started: bool
    _stopped: bool
    _looks: bool
    _default_budget_ms: float
    _budget_ms: float | None
    _control: StreamControl
    _info: SourceInfo
    _labels: LabelMap
    _rules: RuleSet | None
    _packets: PacketRing | None
    _hidden: HiddenLog | None
    _files: OutFiles | None
    _engines: HotSwap[Detector]
    _capture: Capture
    _view: CameraView
    _choice: FrameChoice
    _path: FramePath
    _second: SecondStages
    _tracker: ObjectTracker
    _analysis: Analysis
    _sinks: SinkPool
    _named_sinks: dict[str, Sink]
    outputs: tuple[Any, ...]

    def configure(
        self,
        config: PipelineConfig,
        told: Mapping[str, Any],
        *,
        check: bool = False,
        engines: Mapping[str, PartVariant] = MappingProxyType({}),
    ) -> Reconfigured:
        with self._configuring, contextlib.ExitStack() as undo:
            if not self._started or self._stopped or self._done.is_set():
                raise EngineError("the stream is not running: its configuration was not changed")
            new = self._complete(config)
            changes = difference(self._config, new)
            if not changes.changed and not engines:
                return Reconfigured((), in_force=True)
            changes.check()
            taken = self._open_others(engines, undo)
            changed = (*changes.changed, *sorted(engines))
            analyser = self._analysis.analyser
            if not isinstance(analyser, Reconfigurable):
                raise NewStartNeeded(
                    f"the configuration of a {self._kind} stream cannot change while it runs",
                    hint="start the stream again",
                )
            told = {**told, "changed": list(changed)}
            # of an analyser of another package that knows no sets nothing is asked that it does not know
            take = analyser.prepare(new, told, final=True) if engines else analyser.prepare(new, told)
            change = self._change(new, changes.sinks, take, taken)
            if check:
                return Reconfigured(changed, in_force=False)
            undo.pop_all()
            # with other engines the rules before would be judged on what they were not made for
            self._before, self._config = None if engines else self._config, new
            if engines:
                self._path.beside.end("the stream took another engine")
            self._path.change(change)
            in_force = change.done.wait(_IN_FORCE_S)
            return Reconfigured(changed, in_force)

    def _open_others(self, engines: Mapping[str, PartVariant], undo: contextlib.ExitStack) -> _OtherEngines:
        """Opened, warm and seated beside those that run; ``undo`` closes them. Raises :class:`NewStartNeeded` for those
        that speak of other things."""
        detector: Detector | None = None
        crops: list[tuple[SecondStage, CropEngine]] = []
        try:
            for part, slot in engines.items():
                if (second := self._second.of(part)) is None:
                    detector = self._fitting(part, slot)
                    undo.callback(detector.close)
                    self._path.seat(detector)
                    continue
                crop = open_crop_engine(self._args, second.config, slot)
                second.seat(crop)
                undo.callback(crop.close)
                second.stop_comparing()
                crops.append((second, crop))
        except OtherLabels as e:
            raise NewStartNeeded(e.message, hint=e.hint) from e
        return _OtherEngines(detector, tuple(crops))

    def _change(
        self,
        config: VideoConfig,
        sinks: frozenset[str],
        take: Callable[[], None] | None,
        engines: _OtherEngines,
    ) -> ConfigChange:
        """``take``: lets other rules take over. ``engines`` take over with them. Raises :class:`UsageError` for a label that the model does not have."""
        privacy = self._privacy(config)
        filters = ObjectFilters(config.filters, self._labels.labels)
        flow = config.flow

        def at_capture() -> None:
            if engines.detector is not None:
                self._engines.take(engines.detector)
            self._capture.target_fps = flow.target_fps
            self._view.adopt(self._health_of(config))
            self._choice.gate(config.gate if self._info.kind != "images" else None, config.track.lost_s)
            camera = config.track.camera_motion and self._info.kind != "images"
            self._path.see(blind=privacy.blind, camera=camera)
            self._path.keep_pictures(self._wants_pictures())

        def at_analysis() -> None:
            for second, crop in engines.crops:
                second.take(crop)
            self._analysis.adopt(privacy, filters)
            self._tracker.adopt(config.track, period_s(self._info, flow.target_fps))
            self._path.limit(*self._limits(config))
            self._budget_ms = self._budget(config)
            if take is not None:
                take()
            if sinks:
                context = self._sink_context(config)
                gone = [sink for name in sinks if (sink := self._named_sinks.pop(name, None)) is not None]
                make = {
                    name: partial(open_sink, name, config, context)
                    for name in sinks
                    if name in config.chosen()
                }
                self._sinks.replace(gone, make, self._sinks_opened)

        return ConfigChange(at_capture, at_analysis)

    def _sinks_opened(self, opened: Mapping[str, Sink]) -> None:
        """From a thread of the sinks: another configuration may be in force meanwhile."""
        self._named_sinks |= opened
        sinks = [*self._named_sinks.values(), *self._args.sinks]
        self._analysis.naming = naming(sinks)
        self._analysis.pictures = any(sink.pictures for sink in sinks)
        self._path.keep_pictures(self._wants_pictures())
        known = set(self.outputs)
        self.outputs += tuple(s.path for s in opened.values() if s.path is not None and s.path not in known)

    def _wants_pictures(self) -> bool:
        return self._analysis.pictures or self._looks or bool(self._second)

    def _went_back(self) -> None:
        """A new rule has failed, and the rules before have come back: so does the rest of their configuration. From the
        analysis thread."""
        before, self._before = self._before, None
        if before is not None:
            change = self._change(before, difference(self._config, before).sinks, None, _OtherEngines())
            self._config = before
            self._path.change(change)

    def _sink_context(self, config: VideoConfig) -> SinkContext:
        fps = min(self._info.fps or 25.0, config.flow.target_fps or 1000.0)
        lines = tuple(rule.id for rule in config.rules if isinstance(rule, LineConfig))
        rules = config.model_dump(
            mode="json", include={*RulesConfig.model_fields, "second_stage", "scene"}, exclude_unset=True
        )
        return SinkContext(
            self._args.stream,
            self._args.out,
            fps,
            tuple(self._labels.labels),
            tuple(config.zones),
            lines,
            self._control,
            self._kind,
            rules,
            attribute_values(self._args),
            scenes=tuple(scene.part for scene in config.scene),
            packets=self._packets,
            hidden=self._hidden,
            files=self._files,
            say=self._capture.say,
            inside={} if self._rules is None else self._rules.inside(),
            keypoints=self._engines.engine.keypoints,
            counted={} if self._rules is None else counted(self._rules),
            endless=self._info.kind == "live",
        )

    def _privacy(self, config: VideoConfig) -> Privacy:
        return Privacy(
            config.privacy,
            self._engines.engine.labels,
            config,
            self._labels.labels,
            {name: zone.polygon for name, zone in config.zones.items()},
            still=self._info.kind == "images",
        )

    def _budget(self, config: VideoConfig) -> float | None:
        return config.budget_ms or (self._default_budget_ms if self._info.realtime else None)

    def _limits(self, config: VideoConfig) -> tuple[float | None, float | None]:
        """What a frame's events may take, and how old a frame may be."""
        return (self._budget(config), config.flow.max_age_ms) if self._info.realtime else (None, None)


def naming(sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """Those that name their files in events."""
    return tuple(sink for sink in sinks if type(sink).file_of is not Sink.file_of)
