"""``agent.toml``: who this device is, where its broker is, which pipelines it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edgectl.core.bundle import LighterPreference, Preference
from edgectl.core.config_file import ConfigFile, read_toml
from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config, Key, Name, wrong_at
from edgectl.device_profiles.admission import RESERVE_MB
from edgectl.link.config import BrokerConfig
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.places import OwnPlace, folder_place, shared_place, written_places
from edgectl.pipelines.view.guard import DEFAULT_PORT, is_loopback, parse_address

__all__ = [
    "AgentConfig",
    "MeasureConfig",
    "StreamConfig",
    "ViewConfig",
    "load_agent_config",
    "read_agent_config",
]


class StreamConfig(Config):
    """``[pipelines.<stream>]``. ``slots``: part (``detector``) → slot name (``gate-detector``)."""

    kind: str
    source: str
    config: dict[str, Any] = {}
    slots: dict[Name, Name] = Field(min_length=1)
    config_slot: Name | None = None
    """A slot whose release is this stream's configuration. Until it has one, ``config`` holds."""
    out: Path | None = None
    stall_s: float = Field(default=30.0, gt=0)
    """Seconds after which a stream is started anew that neither processed a frame nor left one out by choice."""
    isolate: bool = False
    """It has a worker process of its own, whatever other streams use the same slots."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(
                f"there is no kind of pipeline {kind[:64]!r}: {did_you_mean(kind, KINDS.names())}"
            )
        return kind


class ViewConfig(Config):
    """``[view]``: a page with every stream of the device. Needs the extra ``[view]``."""

    listen: str = "127.0.0.1:8088"
    """Address and port. One that other machines can reach needs a ``token_file``."""
    token_file: Path | None = None
    """A file with the token that visitors are asked for, 16 characters or more; relative to the configuration file."""
    max_viewers: int = Field(default=8, ge=1, le=64)

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        try:
            parse_address(listen)
        except UsageError as e:
            raise ValueError(f"{e.message}: {e.hint}") from e
        return listen

    @model_validator(mode="after")
    def _is_guarded(self) -> ViewConfig:
        host = self.address[0]
        if self.token_file is None and not is_loopback(host):
            raise ValueError(f"others can reach {host[:64]}: the page needs a token_file, or 127.0.0.1")
        return self

    @property
    def address(self) -> tuple[str, int]:
        host, port = parse_address(self.listen)
        return host, DEFAULT_PORT if port is None else port


class MeasureConfig(Config):
    """``[measure]``: candidates of a build may be measured here, while nothing is deployed and no stream runs. Without
    this table nothing is."""

    beside_streams: bool = False
    """Also while streams run: they and what is measured slow each other down."""
    busy_cores: float | None = Field(default=None, gt=0)
    """Cores that other processes may take when a session begins; None: 15 % of all, at most one."""
    minutes: float = Field(default=30.0, gt=0, le=1440)
    """For one job, with the compilation of TensorRT plans."""
    memory_mb: int = Field(default=4096, ge=128)
    """Memory (MiB) at most, of what is free beside ``memory_reserve_mb``."""
    disk_mb: int = Field(default=2048, ge=1)
    """Disk (MiB) at most, for the files of a session; ``reserve_mb`` stays free."""


class AgentConfig(Config):
    name: Name
    fleet: Name = "home"
    broker: BrokerConfig
    state_dir: Path
    root: Path = Path("root.json")
    """Root metadata from enrolment, relative to the configuration file."""
    profile: Name | Literal["auto"] = "auto"
    labels: dict[str, str] = {}
    pipelines: dict[Name, StreamConfig] = {}
    view: ViewConfig | None = None
    """The live page; None: there is none."""
    measure: MeasureConfig | None = None
    """Candidates of a build may be measured here; None: they may not."""
    prefer: dict[Name, Preference] = {}
    """Slot → the variant of a release that it prefers. A change takes effect when the agent starts again."""
    lighter: dict[Name, tuple[LighterPreference, ...]] = {}
    """Slot → other variants of a release that come along, for a stream whose `govern` has too much to do. A change
    takes effect when the agent starts again."""
    heartbeat_s: float = Field(default=30.0, ge=1, le=3600)
    """The device shows that it lives at least this often, and is taken for away after one and a half times
    that."""
    telemetry_s: float = Field(default=10.0, ge=0.5, le=3600)
    stats_every_s: float = Field(default=2.0, ge=0.05, le=60)
    spool_mb: int = Field(default=50, ge=1)
    spool_hours: float = Field(default=48.0, gt=0)
    reserve_mb: int = Field(default=64, ge=0)
    """Disk that downloads leave free."""
    memory_reserve_mb: int = Field(default=RESERVE_MB, ge=0)
    """Memory (MiB) that stays free beside what runs when an engine is activated; a release that needs it is refused.
    With less than 64, camera streams with ``govern`` do less."""
    store_quota_mb: int | None = Field(default=None, ge=1)
    """Disk that all blobs together may take (MiB); None: what the disk has."""
    site: Name | None = None
    """Devices of one site share its bandwidth and may seed each other."""
    download_kb_s: int | None = Field(default=None, ge=8)
    """kB/s (1000 bytes) of downloads at most; None: no limit."""
    seed_peers: bool = False
    """Seed this site while the controller does not, if the controller's ``[transfer] peers`` allows it."""
    seed_kb_s: int = Field(default=1000, ge=8)
    """kB/s that this device sends at most when it seeds."""
    warm_runs: int = Field(default=32, ge=1, le=10_000)
    improve_after_s: float = Field(default=900.0, ge=0)
    """Seconds with nothing to deploy and cores to spare after which a TensorRT plan is built again at the
    best level. 0: never."""

    @model_validator(mode="after")
    def _lighter_for_slots(self) -> AgentConfig:
        if unknown := sorted(set(self.lighter) - set(self.slots)):
            known = ", ".join(self.slots) or "none"
            raise ValueError(
                f"lighter names the slot {unknown[0]!r}, which no pipeline uses: there are {known}"
            )
        return self

    @model_validator(mode="after")
    def _streams_keep_apart(self) -> AgentConfig:
        places: dict[str, list[tuple[Key, OwnPlace]]] = {}
        for name, stream in self.pipelines.items():
            folder: list[tuple[Key, OwnPlace]] = (
                [] if stream.out is None else [(("out",), folder_place(stream.out))]
            )
            sinks = written_places(name, stream.config)
            places[name] = [*folder, *((("config", *key), place) for key, place in sinks)]
        if (shared := shared_place(places)) is not None:
            raise wrong_at(
                ("pipelines", shared.second, *shared.key), f"{shared.text}: each needs a place of its own"
            )
        return self

    @model_validator(mode="after")
    def _configurations_have_slots_of_their_own(self) -> AgentConfig:
        kinds: dict[str, str] = {}
        for name, stream in self.pipelines.items():
            slot = stream.config_slot
            if slot is None:
                continue
            key: Key = ("pipelines", name, "config_slot")
            if slot in self.slots:
                raise wrong_at(key, f"slot {slot} holds an engine: a configuration needs a slot of its own")
            if kinds.setdefault(slot, stream.kind) != stream.kind:
                what = f"slot {slot} holds the configuration of a {kinds[slot]} stream, this is a {stream.kind} stream"
                raise wrong_at(key, what)
        return self

    @property
    def slots(self) -> tuple[str, ...]:
        """That hold engines."""
        return tuple(sorted({slot for p in self.pipelines.values() for slot in p.slots.values()}))

    @property
    def config_slots(self) -> tuple[str, ...]:
        """That hold configurations."""
        return tuple(sorted({p.config_slot for p in self.pipelines.values() if p.config_slot is not None}))


def load_agent_config(path: Path) -> AgentConfig:
    """Read ``agent.toml``; relative paths are relative to it. Raises :class:`UsageError` with the line and the
    setting."""
    return read_agent_config(path)[0]


def read_agent_config(path: Path) -> tuple[AgentConfig, ConfigFile]:
    """The same, with the file, which can say where a setting stands."""
    file = read_toml(path, hint="`edgectl device enroll NAME` writes one")
    config = file.validate(AgentConfig)
    base = path.resolve().parent
    places: dict[str, Any] = {
        "state_dir": base / config.state_dir,
        "root": base / config.root,
        "broker": config.broker.relative_to(base),
    }
    view = config.view
    if view is not None and view.token_file is not None:
        places["view"] = view.model_copy(update={"token_file": base / view.token_file})
    return config.model_copy(update=places), file
