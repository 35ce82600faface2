"""How the agent starts and what it keeps in order: no broker, no workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.agent import parts
from support.tuf import DIGEST, RELEASE, Repository

from edgectl.agent.config import AgentConfig, ViewConfig
from edgectl.agent.service import _Agent
from edgectl.core.errors import TrustError, UsageError
from edgectl.link.config import BrokerConfig


@pytest.fixture
def boot(tmp_path: Path, repository: Repository) -> Iterator[Callable[[], _Agent]]:
    running: list[_Agent] = []
    root = tmp_path / "root.json"
    root.write_bytes(repository.roots["1.root.json"])
    broker = BrokerConfig(host="127.0.0.1", port=1)
    config = AgentConfig(name="gate-1", broker=broker, state_dir=tmp_path / "state", root=root, profile="cam")

    def start(**more: object) -> _Agent:
        while running:
            running.pop().close()
        running.append(_Agent(config.model_copy(update=more), parts()))
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
        agent._outbox.spool.put("tele", "t", bytes(20_000), 1.7e9 + i)
    agent._outbox.make_room()
    assert agent._outbox.spool.size == 800_000
    monkeypatch.setattr("edgectl.agent.outbox.shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    agent._outbox.make_room()
    assert agent._outbox.spool.size == 0


def test_without_the_extra_there_is_no_page_and_an_agent_that_says_so(
    boot: Callable[..., _Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgectl.agent.streams.device_page.LiveView",
        missing := Missing(
            UsageError("the live page needs starlette, which is not installed", hint="pip install")
        ),
    )
    agent = boot(view=ViewConfig(listen="127.0.0.1:0"))
    assert missing.asked
    assert agent._page is None
    assert agent._page_notice is not None
    assert (
        agent._page_notice.detail
        == "there is no live page: the live page needs starlette, which is not installed (pip install)"
    )


class Missing:
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = False

    def __call__(self, *_: object, **__: object) -> object:
        self.asked = True
        raise self.error


def test_page_that_cannot_have_its_folder_is_told_and_costs_nothing_else(
    boot: Callable[..., _Agent], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "view").write_text("a file")
    agent = boot(view=ViewConfig(listen="127.0.0.1:0"))
    assert agent._page is None
    assert agent._page_notice is not None
    assert "no live page" in agent._page_notice.detail


def test_pictures_lie_where_no_other_user_gets_at_them(boot: Callable[..., _Agent], tmp_path: Path) -> None:
    agent = boot(view=ViewConfig(listen="127.0.0.1:0"))
    assert agent._page is not None
    assert agent._page_notice is None
    assert (tmp_path / "state" / "view").stat().st_mode & 0o777 == 0o700
