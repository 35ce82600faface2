"""A device that seeds its site: real broker, real fetchers, the controller is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker
from support.agent import Machine
from support.bundle import make_bundle

from edgectl.agent.config import AgentConfig
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.fetch import Fetcher
from edgectl.agent.transfer.peer import PeerSeeder
from edgectl.core.bundle import CHUNK_SIZE, MEDIA_INDEX, Bundle, Descriptor
from edgectl.core.files import hex_of
from edgectl.core.transfer import Need, Suppression
from edgectl.core.wire import Topics
from edgectl.fleet.control.blobs import BlobStore
from edgectl.link.config import BrokerConfig
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.seeder import BlobSeeder

TOPICS = Topics("home")


class Site:
    """A controller's seeder, and devices with the bundle or without it."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.broker = folder, broker
        self.options = BrokerOptions(broker.host, broker.port)
        self.bundle = Bundle(make_bundle(folder / "bundle", size=1_000_000))
        self.index = Descriptor(
            mediaType=MEDIA_INDEX, digest=self.bundle.digest, size=len(self.bundle.index_bytes)
        )
        self.engine = max(self.bundle.variants[0].descriptors(), key=lambda d: d.size)
        blobs = BlobStore(folder / "controller")
        for path in self.bundle.blobs.iterdir():
            (blobs.folder / path.name).write_bytes(path.read_bytes())
        (blobs.folder / hex_of(self.bundle.digest)).write_bytes(self.bundle.index_bytes)
        self.controller = BlobSeeder(self.options, TOPICS, blobs)
        self.controller.start()
        for path in blobs.folder.iterdir():
            self.controller.publish_pages(f"sha256:{path.name}")
        self.peers: list[PeerSeeder] = []
        self.frames: list[str] = []
        self.spy = Link(self.options, "spy")
        for kind in ("p/+", "b"):
            self.spy.subscribe(f"{TOPICS.root}/a/+/{kind}", lambda topic, _: self.frames.append(topic))
        self.spy.connect()

    def store(self, name: str) -> Store:
        return Store(self.folder / name, reserve=0)

    def fetch(
        self, name: str, *, site: str | None = "yard", cancelled: threading.Event | None = None
    ) -> Store:
        store = self.store(name)
        stop = cancelled or threading.Event()
        Fetcher(
            lambda: Link(self.options, name, queue_size=32), TOPICS, name, 1, store, Machine(), site=site
        ).fetch("m@1", self.index, stop.is_set, lambda _: None)
        return store

    def peer(self, name: str, *, switch: bool = True, site: str = "yard", allow: bool = True) -> PeerSeeder:
        config = AgentConfig(
            name=name,
            broker=BrokerConfig(host=self.broker.host, port=self.broker.port),
            state_dir=self.folder / name,
            site=site,
            seed_peers=switch,
            seed_kb_s=20_000,
        )
        peer = PeerSeeder(config, TOPICS, self.store(name))
        peer.allow(True)
        peer.allow(allow)  # the last word counts
        self.peers.append(peer)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.controller.close()
        self.spy.close()


@pytest.fixture
def site(tmp_path: Path, mosquitto: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(Suppression, "_WAIT_S", (0.3, 0.6))
    site = Site(tmp_path, mosquitto)
    yield site
    site.close()


def test_second_device_completes_from_the_first_when_the_controller_is_gone(site: Site) -> None:
    site.peer("dev-1")
    site.fetch("dev-1")
    site.controller.close()
    site.frames.clear()
    store = site.fetch("dev-2")
    store.verify(site.bundle.variants[0].descriptors())
    engine_chunks = -(-site.engine.size // CHUNK_SIZE)
    from_peer = [t for t in site.frames if t == TOPICS.peer(site.engine.digest, "dev-1")]
    assert len(from_peer) == engine_chunks, "each chunk once"
    assert len(site.frames) == len(from_peer), "nothing on the controller's topics"


def test_while_the_controller_sends_no_peer_does(site: Site) -> None:
    site.peer("dev-1")
    site.fetch("dev-1")
    site.fetch("dev-2")
    assert not [t for t in site.frames if t.endswith("/p/dev-1")]


def test_two_peers_do_not_send_everything_twice(site: Site) -> None:
    for name in ("dev-1", "dev-2"):
        site.peer(name)
        site.fetch(name)
    site.controller.close()
    site.frames.clear()
    site.fetch("dev-3")
    chunks = -(-site.engine.size // CHUNK_SIZE)
    assert chunks <= len(site.frames) < 2 * chunks


@pytest.mark.parametrize(
    ("switch", "allow", "where"),
    [(False, True, "yard"), (True, False, "yard"), (True, True, "road")],
    ids=["device", "controller", "site"],
)
def test_neither_switch_alone_makes_a_peer_and_none_serves_another_site(
    site: Site, switch: bool, allow: bool, where: str
) -> None:
    peer = site.peer("dev-1", switch=switch, allow=allow, site=where)
    site.fetch("dev-1")
    site.controller.close()
    assert peer.seeding is (switch and allow)
    markers: list[str] = []
    site.spy.subscribe(f"{TOPICS.root}/a/+/st/+", lambda topic, _: markers.append(topic))
    need = Need.of([0], site.engine.size, epoch=1, site="yard")
    for _ in range(12):  # longer than the wait of a peer that may
        site.spy.publish(TOPICS.need(site.engine.digest, "dev-2"), need.encode()).wait(5)
        threading.Event().wait(0.1)
    assert markers == []
