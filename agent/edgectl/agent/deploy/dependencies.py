"""What a slot's deployer depends on, as interfaces that tests can replace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Installed
from edgectl.agent.state.store import Store
from edgectl.agent.streams.set_engines import PartRef, SetRef
from edgectl.agent.transfer.download import FetchProgress
from edgectl.agent.transfer.fetch import Fetched, WantedPart
from edgectl.agent.trust.store import TrustStore
from edgectl.core.bundle import Descriptor, LighterPreference, Preference, Unfit
from edgectl.core.bundle.config_release import ConfigRelease
from edgectl.core.memory import EngineMemory
from edgectl.core.wire import ShadowGate
from edgectl.pipelines.host.protocol import EngineRef, Shadowed

__all__ = [
    "DeployerDependencies",
    "EngineProcesses",
    "Fetch",
    "Pipelines",
    "WarmUp",
    "WarmUpReport",
    "engine_ref",
]


class WarmUpReport(Protocol):
    """What :func:`edgectl.engines.finalise.trial.warm_up` returns."""

    @property
    def ok(self) -> bool: ...
    @property
    def p50_ms(self) -> float | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def code(self) -> str | None: ...
    @property
    def memory(self) -> EngineMemory | None: ...
    @property
    def golden(self) -> float | None: ...
    @property
    def golden_least(self) -> float | None: ...


class WarmUp(Protocol):
    def __call__(
        self, blobs: Path, manifest: str, *, runs: int, timeout_s: float, cache: Path | None
    ) -> WarmUpReport: ...


class EngineProcesses(Protocol):
    """Who would open an engine of a slot."""

    def processes(self, slot: str) -> tuple[int, int]: ...
    def opened_with(self, slot: str) -> list[str]: ...


class Pipelines(EngineProcesses, Protocol):
    """What the deployer asks of the supervisor."""

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None: ...
    def commit(self, slot: str) -> None: ...
    def restart(self, slot: str) -> None: ...
    def idle(self, slot: str) -> bool: ...
    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]: ...


class Fetch(Protocol):
    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        prefer: Preference | None = None,
        lighter: Collection[LighterPreference] = (),
        unfit: Unfit = ...,
    ) -> Fetched: ...
    def fetch_config(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        parts: Callable[[ConfigRelease], Collection[WantedPart]] = ...,
    ) -> Fetched: ...
    def fetch_blob(
        self, blob: Descriptor, cancelled: Callable[[], bool], progress: Callable[[FetchProgress], None]
    ) -> None: ...


@dataclass(frozen=True)
class DeployerDependencies:
    """What every slot's deployer works with. ``changed`` is called whenever there is something new to
    report."""

    journal: Journal
    store: Store
    trust: TrustStore
    fetcher: Fetch
    warm_up: WarmUp
    pipelines: Pipelines
    live: HealthBook
    frozen: Callable[[], bool]
    changed: Callable[[], None]
    disk: threading.Lock
    """Held while blobs are fetched or tidied away."""
    leases: Leases
    warm_runs: int = 32
    engine_cache: Path | None = None
    """Folder of finalised engines: TensorRT plans, optimised files."""
    prefer: Mapping[str, Preference] = field(default_factory=dict)
    """Slot → which variant of a release it prefers; a slot that is not named takes the fast one."""
    lighter: Mapping[str, Collection[LighterPreference]] = field(default_factory=dict)
    """Slot → which other variants of a release come along, for less work."""
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    local: Callable[[], datetime] = datetime.now
    """The device's local time, for maintenance windows."""
    memory: MemoryGate = field(default_factory=MemoryGate)
    """What is free of memory, and what is promised of it; unless it is told how to read that, nothing is refused."""
    make_room: Callable[[], object] = lambda: None
    """Called when the disk does not take what a deployment has to write down."""
    make_way: Callable[[], object] = lambda: None
    """Called before anything is fetched: what is on this device only as long as nothing is deployed has gone when it
    returns."""
    wait: Callable[[threading.Condition, float], object] = threading.Condition.wait
    """How a deployer waits, holding the condition, for at most so many seconds."""
    set_of: Callable[[str], str | None] = lambda slot: None
    """Slot of an engine → the set that it belongs to, in words; None: to none."""

    def ref(self, installed: Installed) -> EngineRef:
        return engine_ref(self.store, installed)


def engine_ref(store: Store, installed: Installed) -> EngineRef:
    """Where an installed engine lies, for the workers; of a set a :class:`SetRef`."""
    if installed.parts:
        return SetRef(
            blobs=store.blobs,
            manifest=installed.manifest,
            release=installed.release,
            bundle=installed.bundle,
            parts=tuple(
                PartRef(part=one.part, slot=one.slot, engine=engine_ref(store, one.engine))
                for one in installed.parts
            ),
        )
    return EngineRef(
        blobs=store.blobs,
        manifest=installed.manifest,
        release=installed.release,
        bundle=installed.bundle,
        lighter={one.preference: one.manifest for one in installed.lighter if one.manifest is not None},
    )
