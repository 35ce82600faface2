"""A simulated fleet for the planner: devices that do what they are told, or what a test says."""

from __future__ import annotations

from dataclasses import replace

from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, DesiredSlot, Failure, ReportedSlot
from edgectl.fleet.rollouts.planner import (
    DeviceOutcome,
    DeviceView,
    GateEvidence,
    RolloutProgress,
    RolloutSpec,
    SetSlot,
    desired_back,
)
from edgectl.fleet.rollouts.takeback import abort, advance, rollback, skip

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BEFORE = DesiredSlot(release="m@1", digest=OLD)
BACK = desired_back(BEFORE)
"""What is wanted of a device that is to go back: the same, with nothing that would compare it."""
SPEC = RolloutSpec(id="r", release="m@2", digest=NEW, slot="gate", canary=2, soak_s=10, deadline_s=1000)


class SimulatedFleet:
    """``n`` devices that run release 1, and a rollout of release 2."""

    def __init__(self, n: int, spec: RolloutSpec = SPEC) -> None:
        self.spec = spec
        self.now = 1000.0
        self.progress = RolloutProgress()
        self.views = {f"d{i}": self.view(f"d{i}") for i in range(n)}
        self.log: list[SetSlot] = []

    def view(self, name: str) -> DeviceView:
        reported = ReportedSlot(state=State.COMMITTED, gen=1, release="m@1", digest=OLD, active=OLD)
        return DeviceView(
            name,
            True,
            self.now,
            frozenset({"gate"}),
            {"site": "a"},
            {"gate": BEFORE},
            {"gate": reported},
            gen=1,
        )

    def step(self, evidence: GateEvidence | None = None, dt: float = 1.0) -> list[SetSlot]:
        self.now += dt
        self.progress, actions = advance(self.spec, self.progress, self.views, self.now, evidence)
        return self.act(actions)

    def act(self, actions: list[SetSlot]) -> list[SetSlot]:
        for a in actions:
            v = self.views[a.device]
            empty = isinstance(a.desired, ClearSlot)
            wishes = {
                "desired": {} if empty else {"gate": a.desired},
                "clear": {"gate": a.desired} if empty else {},
            }
            self.views[a.device] = replace(v, **wishes, gen=v.gen + 1)  # type: ignore[arg-type]
        self.log += actions
        return actions

    def abort(self) -> list[SetSlot]:
        self.progress, actions = abort(self.spec, self.progress, self.views)
        return self.act(actions)

    def rollback(self) -> list[SetSlot]:
        self.progress, actions = rollback(self.spec, self.progress, self.views)
        return self.act(actions)

    def skip(self, name: str) -> list[SetSlot]:
        self.progress, actions = skip(self.spec, self.progress, name, self.views.get(name))
        return self.act(actions)

    def off(self, name: str) -> None:
        self.views[name] = replace(self.views[name], online=False, seen_s=self.now)

    def on(self, name: str) -> None:
        self.views[name] = replace(self.views[name], online=True, seen_s=self.now)

    def empties(self, name: str) -> None:
        """It had nothing before, and says that it is empty again."""
        v = self.views[name]
        self.views[name] = replace(
            v, reported={"gate": ReportedSlot(state=State.CLEARED, gen=v.gen)}, seen_s=self.now
        )

    def outcome(self, name: str) -> DeviceOutcome:
        return self.progress.members[name].outcome

    def report(
        self, name: str, state: State, digest: str = NEW, error: str | None = None, *, retryable: bool = False
    ) -> None:
        v = self.views[name]
        wish = v.desired["gate"]
        active = digest if state in (State.COMMITTED, State.PROBATION) else OLD
        failure = Failure(code="health", detail=error, retryable=retryable) if error else None
        r = ReportedSlot(
            state=state, gen=v.gen, release=wish.release, digest=wish.digest, active=active, error=failure
        )
        self.views[name] = replace(v, reported={"gate": r}, seen_s=self.now)

    @property
    def admitted(self) -> set[str]:
        return {n for n, m in self.progress.members.items() if m.admitted_s is not None}
