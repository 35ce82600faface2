"""What the agent does with messages of the controller: no broker, no workers, the handlers called as the link would."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import free_port
from securesystemslib.signer import CryptoSigner
from support_agent import parts
from support_tuf import DIGEST, RELEASE, Repository

from edgectl.agent.config import AgentConfig, PipelineConfig
from edgectl.agent.service import _Agent
from edgectl.agent.trust import StaleTrust
from edgectl.core.errors import EdgectlError, StorageError, TrustError
from edgectl.core.trust import seal_command, seal_desired, seal_state
from edgectl.core.wire import Command, ControllerState, Desired, DesiredSlot, Reply
from edgectl.link.config import BrokerConfig


class Device:
    def __init__(self, folder: Path, repository: Repository) -> None:
        root = folder / "root.json"
        root.write_bytes(repository.roots["1.root.json"])
        self.replies: list[Reply] = []
        self.config = AgentConfig(
            name="gate-1",
            broker=BrokerConfig(host="127.0.0.1", port=free_port()),
            state_dir=folder / "state",
            root=root,
            pipelines={"yard": PipelineConfig(kind="surveillance", source="synth://yard", slots={"detector": "gate"})},
        )
        self.start()

    def start(self) -> None:
        self.agent = _Agent(self.config, parts())
        self.agent._link.publish = self._published  # type: ignore[method-assign, assignment]

    def restart(self) -> None:
        self.agent.close()
        self.start()

    def _published(self, topic: str, payload: bytes, **_: Any) -> None:
        assert topic.endswith("/rsp")
        self.replies.append(Reply.model_validate_json(payload))

    def ask(self, signers: list[CryptoSigner], **more: Any) -> Reply | None:
        """The answer, if there is one."""
        now_s = time.time()
        asked = {"id": "7", "op": "probe", "seq": int(now_s * 1000), "deadline_s": now_s + 60, **more}
        return self.give(seal_command("home", "gate-1", Command.model_validate(asked), signers))

    def give(self, payload: bytes) -> Reply | None:
        self.replies.clear()
        try:
            self.agent._on_command(payload)
        except EdgectlError:
            assert not self.replies
        return self.replies.pop() if self.replies else None


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.name(RELEASE)
    return made


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Iterator[Device]:
    made = Device(tmp_path, repository)
    yield made
    made.agent.close()


def state(freeze: bool, seq: int, signers: list[CryptoSigner]) -> bytes:
    return seal_state("home", ControllerState(epoch=1, online=True, freeze=freeze, seq=seq), signers)


def test_command_is_answered_refused_with_a_reason_or_not_answered_at_all(device: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    assert device.ask(director) == Reply(id="7", ok=True, result={"facts": ["arch:test"], "runtimes": ["onnxruntime"]})
    for more, code, words in (
        ({"seq": 5, "deadline_s": 60}, "trust", "the command ended at 1970"),
        ({"op": "hold", "slot": "porch"}, "usage", "no slot porch; it has gate"),
        ({"op": "force"}, "usage", "force is not possible now (gate: idle)"),
        ({"op": "unlock", "owner": "anna"}, "usage", "anna holds no lease"),
    ):
        reply = device.ask(director, **more)
        assert reply is not None
        assert reply.error is not None
        assert (reply.ok, reply.error.code) == (False, code)
        assert words in reply.error.detail
    assert device.ask([CryptoSigner.generate_ed25519()]) is None
    assert device.ask(director, seq=5) is None, "one that lives for longer than an hour"
    assert device.give(b"{}") is None
    held = device.ask(director, op="hold", owner="anna", reason="look first", seq=int(time.time() * 1000) + 9)
    assert held is not None
    assert held.result == {"slots": ["gate"]}
    logs = device.ask(director, op="logs", seq=int(time.time() * 1000) + 99)
    assert logs is not None
    assert [what for _, what in logs.result["audit"]] == ["anna: hold of gate: look first"]


def test_repeated_command_is_answered_with_the_number_that_was_seen_after_a_restart_too(
    device: Device, repository: Repository
) -> None:
    command = Command(id="7", op="lock", ttl_s=60, seq=int(time.time() * 1000), deadline_s=time.time() + 60)
    payload = seal_command("home", "gate-1", command, repository.signers["director"])
    first = device.give(payload)
    assert first is not None
    assert first.ok
    device.restart()
    again = device.give(payload)
    assert again is not None
    assert again.error is not None
    assert f"this device has already seen {command.seq}" in again.error.detail
    assert device.agent._trust.heard == command.seq


def test_freeze_of_a_new_director_counts_when_its_root_arrives_behind_it(device: Device, repository: Repository) -> None:
    thief = repository.signers["director"]
    device.agent._on_controller(state(True, 1000, thief))
    assert device.agent._frozen
    repository.rotate("director")
    director = repository.signers["director"]
    with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
        device.agent._on_controller(state(False, 5, director))
    device.agent._on_controller(json.dumps({"epoch": 2, "online": False, "freeze": False}).encode())
    assert device.agent._frozen, "a will says nothing about it, and does not make what was refused forgotten"
    device.agent._on_trust(repository.message())
    assert not device.agent._frozen
    device.restart()
    assert not device.agent._frozen


def test_freeze_outlives_a_restart_and_an_older_word(device: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    before = state(False, 1000, director)
    device.agent._on_controller(before)
    device.agent._on_controller(state(True, 1001, director))
    device.restart()
    assert device.agent._frozen
    with pytest.raises(TrustError, match="already seen 1001"):
        device.agent._on_controller(before)
    assert device.agent._frozen


@pytest.fixture
def boot(tmp_path: Path, repository: Repository) -> Iterator[Callable[[], _Agent]]:
    running: list[_Agent] = []
    root = tmp_path / "root.json"
    root.write_bytes(repository.roots["1.root.json"])
    broker = BrokerConfig(host="127.0.0.1", port=1)
    config = AgentConfig(name="gate-1", broker=broker, state_dir=tmp_path / "state", root=root, profile="cam")

    def start() -> _Agent:
        while running:
            running.pop().close()
        running.append(_Agent(config, parts()))
        return running[0]

    yield start
    while running:
        running.pop().close()


def test_set_that_came_while_the_clock_was_ahead_counts_once_it_is_right(
    boot: Callable[[], _Agent], repository: Repository
) -> None:
    agent = boot()
    agent._trust._wall = lambda: repository.now + 400 * 86400
    agent._on_trust(repository.message())
    assert agent._trouble is not None
    assert agent._trouble.code == "expired"
    agent._try_again()
    with pytest.raises(StaleTrust):
        agent._trust.check(RELEASE, DIGEST)
    agent._trust._wall = lambda: repository.now
    agent._try_again()
    assert agent._trust.check(RELEASE, DIGEST)
    assert agent._trouble is None


def test_set_and_wish_that_no_disk_took_are_taken_when_it_does(
    boot: Callable[[], _Agent], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = boot()
    wish = Desired(gen=4, slots={"gate": DesiredSlot(release=RELEASE, digest=DIGEST)})
    desired = seal_desired("home", "gate-1", wish, list(repository.signers["director"]))

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as m:
        m.setattr("edgectl.agent.trust.atomic_write", full)
        m.setattr(agent._journal, "raise_floors", full)
        agent._on_trust(repository.message())
        agent._on_desired(desired)
        assert agent._trouble is not None
        assert agent._trouble.code == "storage"
        agent._try_again()
        with pytest.raises(TrustError):
            agent._trust.check(RELEASE, DIGEST)
    agent._try_again()
    assert agent._trust.check(RELEASE, DIGEST)
    assert (agent._gen, agent._trouble) == (4, None)


def test_set_that_waits_is_forgotten_when_a_newer_one_came(boot: Callable[[], _Agent], repository: Repository) -> None:
    agent = boot()
    agent._trust._wall = lambda: repository.now + 400 * 86400
    agent._on_trust(repository.message())
    agent._trust._wall = lambda: repository.now
    repository.bump("targets")
    agent._on_trust(repository.message())
    agent._try_again()
    assert agent._trouble is None
    assert agent._trust.version == 2


@pytest.mark.parametrize("damage", ["rotten", "gone"])
def test_root_metadata_that_rot_cost_no_device_its_agent(
    boot: Callable[[], _Agent], repository: Repository, tmp_path: Path, damage: str
) -> None:
    root = tmp_path / "root.json"

    def rot() -> None:
        root.write_bytes(root.read_bytes().replace(b"2", b"3", 1)) if damage == "rotten" else root.unlink()

    whole = root.read_bytes()
    rot()
    with pytest.raises(TrustError, match="root.json" if damage == "gone" else "root metadata of this device is not valid"):
        boot()
    root.write_bytes(whole)
    agent = boot()
    agent._on_trust(repository.message())
    assert agent._root_notice is None
    rot()
    agent = boot()
    assert agent._trust.check(RELEASE, DIGEST)
    assert agent._root_notice is not None
    assert "the copy that was kept of it counts" in agent._root_notice.detail
    root.write_bytes(whole)
    assert boot()._root_notice is None


def test_telemetry_gives_way_on_a_full_disk_only(boot: Callable[[], _Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = boot()
    for i in range(40):
        agent._spool.put("tele", "t", bytes(20_000), 1.7e9 + i)
    agent._make_room()
    assert agent._spool.size == 800_000
    monkeypatch.setattr("edgectl.agent.service.shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    agent._make_room()
    assert agent._spool.size == 0
