"""The sequences of :mod:`support.rollouts` with what is real: a mosquitto that is restarted and forgets, a
controller that is restarted, agents as processes that are killed. Fewer and shorter: what they find is what
the simulation cannot know.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from conftest import free_port, start_mosquitto
from support.bundle import make_bundle
from support.fleet import POLICY, Fleet, wait_until
from support.rollouts import Untrue

from edgectl.core.errors import EdgectlError

__all__ = ["RealSequence"]

_SLOT = "gate-detector"
_ACTIVE = ("running", "paused", "rolling_back")
_OPEN = ("admitted", "retrying", "away", "lost", "returning", "late")
_END_S = 150.0


class RealSequence:
    """Two devices, three releases, ``steps`` random things; then everybody is there. Raises
    :class:`Untrue`."""

    def __init__(self, folder: Path, seed: int, steps: int = 10) -> None:
        self.folder = folder
        self.seed = seed
        self.steps = steps
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.log: list[str] = []
        self.broker = start_mosquitto(folder, free_port())
        self.fleet = Fleet(folder / "site", self.broker.port, free_port())
        self.names = ("gate-1", "gate-2")

    def run(self) -> None:
        try:
            self.fleet.start_controller()
            bundles = [make_bundle(self.folder / f"v{n}", version=f"{n}.0.0", size=20_000) for n in (1, 2, 3)]
            self.releases = [self.fleet.publish(bundle) for bundle in bundles]
            for name in self.names:
                self.fleet.enroll(name)
                self.fleet.start_agent(name)
            for _ in range(self.steps):
                self._anything()
                time.sleep(self.chance.random() * 2)  # the moment is the point
            self._end()
        except AssertionError as e:
            raise Untrue(f"seed {self.seed}: {e}\n  " + "\n  ".join(self.log)) from e
        finally:
            self.fleet.close()
            self._stop_broker()

    def _stop_broker(self) -> None:
        self.broker.process.terminate()
        self.broker.process.wait(10)

    def _anything(self) -> None:
        f = self.fleet
        op = self.chance.choice(
            (
                "start",
                "start",
                "start",
                "abort",
                "rollback",
                "rollback",
                "pause",
                "resume",
                "clear",
                "away",
                "back",
                "broker",
                "controller",
            )
        )
        name = self.chance.choice(self.names)
        rollouts = f.client.rollouts()[-2:]
        try:
            if op == "start":
                f.rollout(
                    self.chance.choice(self.releases), policy=POLICY.model_copy(update={"probation_s": 1.0})
                )
            elif op in ("abort", "rollback", "pause", "resume") and rollouts:
                f.client.change_rollout(self.chance.choice(rollouts)["id"], op)
            elif op == "clear":
                f.client.clear_slot(_SLOT, [name])
            elif op == "away" and name in f.agents:
                f.kill_agent(name)
            elif op == "back" and name not in f.agents:
                f.start_agent(name)
            elif op == "broker":
                self._stop_broker()
                self.broker = start_mosquitto(self.folder, self.broker.port)
            elif op == "controller":
                f.end_controller()
                f.start_controller()
        except EdgectlError as e:
            self.done[f"{op} refused"] += 1
            self.log.append(f"{op}: refused: {e.message}")
        else:
            self.done[op] += 1
            self.log.append(f"{op} {name}")

    def _end(self) -> None:
        for name in self.names:
            if name not in self.fleet.agents:
                self.fleet.start_agent(name)
        for r in self.fleet.client.rollouts():
            if r["state"] == "paused":
                self.fleet.client.change_rollout(r["id"], "resume")
        wait_until(lambda: not self._open(), "every rollout has ended", _END_S)
        wait_until(lambda: not self._untrue(), "what is wanted is so", 60)
        for r in self.fleet.client.rollouts():
            self.done[f"ended {r['state']}"] += 1
            self._judge(r)

    def _open(self) -> list[str]:
        return [
            f"{r['id']} {r['state']}"
            for r in self.fleet.client.rollouts()
            if r["state"] in _ACTIVE or any(m["outcome"] in _OPEN for m in r["members"].values())
        ]

    def _untrue(self) -> list[str]:
        """Devices that do not run what is wanted of them."""
        return [n for n, (wanted, active) in self._devices().items() if wanted != active]

    def _devices(self) -> dict[str, tuple[str | None, str | None]]:
        """Device → digest that is wanted, digest that the device says it runs."""
        found = {}
        for d in self.fleet.client.devices():
            wish = ((d["desired"] or {}).get("slots") or {}).get(_SLOT) or {}
            slot = ((d["reported"] or {}).get("slots") or {}).get(_SLOT) or {}
            found[d["name"]] = wish.get("digest"), slot.get("active")
        return found

    def _judge(self, r: dict[str, Any]) -> None:
        devices = self._devices()
        for name, m in r["members"].items():
            if m.get("admitted_s") is None:
                continue
            self.done[f"device {m['outcome']}"] += 1
            wanted, active = devices[name]
            before = (m.get("before") or {}).get("digest")
            what = f"{r['id']} is {r['state']} and says that {name} is {m['outcome']} ({m.get('detail')}); it runs {active}"
            if m["outcome"] not in ("committed", "restored", "superseded", "skipped"):
                raise Untrue(f"{what}, and all releases work")
            if m["outcome"] == "committed" and wanted == r["digest"] and active != wanted:
                raise Untrue(what)
            if m["outcome"] == "restored" and wanted == before and active != before:
                raise Untrue(what)
