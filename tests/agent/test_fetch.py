"""The fetcher against a real broker and the real seeder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker
from support_agent import Machine
from support_bundle import make_bundle

from edgectl.agent.fetch import Cancelled, Fetcher, Progress, variant_blobs
from edgectl.agent.journal import Installed
from edgectl.agent.store import Store
from edgectl.core.bundle import CHUNK_SIZE, LAYER_ENGINE, LAYER_PACKED, MEDIA_INDEX, Bundle, Descriptor, Unpacked, Variant
from edgectl.core.errors import BundleError, IntegrityError, StorageError
from edgectl.core.files import hex_of
from edgectl.core.transfer import encode_frame
from edgectl.core.wire import Topics
from edgectl.fleet.blobs import BlobStore
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.seeder import BlobSeeder

TOPICS = Topics("home")


class World:
    def __init__(self, folder: Path, broker: Broker, size: int, **behaviour: object) -> None:
        self.options = BrokerOptions(broker.host, broker.port)
        self.bundle = Bundle(make_bundle(folder / "bundle", size=size, **behaviour))  # type: ignore[arg-type]
        self.blobs = BlobStore(folder / "controller")
        for path in self.bundle.blobs.iterdir():
            (self.blobs.folder / path.name).write_bytes(path.read_bytes())
        (self.blobs.folder / hex_of(self.bundle.digest)).write_bytes(self.bundle.index_bytes)
        self.seeder = BlobSeeder(self.options, TOPICS, self.blobs)
        self.store = Store(folder / "device", reserve=0)
        self.index = Descriptor(mediaType=MEDIA_INDEX, digest=self.bundle.digest, size=len(self.bundle.index_bytes))
        self.engine = next(d for d in self.bundle.variants[0].descriptors() if d.mediaType in (LAYER_ENGINE, LAYER_PACKED))
        self.progress: list[Progress] = []

    def seed(self) -> None:
        self.seeder.start()
        for path in self.blobs.folder.iterdir():
            self.seeder.publish_pages(f"sha256:{path.name}")

    def fetcher(self, store: Store | None = None) -> Fetcher:
        return Fetcher(lambda: Link(self.options, "dev", queue_size=32), TOPICS, "dev", 1, store or self.store, Machine())

    def fetch(self, cancelled: threading.Event | None = None) -> None:
        stop = cancelled or threading.Event()
        self.fetcher().fetch("m@1", self.index, stop.is_set, self.progress.append)


@pytest.fixture
def world(tmp_path: Path, mosquitto: Broker, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(tmp_path, mosquitto, getattr(request, "param", 1_000_000))
    yield world
    world.seeder.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mqtt-dev")], "the bulk link is closed"


def test_bundle_arrives_whole_and_progress_ends_at_the_total(world: World) -> None:
    world.seed()
    world.fetch()
    assert Variant.open(world.store.blobs, world.bundle.variants[0].digest).verify() > 1_000_000
    assert world.progress[-1].done == world.progress[-1].total
    assert world.progress[-1].rejected == 0


def test_only_what_is_missing_on_disk_is_sent_again(world: World) -> None:
    data = (world.bundle.blobs / hex_of(world.engine.digest)).read_bytes()
    part = world.store.part(world.engine)
    for i in range(10):
        part.write(i, data[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE])
    part.write(3, b"\xff" * CHUNK_SIZE)  # what a dying disk left
    part.close()
    world.seed()
    world.fetch()
    chunks = -(-len(data) // CHUNK_SIZE)
    assert world.seeder.counters.broadcast_chunks + world.seeder.counters.repair_chunks == chunks - 9


def test_cancel_stops_at_once_and_keeps_the_part(world: World) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Cancelled):
        world.fetch(stop)  # nobody seeds


@pytest.mark.parametrize("world", [50_000], indirect=True)
def test_peer_that_floods_with_rubbish_is_given_up_and_nothing_hangs(world: World) -> None:
    world.seeder.start()
    for path in world.blobs.folder.iterdir():
        if path.name != hex_of(world.engine.digest):
            world.seeder.publish_pages(f"sha256:{path.name}")
    (world.blobs.folder / hex_of(world.engine.digest)).unlink()
    stop = threading.Event()

    def flood() -> None:
        frame = encode_frame(world.engine.digest, 0, b"\0" * world.engine.size)
        with Link(world.options, "rogue") as rogue:
            rogue.connect()
            while not stop.is_set():
                rogue.publish(TOPICS.broadcast(world.engine.digest), frame)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        with pytest.raises(IntegrityError):
            world.fetch()
    finally:
        stop.set()
        thread.join()
    assert not world.store.has(world.engine.digest)


def test_blob_that_the_controller_does_not_have_is_no_endless_wait(world: World) -> None:
    world.seeder.start()
    for path in world.blobs.folder.iterdir():
        if path.name != hex_of(world.engine.digest):
            world.seeder.publish_pages(f"sha256:{path.name}")
    (world.blobs.folder / hex_of(world.engine.digest)).unlink()
    with pytest.raises(IntegrityError, match="not at the controller"):
        world.fetch()


def test_no_room_is_said_before_the_first_layer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.seed()
    world.store = Store(world.store.blobs.parent, reserve=1 << 60)
    with pytest.raises(StorageError, match="reserved"):
        world.fetch()
    assert not world.store.has(world.engine.digest)


def test_no_variant_for_this_machine_costs_no_layer(tmp_path: Path, mosquitto: Broker) -> None:
    world = World(tmp_path, mosquitto, 1_000_000, requires=("sm:9.9",))
    world.seed()
    with pytest.raises(BundleError, match=r"sm:9\.9"):
        world.fetch()
    assert not world.store.has(world.engine.digest)
    world.seeder.close()


def test_packed_engine_arrives_packed_and_lies_there_decoded(tmp_path: Path, mosquitto: Broker) -> None:
    world = World(tmp_path, mosquitto, 1_000_000, packed=True)
    world.seed()
    world.fetch()
    variant = Variant.open(world.store.blobs, world.bundle.variants[0].digest)
    assert variant.need(LAYER_ENGINE).stat().st_size == 1_000_000
    assert sum(p.total for p in world.progress if p.done == p.total) < 200_000
    installed = variant_blobs(world.store.blobs, [Installed(release="m@1", bundle=world.bundle.digest, manifest=variant.digest)])
    world.store.verify(installed)
    world.store.collect_garbage({d.digest for d in installed} | {variant.digest, world.bundle.digest})
    variant.need(LAYER_ENGINE).write_bytes(b"what a dying disk left")
    with pytest.raises(IntegrityError):
        world.store.verify(installed)
    sent = world.seeder.counters.broadcast_chunks
    world.fetch()  # the next attempt decodes again; nothing is sent again
    world.store.verify(installed)
    assert world.seeder.counters.broadcast_chunks == sent
    world.seeder.close()


def test_packed_engine_that_decodes_to_what_nobody_signed_is_refused(tmp_path: Path, mosquitto: Broker) -> None:
    world = World(tmp_path, mosquitto, 1_000_000, packed=True, unpacked=Unpacked(digest="sha256:" + "0" * 64, size=1_000_000))
    world.seed()
    with pytest.raises(IntegrityError, match="something else than was signed"):
        world.fetch()
    assert not world.store.has("sha256:" + "0" * 64)
    world.seeder.close()
