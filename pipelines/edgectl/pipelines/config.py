"""The configuration of one stream, as a person writes it in YAML. Lengths of time are seconds of capture
time.

Polygons and lines are relative to the frame (0..1), so that they survive a change of resolution.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import shapely
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from edgectl.core.errors import UsageError
from edgectl.core.schema import Config, Name, first_problem
from edgectl.pipelines.video.tracker import TrackConfig

__all__ = [
    "Annotate",
    "CameraConfig",
    "CollisionConfig",
    "EgoConfig",
    "FlowConfig",
    "LaneDepartureConfig",
    "LineConfig",
    "LoiterConfig",
    "OccupancyConfig",
    "PipelineConfig",
    "SnapshotConfig",
    "SpeechConfig",
    "ZoneConfig",
    "load_config",
    "parse_config",
]

_MAX_BYTES = 1 << 20
Relative = Annotated[float, Field(ge=-0.5, le=1.5)]
Seconds = Annotated[float, Field(ge=0, le=86400)]


class FlowConfig(Config):
    mode: Literal["auto", "latest", "every"] = "auto"
    """``auto``: cameras and paced sources latest, files every frame."""
    max_age_ms: float | None = Field(default=None, gt=0, le=600_000)
    """A frame older than this when it is taken is dropped (``stale``)."""
    target_fps: float | None = Field(default=None, gt=0, le=1000)


class ZoneConfig(Config):
    polygon: tuple[Relative, ...]
    """x, y, x, y, … relative to the frame."""
    anchor: Literal["bottom_center", "center"] = "bottom_center"
    enter_px: float = Field(default=4.0, ge=0, le=1000)
    """How deep inside (and how far outside, to leave) an object must be."""
    enter_s: Seconds = 0.2
    exit_s: Seconds = 0.5
    classes: tuple[str, ...] = ()

    @field_validator("polygon")
    @classmethod
    def _is_an_area(cls, flat: tuple[float, ...]) -> tuple[float, ...]:
        if len(flat) % 2 or not 6 <= len(flat) <= 512:
            raise ValueError("a polygon is x, y, x, y, … with 3 to 256 corners")
        shape = shapely.Polygon(list(zip(flat[0::2], flat[1::2], strict=True)))
        if not shape.is_valid or shape.area <= 0:
            raise ValueError("the polygon has no area or crosses itself")
        return flat


class LineConfig(Config):
    id: Name
    line: tuple[Relative, Relative, Relative, Relative]
    """From a to b. Going to the right of that arrow, as seen in the picture, is ``in``; to the left is
    ``out``."""
    anchor: Literal["bottom_center", "center"] = "bottom_center"
    band_px: float = Field(default=6.0, ge=0, le=1000)
    hold_s: Seconds = 0.15
    classes: tuple[str, ...] = ()

    @field_validator("line")
    @classmethod
    def _has_length(cls, line: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if line[:2] == line[2:]:
            raise ValueError("a line needs two different ends")
        return line


class LoiterConfig(Config):
    class Loiter(Config):
        zone: str
        seconds: float = Field(gt=0, le=86400)
        gap_s: Seconds = 1.5
        """An object that vanishes and is found again nearby within this time is the same one."""

    id: Name
    loiter: Loiter


class OccupancyConfig(Config):
    class Occupancy(Config):
        zone: str
        high: int = Field(ge=1, le=10_000)
        low: int | None = Field(default=None, ge=0)
        """None: ``high - 1``."""

        @model_validator(mode="after")
        def _apart(self) -> OccupancyConfig.Occupancy:
            if self.low is not None and self.low >= self.high:
                raise ValueError("low must be below high")
            return self

    id: Name
    occupancy: Occupancy


class CollisionConfig(Config):
    class Collision(Config):
        min_px: float = Field(default=45.0, gt=0)
        window_s: float = Field(default=0.5, ge=0.3, le=3)
        warn_s: float = Field(default=2.7, gt=0)
        alert_s: float = Field(default=1.6, gt=0)
        v_min_mps: float = Field(default=5.0, ge=0)

    id: Name
    collision: Collision


class LaneDepartureConfig(Config):
    class LaneDeparture(Config):
        v_min_mps: float = Field(default=16.7, ge=0)
        ttlc_s: float = Field(default=0.7, gt=0)
        hold_s: Seconds = 0.2

    id: Name
    lane_departure: LaneDeparture


RuleConfig = LineConfig | LoiterConfig | OccupancyConfig | CollisionConfig | LaneDepartureConfig
_RULE_KINDS: dict[str, type[Config]] = {
    "line": LineConfig,
    "loiter": LoiterConfig,
    "occupancy": OccupancyConfig,
    "collision": CollisionConfig,
    "lane_departure": LaneDepartureConfig,
}


class SnapshotConfig(Config):
    on: tuple[str, ...] = ()
    """Ids of rules and zones."""
    quality: int = Field(default=80, ge=10, le=100)
    limit: int = Field(default=1000, ge=1, le=1_000_000)
    """At most this many files; the oldest goes first."""


class UpdateLock(Config):
    """Events during which no other engine is wanted: each one keeps updates away for a while."""

    on: tuple[str, ...] = Field(min_length=1)
    """Ids of rules and zones."""
    seconds: float = Field(default=30.0, gt=0, le=3600)


class Annotate(Config):
    video: bool = True
    """Write an annotated MP4 if there is an output folder."""
    fps: float | None = Field(default=None, gt=0, le=240)
    max_width: int = Field(default=1280, ge=64, le=4096)


class CameraConfig(Config):
    """How the dash camera is mounted. Without it, metres cannot be told from pixels."""

    height_m: float | None = Field(default=None, gt=0, le=10)
    fx_px: float | None = Field(default=None, gt=0)
    """Focal length in pixels at the width of the stream."""
    horizon: float | None = Field(default=None, gt=0, lt=1)
    """Row of the horizon relative to the height; None: where the lane lines meet."""
    lane_width_m: float = Field(default=3.6, gt=1, le=10)
    hood: float = Field(default=1.0, gt=0.5, le=1)
    """Row below which the own car is seen, relative to the height."""


class EgoConfig(Config):
    speed_mps: float | None = Field(default=None, ge=0, le=120)
    """A constant, for bench work; otherwise speed comes with the frames, if the source has it."""
    max_age_ms: float = Field(default=500, gt=0)


class SpeechConfig(Config):
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Keyword probability; None: the task's ``decode.score``."""
    smooth_s: float = Field(default=0.24, ge=0, le=5)
    patience: int = Field(default=2, ge=1, le=100)
    refractory_s: float = Field(default=1.0, ge=0, le=60)
    hop_frames: int = Field(default=4, ge=1, le=1000)
    """Feature frames between two runs of the keyword net."""
    vad_on: float = Field(default=0.5, gt=0, lt=1)
    vad_off: float = Field(default=0.35, gt=0, lt=1)
    min_silence_ms: float = Field(default=100, ge=0, le=60_000)
    pad_ms: float = Field(default=30, ge=0, le=5_000)
    vad_gain_db: float = Field(default=40, ge=0, le=60)
    """Speech softer than it should be is listened to with up to so much gain; 0: never."""


class PipelineConfig(Config):
    flow: FlowConfig = FlowConfig()
    budget_ms: float | None = Field(default=None, gt=0, le=600_000)
    """From capture to event. None: 250 ms for surveillance, 100 ms for driving, none for a file."""
    track: TrackConfig = TrackConfig()
    classes: tuple[str, ...] = ()
    """Labels to look for; empty: all of the model's."""
    merge: dict[str, tuple[str, ...]] = {}
    """New label → labels it stands for (``vehicle: [car, truck, bus]``)."""
    zones: dict[Name, ZoneConfig] = Field(default={}, max_length=64)
    rules: tuple[RuleConfig, ...] = Field(default=(), max_length=64)
    snapshots: SnapshotConfig = SnapshotConfig()
    annotate: Annotate = Annotate()
    tracklog: bool = False
    """Write every frame's tracks, for replaying the rules."""
    update_lock: UpdateLock | None = None
    update_s: float = Field(default=30.0, gt=0, le=86400)
    """How often a tracked object is reported while nothing changes."""
    camera: CameraConfig = CameraConfig()
    ego: EgoConfig = EgoConfig()
    speech: SpeechConfig = SpeechConfig()

    @field_validator("rules", mode="before")
    @classmethod
    def _one_kind_each(cls, rules: Any) -> Any:
        """Pick each rule's model by its key, so that a mistake is reported for the rule that was meant."""
        if not isinstance(rules, list | tuple):
            raise ValueError("rules are a list")
        return tuple(_rule(r) for r in rules)

    @model_validator(mode="after")
    def _names_exist(self) -> PipelineConfig:
        ids = [r.id for r in self.rules]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"rule id {min(twice)!r} is used twice")
        for r in self.rules:
            zone = (
                r.loiter.zone
                if isinstance(r, LoiterConfig)
                else r.occupancy.zone
                if isinstance(r, OccupancyConfig)
                else None
            )
            if zone is not None and zone not in self.zones:
                raise ValueError(f"rule {r.id!r} names zone {zone!r}, which does not exist")
        named = {
            "snapshots.on": self.snapshots.on,
            "update_lock.on": self.update_lock.on if self.update_lock else (),
        }
        for setting, names in named.items():
            if unknown := set(names) - set(ids) - set(self.zones):
                raise ValueError(f"{setting} names {min(unknown)!r}, which is no rule or zone")
        return self


def _rule(value: Any) -> Any:
    if isinstance(value, Config):
        return value
    if not isinstance(value, dict):
        raise ValueError("a rule is a mapping with an id and one of: " + ", ".join(_RULE_KINDS))
    kinds = [k for k in _RULE_KINDS if k in value]
    if len(kinds) != 1:
        raise ValueError(f"rule {value.get('id')!r} needs exactly one of: {', '.join(_RULE_KINDS)}")
    try:
        return _RULE_KINDS[kinds[0]].model_validate(value)
    except ValidationError as e:
        raise ValueError(f"rule {value.get('id')!r}: {first_problem(e)}") from e


def parse_config(values: Any, *, what: str = "the pipeline configuration") -> PipelineConfig:
    """Validate parsed YAML or JSON. Raises :class:`UsageError` with the first wrong field."""
    try:
        return PipelineConfig.model_validate({} if values is None else values)
    except ValidationError as e:
        raise UsageError(f"{what} is not valid: {first_problem(e)}") from e


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``on``, ``off``, ``yes`` and ``no`` as booleans; here they are words, and only true
    and false are booleans."""

    yaml_implicit_resolvers = {
        first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def load_config(path: Path) -> PipelineConfig:
    """Read a YAML file. Raises :class:`UsageError` with one sentence on what is wrong and where."""
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_BYTES + 1)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} has more than {_MAX_BYTES} bytes")
    try:
        values = yaml.load(data, _Loader)  # noqa: S506 -- a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(e, "problem", None) or "it cannot be parsed"
        raise UsageError(f"{path} is not valid YAML{where}: {problem}") from e
    return parse_config(values, what=str(path))
