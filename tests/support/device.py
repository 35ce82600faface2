"""A device in one thread and in simulated time: the real deployer, journal, store, leases, boot check and
transfer receiver.

What stands in: signed metadata (a table with a version), the network (frames that get lost, repeated, mixed
up and corrupted), the warm-up and the pipelines (engines that behave as they were told). Whatever starts an
engine checks, byte by byte, that it was verified.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from support.bundle import behaviour_of, join_bundles, make_bundle
from support.deployer import Warm

from edgectl.agent.deploy.dependencies import DeployerDependencies, engine_ref
from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.deployment import WORKING
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.deploy.start_check import check_slots, damage
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Installed, LighterEngine, Slot
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Cancelled, FetchProgress
from edgectl.agent.transfer.fetch import Fetched
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import (
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Bundle,
    Descriptor,
    LighterPreference,
    Preference,
    Unfit,
    Variant,
)
from edgectl.core.errors import EngineError, IntegrityError, ProtocolError, StorageError, TrustError
from edgectl.core.files import hex_of
from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.memory import EngineMemory
from edgectl.core.states import TERMINAL, State
from edgectl.core.transfer import Receiver, chunk_hashes, encode_frame, pages_of
from edgectl.core.wire import ENGINE_STAGE, ClearSlot, DesiredSlot, Frames, Policy, ShadowGate, StreamStats
from edgectl.device_profiles.admission import MemoryRoom
from edgectl.pipelines.host.protocol import EngineRef, Shadowed, Stats

__all__ = ["POLICY", "SLOT", "Catalogue", "Device", "Violation", "Warm"]

SLOT = "gate"
POLICY = Policy(probation_s=2.0, min_inferences=1, percentile=50)
_STUCK_S = 40 * 86400.0
_FAST = {State.DEFERRED: 600.0, State.STAGED: 600.0, State.CLEARING: 600.0, State.PROBATION: 2.0}
"""Seconds that pass at least when the device waits in a state."""


@functools.cache
def _frames(latency_ms: float) -> HistogramData:
    h = Histogram()
    for _ in range(200):
        h.record(latency_ms * 1000)
    return h.data()


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Catalogue:
    """Releases, what is signed, and what the fleet wants: the world outside, which no power cut touches."""

    folder: Path
    behaviours: dict[str, dict[str, object]] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    """Versions that metadata names."""
    version: int = 1
    """Of the metadata."""
    stale: bool = False

    def add(
        self,
        version: str,
        size: int = 150_000,
        *,
        signed: bool = True,
        low_power: dict[str, object] | None = None,
        **behaviour: Any,
    ) -> None:
        """``low_power``: how another variant of it behaves; None: it has none. ``memory`` of a behaviour: what the
        bundle says that its engine takes."""
        root = make_bundle(self.folder / f"release-{version}", version=version, size=size, **behaviour)
        if low_power is not None:
            other = self.folder / f"low-{version}"
            make_bundle(
                other, version=version, size=2000, variant="low", preferences=("low-power",), **low_power
            )
            root = join_bundles(self.folder / f"joined-{version}", root, other)
        self.bundles[version] = Bundle(root)
        if signed:
            self.signed.add(version)

    def installed(self, version: str) -> Installed:
        b = self.bundles[version]
        return Installed(release=f"gate-detector@{version}", bundle=b.digest, manifest=b.variants[0].digest)

    def wish(
        self, version: str, attempt: int = 1, policy: Policy = POLICY, expires_s: float | None = None
    ) -> DesiredSlot:
        release = f"gate-detector@{version}"
        return DesiredSlot(
            release=release,
            digest=self.bundles[version].digest,
            attempt=attempt,
            policy=policy,
            expires_s=expires_s,
        )

    def of_bundle(self, digest: str) -> str:
        return next(v for v, b in self.bundles.items() if b.digest == digest)


@dataclass
class _Trust:
    device: Device

    def check(self, release: str, digest: str) -> Descriptor:
        return self.device.check_trust(release, digest)


@dataclass
class Device:
    folder: Path
    world: Catalogue
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    now_s: float = 1000.0
    wall_s: float = 1_800_000_000.0
    loss: float = 0.0
    frozen: bool = False
    effect: Callable[[str], None] = lambda what: None
    """Called before each thing that is done to the world outside the disk; may raise PowerCut, or change
    what is wanted."""
    fail: dict[str, Exception] = field(default_factory=dict)
    """Effect → what it raises, once it is done."""
    during: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    """Effect → what else happens at that moment, once."""
    floor: int = 0
    """The highest version of signed metadata that the journal had accepted."""
    seen: list[tuple[int, int, State]] = field(default_factory=list)
    """(gen, attempt, state) as reported, repeats left out, over all starts."""
    waits: list[tuple[State, str | None]] = field(default_factory=list)
    """What it waited for: state and stage."""
    waiting: Callable[[], None] | None = None
    """Called whenever it waits."""
    serving: EngineRef | None = None
    standby: EngineRef | None = None
    retained: tuple[int, int] | None = None
    """Generation and number of a wish to clear the slot, as the broker keeps it."""
    lighter: tuple[LighterPreference, ...] = ()
    """Variants that the device's configuration asks for beside that of each release."""
    room: MemoryRoom = field(default_factory=MemoryRoom)
    """What is free of memory; as it is, nobody knows."""
    places: tuple[int, int] = (1, 0)
    """Worker processes that open its engine: running ones, and new ones."""
    beside: list[str] = field(default_factory=list)
    """Manifests of other engines that new ones open, too."""
    took: EngineMemory | None = None
    """What a warm-up found that an engine takes."""
    repaired: bool = False
    """A committed engine was found damaged: its wish is deployed once more."""

    # ---- life

    def boot(self) -> Device:
        """Start the agent on what is in the folder."""
        self.serving = self.standby = None
        self.journal = Journal(self.folder / "journal.db")
        with contextlib.suppress(StorageError):
            self.journal.next_epoch()
        if (kept := self.journal.value("floor:targets.json")) < self.floor:
            raise Violation(f"the version floor sank from {self.floor} to {kept}")
        self.store = Store(self.folder / "store", reserve=0)
        over = check_slots(self.journal, self.store, (SLOT,)).skipped.get(SLOT)
        self.frozen = self.frozen or self.journal.frozen
        self.live = HealthBook()
        self.leases = Leases(self.journal, lambda: self.now_s)
        self.gate = MemoryGate(lambda gpu: self.room, 0)
        active = self.journal.slot(SLOT).active
        if over is not None:
            active = over.instead
        if active is not None:
            self._start(engine_ref(self.store, active))
        context = DeployerDependencies(
            journal=self.journal,
            store=self.store,
            trust=_Trust(self),
            fetcher=self,
            warm_up=self._warm_up,
            pipelines=self,
            live=self.live,  # type: ignore[arg-type]
            frozen=lambda: self.frozen,
            changed=self._changed,
            disk=threading.Lock(),
            leases=self.leases,
            lighter={SLOT: self.lighter},
            memory=self.gate,
            clock=lambda: self.now_s,
            wall=lambda: self.wall_s,
            local=self._local,
            wait=self._wait,
        )
        self.deployer = SlotDeployer(SLOT, context)
        self._changed()
        self.deployer.recover()
        return self

    def off(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()

    def restart(self, slot: str) -> None:
        """A worker of its own anew, with what the record says."""
        self._do("restart")
        self.serving = self.standby = None

    def want(self, version: str, gen: int, attempt: int = 1, **more: object) -> None:
        self.deployer.want(gen, self.world.wish(version, attempt, **more), False)  # type: ignore[arg-type]

    def clear(self, gen: int, number: int = 1) -> None:
        self.retained = gen, number
        self.deployer.want(gen, ClearSlot(number=number), False)

    @property
    def state(self) -> State:
        return self.deployer.report().state

    @property
    def resting(self) -> bool:
        """Nothing is under way and nothing is wanted that is not done."""
        return self.state not in WORKING and not self.deployer._has_news()

    def run(self, until: Callable[[], bool] | None = None) -> State:
        """Let it work until it rests, or ``until``; a state that outlasts every deadline is a violation."""
        started = self.now_s
        for _ in range(200_000):
            if until() if until is not None else self.resting:
                return self.state
            self.deployer.turn()
            if self.now_s - started > _STUCK_S:
                break
        raise Violation(f"stuck in {self.state.value} at stage {self.deployer.report().stage!r}")

    # ---- what must hold at any moment

    def check(self) -> None:
        """The promises that can be looked at while it runs."""
        slot = self.journal.slot(SLOT)
        if slot.active is not None:
            version = self.world.of_bundle(slot.active.bundle)
            expected = self.world.installed(version)
            if (slot.active.manifest, slot.active.release) != (expected.manifest, expected.release):
                raise Violation(f"mixed: {slot.active}")
            if why := damage(self.store, slot.active):
                raise Violation(f"active engine is not whole: {why}")
            if version not in self.world.signed:
                raise Violation(f"{version} serves and is not signed")

    def check_rest(self) -> None:
        """And once it rests."""
        self.check()
        slot = self.journal.slot(SLOT)
        serves = self.serving.manifest if self.serving else None
        if serves is None and self.state is State.DEGRADED:
            # what is left does not start; it is tried again and again
            return
        if serves != (slot.active.manifest if slot.active else None):
            raise Violation(f"{serves} serves, the record says {slot.active}")
        d = self.journal.deployment(SLOT)
        if d is not None and d.state is State.CLEARED and (slot != Slot() or self.serving is not None):
            raise Violation(f"cleared, but {slot} is on record and {serves} serves")
        if (
            d is not None
            and d.state is State.COMMITTED
            and slot.active is not None
            and slot.active.bundle != d.brings.digest
        ):
            raise Violation("committed, but another engine serves")
        if d is not None and d.state in WORKING:
            raise Violation(f"{d.state.value} is no rest")

    # ---- trust

    def check_trust(self, release: str, digest: str) -> Descriptor:
        self._do("check")
        if self.world.stale:
            raise StaleTrust("expired")
        floor = self.journal.value("floor:targets.json")
        if self.world.version < floor:
            raise TrustError(
                f"targets have version {self.world.version}, this device has already seen {floor}"
            )
        self.journal.raise_floor("floor:targets.json", self.world.version)
        self.floor = max(self.floor, self.world.version)
        version = release.partition("@")[2]
        if version not in self.world.signed or self.world.bundles[version].digest != digest:
            raise TrustError(f"signed metadata does not name release {release}")
        return Descriptor(
            mediaType=MEDIA_INDEX,
            digest=digest,
            size=(self.world.bundles[version].root / "index.json").stat().st_size,
        )

    # ---- the network

    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        prefer: Preference | None = None,
        lighter: Collection[LighterPreference] = (),
        unfit: Unfit = lambda variant: None,
    ) -> Fetched:
        self._do("fetch")
        bundle = self.world.bundles[release.partition("@")[2]]
        selected = bundle.select_fitting(frozenset(), prefer=prefer, unfit=unfit)
        own = selected.variant
        self._receive(index, (bundle.root / "index.json").read_bytes(), cancelled)
        self._receive_variant(bundle, own, cancelled)
        brought = []
        for name in lighter:
            found = [v for v in bundle.variants[1:] if name in v.config.preferences]
            for v in found:
                self._receive_variant(bundle, v, cancelled)
            manifest = found[0].digest if found else None
            brought.append(
                LighterEngine(preference=name, manifest=manifest, why=None if found else "there is none")
            )
        self._do("fetched")
        i = Installed(release=release, bundle=bundle.digest, manifest=own.digest)
        asked = {
            "preference": prefer,
            "lighter": tuple(brought),
            "passed_over": tuple(selected.passed_over.items()),
        }
        return Fetched(i.model_copy(update=asked), i)

    def _receive_variant(self, bundle: Bundle, v: Variant, cancelled: Callable[[], bool]) -> None:
        entry = (bundle.blobs / hex_of(v.digest)).stat().st_size
        manifest = Descriptor(mediaType=MEDIA_MANIFEST, digest=v.digest, size=entry)
        for blob in (manifest, *v.descriptors()):
            self._receive(blob, (bundle.blobs / hex_of(blob.digest)).read_bytes(), cancelled)

    def _receive(self, blob: Descriptor, data: bytes, cancelled: Callable[[], bool]) -> None:
        """As the real fetcher does it, with frames that come as they like."""
        if self.store.holds(blob):
            return
        part, receiver = self.store.part(blob), Receiver(blob, self.now_s, epoch=1)
        try:
            hashes = chunk_hashes(data)
            pages = [p.encode() for p in pages_of(blob.digest, blob.size, hashes)]
            resumed = False
            for _ in range(10_000):
                if cancelled():
                    raise Cancelled
                if receiver.complete:
                    try:
                        part.finish()
                        return
                    except IntegrityError:
                        part.reset()
                        receiver.forget(self.now_s)
                messages = [(True, p) for p in pages]
                size = 65536
                messages += [
                    (False, encode_frame(blob.digest, i, data[i * size : (i + 1) * size]))
                    for i in sorted(receiver.missing)
                ]
                for is_page, message in self._through_the_air(messages):
                    try:
                        self._take(receiver, part, is_page, message)
                    except (IntegrityError, ProtocolError):
                        continue
                    if receiver.hashes is not None and not resumed:
                        resumed = True
                        for at, left in part.chunks():
                            receiver.accept(at, left)
                self.now_s += 0.5
            raise Violation("the transfer does not end")
        finally:
            part.close()

    def _take(self, receiver: Receiver, part: object, is_page: bool, message: bytes) -> None:
        if is_page:
            whole = receiver.on_page(message)
            if whole is not None:
                part.write(0, whole)  # type: ignore[attr-defined]
        elif chunk := receiver.on_frame(message):
            part.write(*chunk)  # type: ignore[attr-defined]

    def _through_the_air(self, messages: list[tuple[bool, bytes]]) -> list[tuple[bool, bytes]]:
        if not self.loss:
            return messages
        c, arrived = self.chance, []
        for is_page, m in messages:
            for _ in range(1 + (c.random() < self.loss)):
                if c.random() >= self.loss:
                    if c.random() < self.loss:
                        at = c.randrange(len(m))
                        m = m[:at] + bytes([m[at] ^ 1 << c.randrange(8)]) + m[at + 1 :]
                    arrived.append((is_page, m))
        c.shuffle(arrived)
        return arrived

    # ---- engines

    def _warm_up(
        self, blobs: Path, manifest: str, *, runs: int, timeout_s: float, cache: Path | None
    ) -> Warm:
        self._do("warm")
        told = behaviour_of(blobs, manifest)
        if told.get("warm_hangs"):
            self.now_s += timeout_s
            return Warm(False, error="warming the engine up took too long")
        return (
            Warm(memory=self.took)
            if told.get("warm", True)
            else Warm(False, error="output y differs from golden")
        )

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        self._do("shadow")
        self._verified(ref)
        told = behaviour_of(ref.blobs, ref.manifest)
        self.now_s += 5.0
        if told.get("shadow_hangs"):
            while not cancelled():
                self.now_s += 60.0
            raise EngineError("the stream has not seen enough frames")
        matched = int(100 * float(told.get("agreement", 1.0)))  # type: ignore[arg-type]
        return [
            Shadowed(
                stream="yard",
                part="detector",
                manifest=ref.manifest,
                frames=100,
                matched=matched,
                found=200,
                errors=0,
                old_ms=5,
                new_ms=5,
            )
        ]

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        self._do(f"ensure {self.world.of_bundle(ref.bundle) if ref else None}")
        if ref is None:
            self.serving = None
            return
        told = behaviour_of(ref.blobs, ref.manifest)
        if told.get("swap_hangs"):
            self.now_s += timeout_s
            raise EngineError("the stream did not take the engine in time")
        if not told.get("swap", True):
            raise EngineError("the engine does not open")
        self._start(ref)
        self._do("swapped")

    def commit(self, slot: str) -> None:
        self._do("commit")
        self.standby = None

    def processes(self, slot: str) -> tuple[int, int]:
        return self.places

    def opened_with(self, slot: str) -> list[str]:
        return self.beside

    def idle(self, slot: str) -> bool:
        self._report_frames()
        return False

    def _start(self, ref: EngineRef) -> None:
        self._verified(ref)
        if self.serving is not None and self.serving != ref:
            self.standby = self.serving
        self.serving = ref

    def _verified(self, ref: EngineRef) -> None:
        version = self.world.of_bundle(ref.bundle)
        if version not in self.world.signed:
            raise Violation(f"an engine that nobody signed is started: {version}")
        for manifest in (ref.manifest, *ref.lighter.values()):
            i = Installed(release=ref.release, bundle=ref.bundle, manifest=manifest)
            if why := damage(self.store, i):
                raise Violation(f"an engine that is not whole is started: {why}")
        for name, manifest in ref.lighter.items():
            if not behaviour_of(ref.blobs, manifest).get("warm", True):
                raise Violation(f"a {name} variant is started that did not pass its warm-up")

    def _report_frames(self) -> None:
        """A window of the engine that serves."""
        if self.serving is None:
            return
        told = behaviour_of(self.serving.blobs, self.serving.manifest)
        stats = StreamStats(
            kind="surveillance",
            slots={"detector": self.serving.bundle},
            stages={ENGINE_STAGE: _frames(float(told["latency_ms"]))},
            frames=Frames(processed=int(self.now_s * 100)),
            errors=int(self.now_s * 100) if told.get("errors") else 0,
        )
        if not told.get("hang"):
            self.live.record(
                "yard", Stats(stream="yard", window_s=1, stats=stats, rss_mb=1, cpu_s=1), {"detector": SLOT}
            )
        if told.get("crash"):
            self.deployer.crash_loop()

    # ---- plumbing

    def _do(self, what: str) -> None:
        for happens in self.during.pop(what, []):
            happens()
        self.effect(what)
        if what in self.fail:
            raise self.fail[what]

    def _local(self) -> datetime:
        return datetime(2026, 11, 23) + timedelta(seconds=self.now_s)  # noqa: DTZ001

    def _wait(self, condition: threading.Condition, seconds: float) -> None:
        """Time passes; in states that last for days it passes faster."""
        self._report_frames()
        state = self.deployer.report().state
        passes = max(seconds, _FAST.get(state, 0.0))
        self.now_s += passes
        self.wall_s += passes
        self.waits.append((state, self.deployer.report().stage))
        if self.waiting is not None:
            self.waiting()

    def _changed(self) -> None:
        d = self.journal.deployment(SLOT)
        if d is None:
            return
        wish = d.desired
        now = (d.gen, wish.number if isinstance(wish, ClearSlot) else wish.attempt, d.state)
        if not self.seen or self.seen[-1] != now:
            self._monotonic(now)
            self.seen.append(now)

    def _monotonic(self, now: tuple[int, int, State]) -> None:
        """One end for each (generation, attempt); only what serves may still be lost after it."""
        ends = [s for g, a, s in self.seen if (g, a) == now[:2] and s in TERMINAL]
        if ends and now[2] is not State.DEGRADED and now[2] is not ends[-1] and not self.repaired:
            raise Violation(f"{now[2].value} is reported after {ends[-1].value} for the same wish")
