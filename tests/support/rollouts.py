"""Random sequences of what operators, devices, broker and controller do, over the real controller and the
real deployer of each device.

In simulated time. What stands in: the broker (a dictionary), and of each device what :mod:`support.device`
names. Afterwards every rollout must have ended, in the time that its terms give it, and what it says of each
device must be true of that device.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.controller import T, World
from support.device import POLICY, SLOT, Catalogue, Device
from support.tuf import keys_in

from edgectl.core.errors import EdgectlError
from edgectl.core.signed import add_signatures
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import Conn, Desired, DesiredSlot, Failure, Reported
from edgectl.fleet.control.clearing import ClearRequest
from edgectl.fleet.keys.ceremony import KeySet, new_key
from edgectl.fleet.rollouts.planner import (
    ACTIVE,
    DeviceOutcome,
    Member,
    RolloutProgress,
    RolloutRequest,
    RolloutSpec,
    RolloutState,
)
from edgectl.fleet.rollouts.values import MaxUnavailable, Ramp, Wave
from edgectl.fleet.store.inventory import Release

__all__ = ["Sequence", "Untrue", "catalogue"]

_DEADLINE_S, _IDLE_S, _BACK_S = 2000.0, 3000.0, 1000.0
_BOUND_S = 2 * (_DEADLINE_S + _IDLE_S) + _BACK_S + 2000.0
"""Both waves, the way back, and the steps of this clock."""
_WAVES: tuple[tuple[Wave, ...], ...] = (
    (),
    (),
    (Wave(share=0.5, soak_s=50.0), Wave(share=1.0)),
    (Wave(count=1), Wave(share=1.0, approval=True)),
    (Wave(share=1.0, ramp=Ramp(start=1, every=1)),),
)
_GOOD = ("1", "2", "3")
_OPEN = frozenset(
    {
        DeviceOutcome.ADMITTED,
        DeviceOutcome.RETRYING,
        DeviceOutcome.AWAY,
        DeviceOutcome.LOST,
        DeviceOutcome.RETURNING,
        DeviceOutcome.LATE,
    }
)


class Untrue(AssertionError):
    """What a rollout says is not so, or it does not end."""


def catalogue(folder: Path) -> Catalogue:
    """Releases: three that work, one that crashes."""
    world = Catalogue(folder)
    for version in _GOOD:
        world.add(version, 3000)
    world.add("crash", 3000, crash=True)
    return world


@dataclass
class Node:
    """A device of the fleet, and how it is connected."""

    name: str
    folder: Path
    releases: Catalogue
    device: Device
    epoch: int = 0
    seq: int = 0
    online: bool = False
    powered: bool = True
    gen: int = 0
    refused: bool = False
    said: object = None
    """The slot as it was reported last; None: it has to be told."""
    instance: str | None = None
    """Of this start; only in sequences in which devices say so."""
    starts: int = 0
    copy: Conn | None = None
    """Another machine with the same identity, which says that it is there; what it runs is nobody's."""
    member: bool = True
    """It is in the fleet: not removed."""
    returned: bool = False
    """It was removed, and enrolled again."""
    trusted: bool = True
    """Its certificate is not revoked."""

    def on(self) -> None:
        self.device = Device(
            self.folder, self.releases, now_s=self.device.now_s, wall_s=self.device.wall_s
        ).boot()
        # The generation that it has seen is in its journal: an older document is refused after a restart,
        # too.
        self.powered, self.epoch, self.seq, self.starts = True, self.epoch + 1, 0, self.starts + 1

    def off(self) -> None:
        self.device.off()
        self.powered = False

    @property
    def conn(self) -> Conn:
        return Conn(
            epoch=self.epoch,
            online=True,
            slots=(SLOT,),
            instance=self.instance and f"{self.instance}-{self.starts}",
        )

    def hear(self, desired: Desired) -> None:
        """As the inbox of the agent hands it on."""
        self.refused = desired.gen < self.gen
        if self.refused:
            return
        self.gen = desired.gen
        wish = desired.slots.get(SLOT) or desired.clear.get(SLOT)
        if wish is None:
            self.device.deployer.want_nothing(desired.gen)
        else:
            self.device.deployer.want(desired.gen, wish, desired.hold)

    @property
    def active(self) -> str | None:
        active = self.device.journal.slot(SLOT).active
        return active.bundle if active else None


@dataclass
class Sequence:
    """``steps`` random things, then peace. Raises :class:`Untrue`."""

    folder: Path
    releases: Catalogue
    seed: int
    patch: pytest.MonkeyPatch
    devices: int = 3
    steps: int = 14
    done: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.operator = self.folder / "operator.pem" if self.seed % 4 == 3 else None
        """With one, nothing goes out to a device before an operator has signed it, too."""
        director = KeySet(1, 2, (new_key(self.operator),)) if self.operator is not None else None
        self.world = World(self.folder, self.patch, director)
        self.world.now = 1_800_000_000.0
        clock = SimpleNamespace(time=lambda: self.world.now, monotonic=lambda: self.world.now)
        self.patch.setattr("edgectl.fleet.control.devices.time", clock)
        self.busy_s: Counter[str] = Counter()
        self.nodes: dict[str, Node] = {}
        self.disks = 0
        for i in range(self.devices):
            folder = self.folder / f"d{i}"
            self.nodes[f"d{i}"] = node = Node(f"d{i}", folder, self.releases, Device(folder, self.releases))
            node.instance = f"d{i}" if self.seed % 2 else None
            node.on()
            self._connect(node)
        for v, bundle in self.releases.bundles.items():
            self.world.controller.inventory.save_release(
                Release(f"gate-detector@{v}", bundle.digest, (), self.world.now)
            )

    def run(self) -> None:
        try:
            for _ in range(self.steps):
                self._anything()
                self._pass(self.chance.choice((1, 5, 60, 400, 700)), self.chance.randrange(1, 6))
            self._end_with_those_who_are_there()
            self._end_copy()
            for node in self.nodes.values():
                if not (node.member and node.trusted):
                    self._enroll_again(node)
                self._back(node)
            self._settle()
            self._judge()
        except Untrue as e:
            raise Untrue(f"seed {self.seed}: {e}\n  " + "\n  ".join(self.log)) from e
        finally:
            self.world.controller.inventory.close()
            for node in self.nodes.values():
                node.device.off()

    # ---- what happens

    def _anything(self) -> None:
        name, do = self.chance.choice(
            [
                ("start", self._start),
                ("start", self._start),
                ("start", self._start),
                ("abort", lambda: self._change("abort")),
                ("rollback", lambda: self._change("rollback")),
                ("rollback", lambda: self._change("rollback")),
                ("pause", lambda: self._change("pause")),
                ("halt", lambda: self._change("halt")),
                ("approve a wave", lambda: self._change("approve")),
                ("resume", lambda: self._change("resume")),
                ("skip", self._skip),
                ("clear", self._clear),
                ("away", self._away),
                ("away", self._away),
                ("back", lambda: self._back(self._any_node())),
                ("back", lambda: self._back(self._any_node())),
                ("broker restart", self._restart_broker),
                ("controller restart", self._restart_controller),
                ("remove", self._remove),
                ("revoke", self._revoke),
                ("enroll", self._enroll),
                ("enroll", self._enroll),
                ("copy", self._copy),
                ("copy ends", self._end_copy),
                *[("approve", self._approve)] * (4 if self.operator is not None else 0),
            ]
        )
        try:
            do()
        except EdgectlError as e:
            self._note(f"{name}: refused: {e.message}")
            self.done[f"{name} refused"] += 1
        else:
            self.done[name] += 1

    def _note(self, what: str) -> None:
        self.log.append(f"{self.world.now - 1_800_000_000:.0f} s: {what}")

    def _any_node(self) -> Node:
        return self.chance.choice(list(self.nodes.values()))

    def _start(self) -> None:
        version = self.chance.choice((*_GOOD, *_GOOD, "crash"))
        some = tuple(self.chance.sample(sorted(self.nodes), self.chance.randrange(1, len(self.nodes) + 1)))
        request = RolloutRequest(
            release=f"gate-detector@{version}",
            slot=SLOT,
            devices=self.chance.choice(((), some)),
            policy=POLICY,
            canary=self.chance.choice((1, 1, 2)),
            deadline_s=_DEADLINE_S,
            idle_s=_IDLE_S,
            back_s=_BACK_S,
            waves=self.chance.choice(_WAVES),
            strata=self.chance.choice(((), ("profile",))),
            in_flight=self.chance.choice((None, 1, 2)),
            per_minute=self.chance.choice((None, 1)),
            max_unavailable=self.chance.choice((None, MaxUnavailable(share=0.3, per="profile"))),
            quorum=self.chance.choice((0.0, 0.0, 0.6)),
            total_s=self.chance.choice((None, None, 3000.0)),
            **self.chance.choice(
                ({}, {"supersede": True}, {"start_s": self.world.now + 100.0})  # type: ignore[arg-type]
            ),
            max_failure_rate=self.chance.choice((0.05, 1.0)),
            max_canary_failures=self.chance.choice((0, 0, 1)),
        )
        spec = self.world.controller.start_rollout(request)
        self._note(f"start {spec.id}: {version} to {request.devices or 'all'}, canary {request.canary}")

    def _change(self, op: str) -> None:
        rollouts = self._rollouts()
        if rollouts:
            newest = [*rollouts][-2:]
            rollout = self.chance.choice(newest)
            was = rollouts[rollout][1].state
            self.world.controller.change_rollout(rollout, op)
            self._note(f"{op} {rollout}, which was {was.value}")

    def _skip(self) -> None:
        rollouts = self._rollouts()
        if rollouts:
            rollout, device = [*rollouts][-1], self._any_node().name
            self.world.controller.skip_device(rollout, device)
            self._note(f"skip {device} in {rollout}")

    def _clear(self) -> None:
        device = self._any_node().name
        self.world.controller.clear_slot(SLOT, ClearRequest(devices=(device,)))
        self._note(f"clear {device}")

    def _approve(self) -> None:
        waiting = self.world.controller.waiting()
        if self.operator is not None and waiting:
            signers = keys_in(self.operator)
            told = self.world.controller.approve({d: add_signatures(p, signers) for d, p in waiting.items()})
            self._note(f"approved for {', '.join(told)}")

    def _remove(self) -> None:
        node = self._any_node()
        if not node.member:
            return
        self.world.controller.remove(node.name)
        node.member = False
        self._note(f"{node.name} is removed, {'and goes on speaking' if node.online else 'while it is away'}")

    def _revoke(self) -> None:
        node = self._any_node()
        if not node.member or not node.trusted:
            return
        self.world.controller.revoke(node.name)
        node.trusted = False
        self._leave(node)  # the broker closes its connection
        self._note(f"{node.name} is revoked")

    def _enroll(self) -> None:
        gone = [n for n in self.nodes.values() if not (n.member and n.trusted)]
        if gone:
            self._enroll_again(self.chance.choice(gone))

    def _enroll_again(self, node: Node) -> None:
        """Half of them with the disk that they had, without a restart where they are on; the others with
        an empty one."""
        self.world.controller.enroll(node.name)
        node.returned = node.returned or not node.member
        node.member = node.trusted = True
        disk = "the old disk"
        if self.chance.random() < 0.5:
            if node.online:
                self._leave(node)
            self.disks += 1
            node.off()
            node.folder = self.folder / f"{node.name}-{self.disks}"
            node.device = Device(
                node.folder, self.releases, now_s=node.device.now_s, wall_s=node.device.wall_s
            )
            node.epoch, node.gen = 0, 0
            node.on()
            disk = "an empty disk"
        elif node.online:
            self._hears(node, node.conn.encode())  # its heartbeat
        self._note(f"{node.name} is enrolled again, with {disk}")

    def _copy(self) -> None:
        """Another machine starts with a copy of the disk of one, which speaks again: the last one to start
        counts."""
        node = self._any_node()
        if node.copy is None and node.online and node.instance is not None:
            node.copy = Conn(epoch=node.epoch + 1, online=True, slots=(SLOT,), instance=f"copy-{node.starts}")
            self._hears(node, node.copy.encode())
            self._hears(node, node.conn.encode())
            self._report(node, again=True)
            self._note(f"{node.name} is copied")

    def _end_copy(self) -> None:
        for node in self.nodes.values():
            if node.copy is not None:
                death = Conn(epoch=node.copy.epoch, online=False, instance=node.copy.instance)
                node.copy = None
                self._hears(node, death.encode())
                if node.online:
                    self._hears(node, node.conn.encode())
                    self._report(node, again=True)
                self._note(f"the copy of {node.name} ends")

    def _hears(self, node: Node, conn: bytes) -> None:
        self.world.wire.retained[T.conn(node.name)] = conn
        self.world.hears(T.conn(node.name), conn)

    def _leave(self, node: Node) -> None:
        if node.online:
            node.online = False
            self._hears(node, node.conn.model_copy(update={"online": False}).encode())

    def _away(self) -> None:
        node = self._any_node()
        if not node.online:
            return
        self._leave(node)
        if self.chance.random() < 0.5:
            node.off()
        self._note(f"{node.name} goes away in {node.device.state.value if node.powered else 'a power cut'}")

    def _back(self, node: Node) -> None:
        if node.online or not node.trusted:
            return
        if not node.powered:
            node.on()
        self._connect(node)
        self._note(f"{node.name} is back")

    def _connect(self, node: Node) -> None:
        node.online, node.said = True, None
        self._hears(node, node.conn.encode())
        self._report(node)

    def _report(self, node: Node, *, again: bool = False) -> None:
        slot = node.device.deployer.report()
        if (slot, node.refused) == node.said and not again:
            return
        node.said, node.seq = (slot, node.refused), node.seq + 1
        error = Failure(code="desired", detail="it has seen a later one") if node.refused else None
        report = Reported(
            epoch=node.epoch,
            seq=node.seq,
            gen=node.gen,
            slots={SLOT: slot},
            instance=node.conn.instance,
            error=error,
        ).encode()
        self.world.wire.retained[T.reported(node.name)] = report
        self.world.hears(T.reported(node.name), report)

    def _restart_broker(self) -> None:
        """It forgets all; everybody who is there says everything again."""
        self.world.wire.retained.clear()
        self.world.wire.on_up()
        for node in self.nodes.values():
            if node.online:
                self._connect(node)
        self._note("the broker was restarted")

    def _restart_controller(self) -> None:
        self.world.controller.inventory.close()
        self.world.boot()
        self.world.wire.on_up()
        for topic, payload in list(self.world.wire.retained.items()):
            self.world.hears(topic, payload)
        self._note("the controller was restarted")

    # ---- time

    def _rollouts(self) -> dict[str, tuple[RolloutSpec, RolloutProgress]]:
        return self.world.controller.inventory.rollouts()

    def _pass(self, seconds: float, ticks: int) -> None:
        for _ in range(ticks):
            self.world.now += seconds / ticks
            self.world.controller.tick(self.world.now)
            active = [(s, p) for s, p in self._rollouts().values() if p.state in ACTIVE]
            if len(active) > 1:
                raise Untrue(f"{' and '.join(s.id for s, _ in active)} are active in one slot")
            for spec, progress in active:
                self.busy_s[spec.id] += 0 if progress.state is RolloutState.PAUSED else int(seconds / ticks)
                if self.busy_s[spec.id] > 2 * _BOUND_S:  # forward, and taken back once more
                    raise Untrue(f"{spec.id} is {progress.state.value} for too long: {progress.note}")
            for node in self.nodes.values():
                self._live(node, seconds / ticks)

    def _live(self, node: Node, seconds: float) -> None:
        if not node.powered:
            return
        if node.online:
            desired = self.world.told(node.name)
            if desired is not None:
                node.hear(desired)
                self._report(node)
        for _ in range(self.chance.randrange(0, 5)):
            node.device.deployer.turn()
            if node.online:
                self._report(node)
        node.device.now_s += seconds

    def _end_with_those_who_are_there(self) -> None:
        """Who is away stays away; operators only resume what they paused. Every rollout ends in its time."""
        for rollout, (spec, progress) in self._rollouts().items():
            if progress.state is RolloutState.PAUSED:
                self.world.controller.change_rollout(rollout, "resume")
            if progress.state in (RolloutState.RUNNING, RolloutState.PAUSED):
                for number in range(max(progress.wave, progress.approved) + 1, spec.last_wave + 1):
                    if spec.wave(number).approval:
                        self.world.controller.change_rollout(rollout, "approve")
        began_s = self.world.now
        while any(p.state in ACTIVE for _, p in self._rollouts().values()):
            self._pass(20, 4)
            if self.world.now - began_s > _BOUND_S:
                raise Untrue(
                    f"{[(s.id, p.state.value, p.note) for s, p in self._rollouts().values() if p.state in ACTIVE]} do not end"
                )

    def _settle(self) -> None:
        """Everybody is there; nothing is left to do."""
        for _ in range(400):
            self._approve()
            self._pass(20, 4)
            resting = all(n.device.resting for n in self.nodes.values())
            if resting and not any(p.unfinished for _, p in self._rollouts().values()):
                return
        busy = [f"{n.name}: {n.device.state.value}" for n in self.nodes.values() if not n.device.resting]
        open_ = [
            (s.id, p.state.value, self._outcomes(p)) for s, p in self._rollouts().values() if p.unfinished
        ]
        raise Untrue(f"it does not settle: {busy}, {open_}")

    @staticmethod
    def _outcomes(p: RolloutProgress) -> dict[str, str]:
        return {n: f"{m.outcome.value} ({m.detail})" for n, m in p.members.items()}

    # ---- what must be true

    def _judge(self) -> None:
        for spec, progress in self._rollouts().values():
            self.done[f"ended {progress.state.value}"] += 1
            if progress.state in ACTIVE:
                raise Untrue(f"{spec.id} is {progress.state.value}")
            for name, m in progress.members.items():
                if m.left and m.outcome in _OPEN:
                    raise Untrue(f"{spec.id} says that {name}, which left the fleet, is {m.outcome.value}")
                if m.left:
                    self.done[f"device left, {m.outcome.value}"] += 1
                elif m.admitted_s is not None:
                    self._judge_member(spec, progress, name, m)
        for node in self.nodes.values():
            self._judge_device(node)

    def _judge_member(self, spec: RolloutSpec, progress: RolloutProgress, name: str, m: Member) -> None:
        self.done[f"device {m.outcome.value}"] += 1
        node = self.nodes[name]
        wish = self.world.controller._devices[name].desired.slots.get(SLOT)
        what = f"{spec.id} is {progress.state.value} and says that {name} is {m.outcome.value} ({m.detail})"
        if m.outcome in _OPEN:
            raise Untrue(f"{what} although everybody is back")
        taken_back = progress.ending is not None
        if taken_back and m.outcome in (DeviceOutcome.COMMITTED, DeviceOutcome.FAILED):
            raise Untrue(what)
        ours = (
            wish is not None
            and (wish.digest, wish.release) == (spec.digest, spec.release)
            and self._attempt_is(spec, m, wish)
        )
        if m.outcome is DeviceOutcome.COMMITTED and ours and node.active != spec.digest:
            raise Untrue(f"{what}, but it runs {self._named(node.active)}")
        back = (wish is None) if m.before is None else (wish is not None and wish.digest == m.before.digest)
        if (
            m.outcome in (DeviceOutcome.RESTORED, DeviceOutcome.SKIPPED)
            and back
            and not self._gave_up(node, m.before)
        ):
            expected = m.before.digest if m.before else None
            if node.active != expected:
                raise Untrue(
                    f"{what}, but it runs {self._named(node.active)} and not {self._named(expected)}"
                )
        if m.outcome in (DeviceOutcome.FAILED, DeviceOutcome.STRANDED) and not m.detail:
            raise Untrue(f"{what} without a reason")
        if m.outcome is DeviceOutcome.STRANDED and (
            m.before is None or not m.before.release.endswith("crash")
        ):
            raise Untrue(f"{what}, and what it had before works")

    @staticmethod
    def _attempt_is(spec: RolloutSpec, m: Member, wish: DesiredSlot) -> bool:
        return spec.attempt <= wish.attempt <= spec.attempt + m.tries

    def _gave_up(self, node: Node, before: DesiredSlot | None) -> bool:
        d = node.device.journal.deployment(SLOT)
        return (
            before is not None
            and before.release.endswith("crash")
            and d is not None
            and d.state is not State.COMMITTED
        )

    def _judge_device(self, node: Node) -> None:
        """What is wanted of it is so, or it has said why not."""
        desired = self.world.controller._devices[node.name].desired
        wish, report = desired.slots.get(SLOT), node.device.deployer.report()
        node.device.check_rest()
        if node.returned and wish is None and SLOT not in desired.clear:
            # enrolled again with the disk that it had, and nobody has said what it is to run
            return
        if wish is None:
            expected = None
        elif wish.release.endswith("crash") and report.state in TERMINAL - {State.COMMITTED}:
            return
        else:
            expected = wish.digest
        if node.active != expected:
            raise Untrue(
                f"{node.name} runs {self._named(node.active)}, wanted is {self._named(expected)}: {report}"
            )

    def _named(self, digest: str | None) -> str:
        return "nothing" if digest is None else self.releases.of_bundle(digest)
