"""What the agent and a worker say to each other: one JSON object a line over the worker's stdin and stdout.

The worker is ``python -m edgectl.pipelines.host.worker``. It runs any number of streams; every message names
the one that it is about. The agent judges a stream by *progress* (processed frames), not by liveness.
Standard output belongs to this protocol: the worker moves file descriptor 1 aside at start, so that a native
library that prints cannot break it.

Order, for each stream: the agent sends Start; the worker answers Ready (after the first inference). Then any
of Swap, Commit, Revert, Shadow, Configure; the worker sends Event, Stats, Lease and answers each Swap with Swapped or a
SwapFailed (it keeps the old engine), each Shadow with Shadowed or ShadowFailed, each Configure with Configured or
ConfigureFailed (it keeps the old configuration). After Stop, the end of the
source or a Fault the last word on a stream is Ended; then it may be started again. Streams do not wait for
each other. The worker exits at the end of its input, or after a Fault that names no stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from edgectl.core.bundle import LighterPreference
from edgectl.core.errors import ProtocolError
from edgectl.core.schema import Message, Name, first_problem
from edgectl.core.wire import MAX_SHADOW_BLOCKS, Failure, ShadowBlock, StreamStats

__all__ = [
    "MAX_LINE_BYTES",
    "Commit",
    "Configure",
    "ConfigureFailed",
    "Configured",
    "Ended",
    "EngineRef",
    "EventMessage",
    "Fault",
    "FromWorker",
    "LeaseMessage",
    "Ready",
    "Revert",
    "ShadowFailed",
    "ShadowMessage",
    "Shadowed",
    "Start",
    "Stats",
    "Stop",
    "Swap",
    "SwapFailed",
    "Swapped",
    "ToWorker",
    "parse_from_worker",
    "parse_to_worker",
]

MAX_LINE_BYTES = 1 << 20


class EngineRef(Message):
    """Where a slot's engine lies: ``blobs`` is a folder of content-addressed files, ``manifest`` the
    variant's digest in it."""

    blobs: Path
    manifest: str
    release: str = ""
    bundle: str = ""
    """Bundle digest, for telemetry."""
    lighter: dict[LighterPreference, str] = {}
    """Manifests of other variants of the same bundle, proven like this one: for less work."""


class Start(Message):
    op: Literal["start"] = "start"
    stream: Name
    kind: str
    source: str
    """A source URI: ``rtsp://…``, ``v4l2:///dev/video0``, ``file:…``, ``synth://yard?seed=1``."""
    config: dict[str, Any] = {}
    """The pipeline configuration (zones, lines, flow, budget …), validated by the pipeline."""
    engines: dict[Name, EngineRef]
    """Part (``detector``, ``vad``, ``keyword``) → engine."""
    on_trial: tuple[Name, ...] = ()
    """Parts whose engine is judged: no lighter variant takes its place before Commit."""
    out: Path | None = None
    """Folder for snapshots, tracks and annotated video; None: none are written."""
    cache: Path | None = None
    """Folder of finalised engines; the warm-up filled it. None: engines are opened as they were built."""
    stats_every_s: float = 2.0


class Swap(Message):
    """Load, warm up and switch a part to another engine between two frames. The old one stays warm, and the new one
    is on trial, until Commit or Revert."""

    op: Literal["swap"] = "swap"
    stream: Name
    part: Name
    engine: EngineRef
    edition: int = Field(default=0, ge=0)
    """How often the engine's finalised file has become a better one: a new edition is opened anew."""


class ShadowMessage(Message):
    """Run another engine on some of the frames, after the one that serves; compare, and tell only that.
    One at a time."""

    op: Literal["shadow"] = "shadow"
    stream: Name
    part: Name
    engine: EngineRef
    percent: float = Field(gt=0, le=100)
    frames: int = Field(ge=1)


class Configure(Message):
    """Go on with another configuration between two frames, and with other engines between the same two."""

    op: Literal["configure"] = "configure"
    stream: Name
    number: int = Field(ge=1)
    """Comes back with the answer."""
    config: dict[str, Any] = {}
    told: dict[str, Any] = {}
    """What the event ``configuration`` says of it: ``digest``, ``name``."""
    engines: dict[Name, EngineRef] = {}
    """Part → the engine that takes over with it; the one before stays warm, and the new one is on trial, until Commit or
    Revert."""
    check: bool = False
    """Prepare it, its rules on the last minute of tracks, and drop it: nothing changes."""


class Commit(Message):
    op: Literal["commit"] = "commit"
    stream: Name
    part: Name


class Revert(Message):
    op: Literal["revert"] = "revert"
    stream: Name
    part: Name


class Stop(Message):
    """Stop in order within so many seconds; what is not over then is left behind."""

    op: Literal["stop"] = "stop"
    stream: Name
    within_s: float = Field(default=5.0, ge=0, le=3600)


class Ready(Message):
    op: Literal["ready"] = "ready"
    stream: Name
    seconds: float


class EventMessage(Message):
    op: Literal["event"] = "event"
    stream: Name
    event: dict[str, Any]


class Stats(Message):
    """One window. Its arrival with a growing ``frames.processed`` is the progress that feeds the watchdog."""

    op: Literal["stats"] = "stats"
    stream: Name
    window_s: float
    stats: StreamStats
    rss_mb: float
    """Of the worker, with all its streams; 10⁶ bytes."""
    cpu_s: float
    """Of the worker, since it was started."""
    stuck: tuple[str, ...] = ()
    """Which calls do not come back, now: ``source``, ``engine``, ``engine:<part>`` of a second stage, ``sink:<name>``."""


class Swapped(Message):
    op: Literal["swapped"] = "swapped"
    stream: Name
    part: Name
    manifest: str
    gap_ms: float
    """Longest time between two processed frames around the swap."""


class SwapFailed(Message):
    op: Literal["swap_failed"] = "swap_failed"
    stream: Name
    part: Name
    manifest: str
    error: Failure


class Shadowed(Message):
    """What the other engine did with ``frames`` frames, or crops of a second stage. ``found`` counts what the two found
    together, ``matched`` the pairs."""

    op: Literal["shadowed"] = "shadowed"
    stream: Name
    part: Name
    manifest: str
    frames: int
    matched: int
    found: int
    errors: int
    old_ms: float
    """Median engine time of the engine that serves, on the same frames."""
    new_ms: float
    blocks: tuple[ShadowBlock, ...] = Field(default=(), max_length=MAX_SHADOW_BLOCKS)

    @property
    def agreement(self) -> float:
        """1.0 where neither found anything."""
        return 2 * self.matched / self.found if self.found else 1.0


class ShadowFailed(Message):
    op: Literal["shadow_failed"] = "shadow_failed"
    stream: Name
    part: Name
    manifest: str
    error: Failure


class Configured(Message):
    op: Literal["configured"] = "configured"
    stream: Name
    number: int
    changed: tuple[str, ...] = ()
    """Settings that are others now; none: it was the same configuration."""
    in_force: bool = True
    """False: the camera gives no frames; it holds from the next one on."""


class ConfigureFailed(Message):
    op: Literal["configure_failed"] = "configure_failed"
    stream: Name
    number: int
    error: Failure
    key: tuple[str | int, ...] = ()
    """The setting that is wrong, where it is one."""
    needs_start: bool = False
    """Nothing is wrong with it, but it holds only from the next start of the stream on."""


class LeaseMessage(Message):
    """The pipeline is in the middle of something: no other engine for ``ttl_s`` seconds. Said again while
    it lasts."""

    op: Literal["lease"] = "lease"
    stream: Name
    ttl_s: float = Field(gt=0, le=3600)
    reason: str = Field(default="", max_length=200)


class Fault(Message):
    """A stream cannot go on (source gone for good, engine broken, bad configuration); Ended follows. Without a
    stream: the worker cannot, and exits."""

    op: Literal["fault"] = "fault"
    stream: Name | None = None
    error: Failure
    key: tuple[str | int, ...] = ()
    """The setting of the stream's configuration that is wrong, where it is one."""


class Ended(Message):
    """The stream is over, and nothing more comes of it until it is started again."""

    op: Literal["ended"] = "ended"
    stream: Name
    stuck: tuple[str, ...] = ()
    """What did not stop in time and stays behind in the process: ``source``, ``engine``, ``sink:<name>``. Empty
    for a stream that has stopped in order."""


ToWorker: TypeAlias = Annotated[
    Start | Swap | ShadowMessage | Configure | Commit | Revert | Stop, Field(discriminator="op")
]
FromWorker: TypeAlias = Annotated[
    Ready
    | EventMessage
    | Stats
    | Swapped
    | SwapFailed
    | Shadowed
    | ShadowFailed
    | Configured
    | ConfigureFailed
    | LeaseMessage
    | Fault
    | Ended,
    Field(discriminator="op"),
]
_TO: TypeAdapter[ToWorker] = TypeAdapter(ToWorker)
_FROM: TypeAdapter[FromWorker] = TypeAdapter(FromWorker)


def parse_to_worker(line: bytes) -> ToWorker:
    """One line from the agent. Raises :class:`ProtocolError`."""
    return _parse(_TO, line)


def parse_from_worker(line: bytes) -> FromWorker:
    """One line from a worker. Raises :class:`ProtocolError`."""
    return _parse(_FROM, line)


T = TypeVar("T")


def _parse(adapter: TypeAdapter[T], line: bytes) -> T:
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"worker line of {len(line)} bytes, more than {MAX_LINE_BYTES}")
    try:
        return adapter.validate_json(line)
    except ValidationError as e:
        raise ProtocolError(f"worker line is not valid: {first_problem(e)}") from e
