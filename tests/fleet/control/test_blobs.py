"""Which differences the controller makes for a new release, and what that may cost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bundle import join_bundles, make_bundle
from support.graphs import network, onnx_file, tuned

from edgectl.core.bundle import LAYER_ENGINE, Bundle, Descriptor
from edgectl.core.files import digest_of, hex_of
from edgectl.fleet.control import blobs
from edgectl.fleet.control.blobs import BlobStore


class Fleet:
    """A blob store to which bundles are uploaded; engines by (profile, variant)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = BlobStore(folder / "blobs")

    def publish(self, version: str, engines: dict[tuple[str, str], bytes]) -> str:
        parts = [
            make_bundle(
                self.folder / f"{version}-{k}",
                version=version,
                profile=profile,
                variant=variant,
                engine=engine,
            )
            for k, ((profile, variant), engine) in enumerate(engines.items())
        ]
        bundle = Bundle(join_bundles(self.folder / version, *parts))
        shutil.copytree(bundle.blobs, self.store.folder, dirs_exist_ok=True)
        self.store.path(bundle.digest).write_bytes(bundle.index_bytes)
        return bundle.digest

    def bases(self, engine: bytes) -> set[str]:
        return {offer.base for offer in self.store.deltas(digest_of(engine))}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def int8(seed: int = 0) -> dict[str, np.ndarray]:
    return {"a": network(seed, size=200_000)["a"]}


def test_renamed_variant_is_found_by_its_tensors(fleet: Fleet) -> None:
    net = int8()
    old, new = onnx_file(net), onnx_file(tuned(net))
    first = fleet.publish(
        "1.0.0", {("cpu", "onnxruntime-int8"): old, ("cpu", "float"): onnx_file(network(5))}
    )
    second = fleet.publish("2.0.0", {("cpu", "openvino-int8"): new})
    (offer,) = fleet.store.make_deltas(second, first)
    assert offer.base == digest_of(old)
    assert offer.size == fleet.store.size(offer.digest) <= 0.6 * len(new)
    assert fleet.store.make_deltas(second, first) == [], "what is offered already is not made again"


def test_each_device_finds_a_difference_from_the_engine_it_has(fleet: Fleet) -> None:
    net = int8()
    wide, deep = onnx_file(net), onnx_file({**tuned(net, 3), "extra": np.ones((40, 40), np.float32)})
    new = onnx_file(tuned(net))
    first = fleet.publish(
        "1.0.0", {("cpu", "int8"): wide, ("cpu", "int8-wide"): deep, ("cpu", "float"): onnx_file(network(5))}
    )
    second = fleet.publish("2.0.0", {("cpu", "int8"): new})
    made = fleet.store.make_deltas(second, first)
    assert made[0].base == digest_of(wide), "the namesake goes first"
    assert fleet.bases(new) == {digest_of(wide), digest_of(deep)}


def test_other_profiles_and_strangers_are_no_bases(fleet: Fleet) -> None:
    net = int8()
    first = fleet.publish(
        "1.0.0",
        {("jetson", "int8"): onnx_file(net), ("cpu", "other"): onnx_file({"a": net["a"].astype(np.float32)})},
    )
    second = fleet.publish("2.0.0", {("cpu", "int8"): onnx_file(tuned(net))})
    assert fleet.store.make_deltas(second, first) == []


def test_engine_with_too_little_in_common_is_not_tried(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its difference could not be small enough."""
    net = int8()
    tried: list[int] = []
    monkeypatch.setattr(blobs, "make_delta", lambda old, new: tried.append(len(new)))
    first = fleet.publish("1.0.0", {("cpu", "a"): onnx_file({"a": net["a"][:500]})})
    second = fleet.publish(
        "2.0.0", {("cpu", "b"): onnx_file({"a": net["a"][:500], "z": np.zeros((1500, 100), np.int8)})}
    )
    fleet.store.make_deltas(second, first)
    assert tried == []
    third = fleet.publish(
        "3.0.0", {("cpu", "c"): onnx_file({"a": net["a"][:1500], "z": np.zeros((500, 100), np.int8)})}
    )
    fourth = fleet.publish(
        "4.0.0", {("cpu", "d"): onnx_file({"a": net["a"][:1500] // 2, "y": np.zeros((400, 100), np.int8)})}
    )
    fleet.store.make_deltas(fourth, third)
    assert len(tried) == 1


def test_unchanged_engine_needs_no_difference(fleet: Fleet) -> None:
    same = onnx_file(int8())
    first = fleet.publish("1.0.0", {("cpu", "int8"): same, ("cpu", "twin"): onnx_file(tuned(int8()))})
    second = fleet.publish("2.0.0", {("cpu", "renamed"): same})
    assert fleet.store.make_deltas(second, first) == []


def engine(name: str, size: int = 1 << 20) -> Descriptor:
    return Descriptor(mediaType=LAYER_ENGINE, digest=digest_of(name.encode()), size=size)


def test_work_is_bounded_and_goes_to_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_MAX_OTHERS", 2)
    old = {("cpu", f"old-{k}"): engine(f"old-{k}") for k in range(9)}
    new = {("cpu", f"new-{k}"): engine(f"new-{k}") for k in range(4)} | {
        ("cpu", "old-0"): engine("successor")
    }
    share = {engine(f"old-{k}").digest: 0.99 - k / 100 for k in range(9)}
    pairs = blobs._worth_trying(new, old, lambda blob, base: share[base.digest])
    assert pairs[0] == (engine("successor"), engine("old-0"))
    bases = [base for blob, base in pairs if blob == engine("new-1")]
    assert bases == [engine("old-0"), engine("old-1")], "of nine"
    assert len(pairs) == 1 + 2 * 5
    monkeypatch.setattr(blobs, "_MAX_OTHER_BYTES", 5 << 20)
    pairs = blobs._worth_trying(new, old, lambda blob, base: share[base.digest])
    assert len(pairs) == 1 + 5, "the namesake does not count"
    assert [base for _, base in pairs[1:5]] == [engine("old-0")] * 4
    assert blobs._worth_trying(new, old, lambda blob, base: 0.39) == [(engine("successor"), engine("old-0"))]
    huge = {("cpu", "old-0"): engine("huge", 600 << 20), ("cpu", "small"): engine("small", 1000)}
    assert blobs._worth_trying(huge, old, lambda blob, base: 1.0) == []
    assert blobs._worth_trying({("cpu", "new"): engine("new")}, huge, lambda blob, base: 1.0)[0][1] == engine(
        "small", 1000
    )


def test_one_engine_under_several_profiles_is_made_once(fleet: Fleet) -> None:
    net = int8()
    old, new = onnx_file(net), onnx_file(tuned(net))
    first = fleet.publish("1.0.0", {("cpu", "a"): old, ("vnni", "a"): old})
    second = fleet.publish("2.0.0", {("cpu", "b"): new, ("vnni", "c"): new})
    assert len(fleet.store.make_deltas(second, first)) == 1
    assert hex_of(digest_of(new)) in {p.name for p in fleet.store.folder.iterdir()}


# ---- what nothing names any more


def old(store: BlobStore) -> None:
    for path in store.folder.iterdir():
        os.utime(path, (1.0, 1.0))


def test_base_of_a_difference_that_is_offered_stays_and_with_the_new_engine_both_go(fleet: Fleet) -> None:
    net = int8()
    base, new = onnx_file(net), onnx_file(tuned(net))
    first = fleet.publish("1.0.0", {("cpu", "onnxruntime-int8"): base})
    second = fleet.publish("2.0.0", {("cpu", "onnxruntime-int8"): new})
    (offer,) = fleet.store.make_deltas(second, first)
    old(fleet.store)
    fleet.store.collect(fleet.store.offered(second))
    assert fleet.store.has(digest_of(base))
    assert not fleet.store.has(first)
    assert fleet.store.offered(second), "the release is whole"
    assert fleet.store.has(offer.digest)
    removed = fleet.store.collect([])
    assert {digest_of(base), digest_of(new), offer.digest, second} <= removed.keys()
    assert not any(fleet.store.folder.iterdir())
    assert fleet.store.deltas(digest_of(new)) == ()


def test_collection_that_is_killed_is_finished_by_the_next_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = fleet.publish("1.0.0", {("cpu", "a"): onnx_file(int8())})
    gone = fleet.store.offered(release)
    removed: list[Path] = []
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if len(removed) == 3:
            raise KeyboardInterrupt
        removed.append(self)
        unlink(self, missing_ok)

    with monkeypatch.context() as m:
        m.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            fleet.store.collect([], gone)
    left = [p.name for p in fleet.store.folder.iterdir()]
    assert left
    assert all(digest_of((fleet.store.folder / name).read_bytes()) == f"sha256:{name}" for name in left), (
        "whole ones only"
    )
    old(fleet.store)
    fleet.store.collect([])
    assert not any(fleet.store.folder.iterdir())


def test_upload_that_is_not_finished_and_files_of_others_are_left_alone(fleet: Fleet) -> None:
    (fleet.store.folder / "notes.txt").write_text("mine")
    (fleet.store.folder / ".tmp-123").write_text("half of a blob")
    old(fleet.store)
    assert fleet.store.collect([]) == {}
    assert len(list(fleet.store.folder.iterdir())) == 2
