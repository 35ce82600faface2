"""The fetcher against a real broker and the real seeder."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker, free_port
from support.agent import Machine
from support.bundle import join_bundles, make_bundle
from support.graphs import network, onnx_file, tuned

from edgectl.agent.state.records import Installed, LighterEngine
from edgectl.agent.state.store import PartialBlob, Store
from edgectl.agent.transfer.download import Cancelled, FetchProgress
from edgectl.agent.transfer.fetch import Fetcher
from edgectl.core.bundle import (
    CHUNK_SIZE,
    LAYER_ENGINE,
    LAYER_PACKED,
    MEDIA_INDEX,
    Bundle,
    Descriptor,
    Unpacked,
    Variant,
)
from edgectl.core.errors import BundleError, IntegrityError, StorageError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.transfer import Receiver, encode_frame
from edgectl.core.wire import Topics
from edgectl.fleet.control.blobs import BlobStore
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
        self.index = Descriptor(
            mediaType=MEDIA_INDEX, digest=self.bundle.digest, size=len(self.bundle.index_bytes)
        )
        self.engine = next(
            d for d in self.bundle.variants[0].descriptors() if d.mediaType in (LAYER_ENGINE, LAYER_PACKED)
        )
        self.progress: list[FetchProgress] = []

    def add(self, root: Path) -> Bundle:
        """Another bundle at the controller; its pages are published by :meth:`seed`."""
        bundle = Bundle(root)
        for path in bundle.blobs.iterdir():
            (self.blobs.folder / path.name).write_bytes(path.read_bytes())
        (self.blobs.folder / hex_of(bundle.digest)).write_bytes(bundle.index_bytes)
        return bundle

    def seed(self) -> None:
        self.seeder.start()
        for path in self.blobs.folder.iterdir():
            self.seeder.publish_pages(f"sha256:{path.name}")

    def fetcher(self, store: Store | None = None) -> Fetcher:
        return Fetcher(
            lambda: Link(self.options, "dev", queue_size=32), TOPICS, "dev", 1, store or self.store, Machine()
        )

    def fetch(self, cancelled: threading.Event | None = None, bundle: Bundle | None = None) -> None:
        stop = cancelled or threading.Event()
        b = bundle or self.bundle
        index = Descriptor(mediaType=MEDIA_INDEX, digest=b.digest, size=len(b.index_bytes))
        self.fetcher().fetch("m@1", index, stop.is_set, self.progress.append)


@pytest.fixture
def world(tmp_path: Path, mosquitto: Broker, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(tmp_path, mosquitto, getattr(request, "param", 1_000_000))
    yield world
    world.seeder.close()
    links = [t for t in threading.enumerate() if t.name.startswith("mqtt-dev")]
    for link in links:  # on a busy machine its last step may still be under way
        link.join(timeout=30)
    assert not any(link.is_alive() for link in links), "the bulk link is closed"


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


@pytest.mark.parametrize("world", [3000], indirect=True)
def test_one_blob_comes_alone_if_there_is_room_for_it(world: World, tmp_path: Path) -> None:
    world.seed()
    with pytest.raises(StorageError, match="quota"):
        world.fetcher(Store(tmp_path / "small", reserve=0, quota=1000)).fetch_blob(
            world.engine, lambda: False, lambda _: None
        )
    world.fetcher().fetch_blob(world.engine, lambda: False, world.progress.append)
    assert [p.name for p in world.store.blobs.iterdir()] == [hex_of(world.engine.digest)]


def test_what_has_rotted_in_the_store_is_fetched_again_in_the_same_attempt(world: World) -> None:
    world.seed()
    world.fetch()
    for digest in (world.bundle.digest, world.bundle.variants[0].digest, world.engine.digest):
        data = bytearray(world.store.path(digest).read_bytes())
        data[len(data) // 2] ^= 4
        world.store.path(digest).write_bytes(data)
    world.fetch()
    assert Variant.open(world.store.blobs, world.bundle.variants[0].digest).verify() > 1_000_000


def test_cancel_stops_at_once_and_keeps_the_part(world: World) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Cancelled):
        world.fetch(stop)  # nobody seeds


def test_cancel_is_heard_while_what_lies_there_is_hashed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = world.store.part(world.engine)
    data = (world.bundle.blobs / hex_of(world.engine.digest)).read_bytes()
    for i in range(10):
        part.write(i, data[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE])
    part.close()
    world.seed()
    stop, hashed, chunks = threading.Event(), [], PartialBlob.chunks

    def cancelled_meanwhile(self: PartialBlob) -> Iterator[tuple[int, bytes]]:
        for index, chunk in chunks(self):
            hashed.append(index)
            if index == 3:
                stop.set()
            yield index, chunk

    monkeypatch.setattr(PartialBlob, "chunks", cancelled_meanwhile)
    with pytest.raises(Cancelled):
        world.fetch(stop)
    assert hashed == [0, 1, 2, 3]


def test_broker_that_is_away_for_long_fails_no_fetch(world: World) -> None:
    away = BrokerOptions("127.0.0.1", free_port())
    fetcher = world.fetcher()
    fetcher.open_link = lambda: Link(away, "dev", window=2)
    now = itertools.count(step=5.0)
    fetcher.clock = lambda: next(now)
    with pytest.raises(Cancelled):
        fetcher.fetch("m@1", world.index, lambda: fetcher.clock() > 600, world.progress.append)


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
    installed = list(variant.installed())
    world.store.verify(installed)
    world.store.collect_garbage({d.digest for d in installed} | {variant.digest, world.bundle.digest})
    variant.need(LAYER_ENGINE).write_bytes(b"what a dying disk left")
    with pytest.raises(IntegrityError):
        world.store.verify(installed)
    sent = world.seeder.counters.broadcast_chunks
    # the next attempt decodes again; nothing is sent again
    world.fetch()
    world.store.verify(installed)
    assert world.seeder.counters.broadcast_chunks == sent
    world.seeder.close()


def test_packed_engine_that_decodes_to_what_nobody_signed_is_refused(
    tmp_path: Path, mosquitto: Broker
) -> None:
    world = World(
        tmp_path,
        mosquitto,
        1_000_000,
        packed=True,
        unpacked=Unpacked(digest="sha256:" + "0" * 64, size=1_000_000),
    )
    world.seed()
    with pytest.raises(IntegrityError, match="something else than was signed"):
        world.fetch()
    assert not world.store.has("sha256:" + "0" * 64)
    world.seeder.close()


# ---- lighter variants


@pytest.fixture
def several(tmp_path: Path, mosquitto: Broker) -> Iterator[tuple[World, Bundle]]:
    """A bundle with its own variant, one for low power and one with a small input."""
    world = World(tmp_path, mosquitto, 3000)
    parts = [make_bundle(tmp_path / "own", size=3000, version="2.0.0")]
    for i, name in enumerate(("low-power", "small-input")):
        folder = tmp_path / name
        made = make_bundle(folder, size=200_000, version="2.0.0", variant=name, seed=i, preferences=(name,))
        parts.append(made)
    bundle = world.add(join_bundles(tmp_path / "several", *parts))
    world.seed()
    yield world, bundle
    world.seeder.close()


def bring(world: World, bundle: Bundle, store: Store | None = None) -> Installed:
    index = Descriptor(mediaType=MEDIA_INDEX, digest=bundle.digest, size=len(bundle.index_bytes))
    fetched = world.fetcher(store).fetch(
        "m@1", index, lambda: False, world.progress.append, None, ("low-power",)
    )
    return fetched.chosen


def test_a_lighter_variant_that_is_asked_for_comes_along_and_the_others_do_not(
    several: tuple[World, Bundle],
) -> None:
    world, bundle = several
    own, low, small = bundle.variants
    installed = bring(world, bundle)
    assert installed.manifests == (own.digest, low.digest)
    for manifest in installed.manifests:
        world.store.verify_variant(manifest)
    (engine,) = (d for d in small.descriptors() if d.mediaType == LAYER_ENGINE)
    assert not world.store.has(engine.digest)


def test_without_room_for_it_the_release_comes_without_it(
    several: tuple[World, Bundle], tmp_path: Path
) -> None:
    world, bundle = several
    store = Store(tmp_path / "tight", reserve=0, quota=100_000)
    (one,) = bring(world, bundle, store).lighter
    assert one.manifest is None
    assert "quota" in (one.why or "")
    store.verify_variant(bundle.variants[0].digest)


def test_one_that_the_controller_lost_costs_the_release_nothing(several: tuple[World, Bundle]) -> None:
    world, bundle = several
    (engine,) = (d for d in bundle.variants[1].descriptors() if d.mediaType == LAYER_ENGINE)
    with Link(world.options, "tidy") as link:
        link.connect()
        link.publish(TOPICS.manifest(engine.digest, 0), b"", retain=True).wait(5)
    (world.blobs.folder / hex_of(engine.digest)).unlink()
    (one,) = bring(world, bundle).lighter
    assert one.manifest is None
    assert "not at the controller" in (one.why or "")


def test_what_a_bundle_has_no_other_variant_for_is_left_out(world: World) -> None:
    world.seed()
    (one,) = bring(world, world.bundle).lighter
    assert one == LighterEngine(
        preference="low-power", why="the bundle has no other variant of this kind for this machine"
    )


# ---- what is here already


@pytest.fixture
def pair(tmp_path: Path, mosquitto: Broker) -> Iterator[tuple[World, Bundle]]:
    """A device that has a release, and a fine-tuned one at the controller, with differences."""
    net = network(size=600_000)
    net.pop("b")
    world = World(tmp_path, mosquitto, 0, engine=onnx_file(net))
    new = world.add(make_bundle(tmp_path / "new", version="2.0.0", engine=onnx_file(tuned(net))))
    assert len(world.blobs.make_deltas(new.digest, world.bundle.digest)) == 1
    world.seed()
    world.fetch()
    yield world, new
    world.seeder.close()


def test_fine_tuned_release_comes_as_a_difference(
    pair: tuple[World, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world, new = pair
    before = world.seeder.counters.bytes
    world.fetch(bundle=new)
    Variant.open(world.store.blobs, new.variants[0].digest).verify()
    assert world.seeder.counters.bytes - before < 0.3 * new.variants[0].need(LAYER_ENGINE).stat().st_size
    assert "came as a delta of" in caplog.text, "an operator can see it"


def test_device_takes_the_difference_whose_base_it_has(
    pair: tuple[World, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, new = pair
    (layer,) = (d for d in new.variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
    (mine,) = world.blobs.deltas(layer.digest)
    others = [
        mine.model_copy(
            update={"base": digest_of(b"%d" % k), "digest": digest_of(b"d%d" % k), "size": 70_000}
        )
        for k in range(7)
    ]
    monkeypatch.setattr(
        world.blobs, "deltas", lambda digest: (*others, mine) if digest == layer.digest else ()
    )
    world.seeder.publish_pages(layer.digest)
    before = world.seeder.counters.bytes
    world.fetch(bundle=new)
    Variant.open(world.store.blobs, new.variants[0].digest).verify()
    assert world.seeder.counters.bytes - before < 0.3 * layer.size


@pytest.mark.parametrize("harm", ["gone", "rubbish", "another", "base"])
def test_difference_that_is_of_no_use_costs_only_the_detour(
    pair: tuple[World, Bundle], harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, new = pair
    (layer,) = (d for d in new.variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
    (offer,) = world.blobs.deltas(layer.digest)
    if harm == "base":  # what a dying disk left of the old engine
        old = world.store.path(offer.base)
        old.write_bytes(old.read_bytes()[:-200] + b"\1" * 200)
    elif harm == "gone":
        world.blobs.path(offer.digest).unlink()
        monkeypatch.setattr("edgectl.agent.transfer.download._DELTA_SILENCE_S", 1.0)
        with Link(world.options, "tidy") as link:
            link.connect()
            link.publish(TOPICS.manifest(offer.digest, 0), b"", retain=True).wait(5)
    else:
        # a controller that lies: a blob whose digest is right, and that makes something else, or nothing
        wrong = (
            b"rubbish" * 20_000
            if harm == "rubbish"
            else world.blobs.path(offer.digest).read_bytes()[:-2000] + bytes(2000)
        )
        lie = offer.model_copy(update={"digest": digest_of(wrong), "size": len(wrong)})
        world.blobs.path(lie.digest).write_bytes(wrong)
        monkeypatch.setattr(world.blobs, "deltas", lambda _: (lie,))
        world.seeder.publish_pages(layer.digest)
        monkeypatch.setattr(world.blobs, "deltas", lambda _: ())
        world.seeder.publish_pages(lie.digest)
    world.fetch(bundle=new)
    Variant.open(world.store.blobs, new.variants[0].digest).verify()


def test_chunks_that_another_stored_blob_has_are_not_sent(world: World) -> None:
    data = (world.bundle.blobs / hex_of(world.engine.digest)).read_bytes()
    old = data[: 10 * CHUNK_SIZE] + bytes(CHUNK_SIZE) + data[4 * CHUNK_SIZE : 6 * CHUNK_SIZE]
    world.store.put(digest_of(old), old)
    world.seed()
    world.fetch()
    world.store.verify(world.bundle.variants[0].descriptors())
    sent = world.seeder.counters.broadcast_chunks + world.seeder.counters.repair_chunks
    assert sent == -(-len(data) // CHUNK_SIZE) - 10


def test_quota_is_said_before_the_first_layer(world: World) -> None:
    world.seed()
    world.store = Store(world.store.blobs.parent, reserve=0, quota=900_000)
    with pytest.raises(StorageError, match="quota"):
        world.fetch()
    assert not world.store.has(world.engine.digest)
    world.store = Store(world.store.blobs.parent, reserve=0, quota=1_100_000)
    world.fetch()


def test_several_blobs_at_a_time_share_the_line(world: World, tmp_path: Path) -> None:
    other = world.add(make_bundle(tmp_path / "other", version="3.0.0", size=700_000))
    world.seed()
    fetchers = [threading.Thread(target=world.fetch, kwargs={"bundle": b}) for b in (world.bundle, other)]
    for t in fetchers:
        t.start()
    for t in fetchers:
        t.join(30)
    for b in (world.bundle, other):
        world.store.verify(b.variants[0].descriptors())


def test_chunks_that_come_before_their_list_are_kept_but_not_believed(world: World) -> None:
    receiver = Receiver(world.engine, 0.0, epoch=1)
    data = (world.bundle.blobs / hex_of(world.engine.digest)).read_bytes()
    assert (
        receiver.on_frame(encode_frame(world.engine.digest, 2, data[2 * CHUNK_SIZE : 3 * CHUNK_SIZE]))
        is not None
    )
    assert receiver.on_frame(encode_frame(world.engine.digest, 2, b"short")) is None
    assert receiver.have == 0
    part = world.store.part(world.engine)
    part.write(2, data[2 * CHUNK_SIZE : 3 * CHUNK_SIZE])
    assert not part.is_hole(2)
    assert part.is_hole(0)
    assert part.is_hole(9)
    part.close()
