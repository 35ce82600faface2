"""Topics and messages on MQTT. JSON, except for chunk frames (:mod:`edgectl.core.transfer`).

Every message of a device carries its ``epoch`` (counts agent starts, kept on disk) and, where order matters,
a ``seq``. Correctness rests on the payload alone: MQTT 3.1.1 is enough, messages may be lost, repeated or
late.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from edgectl.core.files import check_name, hex_of
from edgectl.core.histogram import HistogramData
from edgectl.core.measuring import MeasureOrder
from edgectl.core.resources import Resources
from edgectl.core.schema import Digest, Message, Name, Terms
from edgectl.core.states import State
from edgectl.core.uri import redact_text
from edgectl.core.windows import MAX_WINDOWS, Window

__all__ = [
    "ENGINE_STAGE",
    "MAX_COMMAND_S",
    "MAX_GEN",
    "MAX_MESSAGE_BYTES",
    "MAX_SHADOW_BLOCKS",
    "READ_ONLY",
    "RUNS_FILES",
    "ClearSlot",
    "Command",
    "Conn",
    "ControllerState",
    "Desired",
    "DesiredSlot",
    "EngineProof",
    "Failure",
    "Frames",
    "Op",
    "Policy",
    "Reply",
    "Reported",
    "ReportedSlot",
    "ShadowBlock",
    "ShadowGate",
    "StreamStats",
    "Telemetry",
    "Topics",
    "Trust",
]

MAX_MESSAGE_BYTES = 256 * 1024
"""Larger JSON messages are refused before they are parsed (trust sets have their own bound)."""

MAX_GEN = (1 << 53) - 1
"""JSON and SQL keep integers up to here exactly."""

MAX_COMMAND_S = 3600
"""How long a signed command may wait to be obeyed."""

MAX_SHADOW_BLOCKS = 32
"""Of one comparison, on one device."""

ENGINE_STAGE = "engine"
"""The stage whose latency judges an engine. A worker with several engines names them ``engine:<part>``; in
telemetry, where slots count and not parts, they are ``engine:<slot>``."""


class Topics:
    """All topics of one fleet. ``Topics("home").reported("gate-1")`` →
    ``edgectl/1/home/d/gate-1/reported``."""

    def __init__(self, fleet: str) -> None:
        self.fleet = check_name(fleet)
        self.root = f"edgectl/1/{self.fleet}"
        self.trust = f"{self.root}/trust"
        self.ctl = f"{self.root}/ctl"
        self.any_conn = f"{self.root}/d/+/conn"
        self.any_reported = f"{self.root}/d/+/reported"
        self.any_telemetry = f"{self.root}/d/+/tele"
        self.any_alert = f"{self.root}/alert/+/+"
        self.any_event = f"{self.root}/d/+/ev/+"
        self.any_reply = f"{self.root}/d/+/rsp"
        self.any_need = f"{self.root}/a/+/need/+"
        self.any_rounds = f"{self.root}/a/+/st"
        self.any_peer_rounds = f"{self.root}/a/+/st/+"

    def conn(self, device: str) -> str:
        return self._device(device, "conn")

    def desired(self, device: str) -> str:
        return self._device(device, "desired")

    def reported(self, device: str) -> str:
        return self._device(device, "reported")

    def command(self, device: str) -> str:
        return self._device(device, "cmd")

    def reply(self, device: str) -> str:
        return self._device(device, "rsp")

    def telemetry(self, device: str) -> str:
        return self._device(device, "tele")

    def event(self, device: str, stream: str) -> str:
        return self._device(device, f"ev/{check_name(stream)}")

    def alert(self, rule: str, site: str) -> str:
        """What the controller says of an alert, retained while it fires. ``site``: ``-`` where it is of none."""
        return f"{self.root}/alert/{check_name(rule)}/{check_name(site) if site else '-'}"

    def manifest(self, digest: str, page: int) -> str:
        return f"{self._artifact(digest)}/m/{page}"

    def broadcast(self, digest: str) -> str:
        return f"{self._artifact(digest)}/b"

    def repair(self, digest: str, device: str) -> str:
        return f"{self._artifact(digest)}/r/{check_name(device)}"

    def need(self, digest: str, device: str) -> str:
        return f"{self._artifact(digest)}/need/{check_name(device)}"

    def rounds(self, digest: str) -> str:
        return f"{self._artifact(digest)}/st"

    def peer(self, digest: str, device: str) -> str:
        """What a device of the site sends of this blob. Its name is in the topic, so that a broker can
        hold it to that."""
        return f"{self._artifact(digest)}/p/{check_name(device)}"

    def peer_rounds(self, digest: str, device: str) -> str:
        return f"{self._artifact(digest)}/st/{check_name(device)}"

    def any_peer(self, digest: str) -> str:
        return f"{self._artifact(digest)}/st/+"

    def parse(self, topic: str) -> tuple[str, ...] | None:
        """The levels below the fleet root, or None for a topic of another fleet."""
        prefix = self.root + "/"
        return tuple(topic.removeprefix(prefix).split("/")) if topic.startswith(prefix) else None

    def _device(self, device: str, leaf: str) -> str:
        return f"{self.root}/d/{check_name(device)}/{leaf}"

    def _artifact(self, digest: str) -> str:
        return f"{self.root}/a/{hex_of(digest)[:32]}"


class Failure(Message):
    """Why something did not work: ``code`` for programs, ``detail`` for people."""

    code: str = Field(max_length=64)
    detail: Annotated[str, AfterValidator(redact_text)] = Field(default="", max_length=1024)
    retryable: bool = False


ShortText = Annotated[str, Field(max_length=256)]


class Conn(Message):
    """Birth, and the will that is the death. A death older than the last birth is ignored. A will can die
    with its broker: hence the heartbeat."""

    epoch: int = Field(ge=0)
    online: bool
    agent: str | None = None
    profile: str | None = None
    facts: tuple[ShortText, ...] = Field(default=(), max_length=256)
    labels: dict[ShortText, ShortText] = Field(default={}, max_length=64)
    slots: tuple[str, ...] = ()
    config_slots: tuple[str, ...] = ()
    """Those of ``slots`` that hold configurations."""
    streams: dict[str, str] = {}
    """Stream name → pipeline kind."""
    clean: bool = False
    """On a death: the agent stopped in good order."""
    heartbeat_s: float | None = Field(default=None, gt=0, le=3600)
    """The birth comes again within this time while the agent lives. None: it promises nothing, and only
    its will says that it is gone."""
    instance: str | None = Field(default=None, max_length=64)
    """Made anew at each start of an agent: two at once are two machines with one identity. A death has
    that of its birth."""
    host: str | None = Field(default=None, max_length=255)
    """What the machine calls itself, and"""
    address: str | None = Field(default=None, max_length=64)
    """its own address on the way to the broker: for whoever has to find it."""
    measures: bool = False
    """Candidates of a build may be measured on it (:mod:`edgectl.core.measuring`)."""


class ShadowGate(Terms):
    """Run the new engine beside the old one on some frames before it may take over; what it finds goes
    nowhere."""

    percent: float = Field(default=10.0, gt=0, le=100)
    """Share of frames that both engines get."""
    frames: int = Field(default=100, ge=1, le=100_000)
    """Frames that both must have had."""
    min_agreement: float = Field(default=0.9, ge=0, le=1)
    """Share of what either finds that both find: 2 × matched / (found by one + found by the other)."""
    max_latency_ratio: float | None = Field(default=1.5, gt=0)
    """Median latency against the old engine on the same frames; None: not judged."""


class EventGate(Terms):
    """How many events a new configuration may bring, compared with the one before on the same device."""

    max_ratio: float | None = Field(default=5.0, gt=0)
    """As a multiple of those before; None: any number."""
    fine_per_minute: float = Field(default=30.0, ge=0)
    """So many are allowed in any case: events of one stream that a rule tells. Where nothing is known of before,
    ``max_ratio`` times as many."""
    rule_per_minute: float | None = Field(default=120.0, gt=0)
    """Of one rule of one stream, whatever came before: more is a storm; None: any number."""
    min_ratio: float | None = Field(default=0.2, gt=0)
    """Fewer than this multiple, where chance cannot explain it, is a rule that has gone silent; None: fine."""


class Policy(Terms):
    """How a device is to judge a new engine or configuration, and when it may take it."""

    probation_s: float = Field(default=60.0, gt=0, le=7 * 86400)
    min_inferences: int = Field(default=130, ge=1, le=100_000_000)
    percentile: Literal[50, 90, 95, 99] = 95
    max_latency_ratio: float | None = Field(default=1.3, gt=0)
    """Engine latency at ``percentile`` against the previous engine on the same device; None: not judged."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    max_rss_mb: float | None = Field(default=None, gt=0)
    windows: tuple[Window, ...] = Field(default=(), max_length=MAX_WINDOWS)
    """When an engine may be activated, in the device's local time; it is fetched at any time. None:
    always."""
    shadow: ShadowGate | None = None
    events: EventGate | None = EventGate()
    """Of a configuration; None: not judged."""
    shared_plans: bool = False
    """Take a compiled TensorRT plan that signed targets name for just this device, instead of compiling
    one."""


class DesiredSlot(Message):
    release: str = Field(max_length=200)
    """``name@version``, a path in signed targets."""
    digest: Digest
    """Bundle digest: sha256 of its index.json."""
    attempt: int = Field(default=1, ge=1, le=MAX_GEN)
    """Raised to try a digest again that this device rolled back."""
    policy: Policy = Policy()
    expires_s: float | None = None
    """Unix time after which a device that has not begun to activate it need not any more."""


class ClearSlot(Message):
    """A slot is to be empty: nothing in it runs, or is kept to go back to. Also one that a release never
    reached."""

    number: int = Field(ge=1, le=MAX_GEN)
    """Raised to ask once more where the device gave the last one up."""


class Desired(Message):
    """What the fleet wants of a device. Retained; the highest ``gen`` wins.

    Where the fleet's root metadata name a director, it travels signed
    (:func:`edgectl.core.trust.seal_desired`).
    """

    gen: int = Field(ge=0, le=MAX_GEN)
    fleet: Name | None = None
    device: Name | None = None
    """Whom it is for; set in signed documents."""
    slots: dict[Name, DesiredSlot] = Field(default={}, max_length=64)
    clear: dict[Name, ClearSlot] = Field(default={}, max_length=64)
    """Slots that are to be empty. One that is neither here nor among ``slots`` keeps what it has."""
    hold: bool = False
    """True: fetch and stage, but do not activate."""

    @model_validator(mode="after")
    def _one_entry_a_slot(self) -> Desired:
        if both := self.slots.keys() & self.clear.keys():
            raise ValueError(f"slot {min(both)} is to have a release and to be empty")
        return self


class ShadowBlock(Message):
    """Frames that follow each other (of a second stage: crops), which both the engine before and the new one got."""

    frames: int = Field(ge=1)
    both: int = Field(ge=0)
    """What both found, and"""
    missed: int = Field(ge=0)
    """what only the engine before found, and"""
    extra: int = Field(ge=0)
    """what only the new one found."""


class EngineProof(Message):
    """What a device found of an engine before it served there. None: the agent is older, or it could not tell."""

    golden: float | None = Field(default=None, ge=0, le=1)
    """How closely it reproduces its golden samples on this device: 1 less the largest relative error of an output."""
    golden_least: float | None = Field(default=None, ge=0, le=1)
    """The same of an engine that just meets the tolerance that its bundle records."""
    shadow: tuple[ShadowBlock, ...] = Field(default=(), max_length=MAX_SHADOW_BLOCKS)
    """Beside the engine before, in the order in which it went; empty: the policy asked for no shadow."""


class ReportedSlot(Message):
    """One slot as the device sees it."""

    state: State
    gen: int = 0
    release: str | None = None
    digest: Digest | None = None
    """Of the deployment that ``state`` speaks of."""
    stage: str | None = None
    pct: float | None = None
    active: Digest | None = None
    active_release: str | None = None
    previous: Digest | None = None
    lighter: dict[str, str] = Field(default={}, max_length=4)
    """Preference → what became of the lighter variant of the active release: ``ready``, or why it is left out."""
    passed_over: dict[str, str] = Field(default={}, max_length=256)
    """Variants of the active release that go before the one that was taken, and for which there was no memory:
    ``profile/variant`` → the numbers."""
    proof: EngineProof | None = None
    """Of the active engine."""
    previous_proof: EngineProof | None = None
    error: Failure | None = None
    parts: dict[Name, str] = Field(default={}, max_length=64)
    """Of an active set: slot of an engine → the release that runs there as long as the set is in force."""
    set: str | None = Field(default=None, max_length=300)
    """Of the slot of an engine: the set that it belongs to, in words. What the slot itself has does not run then."""


class Reported(Message):
    """What a device says it has. Retained."""

    epoch: int = Field(ge=0)
    seq: int = Field(ge=0)
    gen: int = Field(ge=0)
    slots: dict[Name, ReportedSlot] = Field(default={}, max_length=64)
    trust_version: int | None = None
    clock: Literal["untrusted"] | None = None
    """``untrusted``: the device's clock is behind the time that signed metadata attest."""
    instance: str | None = Field(default=None, max_length=64)
    """As in the birth."""
    heard: int = Field(default=0, ge=0, le=MAX_GEN)
    """The highest ``seq`` among what the director's keys have signed: a controller that lost its database
    goes on there."""
    error: Failure | None = None
    """What is wrong with the device as a whole, e.g. expired trust metadata."""


MAX_TALLY = 1 << 48
"""Of anything that a device counts: at 1000 a second, nine thousand years."""
Tally = Annotated[int, Field(ge=0, le=MAX_TALLY)]


class Frames(Message):
    """The ledger of one stream since it started: ``captured == processed + sum(dropped) + in_flight``."""

    captured: Tally = 0
    processed: Tally = 0
    in_flight: int = Field(default=0, ge=-MAX_TALLY, le=MAX_TALLY)
    dropped: dict[str, Tally] = {}


class StreamStats(Message):
    """One stream over one window. ``stages`` are histograms of this window; ``frames`` and ``errors``
    count since start.

    How many were late is in the stages: ``avail_to_event`` above ``budget_ms``.
    """

    kind: str
    slots: dict[str, str] = {}
    """Slot name → digest of the engine (bundle digest) that made these numbers."""
    releases: dict[str, str] = {}
    stand_ins: dict[str, str] = Field(default={}, max_length=8)
    """Slot name → preference of the lighter variant that made some of these numbers in the engine's place."""
    stages: dict[str, HistogramData] = Field(default={}, max_length=32)
    frames: Frames = Frames()
    crops: dict[str, Frames] = Field(default={}, max_length=8)
    """Slot of a second stage → what became of its crops: looked at (``processed``) or dropped, by cause."""
    errors: Tally = 0
    fps: float = 0.0
    budget_ms: float | None = None
    state: str = "running"
    reason: str | None = None
    detail: str | None = Field(default=None, max_length=200)
    """While the source is away: what went wrong last, in a sentence."""
    retry_s: float | None = None
    """Seconds until a source that is away is tried again."""
    counters: dict[str, Tally] = {}


class Telemetry(Message):
    """One window of a device. Mergeable: histograms and counters add up over windows and devices."""

    epoch: int = Field(ge=0)
    seq: int = Field(ge=0)
    wall_s: float | None = None
    """Unix time at the end of the window; None if the clock was never set."""
    window_s: float = Field(gt=0)
    streams: dict[Name, StreamStats] = Field(default={}, max_length=64)
    health: dict[str, float] = {}
    resources: Resources | None = None
    """None: the agent is older."""
    power_mode: ShortText | None = None
    """That the device ran in, as its vendor calls it; None: it has none, or does not say."""
    throttled: tuple[ShortText, ...] = Field(default=(), max_length=16)
    """Why the device was slower than it can be in this window; empty: it was not, or does not say."""
    spool_dropped: Tally = 0
    replay: bool = False


Op = Literal[
    "probe", "logs", "hold", "release", "rollback", "health", "cancel", "lock", "unlock", "force", "measure"
]
READ_ONLY: frozenset[Op] = frozenset({"probe", "logs", "health"})
"""Commands that leave everything as it is."""
RUNS_FILES: frozenset[Op] = frozenset({"measure"})
"""Commands by which a device opens files that no release names: as many of the director's keys sign them as sign what
it is to run."""


class Command(Message):
    """A request to a device. Ignored after ``deadline_s`` (Unix time).

    Where the fleet's root metadata name a director, it travels signed by one of its keys
    (:func:`edgectl.core.trust.seal_command`).
    """

    id: str = Field(max_length=64)
    op: Op
    """``cancel``: give up what is not activated yet, take back what is on trial. ``lock``: nothing is
    activated while the lease lasts. ``force``: pass windows and leases once; the device writes down who
    asked."""
    slot: Name | None = None
    deadline_s: float
    owner: Name | None = None
    """Who asks: names the lease of ``lock`` and ``unlock``, and the entry that the device keeps."""
    ttl_s: float | None = Field(default=None, gt=0, le=86400)
    """Seconds after which a lease that is not taken again runs out."""
    reason: str = Field(default="", max_length=200)
    measure: MeasureOrder | None = None
    """Of ``measure``, and of nothing else."""
    type: Literal["command"] | None = None
    fleet: Name | None = None
    device: Name | None = None
    """Whom it is for; set in signed ones, as is ``type``."""
    seq: int = Field(default=0, ge=0, le=MAX_GEN)
    """Of signed ones: Unix time in ms, or one more than the last. A device obeys only what is above all
    that it has seen."""

    @model_validator(mode="after")
    def _measures_by_order(self) -> Command:
        if (self.op == "measure") != (self.measure is not None):
            raise ValueError(
                f"{self.op} comes {'without' if self.op == 'measure' else 'with'} a measure order"
            )
        return self


class Reply(Message):
    id: str = Field(max_length=64)
    ok: bool
    result: dict[str, Any] = {}
    error: Failure | None = None


class ControllerState(Message):
    """Retained, and the will: is a controller there, and is the fleet frozen.

    Where the fleet's root metadata name a director, it travels signed by one of its keys
    (:func:`edgectl.core.trust.seal_state`); the will does not: it is written before anybody can know the
    freeze of then.
    """

    epoch: int = Field(ge=0)
    online: bool
    peers: bool = False
    """Devices that are set up for it may seed their site. True of the will, too: a controller that is gone
    is when it counts."""
    freeze: bool | None = None
    """True stops every ACTIVATING within seconds. None: it does not say."""
    type: Literal["controller"] | None = None
    fleet: Name | None = None
    """Set in signed ones, as is ``type``."""
    seq: int = Field(default=0, ge=0, le=MAX_GEN)
    """As that of :class:`Command`. A device goes back to no older one."""


class Trust(Message):
    """The whole TUF metadata set in one retained message: file name (``1.root.json``, ``timestamp.json``)
    → its exact text."""

    files: dict[str, str] = Field(max_length=512)
