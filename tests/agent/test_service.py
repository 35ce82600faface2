"""The agent's own rules about what comes from the broker, without a broker and without threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support_agent import parts
from support_tuf import DIGEST, RELEASE, Repository

from edgectl.agent.config import AgentConfig
from edgectl.agent.service import _Agent
from edgectl.agent.trust import StaleTrust
from edgectl.core.errors import StorageError, TrustError
from edgectl.core.trust import seal_desired
from edgectl.core.wire import Desired, DesiredSlot
from edgectl.link.config import BrokerConfig


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.name(RELEASE)
    return made


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
