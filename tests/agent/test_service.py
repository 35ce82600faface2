"""What the agent does with messages of the controller: no broker, no workers, the handlers called as the link would."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from securesystemslib.signer import CryptoSigner
from support_agent import parts
from support_tuf import Repository

from edgectl.agent.config import AgentConfig, PipelineConfig
from edgectl.agent.service import _Agent
from edgectl.core.errors import EdgectlError, TrustError
from edgectl.core.trust import seal_command, seal_state
from edgectl.core.wire import Command, ControllerState, Reply
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
    return Repository()


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
