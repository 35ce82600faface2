"""What the deployer calls, as doubles: trust, fetcher, warm-up, pipelines; the store and the journal are
real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from support.bundle import make_bundle
from support.fleet import wait_until

from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Installed
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Cancelled, FetchProgress
from edgectl.agent.transfer.fetch import Fetched
from edgectl.core.bundle import MEDIA_INDEX, Bundle, Descriptor, LighterPreference, Preference, Unfit
from edgectl.core.errors import EdgectlError
from edgectl.core.files import hex_of
from edgectl.core.memory import EngineMemory
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot, Frames, Policy, ShadowGate, StreamStats
from edgectl.pipelines.host.protocol import EngineRef, Shadowed, Stats

POLICY = Policy(probation_s=0.2, min_inferences=1, percentile=50, max_latency_ratio=None)


@dataclass
class Warm:
    ok: bool = True
    p50_ms: float | None = 1.0
    error: str | None = None
    code: str | None = None
    memory: EngineMemory | None = None
    golden: float | None = None
    golden_least: float | None = None


@dataclass
class World:
    """Everything the deployer talks to. ``fail[state]`` is raised there; ``hold[state]`` blocks there
    until it is set."""

    folder: Path
    fail: dict[str, EdgectlError] = field(default_factory=dict)
    hold: dict[str, threading.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    serving: Installed | EngineRef | None = None
    healthy: bool = True
    frozen: bool = False
    prefer: dict[str, Preference] = field(default_factory=dict)
    made_room: threading.Event = field(default_factory=threading.Event)
    made_way: list[list[str]] = field(default_factory=list)
    """What had been called each time."""
    warm: Warm = field(default_factory=Warm)
    shadowed: list[Shadowed] = field(default_factory=list)
    seen: list[State] = field(default_factory=list)
    told: Deployment | None = None
    """What the record said when the deployer last told of a change: the record itself is written a moment
    before."""

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store", reserve=0)
        self.bundles = {
            v: Bundle(make_bundle(self.folder / v, version=v, size=3000)) for v in ("1", "2", "3")
        }
        self.journal = Journal(self.folder / "j.db")
        self.live = HealthBook()
        self.deployer = self.boot()

    def boot(self) -> SlotDeployer:
        context = DeployerDependencies(
            journal=self.journal,
            store=self.store,
            trust=self,
            fetcher=self,
            warm_up=self.warm_up,
            pipelines=self,
            live=self.live,  # type: ignore[arg-type]
            frozen=lambda: self.frozen,
            changed=self.changed,
            disk=threading.Lock(),
            prefer=self.prefer,
            leases=Leases(self.journal),
            engine_cache=self.folder / "engines",
            make_room=self.made_room.set,
            make_way=lambda: self.made_way.append(list(self.calls)),
        )
        self.deployer = SlotDeployer("gate", context)
        return self.deployer

    def changed(self) -> None:
        state = self.deployer.report().state
        if not self.seen or self.seen[-1] is not state:
            self.seen.append(state)
        self.told = self.journal.deployment("gate")

    def enter(self, what: str) -> None:
        self.calls.append(what)
        if what in self.hold:
            assert self.hold[what].wait(20)
        if what in self.fail:
            raise self.fail[what]

    # trust, fetcher, warm-up, pipelines

    def check(self, release: str, digest: str) -> Descriptor:
        self.enter("check")
        return Descriptor(mediaType=MEDIA_INDEX, digest=digest, size=1)

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
        self.calls.append("fetch")
        while "fetch" in self.hold and not self.hold["fetch"].is_set():
            if cancelled():
                raise Cancelled
            self.hold["fetch"].wait(0.02)
        if "fetch" in self.fail:
            raise self.fail["fetch"]
        bundle = next(b for b in self.bundles.values() if b.digest == index.digest)
        v = bundle.variants[0]
        for digest in (v.digest, *(d.digest for d in v.descriptors())):
            self.store.put(digest, (bundle.blobs / hex_of(digest)).read_bytes())
        i = Installed(release=release, bundle=bundle.digest, manifest=v.digest, preference=prefer)
        return Fetched(i, i)

    def warm_up(self, blobs: Path, manifest: str, *, runs: int, timeout_s: float, cache: Path | None) -> Warm:
        self.enter("warm")
        return self.warm

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        self.enter(f"ensure {ref.release if ref else None}")
        self.serving = ref

    def commit(self, slot: str) -> None:
        self.calls.append("commit")

    def restart(self, slot: str) -> None:
        self.calls.append("restart")

    def processes(self, slot: str) -> tuple[int, int]:
        return 1, 0

    def opened_with(self, slot: str) -> list[str]:
        return []

    def idle(self, slot: str) -> bool:
        if self.serving is not None and isinstance(self.serving, EngineRef):
            s = StreamStats(
                kind="surveillance", slots={"detector": self.serving.bundle}, frames=Frames(processed=1)
            )
            self.live.record(
                "yard", Stats(stream="yard", window_s=1, stats=s, rss_mb=1, cpu_s=1), {"detector": "gate"}
            )
        return self.healthy

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        self.enter("shadow")
        return self.shadowed

    def store_blobs(self, *versions: str) -> None:
        for v in versions:
            self.fetch(
                v,
                Descriptor(mediaType="x", digest=self.bundles[v].digest, size=1),
                lambda: False,
                lambda _: None,
            )

    def start(self) -> None:
        self.deployer.thread.start()

    def stop(self) -> None:
        self.deployer.stop()
        for event in self.hold.values():
            event.set()
        if self.deployer.thread.ident is not None:
            self.deployer.thread.join(20)
            assert not self.deployer.thread.is_alive()

    def want(self, version: str, gen: int, attempt: int = 1, policy: Policy = POLICY) -> None:
        wish = DesiredSlot(
            release=f"gate-detector@{version}",
            digest=self.bundles[version].digest,
            attempt=attempt,
            policy=policy,
        )
        self.deployer.want(gen, wish, False)

    def ends(self, gen: int) -> State:
        def ended() -> State | None:
            d = self.told
            return d.state if d is not None and d.gen >= gen and d.state in TERMINAL else None

        state: State = wait_until(ended, f"generation {gen} comes to an end", 20)
        return state

    @property
    def active(self) -> str | None:
        i = self.journal.slot("gate").active
        return i.release if i else None

    def installed(self, version: str) -> Installed:
        b = self.bundles[version]
        return Installed(release=f"gate-detector@{version}", bundle=b.digest, manifest=b.variants[0].digest)
