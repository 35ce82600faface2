"""What becomes of the messages of a controller: no broker, no workers, the handlers called as the link
would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from support.tuf import DAY, DIGEST, RELEASE, Device, Repository

from edgectl.agent.deploy.inbox import Inbox
from edgectl.agent.deploy.reporter import Reporter
from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.errors import EdgectlError, StorageError, TrustError, UsageError
from edgectl.core.states import State
from edgectl.core.trust import seal_command, seal_desired, seal_state
from edgectl.core.wire import ClearSlot, Command, ControllerState, Desired, Failure, Reply, Reported, Topics


class Slot:
    """What an inbox tells a slot."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def want(self, gen: int, desired: object, hold: bool) -> None:
        self.told.append((gen, desired) if isinstance(desired, ClearSlot) else gen)

    def want_nothing(self, gen: int) -> None:
        self.told.append((gen, "nothing"))

    def nudge(self) -> None:
        self.told.append("look again")


class Agent:
    """An inbox, and what it is connected to. ``device``: its trust and its journal."""

    def __init__(self, device: Device, slot: str = "gate") -> None:
        self.device = device
        self.slot_name = slot
        self.room = 0
        self.obey: Callable[[Command], dict[str, object]] = lambda command: {"asked": command.op}
        self.replies: list[Reply] = []
        self.reports: list[Reported] = []
        self.peers: list[bool] = []
        self.connect()

    def connect(self) -> None:
        self.slot = Slot()
        self.reporter = Reporter(1, self.device.store, self.reports.append, lambda: None)
        self.inbox = Inbox(
            Topics("home"),
            "gate-1",
            self.device.store,
            {self.slot_name: self.slot},
            self.reporter,  # type: ignore[dict-item]
            frozen=self.device.journal.frozen,
            obey=lambda command: self.obey(command),
            reply=self.replies.append,
            allow_peers=self.peers.append,
            make_room=self._make_room,
        )

    def restart(self) -> None:
        self.device.journal.close()
        self.device.journal = Journal(self.device.folder / "journal.db")
        self.device.boot()
        self.connect()

    def _make_room(self) -> None:
        self.room += 1

    def reports_again(self) -> bool:
        """Whether it reports although nothing is new."""
        return self.reporter.report(self.inbox.gen, {}, None)

    def ask(self, signers: list[CryptoSigner], **more: Any) -> Reply | None:
        """The answer, if there is one."""
        now_s = time.time()
        asked = {"id": "7", "op": "probe", "seq": int(now_s * 1000), "deadline_s": now_s + 60, **more}
        return self.give(seal_command("home", "gate-1", Command.model_validate(asked), signers))

    def give(self, payload: bytes) -> Reply | None:
        self.replies.clear()
        try:
            self.inbox.on_command(payload)
        except EdgectlError:
            assert not self.replies
        return self.replies.pop() if self.replies else None


@pytest.fixture
def agent(device: Device) -> Agent:
    return Agent(device)


def state(freeze: bool, seq: int, signers: list[CryptoSigner]) -> bytes:
    return seal_state("home", ControllerState(epoch=1, online=True, freeze=freeze, seq=seq), signers)


def full(*_: object) -> None:
    raise StorageError("the disk is full")


# ---- commands


def test_command_is_answered_refused_with_a_reason_or_not_answered_at_all(
    agent: Agent, repository: Repository
) -> None:
    director = repository.signers["director"]
    assert agent.ask(director) == Reply(id="7", ok=True, result={"asked": "probe"})
    late = agent.ask(director, seq=5, deadline_s=60)
    assert late is not None
    assert late.error is not None
    assert (late.ok, late.error.code) == (False, "trust")
    assert "the command ended at 1970" in late.error.detail
    assert agent.ask([CryptoSigner.generate_ed25519()]) is None
    assert agent.ask(director, seq=5) is None, "one that lives for longer than an hour"
    assert agent.give(b"{}") is None

    def cannot(command: Command) -> dict[str, object]:
        raise UsageError("not now")

    agent.obey = cannot
    refused = agent.ask(director, seq=int(time.time() * 1000) + 9)
    assert refused == Reply(id="7", ok=False, error=Failure(code="usage", detail="not now"))


def test_repeated_command_is_answered_with_the_number_that_was_seen_after_a_restart_too(
    agent: Agent, repository: Repository
) -> None:
    command = Command(id="7", op="lock", ttl_s=60, seq=int(time.time() * 1000), deadline_s=time.time() + 60)
    payload = seal_command("home", "gate-1", command, repository.signers["director"])
    first = agent.give(payload)
    assert first is not None
    assert first.ok
    agent.restart()
    assert agent.reports_again()
    assert not agent.reports_again()
    again = agent.give(payload)
    assert again is not None
    assert again.error is not None
    assert f"this device has already seen {command.seq}" in again.error.detail
    assert agent.reports_again()
    assert agent.reports[-1].heard == command.seq


# ---- the state of the controller


def test_freeze_of_a_new_director_counts_when_its_root_arrives_behind_it(
    agent: Agent, repository: Repository
) -> None:
    thief = repository.signers["director"]
    agent.inbox.on_controller(state(True, 1000, thief))
    assert agent.inbox.frozen
    repository.rotate("director")
    director = repository.signers["director"]
    with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
        agent.inbox.on_controller(state(False, 5, director))
    agent.inbox.on_controller(json.dumps({"epoch": 2, "online": False, "freeze": False}).encode())
    assert agent.inbox.frozen, "a will says nothing about it, and does not make what was refused forgotten"
    agent.inbox.on_trust(repository.message())
    assert not agent.inbox.frozen
    agent.restart()
    assert not agent.inbox.frozen


def test_freeze_outlives_a_restart_and_an_older_word(agent: Agent, repository: Repository) -> None:
    director = repository.signers["director"]
    before = state(False, 1000, director)
    agent.inbox.on_controller(before)
    agent.inbox.on_controller(state(True, 1001, director))
    agent.restart()
    assert agent.inbox.frozen
    assert agent.reports_again()
    assert not agent.reports_again()
    with pytest.raises(TrustError, match="already seen 1001"):
        agent.inbox.on_controller(before)
    assert agent.inbox.frozen
    assert agent.reports_again()
    assert agent.reports[-1].heard == 1001, "the controller goes on there"


def test_state_that_comes_while_an_older_one_is_judged_again_has_the_last_word(
    agent: Agent, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.rotate("director")
    director = repository.signers["director"]
    with pytest.raises(TrustError):
        agent.inbox.on_controller(state(True, 5, director))
    newer = threading.Thread(target=lambda: agent.inbox.on_controller(state(False, 6, director)))
    accept = agent.device.store.accept_state

    def overtaken(payload: bytes, fleet: str) -> ControllerState:
        accepted = accept(payload, fleet)
        if accepted.seq == 5:
            newer.start()
            newer.join(0.1)
        return accepted

    monkeypatch.setattr(agent.device.store, "accept_state", overtaken)
    agent.inbox.on_trust(repository.message())
    newer.join()
    assert not agent.inbox.frozen
    assert not agent.device.journal.frozen


def test_policy_on_peers_is_handed_on_signed_or_not(agent: Agent, repository: Repository) -> None:
    agent.inbox.on_controller(ControllerState(epoch=1, online=True, peers=True).encode())
    agent.inbox.on_controller(state(True, 1000, repository.signers["director"]))
    assert agent.peers == [True, False]
    assert agent.slot.told == ["look again"], "only a freeze that counts is a reason to"


# ---- metadata sets and desired documents


def test_set_that_came_while_the_clock_was_ahead_counts_once_it_is_right(
    agent: Agent, repository: Repository
) -> None:
    device = agent.device
    device.wall += 400 * DAY
    agent.inbox.on_trust(repository.message())
    assert agent.reporter.trouble is not None
    assert agent.reporter.trouble.code == "expired"
    agent.inbox.try_again()
    with pytest.raises(StaleTrust):
        device.store.check(RELEASE, DIGEST)
    device.wall = repository.now
    agent.inbox.try_again()
    assert device.store.check(RELEASE, DIGEST)
    assert agent.reporter.trouble is None


def test_set_and_desired_state_that_no_disk_took_are_taken_when_it_does(
    agent: Agent, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = agent.device
    with monkeypatch.context() as m:
        m.setattr("edgectl.agent.trust.store.atomic_write", full)
        m.setattr(device.journal, "raise_floors", full)
        agent.inbox.on_trust(repository.message())
        agent.inbox.on_desired(device.desired(4, *repository.signers["director"]))
        assert agent.reporter.trouble == Failure(code="storage", detail="the disk is full", retryable=True)
        agent.inbox.try_again()
        assert agent.room == 2, "each time"
        with pytest.raises(TrustError):
            device.store.check(RELEASE, DIGEST)
    agent.inbox.try_again()
    assert device.store.check(RELEASE, DIGEST)
    assert (agent.inbox.gen, agent.slot.told[-1], agent.reporter.trouble) == (4, 4, None)
    agent.inbox.try_again()
    assert agent.slot.told.count(4) == 1


def test_set_that_waits_is_forgotten_when_a_newer_one_came(agent: Agent, repository: Repository) -> None:
    device = agent.device
    device.wall += 400 * DAY
    agent.inbox.on_trust(repository.message())
    device.wall = repository.now
    repository.bump("targets")
    agent.inbox.on_trust(repository.message())
    agent.inbox.try_again()
    assert agent.reporter.trouble is None
    assert device.store.version == 2


def test_desired_state_of_a_new_director_counts_when_its_root_arrives_behind_it_and_its_refusal_was_told(
    agent: Agent, repository: Repository
) -> None:
    repository.rotate("director")
    agent.inbox.on_desired(agent.device.desired(4, *repository.signers["director"]))
    assert agent.slot.told == []
    refusal = agent.inbox.refusal
    assert refusal is not None
    assert "signed by 0 of the 1 keys" in refusal.why.detail
    refusal.reported = True
    assert agent.inbox.refusal is refusal, "nothing has mended it"
    agent.inbox.on_trust(repository.message())
    assert agent.slot.told == [4, "look again"]
    assert agent.inbox.refusal is None


def test_generation_that_was_seen_is_reported_after_a_restart_before_the_broker_tells_it(
    agent: Agent, repository: Repository
) -> None:
    """A controller that does not know it would begin below, and be refused for ever."""
    director = repository.signers["director"]
    agent.inbox.on_desired(seal_desired("home", "gate-1", Desired(gen=5), director))
    agent.restart()
    assert agent.reports_again()
    assert agent.reports[-1].gen == 5
    agent.inbox.on_desired(seal_desired("home", "gate-1", Desired(gen=1), director))
    assert agent.inbox.refusal is not None
    assert agent.inbox.gen == 5


def test_refusal_is_reported_though_a_good_desired_state_follows_on_its_heels(
    agent: Agent, repository: Repository
) -> None:
    agent.inbox.on_desired(agent.device.desired(4))
    agent.inbox.on_desired(agent.device.desired(5, *repository.signers["director"]))
    refusal = agent.inbox.refusal
    assert refusal is not None
    refusal.reported = True
    assert agent.inbox.refusal is None


def test_slot_that_is_not_named_loses_its_desired_state_and_one_that_is_not_here_is_rejected(
    device: Device, repository: Repository
) -> None:
    agent, director = Agent(device, slot="porch"), repository.signers["director"]
    agent.inbox.on_desired(device.desired(4, *director))
    assert agent.slot.told == [(4, "nothing")]
    rejected = agent.inbox.without_slot["gate"]
    assert rejected.error is not None
    assert (rejected.state, rejected.gen, rejected.error.code) == (State.REJECTED, 4, "no_slot")
    agent.inbox.on_desired(seal_desired("home", "gate-1", Desired(gen=5), list(director)))
    assert agent.inbox.without_slot == {}


def test_slot_that_is_to_be_empty_is_told_so_and_one_that_is_not_here_is_empty(
    device: Device, repository: Repository
) -> None:
    agent, director = Agent(device, slot="porch"), repository.signers["director"]
    wish = ClearSlot(number=3)
    desired = Desired(gen=4, clear={"porch": wish, "gate": ClearSlot(number=1)})
    agent.inbox.on_desired(seal_desired("home", "gate-1", desired, list(director)))
    assert agent.slot.told == [(4, wish)]
    empty = agent.inbox.without_slot["gate"]
    assert (empty.state, empty.gen, empty.active) == (State.CLEARED, 4, None)


def test_nobody_but_the_director_empties_a_slot(device: Device, repository: Repository) -> None:
    agent = Agent(device)
    desired = Desired(gen=4, clear={"gate": ClearSlot(number=1)}, fleet="home", device="gate-1")
    for payload in (desired.encode(), seal_desired("home", "gate-1", desired, repository.signers["targets"])):
        agent.inbox.on_desired(payload)
        assert agent.inbox.refusal is not None
    assert agent.slot.told == []
