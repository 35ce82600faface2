"""How the agent starts and what it keeps in order: no broker, no workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.agent import parts
from support.tuf import DIGEST, RELEASE, Repository

from edgectl.agent.config import AgentConfig
from edgectl.agent.service import _Agent
from edgectl.core.errors import TrustError
from edgectl.link.config import BrokerConfig


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


@pytest.mark.parametrize("damage", ["rotten", "gone"])
def test_root_metadata_that_rot_cost_no_device_its_agent(
    boot: Callable[[], _Agent], repository: Repository, tmp_path: Path, damage: str
) -> None:
    root = tmp_path / "root.json"

    def rot() -> None:
        root.write_bytes(root.read_bytes().replace(b"2", b"3", 1)) if damage == "rotten" else root.unlink()

    whole = root.read_bytes()
    rot()
    with pytest.raises(
        TrustError, match="root.json" if damage == "gone" else "root metadata of this device is not valid"
    ):
        boot()
    root.write_bytes(whole)
    agent = boot()
    agent._trust.update(repository.message())
    assert agent._root_notice is None
    rot()
    agent = boot()
    assert agent._trust.check(RELEASE, DIGEST)
    assert agent._root_notice is not None
    assert "the copy of it in the state folder is used" in agent._root_notice.detail
    root.write_bytes(whole)
    assert boot()._root_notice is None


def test_telemetry_gives_way_on_a_full_disk_only(
    boot: Callable[[], _Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = boot()
    for i in range(40):
        agent._spool.put("tele", "t", bytes(20_000), 1.7e9 + i)
    agent._make_room()
    assert agent._spool.size == 800_000
    monkeypatch.setattr("edgectl.agent.service.shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    agent._make_room()
    assert agent._spool.size == 0
