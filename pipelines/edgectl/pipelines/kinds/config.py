"""The configuration of one stream, as a person writes it in YAML, put together from those of its parts: labels,
tracker, rules and sinks each bring their own. Lengths of time are seconds of capture time.

Polygons and lines are relative to the frame (0..1), so that they survive a change of resolution.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config, wrong_at
from edgectl.pipelines.rules import RulesConfig
from edgectl.pipelines.sinks import SinksConfig
from edgectl.pipelines.stream.flow import FlowConfig
from edgectl.pipelines.video.labels import LabelConfig
from edgectl.pipelines.video.motion_gate import MotionGateConfig
from edgectl.pipelines.video.object_filter import ObjectFilterConfig
from edgectl.pipelines.video.privacy import PrivacyConfig
from edgectl.pipelines.video.regions.cover import RegionConfig
from edgectl.pipelines.video.second_stage.config import SceneConfig, SecondStageConfig
from edgectl.pipelines.video.tracker import TrackConfig

__all__ = ["PipelineConfig", "UpdateLock", "VideoConfig", "as_video"]


class UpdateLock(Config):
    """Events during which no other engine is wanted: each one keeps updates away for a while."""

    on: tuple[str, ...] = Field(min_length=1)
    """Ids of rules and zones."""
    seconds: float = Field(default=30.0, gt=0, le=3600)
    """How long each event keeps other engines away."""


class PipelineConfig(SinksConfig):
    """What every kind has. A kind's own configuration inherits it."""

    budget_ms: float | None = Field(default=None, gt=0, le=600_000)
    """From capture to event. None: the kind's own for what is live, none for a file."""
    update_lock: UpdateLock | None = None

    def event_names(self) -> frozenset[str]:
        """Ids of the rules and zones whose events there can be."""
        return frozenset()

    def further_parts(self) -> tuple[str, ...]:
        """Parts that it names besides those of the kind; each needs an engine."""
        return ()

    @model_validator(mode="after")
    def _events_exist(self) -> PipelineConfig:
        named = {name: options.event_names() for name, options in self.sinks.items() if options}
        if self.update_lock is not None:
            named["update_lock"] = self.update_lock.on
        for setting, names in named.items():
            for i, name in enumerate(names):
                if name not in self.event_names():
                    known = did_you_mean(name, sorted(self.event_names()))
                    raise wrong_at((setting, "on", i), f"{name!r} is no rule or zone: {known}")
        return self


class VideoConfig(LabelConfig, RulesConfig, PipelineConfig):
    """What every kind with a camera has."""

    pictures: ClassVar[bool] = True

    filters: dict[str, ObjectFilterConfig] = Field(default={}, max_length=64)
    """Label → which of its detections are left out."""
    flow: FlowConfig = FlowConfig()
    gate: MotionGateConfig = MotionGateConfig()
    regions: RegionConfig = RegionConfig()
    track: TrackConfig = TrackConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    second_stage: tuple[SecondStageConfig, ...] = Field(default=(), max_length=4)
    """Models that look at crops of tracks, each a part with an engine of its own; their votes are attributes of the
    track."""

    foot: Literal["box", "mask"] = "box"
    """Where an object stands: in the middle of its box's lower edge, or at the lowest place of its mask, of a model that
    finds masks."""
    scene: tuple[SceneConfig, ...] = Field(default=(), max_length=4)
    """Classifiers that look at the whole picture or a region of it, each a part with an engine of its own; their votes
    are states of the stream."""

    def further_parts(self) -> tuple[str, ...]:
        return (*self.attribute_parts(), *(scene.part for scene in self.scene))

    def attribute_parts(self) -> tuple[str, ...]:
        """Those that tell attributes of tracks."""
        return tuple(stage.part for stage in self.second_stage)

    @model_validator(mode="after")
    def _parts_are_apart(self) -> VideoConfig:
        parts = self.further_parts()
        if twice := {part for part in parts if parts.count(part) > 1}:
            raise ValueError(f"second_stage and scene name the part {min(twice)!r} twice")
        return self

    @model_validator(mode="after")
    def _attributes_exist(self) -> VideoConfig:
        for where, names in self.attribute_names():
            if unknown := set(names) - set(self.attribute_parts()):
                raise ValueError(
                    f"{where} asks for the attribute {min(unknown)!r}, which no second_stage gives: "
                    f"{did_you_mean(min(unknown), self.attribute_parts())}"
                )
        return self

    @model_validator(mode="after")
    def _private_zones_exist(self) -> VideoConfig:
        zones = self.privacy.blur.zones if self.privacy.blur else ()
        for i, zone in enumerate(zones):
            if zone not in self.zones:
                raise wrong_at(
                    ("privacy", "blur", "zones", i), f"{zone!r} is no zone: {did_you_mean(zone, self.zones)}"
                )
        self._check_what_is_told()
        if self.privacy.hides:
            for name, options in self.chosen().items():
                if options.packet_seconds() and not options.hides:
                    raise wrong_at(
                        (name,),
                        "it gives out the source's own packets, in which nothing can be hidden: "
                        "leave it out, or privacy",
                    )
        return self

    def _check_what_is_told(self) -> None:
        """A part that may look at nothing is a mistake, and so is one that is not there."""
        blur = self.privacy.blur
        if blur is None:
            return
        for i, part in enumerate(blur.tell):
            if part not in self.attribute_parts():
                known = did_you_mean(part, self.attribute_parts())
                raise wrong_at(
                    ("privacy", "blur", "tell", i), f"{part!r} is no part of second_stage: {known}"
                )
        hidden = {*blur.classes, *(new for new, olds in self.merge.items() if {*olds} & {*blur.classes})}
        for i, stage in enumerate(self.second_stage):
            if stage.part not in blur.tell and stage.classes and hidden.issuperset(stage.classes):
                raise wrong_at(
                    ("second_stage", i, "classes"),
                    f"{stage.part!r} would look at what privacy.blur hides: name it in privacy.blur.tell to have it told, "
                    "or leave it out",
                )

    def event_names(self) -> frozenset[str]:
        return frozenset((*self.zones, *(rule.id for rule in self.rules)))


def as_video(config: PipelineConfig) -> VideoConfig:
    """Of a kind that has a camera."""
    assert isinstance(config, VideoConfig)
    return config
