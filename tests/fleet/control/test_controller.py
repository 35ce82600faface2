"""The controller without a broker: what is left when a step is cut off in the middle, and what threads do
to each other."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.controller import DIGEST, T, World
from support.postgres import postgres, store_url  # noqa: F401, fixtures
from support.tuf import keys_in

from edgectl.core.bundle import Bundle
from edgectl.core.errors import BundleError, LinkError, RolloutError, StorageError, TrustError, UsageError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.histogram import Histogram
from edgectl.core.signed import add_signatures
from edgectl.core.states import State
from edgectl.core.wire import Command, Frames, StreamStats, Telemetry, Trust
from edgectl.fleet.keys.ceremony import KeySet, new_key
from edgectl.fleet.keys.releases import sign_release, withdraw
from edgectl.fleet.rollouts.planner import DeviceOutcome, RolloutRequest, RolloutState
from edgectl.fleet.store.inventory import Release


@pytest.fixture
def world(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store_url: str | None,
) -> Iterator[World]:
    world = World(tmp_path, monkeypatch, database=store_url)
    yield world
    world.controller.inventory.close()


# ---- steps that are cut off


def test_every_admitted_device_is_told_although_the_broker_was_full_in_the_middle(world: World) -> None:
    for i in range(5):
        world.born(f"d{i}")
    rollout = world.rollout("1")
    world.wire.takes = 2
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    for i in range(5):
        wish = world.told(f"d{i}")
        assert wish is not None
        assert wish.slots["gate"].release == "gate@1"
        assert world.controller.rollout(rollout)[1].members[f"d{i}"].outcome is DeviceOutcome.ADMITTED


def test_step_that_a_kill_cuts_off_is_taken_whole_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("d0")
    rollout = world.rollout("1")

    def killed(*_: object) -> None:
        raise StorageError("killed")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.store.devices.tell", killed)
        with pytest.raises(StorageError):
            world.tick()
    world.controller.inventory.close()
    world.boot()
    progress = world.controller.rollout(rollout)[1]
    assert not progress.members, "nobody counts as admitted who was not told"
    world.tick()
    assert world.told("d0") is not None


def test_desired_state_that_was_saved_and_not_published_is_published_after_a_start(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.wire.is_up = False
    world.tick()
    assert world.told("d0") is None
    world.controller.inventory.close()
    world.boot()
    world.wire.is_up = True
    world.wire.on_up()
    world.tick()
    assert world.told("d0") is not None


def test_release_that_is_not_whole_here_keeps_no_desired_state_from_a_broker_that_forgot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("d0")
    world.rollout("1")  # of whose blobs none was ever uploaded
    world.tick()
    world.controller.inventory.save_release(Release("other@1", DIGEST["2"], (), 2.0))

    def closure(digest: str) -> list[object]:
        if digest == DIGEST["1"]:
            raise BundleError("the index is missing")
        return []

    monkeypatch.setattr(world.controller.blobs, "closure", closure)
    world.wire.retained.clear()
    world.wire.on_up()
    world.tick()
    assert world.told("d0") is not None
    assert world.seeder.offered == [DIGEST["2"]]


def test_everything_is_published_again_although_the_broker_went_away_in_the_middle(world: World) -> None:
    for i in range(3):
        world.born(f"d{i}")
    world.rollout("1")
    world.tick()
    world.controller.inventory.drop_release("gate@1")
    world.wire.retained.clear()
    world.wire.on_up()
    world.wire.takes = 3
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert all(world.told(f"d{i}") for i in range(3))


def test_what_was_not_read_in_the_middle_keeps_nothing_from_being_published_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    monkeypatch.setattr(world.controller.blobs, "closure", lambda _: [])

    def fails(*_: object, **__: object) -> None:
        raise StorageError("the disk does not answer")

    for method in ("releases", "rollouts"):
        world.wire.retained.clear()
        world.seeder.offered.clear()
        world.wire.on_up()
        with monkeypatch.context() as m:
            m.setattr(world.controller.inventory, method, fails)
            with pytest.raises(StorageError):
                world.tick()
        if method == "releases":
            world.tick()
        assert {T.ctl, T.trust, T.desired("d0")} <= world.wire.retained.keys(), (
            "also while no rollout can go on"
        )
        assert world.seeder.offered == [DIGEST["1"]]


def test_release_is_told_and_offered_although_the_broker_was_full(world: World, tmp_path: Path) -> None:
    bundle = Bundle(make_bundle(tmp_path / "b"))
    release, targets = sign_release(tmp_path / "keys", bundle, None)
    blobs = {p.name: p for p in (bundle.root / "blobs" / "sha256").iterdir()} | {
        hex_of(bundle.digest): bundle.root / "index.json"
    }
    for name, path in blobs.items():
        shutil.copy(path, world.controller.blobs.path(f"sha256:{name}"))
    world.wire.takes = 0
    world.controller.add_release(release, bundle.digest, {"targets.json": targets})
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert json.loads(
        Trust.model_validate_json(world.wire.retained[T.trust]).files["targets.json"]
    ) == json.loads(targets)
    assert sorted(world.seeder.offered) == sorted(f"sha256:{name}" for name in blobs)


def test_renewed_metadata_that_the_broker_did_not_take_are_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewals = iter([True])
    monkeypatch.setattr(world.controller.trust, "renew", lambda: next(renewals, False))
    world.wire.takes = 0
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert T.trust in world.wire.retained


def test_newer_word_of_ours_on_the_broker_is_put_back_where_an_older_one_was_written_over_it(
    world: World,
) -> None:
    """The database is an old backup: it says what was wanted then before the broker has told it better."""
    world.born("d0")
    world.rollout("1")
    world.tick()
    older = world.controller._devices["d0"].desired
    newer = older.model_copy(update={"gen": 9})
    payload = world.controller.director.seal("d0", newer).payload
    world.wire.on_up()
    world.tick()
    world.hears(T.desired("d0"), payload)
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert wish.gen == 9


def test_older_word_of_ours_that_somebody_replays_is_written_over(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    old = world.wire.retained[T.desired("d0")]
    world.controller.change_rollout("gate-1", "abort")
    world.tick()
    newest = world.wire.retained[T.desired("d0")]
    assert newest != old
    world.wire.retained[T.desired("d0")] = old
    world.hears(T.desired("d0"), old)
    world.tick()
    assert world.wire.retained[T.desired("d0")] == newest


# ---- what an operator takes back


def test_release_cannot_be_rolled_back_while_another_rollout_is_at_work_in_its_slot(world: World) -> None:
    world.born("d0")
    first = world.rollout("1")
    world.tick()
    world.controller.change_rollout(first, "abort")
    world.tick()
    world.reports("d0", 1, 1, gen=2, state=State.CLEARED)
    world.tick()
    assert world.controller.rollout(first)[1].state is RolloutState.ABORTED
    second = world.rollout("2")
    with pytest.raises(RolloutError, match=f"rollout {second} of gate@2 is running in slot gate") as e:
        world.controller.change_rollout(first, "rollback")
    assert f"edgectl rollout abort {second}" in str(e.value.hint)


@pytest.mark.parametrize(
    ("op", "hint"),
    [(None, "rollout abort"), ("pause", "rollout resume"), ("abort", "ends by itself, 3600 s")],
)
def test_busy_slot_says_what_to_do_about_it(world: World, op: str | None, hint: str) -> None:
    world.born("d0")
    first = world.rollout("1")
    world.tick()
    if op is not None:
        world.controller.change_rollout(first, op)
    with pytest.raises(RolloutError, match="is still") as e:
        world.rollout("2")
    assert hint in str(e.value.hint)


def test_release_that_waits_for_a_signature_is_aborted_without_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, KeySet(1, 2, (new_key(tmp_path / "operator.pem"),)))
    world.born("d0")
    world.reports("d0", 1, 1, state=State.IDLE)
    rollout = world.rollout("1")
    world.tick()
    world.tick()
    assert (
        world.controller.rollout(rollout)[1].note
        == "d0: waits for a signature: `edgectl rollout approve --key KEY`"
    )
    world.controller.change_rollout(rollout, "abort")
    world.tick()
    progress = world.controller.rollout(rollout)[1]
    assert (progress.state, progress.members["d0"].outcome) == (RolloutState.ABORTED, DeviceOutcome.RESTORED)
    world.controller.inventory.close()


# ---- releases that are withdrawn, and their blobs


class Shelf:
    """A controller with releases whose blobs are really there."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder, self.keys = world, folder, folder / "keys"

    def upload(self, version: str, size: int = 3000, name: str = "b") -> Bundle:
        bundle = Bundle(make_bundle(self.folder / f"{name}{version}", version=version, size=size))
        for path in bundle.blobs.iterdir():
            shutil.copy(path, self.world.controller.blobs.path(f"sha256:{path.name}"))
        self.world.controller.blobs.path(bundle.digest).write_bytes(bundle.index_bytes)
        return bundle

    def publish(self, version: str) -> Bundle:
        bundle = self.upload(version)
        release, targets = sign_release(self.keys, bundle, None)
        self.world.controller.add_release(release, bundle.digest, {"targets.json": targets}, "")
        return bundle

    def withdraw(self, version: str, *, stop: bool = False) -> None:
        release = f"gate-detector@{version}"
        current = self.world.controller.trust.files()["targets.json"]
        self.world.controller.accept_trust(
            {"targets.json": withdraw(self.keys, release, current)}, [release], stop_rollouts=stop
        )

    def has(self, bundle: Bundle) -> set[bool]:
        digests = {bundle.digest, *(f"sha256:{p.name}" for p in bundle.blobs.iterdir())}
        return {self.world.controller.blobs.has(d) for d in digests}


@pytest.fixture
def shelf(world: World, tmp_path: Path) -> Shelf:
    return Shelf(world, tmp_path)


def test_blobs_of_a_release_that_is_withdrawn_go_but_for_those_that_another_has_too(
    world: World, shelf: Shelf
) -> None:
    first, second = shelf.publish("1.0.0"), shelf.publish("2.0.0")
    own = {p.name for p in first.blobs.iterdir()} - {p.name for p in second.blobs.iterdir()}
    world.tick()
    shelf.withdraw("1.0.0")
    assert shelf.has(second) == {True}
    assert not any(world.controller.blobs.has(f"sha256:{name}") for name in own | {hex_of(first.digest)})
    world.tick()
    assert world.wire.retained[T.manifest(first.digest, 0)] == b"", (
        "the broker need not keep its chunk list either"
    )


def test_release_that_a_rollout_needs_is_withdrawn_only_on_demand_and_its_rollout_aborted(
    world: World, shelf: Shelf
) -> None:
    world.born("d0")
    bundle = shelf.publish("1.0.0")
    spec = world.controller.start_rollout(RolloutRequest(release="gate-detector@1.0.0", slot="gate"))
    world.tick()
    with pytest.raises(RolloutError, match=f"not withdrawn: rollout {spec.id} of it is running") as e:
        shelf.withdraw("1.0.0")
    assert "--yes" in str(e.value.hint)
    assert [*world.controller.inventory.releases()] == ["gate-detector@1.0.0"]
    assert shelf.has(bundle) == {True}
    # the file that was signed then is handed over now
    shelf.withdraw("1.0.0", stop=True)
    progress = world.controller.rollout(spec.id)[1]
    assert (progress.state, progress.reason) == (
        RolloutState.ROLLING_BACK,
        "gate-detector@1.0.0 was withdrawn",
    )
    assert progress.ending is RolloutState.ABORTED
    assert shelf.has(bundle) == {False}
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert "gate" in wish.clear


def test_blobs_of_a_release_that_is_being_published_stay(world: World, shelf: Shelf) -> None:
    first = shelf.publish("1.0.0")
    coming = shelf.upload("2.0.0")
    again = {f"sha256:{p.name}" for p in coming.blobs.iterdir()}
    shared = again & {f"sha256:{p.name}" for p in first.blobs.iterdir()}
    assert all(world.controller.blobs.expects(d) for d in again), (
        "a publisher asks what is here, and sends only the rest"
    )
    shelf.withdraw("1.0.0")
    assert shelf.has(coming) == {True}, "what is young may be on its way"
    assert all(world.controller.blobs.has(d) for d in shared)


def test_what_was_uploaded_and_never_named_goes_after_a_day(world: World, shelf: Shelf) -> None:
    named, abandoned = shelf.publish("1.0.0"), shelf.upload("9.0.0", name="x")
    only = [
        p.name for p in abandoned.blobs.iterdir() if p.name not in {q.name for q in named.blobs.iterdir()}
    ]
    world.tick()
    assert shelf.has(abandoned) == {True}
    old = time.time() - 2 * 86400
    for path in world.controller.blobs.folder.iterdir():
        os.utime(path, (old, old))
    world.now += 86400
    world.tick()
    assert shelf.has(named) == {True}
    assert not any(world.controller.blobs.has(f"sha256:{name}") for name in only)


def test_nothing_is_removed_while_some_release_is_not_whole(world: World, shelf: Shelf) -> None:
    first, second = shelf.publish("1.0.0"), shelf.publish("2.0.0")
    world.controller.blobs.path(second.digest).unlink()
    shelf.withdraw("1.0.0")
    assert shelf.has(first) == {True}, "nobody can say what the other one needs"


# ---- threads


def test_devices_are_heard_while_the_broker_does_not_answer(world: World) -> None:
    """Their handlers must never wait for the broker: it may be waiting for them to read."""
    world.born("d0")
    world.rollout("1")
    epochs = itertools.count(2)
    heard: list[str] = []
    with ThreadPoolExecutor(1) as dispatcher:

        def takes_its_time(topic: str) -> None:
            if not wait([dispatcher.submit(world.born, "d0", next(epochs))], timeout=5).done:
                raise LinkError("nothing is heard meanwhile")
            heard.append(topic)

        world.wire.on_publish = takes_its_time
        world.wire.on_up()
        world.tick()
        world.controller.freeze(True)
    assert heard == [T.ctl, T.trust, T.desired("d0"), T.ctl]


def test_latency_is_asked_while_telemetry_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def telemetry(seq: int) -> Telemetry:
        h = Histogram()
        h.record(5000.0)
        s = StreamStats(
            kind="k", slots={"gate": DIGEST[str(seq)]}, stages={"engine": h.data()}, frames=Frames(), fps=1.0
        )
        return Telemetry(epoch=1, seq=seq, window_s=1, streams={"yard": s})

    world.born("d0")
    world.born("d1")
    world.hears(T.telemetry("d0"), telemetry(1))
    merge = Histogram.merge
    with ThreadPoolExecutor(1) as dispatcher:
        meanwhile: list[Future[None]] = []

        def slow(self: Histogram, other: Histogram) -> None:
            if not meanwhile:
                meanwhile.append(dispatcher.submit(world.hears, T.telemetry("d1"), telemetry(2)))
                wait(meanwhile, timeout=0.2)
            merge(self, other)

        monkeypatch.setattr(Histogram, "merge", slow)
        assert set(world.controller.engines()) == {("gate", DIGEST["1"])}
        meanwhile[0].result(10)
    assert len(world.controller.engines()) == 2


def test_approved_document_that_the_broker_did_not_take_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, KeySet(1, 2, (new_key(tmp_path / "operator.pem"),)))
    world.born("d0")
    world.rollout("1")
    world.tick()
    assert world.told("d0") is None
    documents = {
        d: add_signatures(p, keys_in(tmp_path / "operator.pem"))
        for d, p in world.controller.waiting().items()
    }
    world.wire.takes = 0
    assert world.controller.approve(documents) == ["d0"]
    assert world.controller.waiting() == {}
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert world.wire.retained[T.desired("d0")] == documents["d0"]
    world.controller.inventory.close()


def test_freeze_that_the_broker_did_not_take_is_told_later(world: World) -> None:
    world.wire.takes = 0
    with pytest.raises(LinkError):
        world.controller.freeze(True)
    world.wire.takes = 100
    world.tick()
    assert json.loads(world.wire.retained[T.ctl])["signed"]["freeze"] is True


def test_controller_ends_although_the_broker_takes_no_good_bye(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(world.seeder, "close", lambda: ended.append("seeder"))
    monkeypatch.setattr(world.wire, "close", lambda: ended.append("link"))
    world.wire.takes = 0
    world.controller.close()
    assert ended == ["seeder", "link"]


def test_clock_that_jumps_passes_no_deadline_of_a_rollout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set to 2030 for a moment, or back by a day: who was admitted just now has neither failed nor gone
    away."""
    now = world.now = time.time()
    world.born("d0")
    rollout = world.rollout("1")
    ticked = []
    tick = world.controller.tick
    stop = threading.Event()

    def once(now_s: float) -> None:
        ticked.append(now_s)
        tick(now_s)
        if len(ticked) == 3:
            stop.set()
        world.controller._wake.set()
        monkeypatch.setattr("edgectl.fleet.control.devices.time.time", lambda: now + 4 * 365 * 86400)

    monkeypatch.setattr(world.controller, "tick", once)
    monkeypatch.setattr(world.seeder, "alive", True, raising=False)
    world.controller.run(stop)
    assert ticked[-1] - now < 3600
    world.reports("d0", 1, 1, state=State.FETCHING)
    assert world.controller._devices.views()["d0"].seen_s - now < 3600
    assert world.controller.rollout(rollout)[1].members["d0"].outcome.value == "admitted"


def test_devices_measure_for_nobody_where_several_have_to_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they would open no release names: a controller that signs with one key of two cannot ask for it."""
    world = World(tmp_path, monkeypatch, director=KeySet(new=2, threshold=2))
    measure = Command.model_validate(
        {"id": "1", "op": "measure", "deadline_s": 1.0, "measure": {"act": "open", "session": "s"}}
    )
    director = world.controller.director
    assert director.seal_command("gate-1", measure), "it has both"
    director._signers = director._signers[:1]
    with pytest.raises(TrustError, match="measure needs 2 of the director's keys, and this controller has 1"):
        director.seal_command("gate-1", measure)
    assert director.seal_command("gate-1", measure.model_copy(update={"op": "probe", "measure": None}))
    world.controller.inventory.close()


def test_files_of_a_build_that_is_over_go_and_those_that_a_release_names_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = world.controller.blobs
    monkeypatch.setattr(world.controller.trust, "plans", lambda: [digest_of(b"named")])
    named, candidate = digest_of(b"named"), digest_of(b"candidate")
    for data, digest in ((b"named", named), (b"candidate", candidate)):
        blobs.path(digest).write_bytes(data)
        assert blobs.expects(digest)
    world.controller.drop_blobs([named, candidate])
    assert (blobs.has(named), blobs.has(candidate)) == (True, False)


def test_one_device_is_asked_about_as_all_are(world: World) -> None:
    for name in ("d0", "d1"):
        world.born(name)
    stats = StreamStats(
        kind="surveillance", slots={"gate": DIGEST["1"]}, stages={"engine:gate": _measured(5000.0).data()}
    )
    told = Telemetry(epoch=1, seq=1, window_s=1, streams={"yard": stats})
    for name in ("d0", "d1"):
        world.hears(T.telemetry(name), told)
    c = world.controller
    assert c.device("d1").name == "d1"
    with pytest.raises(UsageError, match="there is no device d9"):
        c.device("d9")
    assert c.rows_of(["d1", "d9"]) == [row for row in c.rows() if row.device == "d1"]
    assert (c.telemetry("d1"), c.telemetry("d9")) == (told, None)
    assert (c.stream_latency("d1", "yard").n, c.stream_latency("d1", "none").n) == (200, 0)
    assert c.engine_latency("gate", DIGEST["1"]).n == 400
    assert c.engine_latency("gate", DIGEST["1"], frozenset({"d1"})).n == 200


def _measured(us: float) -> Histogram:
    h = Histogram()
    for _ in range(200):
        h.record(us)
    return h
