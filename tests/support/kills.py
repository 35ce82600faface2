"""Deployments that are cut anywhere, and what must hold once the device is on again. Used by the tests and
by ``bench/kill_anywhere.py``."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.device import POLICY, SLOT, Catalogue, Device, Violation
from support.power import Disk, PowerCut

from edgectl.core.errors import EngineError
from edgectl.core.files import hex_of
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import ShadowGate

__all__ = ["SCENARIOS", "Kills", "Scenario"]


@dataclass(frozen=True)
class Scenario:
    """Version 1 serves (0 before it); then this happens (``clear``: the slot is to be empty). ``ends``:
    how it may end without a cut; with cuts, also as ``ends_cut`` says."""

    wishes: tuple[str, ...]
    ends: frozenset[State]
    prepare: Callable[[Device], None] = lambda device: None
    """Before each start: what the device finds."""
    damage: Callable[[Path, random.Random, Catalogue], None] | None = None
    """Once, before the first start."""
    shadow: bool = False
    windows: tuple[str, ...] = ()
    loss: float = 0.0


def _previous_is_broken(device: Device) -> None:
    """The factory engine of this world is the same variant, so nothing is left to go back to but version 1
    itself."""
    device.fail["ensure 1"] = EngineError("the camera exploded")


def _cancel_while_warming(device: Device) -> None:
    device.during["warm"] = [lambda: device.deployer.order("cancel") and None]


def _cancel_when_swapped(device: Device) -> None:
    device.during["swapped"] = [lambda: device.deployer.order("cancel") and None]


def _supersede(device: Device) -> None:
    device.during["warm"] = [lambda: device.want("3", 50)]


def _cleared_when_swapped(device: Device) -> None:
    device.during["swapped"] = [lambda: device.clear(50)]


def _cleared_while_warming(device: Device) -> None:
    device.during["warm"] = [lambda: device.clear(50)]


def _rotten(folder: Path, chance: random.Random, world: Catalogue) -> None:
    """One blob of the active engine has lost a bit."""
    v = world.bundles["1"].variants[0]
    digest = chance.choice([v.digest, *(d.digest for d in v.descriptors())])
    path = folder / "store" / "blobs" / hex_of(digest)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _damaged_journal(folder: Path, chance: random.Random, _: Catalogue) -> None:
    for path in folder.glob("journal.db*"):
        data = bytearray(path.read_bytes())
        if data:
            at = chance.randrange(len(data))
            data[at : at + 600] = chance.randbytes(len(data[at : at + 600]))
            path.write_bytes(data)


_ROLLED = frozenset({State.ROLLED_BACK})
_CLEARED = frozenset({State.CLEARED})
SCENARIOS: dict[str, Scenario] = {
    "good": Scenario(("2",), frozenset({State.COMMITTED})),
    "good over a bad network": Scenario(("2",), frozenset({State.COMMITTED}), loss=0.15),
    "good after shadow": Scenario(("2",), frozenset({State.COMMITTED}), shadow=True),
    "good in its window": Scenario(("2",), frozenset({State.COMMITTED}), windows=("daily 03:00-04:00",)),
    "two in a row": Scenario(("2", "3"), frozenset({State.COMMITTED})),
    "disagrees in shadow": Scenario(("other",), frozenset({State.FAILED}), shadow=True),
    "differs from golden": Scenario(("cold",), frozenset({State.FAILED})),
    "does not open": Scenario(("stuck",), _ROLLED),
    "crashes": Scenario(("crash",), _ROLLED),
    "too slow": Scenario(("slow",), _ROLLED),
    "hangs": Scenario(("hang",), _ROLLED),
    "crashes, and the previous one does not open": Scenario(
        ("crash",), frozenset({State.DEGRADED}), prepare=_previous_is_broken
    ),
    "update after a rollback": Scenario(("crash", "2"), frozenset({State.COMMITTED})),
    "unsigned": Scenario(("rogue",), frozenset({State.REJECTED})),
    "canceled": Scenario(("2",), frozenset({State.CANCELED}), prepare=_cancel_while_warming),
    "canceled after the switch": Scenario(("2",), _ROLLED, prepare=_cancel_when_swapped),
    "superseded": Scenario(("2",), frozenset({State.COMMITTED}), prepare=_supersede),
    "cleared": Scenario(("clear",), _CLEARED),
    "cleared on trial": Scenario(("2",), _CLEARED, prepare=_cleared_when_swapped),
    "cleared on the way": Scenario(("2",), _CLEARED, prepare=_cleared_while_warming),
    "cleared and filled again": Scenario(("clear", "2"), frozenset({State.COMMITTED})),
    "cleared with a rotten engine": Scenario(("clear",), _CLEARED, damage=_rotten),
    "cleared with a damaged journal": Scenario(("clear",), _CLEARED, damage=_damaged_journal),
    "rotten active engine": Scenario((), frozenset({State.COMMITTED}), damage=_rotten),
    "damaged journal": Scenario(("2",), frozenset({State.COMMITTED}), damage=_damaged_journal),
}


@dataclass
class Kills:
    """Runs scenarios below ``folder`` (best in memory) and counts."""

    folder: Path
    by_state: Counter[str] = field(default_factory=Counter)
    by_operation: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    runs: int = 0
    _lengths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        w = self.world = Catalogue(self.folder)
        w.add("0")
        w.add("1", low_power={})
        w.add("2", low_power={})
        w.add("3", low_power={"warm": False})
        w.add("rogue", signed=False)
        w.add("cold", warm=False)
        w.add("stuck", swap=False)
        w.add("crash", crash=True)
        w.add("hang", hang=True)
        w.add("slow", latency_ms=50.0)
        w.add("other", agreement=0.4)
        self.template = self.folder / "template"
        device = Device(self.template, w, lighter=("low-power",)).boot()
        for gen, version in enumerate(("0", "1"), 1):
            device.want(version, gen)
            device.run()
        device.check_rest()
        device.off()

    def length(self, name: str) -> int:
        """Operations of a scenario that nothing cuts; it must end as it says."""
        if name not in self._lengths:
            self._lengths[name] = self.run(name, random.Random(0), [])
        return self._lengths[name]

    def run(self, name: str, chance: random.Random, cuts: list[int], *, kill: bool = False) -> int:
        """One scenario with a cut at each of these operations of its starts, then in peace to its end.
        Returns operations of the last."""
        scenario = SCENARIOS[name]
        here = self.folder / "run-0"
        for old in self.folder.glob("run-*"):
            shutil.rmtree(old)
        shutil.copytree(self.template, here)
        if scenario.damage is not None:
            scenario.damage(here, chance, self.world)
        past = Device(here, self.world)
        self.runs += 1
        for i, cut_at in enumerate([*cuts, None]):
            there = self.folder / f"run-{i + 1}"
            disk = Disk(here, chance, cut_at=cut_at, into=there, kill=kill)
            device = Device(
                here,
                self.world,
                chance,
                now_s=past.now_s,
                loss=scenario.loss,
                seen=past.seen,
                floor=past.floor,
                lighter=("low-power",),
            )
            device.retained = past.retained
            device.repaired = scenario.damage is not None
            device.effect = disk.operation
            try:
                with disk:
                    self._play(device, scenario)
            except PowerCut:
                self.kills += 1
                self.by_state[device.state.value if hasattr(device, "deployer") else "starting"] += 1
                self.by_operation[disk.done[-1].split()[0]] += 1
                device.off()
                here, past = there, device
                continue
            self._judge(device, scenario, bool(cuts))
            device.off()
            return len(disk.done)
        raise AssertionError("unreachable")

    def _play(self, device: Device, scenario: Scenario) -> None:
        device.boot()
        scenario.prepare(device)
        policy = POLICY.model_copy(
            update={"shadow": ShadowGate() if scenario.shadow else None, "windows": scenario.windows}
        )
        done = device.journal.deployment(SLOT)
        for gen, version in enumerate(scenario.wishes, 10):
            if done is not None and done.gen > gen:
                continue
            if version == "clear":
                device.clear(gen)
            else:
                device.want(version, gen, policy=policy)
            device.run()
            device.check()
        if device.retained is not None and "clear" not in scenario.wishes:
            device.clear(*device.retained)  # the broker tells again what it keeps
        device.run()

    def _judge(self, device: Device, scenario: Scenario, was_cut: bool) -> None:
        device.check_rest()
        slot = device.journal.slot(SLOT)
        end = device.state
        self.ends[end.value] += 1
        if end is State.CLEARED and State.CLEARED in scenario.ends:
            # that nothing is left was looked at by check_rest
            return
        if slot.active is None:
            raise Violation("the slot is empty although an engine had been committed")
        version = self.world.of_bundle(slot.active.bundle)
        if State.CLEARED in scenario.ends and device.retained is not None:
            raise Violation(f"it was to be cleared and ended {end.value} with {version}")
        if end not in TERMINAL:
            raise Violation(f"the end is {end.value}")
        if not was_cut and end not in scenario.ends:
            raise Violation(f"ended {end.value}: {device.deployer.report().error}")
        if (
            was_cut
            and State.COMMITTED not in scenario.ends
            and end is State.COMMITTED
            and version in scenario.wishes
        ):
            raise Violation(f"{version} is committed although it is bad")
        if version not in ("0", "1", *scenario.wishes, "3"):
            raise Violation(f"{version} serves")
