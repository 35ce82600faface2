"""The API through its own client, with a real controller on a real broker."""

from __future__ import annotations

import json
import queue
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until
from support.graphs import network, onnx_file, tuned
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.errors import (
    BundleError,
    IntegrityError,
    LinkError,
    ProtocolError,
    RolloutError,
    StorageError,
    TrustError,
    UsageError,
)
from edgectl.core.files import digest_of, hex_of
from edgectl.core.licence import LicencePolicy
from edgectl.core.signed import is_signed
from edgectl.core.trust import director_keys, open_state
from edgectl.core.wire import MAX_GEN, Conn, ControllerState, Failure, Reply, Reported
from edgectl.engines.finalise.shared_plan import hand_out
from edgectl.fleet.api.app import _rollout
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.client.publish import publish_bundle, share_plan
from edgectl.fleet.control.blobs import BlobStore
from edgectl.fleet.keys.releases import withdraw
from edgectl.fleet.keys.signing import follow, roots_in
from edgectl.fleet.rollouts.gates import GateDecision, GateVerdict
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutSpec


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
    engines = [
        onnx_file(net),
        onnx_file(tuned(net, 1)),
        onnx_file(tuned(net, 2)),
        onnx_file(network(9, size=200_000)),
    ]
    bundles = [make_bundle(tmp_path / f"{k}", version=f"{k}.0.0", engine=e) for k, e in enumerate(engines)]
    first = fleet.publish(bundles[0])
    fleet.publish(bundles[1])
    publish_bundle(fleet.client, bundles[2], fleet.keys, delta_from=first)
    fleet.publish(bundles[3])  # trained anew: nothing to gain
    blobs = BlobStore(fleet.config.state_dir / "blobs")
    layers = [
        next(d for d in Bundle(b).variants[0].descriptors() if d.mediaType == LAYER_ENGINE) for b in bundles
    ]
    offers = [blobs.deltas(layer.digest) for layer in layers]
    assert [[o.base for o in found] for found in offers] == [[], [layers[0].digest], [layers[0].digest], []]
    assert all(o.size == blobs.size(o.digest) < 0.4 * layers[1].size for found in offers for o in found)
    publish_bundle(fleet.client, bundles[2], fleet.keys)  # again, now against the second: both are offered
    assert {o.base for o in blobs.deltas(layers[2].digest)} == {layers[0].digest, layers[1].digest}
    with pytest.raises(UsageError, match=r"no release gate-detector@7\.0\.0"):
        publish_bundle(fleet.client, bundles[0], fleet.keys, delta_from="gate-detector@7.0.0")


def test_weights_that_the_fleet_does_not_deliver_are_refused_before_an_upload_and_by_the_controller_itself(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.end_controller()
    policy = LicencePolicy(refuse=("AGPL-*",), unknown="refuse")
    fleet.config = fleet.config.model_copy(update={"licences": policy})
    fleet.start_controller()
    assert fleet.client.licences() == policy
    blobs = fleet.config.state_dir / "blobs"
    before = sorted(blobs.rglob("*"))
    theirs = make_bundle(tmp_path / "a", licence="MIT AND AGPL-3.0-only")
    with pytest.raises(
        UsageError, match=r"does not deliver gate-detector@1\.0\.0: AGPL-3\.0-only is refused"
    ):
        fleet.publish(theirs)
    with pytest.raises(UsageError, match="the licence is not known") as e:
        fleet.publish(make_bundle(tmp_path / "b", version="2.0.0"))
    assert "--licence" in (e.value.hint or "")
    assert sorted(blobs.rglob("*")) == before
    # a client that does not ask
    monkeypatch.setattr(FleetClient, "licences", lambda self: LicencePolicy())
    with pytest.raises(UsageError, match=r"AGPL-3\.0-only is refused"):
        fleet.publish(theirs)
    assert fleet.client.releases() == []
    fine = fleet.publish(make_bundle(tmp_path / "c", version="3.0.0", licence="MIT OR AGPL-3.0-only"))
    assert [r["release"] for r in fleet.client.releases()] == [fine]
    # what was published before the policy
    fleet.end_controller()
    stricter = LicencePolicy(refuse=("AGPL-*", "MIT"))
    fleet.config = fleet.config.model_copy(update={"licences": stricter})
    fleet.start_controller()
    with pytest.raises(UsageError, match="MIT is refused"):
        fleet.rollout(fine)


def test_a_plan_is_shared_for_a_published_bundle_only_and_offered_to_devices(
    fleet: Fleet, tmp_path: Path
) -> None:
    bundle, folder = make_bundle(tmp_path / "b"), tmp_path / "handed"
    key = {"tensorrt": "10.3.0.30", "golden": Bundle(bundle).variants[0].digest}
    (tmp_path / "compiled").write_bytes(b"PLAN" * 100)
    plan = hand_out(tmp_path / "compiled", key, 3, folder)
    with pytest.raises(UsageError, match="is not published"):
        share_plan(fleet.client, bundle, folder, fleet.keys)
    release = fleet.publish(bundle)
    with pytest.raises(UsageError, match="not compiled from a variant"):
        share_plan(fleet.client, make_bundle(tmp_path / "c", version="2.0.0"), folder, fleet.keys)
    pages: list[str] = []
    fleet.spy.subscribe(fleet.topics.manifest(plan.digest, 0), lambda topic, _: pages.append(topic))
    assert share_plan(fleet.client, bundle, folder, fleet.keys) == (release, plan)
    wait_until(lambda: pages, "the controller offers the plan")
    (folder / "engine.plan").write_bytes(b"NALP" * 100)
    with pytest.raises(IntegrityError, match="is not the plan"):
        share_plan(fleet.client, bundle, folder, fleet.keys)


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
    assert fleet.client.change_rollout(rollout, "abort")["state"] == "aborted"
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


def test_rollout_is_previewed_over_the_api_and_nothing_begins(fleet: Fleet, tmp_path: Path) -> None:
    release = fleet.publish(make_bundle(tmp_path / "b", size=300_000, requires=("sm:8.7",)))
    fleet.enroll("gate-1")
    fleet.start_agent("gate-1")
    wait_until(lambda: any(d["online"] for d in fleet.client.devices()), "it is online")
    found = fleet.client.preview_rollout(release, "gate-detector", select="name ~ gate-*")
    assert (found["devices"], found["online"]) == (1, 1)
    assert found["unfit"] == {"gate-1": "cpu/float needs sm:8.7"}
    assert found["waves"][0]["devices"] == 1
    with pytest.raises(UsageError, match="there is no release m@9"):
        fleet.client.preview_rollout("m@9", "gate-detector")
    with pytest.raises(UsageError, match="select: column 1: there is no field 'site'"):
        fleet.client.preview_rollout(release, "gate-detector", select="site = a")
    assert fleet.client.rollouts() == []


def test_what_gates_decided_is_asked_for_alone_and_does_not_go_along_with_every_look(
    fleet: Fleet, tmp_path: Path
) -> None:
    release = fleet.publish(make_bundle(tmp_path / "b", size=300_000))
    rollout = fleet.client.start_rollout(release, "gate-detector")["id"]
    assert fleet.client.decisions(rollout) == []
    with pytest.raises(RolloutError, match="there is no rollout"):
        fleet.client.decisions("nobody")
    assert "decisions" not in fleet.client.rollout(rollout)


def test_numbers_of_the_gates_are_no_part_of_what_a_rollout_shows() -> None:
    d = GateDecision(
        gate="drops",
        kind="drops",
        bets="ranks",
        stratum="cpu",
        at_s=1.0,
        allowed=0.02,
        alpha=0.005,
        verdict=GateVerdict.CANNOT_JUDGE,
    )
    spec = RolloutSpec(id="r", release="m@2", digest="sha256:" + "a" * 64, slot="gate")
    shown = _rollout(spec, RolloutProgress(decisions=(d,)))
    assert shown["id"] == "r"
    assert "decisions" not in shown


def test_wrong_token_opens_nothing(fleet: Fleet) -> None:
    with (
        FleetClient(f"http://127.0.0.1:{fleet.api_port}", "guess") as client,
        pytest.raises(UsageError, match="token"),
    ):
        client.devices()
    assert httpx.get(f"http://127.0.0.1:{fleet.api_port}/v1/devices", trust_env=False).status_code == 401
    assert (fleet.config.state_dir / "token").stat().st_mode & 0o077 == 0


def test_rubbish_is_answered_not_obeyed(fleet: Fleet) -> None:
    token = (fleet.config.state_dir / "token").read_text()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{fleet.api_port}/v1",
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    ) as http:
        assert http.post("/rollouts", content=b"{").status_code == 422
        assert http.put("/blobs/..%2F..%2Fx", content=b"").status_code in (400, 404, 422)
        assert http.put("/blobs/sha256:zz", content=b"").status_code == 400
        assert http.post("/rollouts/a/explode").status_code == 400


def test_absent_controller_is_one_sentence() -> None:
    with (
        FleetClient(f"http://127.0.0.1:{free_port()}", "t") as client,
        pytest.raises(LinkError, match="does not answer"),
    ):
        client.devices()


def test_taken_port_is_one_sentence(fleet: Fleet) -> None:
    from edgectl.fleet.service import run_controller

    with pytest.raises(LinkError, match="cannot listen"):
        run_controller(
            fleet.config.model_copy(update={"state_dir": fleet.folder / "other"}), fleet.stop_controller
        )


class Director:
    """What the controller publishes on ``ctl``, opened as a device opens it."""

    def __init__(self, fleet: Fleet) -> None:
        keys = director_keys(follow(roots_in(fleet.keys))[-1].signed)
        assert keys is not None
        self.said: queue.Queue[ControllerState] = queue.Queue()
        self._keys = keys
        fleet.spy.subscribe(fleet.topics.ctl, self._hear)

    def _hear(self, _topic: str, payload: bytes) -> None:
        if is_signed(payload):  # the good-bye is not
            self.said.put(open_state(payload, self._keys, "home"))

    def next(self) -> ControllerState:
        return self.said.get(timeout=10)


def test_freeze_is_told_to_the_fleet_signed_and_taken_back(fleet: Fleet) -> None:
    director = Director(fleet)
    last = director.next()
    assert last.freeze is None, "a controller that was never told does not say"
    for more, frozen in (([], True), (["--off"], False)):
        result = CliRunner().invoke(app, ["fleet", "freeze", *more, *where(fleet)])
        assert result.exit_code == 0, result.output
        said = director.next()
        assert (said.freeze, said.online, said.seq > last.seq) == (frozen, True, True)
        last = said
    for frozen in (True, False, None):
        if frozen is not None:
            assert (
                fleet.client.freeze(frozen) == fleet.client.state() == {"freeze": frozen, "connected": True}
            )
            director.next()
        fleet.end_controller()
        if frozen is None:  # installed anew
            shutil.rmtree(fleet.config.state_dir)
        fleet.start_controller()
        said = director.next()
        assert (said.freeze, said.seq > last.seq) == (frozen, True)
        last = said


def test_numbers_go_on_where_devices_have_seen_them_after_a_clock_that_was_ahead_and_a_lost_database(
    fleet: Fleet,
) -> None:
    director = Director(fleet)
    now_ms = director.next().seq
    for heard, believed in ((now_ms + 86_400_000, True), (now_ms - 5, False), (MAX_GEN, False)):
        report = Reported(epoch=1, seq=heard, gen=0, heard=heard)
        fleet.spy.publish(fleet.topics.reported("gate-9"), report.encode(), retain=True).wait(5)
        if believed:
            assert director.next().seq == heard + 1, (
                "told again at once: the device did not take the one before"
            )
    fleet.client.freeze(True)
    assert director.next().seq == now_ms + 86_400_002


# ---- commands


def where(fleet: Fleet) -> list[str]:
    return [
        "--controller",
        f"http://127.0.0.1:{fleet.api_port}",
        "--token-file",
        str(fleet.config.state_dir / "token"),
    ]


@pytest.fixture
def heard(fleet: Fleet) -> queue.Queue[str]:
    """Ids of the commands to gate-1, which is connected."""
    ids: queue.Queue[str] = queue.Queue()
    fleet.spy.subscribe(
        fleet.topics.command("gate-1"), lambda _, payload: ids.put(json.loads(payload)["signed"]["id"])
    )
    fleet.spy.publish(fleet.topics.conn("gate-1"), Conn(epoch=1, online=True).encode(), retain=True).wait(5)
    wait_until(lambda: any(d["online"] for d in fleet.client.devices()), "gate-1 is there")
    return ids


def test_devices_that_cannot_answer_are_one_sentence_each(fleet: Fleet, heard: queue.Queue[str]) -> None:
    fleet.client.enroll("gate-2")
    with pytest.raises(UsageError, match="there is no device gate-7"):
        fleet.client.command("gate-7", "probe")
    with pytest.raises(LinkError, match="gate-2 is not connected and never was"):
        fleet.client.command("gate-2", "probe")
    with pytest.raises(
        LinkError, match=r"gate-1 did not answer within 0\.1 s; it may still obey until \d\d:\d\d:\d\d UTC"
    ):
        fleet.client.command("gate-1", "probe", wait_s=0.1, owner="anna")
    for wrong in (
        {"op": "explode"},
        {"op": "lock", "ttl_s": 1e9},
        {"op": "force", "slot": "../x"},
        {"op": "probe", "wait_s": 61},
    ):
        with pytest.raises(UsageError, match="the request is not valid"):
            fleet.client.command("gate-1", wrong.pop("op"), **wrong)  # type: ignore[arg-type]
    fleet.spy.publish(fleet.topics.conn("gate-1"), Conn(epoch=1, online=False).encode(), retain=True).wait(5)
    wait_until(lambda: not any(d["online"] for d in fleet.client.devices()), "gate-1 is gone")
    with pytest.raises(LinkError, match="gate-1 is not connected; its last word came"):
        fleet.client.command("gate-1", "probe")
    told = [(e["subject"], e["text"]) for e in fleet.client.events() if e["kind"] == "command"]
    assert told[0] == ("gate-1", "anna: probe")
    assert told[1][1].startswith("probe: gate-1 did not answer")
    assert heard.qsize() == len(told) // 2 == 1, "nothing is sent to who is away"


def test_only_the_device_itself_answers_and_only_with_an_answer(
    fleet: Fleet, heard: queue.Queue[str]
) -> None:
    def answer() -> None:
        command = heard.get(timeout=10)
        good = Reply(id=command, ok=True, result={"facts": ["cpu"], "runtimes": []})
        lie = good.model_copy(update={"result": {"facts": ["lie"]}})
        for device, payload in (
            ("gate-2", lie.encode()),
            ("gate-1", lie.model_copy(update={"id": "guess"}).encode()),
            ("gate-1", b"{"),
            ("gate-1", good.encode().replace(b"[]", b"[NaN]")),
            ("gate-1", good.encode().replace(b"[]", b'["' + b"x" * 300_000 + b'"]')),
            ("gate-1", good.encode()),
            ("gate-1", lie.encode()),
        ):
            fleet.spy.publish(fleet.topics.reply(device), payload)

    with ThreadPoolExecutor(1) as device:
        done = device.submit(answer)
        assert fleet.client.command("gate-1", "probe") == {"facts": ["cpu"], "runtimes": []}
        done.result(10)


def test_what_a_device_refuses_is_raised_as_its_own_error(fleet: Fleet, heard: queue.Queue[str]) -> None:
    for code, kind in (("trust", TrustError), ("storage", StorageError), ("unheard-of", ProtocolError)):

        def answer(code: str = code) -> None:
            error = Failure(code=code, detail="not today")
            fleet.spy.publish(
                fleet.topics.reply("gate-1"), Reply(id=heard.get(timeout=10), ok=False, error=error).encode()
            )

        with ThreadPoolExecutor(1) as device:
            device.submit(answer)
            with pytest.raises(kind, match="gate-1 refuses: not today"):
                fleet.client.command("gate-1", "hold")


def test_release_that_a_rollout_needs_is_withdrawn_only_on_demand(fleet: Fleet, tmp_path: Path) -> None:
    release = fleet.publish(make_bundle(tmp_path / "b"))
    rollout = fleet.rollout(release)
    targets = withdraw(fleet.keys, release).decode()
    token = (fleet.config.state_dir / "token").read_text()
    body = {"files": {"targets.json": targets}, "withdraw": [release]}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{fleet.api_port}/v1",
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    ) as http:
        refused = http.post("/trust", json=body)
        assert refused.status_code == 409
        assert (
            refused.json()["error"]["message"]
            == f"{release} is not withdrawn: rollout {rollout} of it is running"
        )
        assert [r["release"] for r in fleet.client.releases()] == [release]
        assert http.post("/trust", json={**body, "stop_rollouts": True}).status_code == 201
    found = fleet.client.rollout(rollout)
    assert (found["state"], found["reason"]) == ("aborted", f"{release} was withdrawn")
    assert not [*(fleet.config.state_dir / "blobs").iterdir()]


def test_slot_is_cleared_and_a_device_skipped_over_the_api(fleet: Fleet, tmp_path: Path) -> None:
    birth = Conn(epoch=1, online=True, slots=("gate-detector",)).encode()
    for device in ("gate-1", "gate-2"):
        fleet.spy.publish(fleet.topics.conn(device), birth, retain=True).wait(5)
    wait_until(lambda: len(fleet.client.devices()) == 2, "both devices are known")
    rollout = fleet.rollout(fleet.publish(make_bundle(tmp_path / "b")), canary=2)
    wait_until(lambda: len(fleet.client.rollout(rollout).get("members", {})) == 2, "both are in")
    with pytest.raises(RolloutError, match="is running in slot gate-detector of gate-1"):
        fleet.client.clear_slot("gate-detector", ["gate-1"])
    assert fleet.client.skip_device(rollout, "gate-1")["members"]["gate-1"]["outcome"] == "skipped"
    (told,) = fleet.client.clear_slot("gate-detector", ["gate-1"])
    assert (told["device"], told["online"], told["active_release"]) == ("gate-1", True, None)
    with pytest.raises(UsageError, match="no device is named"):
        fleet.client.clear_slot("gate-detector")
    with pytest.raises(RolloutError, match="gate-9 is not in rollout"):
        fleet.client.skip_device(rollout, "gate-9")
    assert fleet.client.change_rollout(rollout, "rollback")["state"] == "rolling_back"


def test_groups_are_set_asked_for_and_removed_over_the_api(fleet: Fleet) -> None:
    birth = Conn(epoch=1, online=True, slots=("gate",), labels={"site": "north"}).encode()
    fleet.spy.publish(fleet.topics.conn("cam-1"), birth, retain=True).wait(5)
    wait_until(lambda: fleet.client.devices(), "the device is known")
    assert fleet.client.set_group("north", select="label.site = north")["members"] == ["cam-1"]
    assert fleet.client.set_group("beta", devices=["cam-9", "cam-1"])["devices"] == ["cam-1", "cam-9"]
    assert [(g["name"], g["members"]) for g in fleet.client.groups()] == [
        ("beta", ["cam-1"]),
        ("north", ["cam-1"]),
    ]
    fleet.client.drop_group("beta")
    assert [g["name"] for g in fleet.client.groups()] == ["north"]
    with pytest.raises(UsageError, match="there is no group beta"):
        fleet.client.drop_group("beta")
    for wrong in ({"select": "label.site ="}, {"devices": ["../x"]}, {}):
        with pytest.raises(UsageError):
            fleet.client.set_group("x", **wrong)
    with pytest.raises(UsageError):
        fleet.client.set_group("no name", devices=["a"])


def test_rollout_that_begins_after_all_years_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="start_s"):
        fleet.client.start_rollout("m@1", "gate", start_s=1e12)


@pytest.mark.parametrize("what", ["POST /v1/rollouts", "PUT /v1/blobs/sha256:" + "a" * 64])
def test_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_and_no_traceback(
    fleet: Fleet, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = (fleet.config.state_dir / "token").read_text()
    head = (
        f"{what} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000\r\n\r\nbegun"
    )
    with socket.create_connection(("127.0.0.1", fleet.api_port)) as client:
        client.sendall(head.encode())
        if what.startswith("PUT"):
            wait_until(lambda: list((fleet.config.state_dir / "blobs").glob(".*")), "the upload has begun")
    wait_until(lambda: not list((fleet.config.state_dir / "blobs").glob(".*")), "the half blob is gone")
    assert fleet.client.devices() == []
    assert not any(r.exc_info for r in caplog.records)


def test_body_that_drips_for_too_long_is_answered_with_one_sentence(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.api.app._BODY_S", 0.2)
    token = (fleet.config.state_dir / "token").read_text()
    head = f"POST /v1/rollouts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fleet.api_port), timeout=30) as client:
        client.sendall(head.encode() + b"x" * 8192)
        answer = b""
        while b"the request was not whole within 0.2 s" not in answer:
            piece = client.recv(4096)
            assert piece, answer
            answer += piece
