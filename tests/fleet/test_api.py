"""The API through its own client, with a real controller on a real broker."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Broker, free_port
from support_bundle import make_bundle
from support_fleet import Fleet
from support_onnx import network, onnx_file, tuned
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.errors import BundleError, IntegrityError, LinkError, RolloutError, TrustError, UsageError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.wire import ControllerState
from edgectl.fleet.blobs import BlobStore
from edgectl.fleet.client import FleetClient
from edgectl.fleet.publish import publish_bundle


@pytest.fixture
def fleet(mosquitto: Broker, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, mosquitto.port, free_port())
    fleet.start_controller()
    yield fleet
    fleet.close()


def test_publish_uploads_once_and_repeats_safely(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", size=500_000)
    seen: list[tuple[int, int]] = []
    release = publish_bundle(fleet.client, bundle, fleet.keys, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 500_000
    assert publish_bundle(fleet.client, bundle, fleet.keys) == release
    (found,) = fleet.client.releases()
    assert (found["release"], found["digest"], found["profiles"]) == (release, Bundle(bundle).digest, ["cpu"])
    with pytest.raises(TrustError, match="other content"):
        fleet.publish(make_bundle(tmp_path / "c", size=400_000))


def test_release_is_published_with_differences_to_the_one_before_it(fleet: Fleet, tmp_path: Path) -> None:
    net = network(size=200_000)
    net.pop("b")
    engines = [onnx_file(net), onnx_file(tuned(net, 1)), onnx_file(tuned(net, 2)), onnx_file(network(9, size=200_000))]
    bundles = [make_bundle(tmp_path / f"{k}", version=f"{k}.0.0", engine=e) for k, e in enumerate(engines)]
    first = fleet.publish(bundles[0])
    fleet.publish(bundles[1])
    publish_bundle(fleet.client, bundles[2], fleet.keys, delta_from=first)
    fleet.publish(bundles[3])  # trained anew: nothing to gain
    blobs = BlobStore(fleet.config.state_dir / "blobs")
    layers = [next(d for d in Bundle(b).variants[0].descriptors() if d.mediaType == LAYER_ENGINE) for b in bundles]
    offers = [blobs.deltas(layer.digest) for layer in layers]
    assert [[o.base for o in found] for found in offers] == [[], [layers[0].digest], [layers[0].digest], []]
    assert all(o.size == blobs.size(o.digest) < 0.4 * layers[1].size for found in offers for o in found)
    publish_bundle(fleet.client, bundles[2], fleet.keys)  # again, now against the second: both are offered
    assert {o.base for o in blobs.deltas(layers[2].digest)} == {layers[0].digest, layers[1].digest}
    with pytest.raises(UsageError, match=r"no release gate-detector@7\.0\.0"):
        publish_bundle(fleet.client, bundles[0], fleet.keys, delta_from="gate-detector@7.0.0")


def test_bundle_with_one_flipped_byte_is_not_published(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    biggest = max((bundle / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(biggest.read_bytes())
    data[1000] ^= 1
    biggest.write_bytes(data)
    with pytest.raises(IntegrityError):
        fleet.publish(bundle)
    assert fleet.client.releases() == []


def test_upload_that_is_not_its_digest_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"wrong")
    digest = digest_of(b"right")
    with pytest.raises(IntegrityError):
        fleet.client.put_blob(digest, tmp_path / "f")
    assert not fleet.client.has_blob(digest)
    assert not [p for p in (fleet.config.state_dir / "blobs").iterdir() if hex_of(digest) in p.name]


def test_release_with_a_missing_blob_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    bundle = Bundle(make_bundle(tmp_path / "b"))
    fleet.client.put_blob(bundle.digest, bundle.root / "index.json")
    with pytest.raises(BundleError):
        fleet.client.add_release("gate-detector@1.0.0", bundle.digest, {"targets.json": b"{}"})
    assert fleet.client.releases() == []


def test_one_rollout_per_slot_and_unknown_things_are_named(fleet: Fleet, tmp_path: Path) -> None:
    release = fleet.publish(make_bundle(tmp_path / "b"))
    rollout = fleet.rollout(release)
    with pytest.raises(RolloutError, match="still running"):
        fleet.rollout(release)
    assert fleet.client.change_rollout(rollout, "pause")["state"] == "paused"
    assert fleet.client.change_rollout(rollout, "resume")["state"] == "running"
    assert fleet.client.change_rollout(rollout, "abort")["state"] == "stopped"
    with pytest.raises(RolloutError, match="cannot be paused"):
        fleet.client.change_rollout(rollout, "pause")
    with pytest.raises(RolloutError, match="no rollout x"):
        fleet.client.rollout("x")
    with pytest.raises(UsageError, match="no release m@9"):
        fleet.client.start_rollout("m@9", "gate-detector")
    with pytest.raises(UsageError, match="is not a name"):
        fleet.client.enroll("../x")
    again = fleet.rollout(release)
    assert fleet.client.rollout(again)["attempt"] == 2


def test_wrong_token_opens_nothing(fleet: Fleet) -> None:
    with FleetClient(f"http://127.0.0.1:{fleet.api_port}", "guess") as client, pytest.raises(UsageError, match="token"):
        client.devices()
    assert httpx.get(f"http://127.0.0.1:{fleet.api_port}/v1/devices", trust_env=False).status_code == 401
    assert (fleet.config.state_dir / "token").stat().st_mode & 0o077 == 0


def test_rubbish_is_answered_not_obeyed(fleet: Fleet) -> None:
    token = (fleet.config.state_dir / "token").read_text()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{fleet.api_port}/v1", headers={"Authorization": f"Bearer {token}"}, trust_env=False
    ) as http:
        assert http.post("/rollouts", content=b"{").status_code == 422
        assert http.put("/blobs/..%2F..%2Fx", content=b"").status_code in (400, 404, 422)
        assert http.put("/blobs/sha256:zz", content=b"").status_code == 400
        assert http.post("/rollouts/a/explode").status_code == 400


def test_absent_controller_is_one_sentence() -> None:
    with FleetClient(f"http://127.0.0.1:{free_port()}", "t") as client, pytest.raises(LinkError, match="does not answer"):
        client.devices()


def test_taken_port_is_one_sentence(fleet: Fleet) -> None:
    from edgectl.fleet.service import run_controller

    with pytest.raises(LinkError, match="cannot listen"):
        run_controller(fleet.config.model_copy(update={"state_dir": fleet.folder / "other"}), fleet.stop_controller)


def test_freeze_is_told_to_the_fleet_and_taken_back(fleet: Fleet) -> None:
    told: queue.Queue[bool] = queue.Queue()
    fleet.spy.subscribe(fleet.topics.ctl, lambda _, payload: told.put(ControllerState.model_validate_json(payload).freeze))
    assert told.get(timeout=10) is False
    controller = ["--controller", f"http://127.0.0.1:{fleet.api_port}", "--token-file", str(fleet.config.state_dir / "token")]
    for more, frozen in (([], True), (["--off"], False)):
        result = CliRunner().invoke(app, ["fleet", "freeze", *more, *controller])
        assert result.exit_code == 0, result.output
        assert told.get(timeout=10) is frozen
