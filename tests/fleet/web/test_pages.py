"""What each page shows, from devices that say whatever they like."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.controller import T
from support.dashboard import OLD, Bet, DashWorld, Judged, Tags, histogram, many_devices

from edgectl.core.bundle.config_release import ConfigRelease
from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Reported, ReportedSlot
from edgectl.fleet.client.config_writer import write_config
from edgectl.fleet.keys.trust import Expiry
from edgectl.fleet.rollouts.planner import RolloutRequest
from edgectl.fleet.rollouts.values import Wave
from edgectl.fleet.store.inventory import Device
from edgectl.fleet.web.page_source import PageSource
from edgectl.fleet.web.release_view import Provenance, ReleaseContent, VariantLine, variant_line

HOSTILE = "\"'><script src=//x></script><img src=x onerror=alert(1)>{{7*7}}\u202e&amp;"
MOST_BYTES = 500_000


def text_of(html: str) -> str:
    return " ".join(Tags(html).text.split())


def is_harmless(html: str) -> bool:
    """No tag or attribute that none of our templates has."""
    tags = Tags(html).found
    scripts = [a.get("src") for t, a in tags if t == "script"]
    return (
        all(src and src.startswith("/static/dash.js?v=") for src in scripts)
        and not [t for t, _ in tags if t in ("img", "iframe", "style", "object", "base")]
        and not [name for _, a in tags for name in a if name.startswith("on") or name == "style"]
    )


def test_the_first_page_says_first_what_is_wrong(world: DashWorld) -> None:
    world.add_device("fine", labels={"site": "north"}, profile="cpu")
    world.add_device(
        "broken",
        state=State.FAILED,
        error="output y differs from golden",
        labels={"site": "north"},
        profile="cpu",
    )
    world.hears(T.conn("fine-2"), Conn(epoch=1, online=False, profile="cpu", labels={"site": "south"}))
    html = world.page("/")
    text = text_of(html)
    assert "a slot has failed: 1 broken gate failed: output y differs from golden" in text
    assert text.index("What is wrong") < text.index("By site and profile")
    assert "north cpu 2 1 0 1" in text
    assert "south cpu 1 0 1 0" in text
    assert 'aria-label="north cpu: 1 fine, 1 trouble"' in html


def test_a_fleet_without_trouble_says_so(world: DashWorld) -> None:
    world.add_device("fine")
    assert "What is wrong Nothing." in text_of(world.page("/"))


def test_every_page_says_what_everybody_has_to_know(world: DashWorld) -> None:
    world.controller.freeze(True)
    world.wire.is_up = False
    for path in ("/", "/devices", "/rollouts", "/releases", "/latency", "/events"):
        text = text_of(world.page(path))
        assert "The fleet is frozen" in text
        assert "The controller does not reach the broker" in text


def test_devices_are_filtered_by_the_query_of_rollouts(world: DashWorld) -> None:
    world.add_device("a", labels={"site": "north"})
    world.add_device("b", labels={"site": "south"})
    html = world.page("/devices?q=label.site+%3D+north")
    assert 'href="/devices/a"' in html
    assert 'href="/devices/b"' not in html
    html = world.page("/devices?q=label.site+%3D")
    assert "column 13: the query ends where a value is expected" in text_of(html)
    assert 'aria-invalid="true" aria-describedby="q-problem"' in html


def test_devices_are_filtered_by_trouble_and_sorted(world: DashWorld) -> None:
    for i in range(3):
        world.add_device(f"d{i}", profile="zyx"[i])
    world.add_device("bad", state=State.ROLLED_BACK)
    assert "d0" not in text_of(world.page("/devices?trouble=slot"))
    html = world.page("/devices?sort=profile")
    assert html.index('"/devices/d2"') < html.index('"/devices/d1"') < html.index('"/devices/d0"')
    assert html.count('aria-sort="ascending"') == 1


def test_a_device_page_has_its_slots_streams_latency_drops_and_events(world: DashWorld) -> None:
    world.add_device(
        "d", state=State.PROBATION, profile="cpu", host="box", address="10.0.0.7", labels={"site": "north"}
    )
    world.measures("d", ms=5.0, errors=3)
    html = world.page("/devices/d")
    text = text_of(html)
    assert "gate probation gate@1" in text
    p50, p99 = (f"{histogram(5.0).percentile_ms(p):.3g}" for p in (50, 99))
    assert f"yard 800 {p50}" in text
    assert f"p99 {p99}" in text, "marked in the picture"
    assert "superseded 8 7.3%" in text
    assert "machine box" in text
    assert "d/gate gate@1 probation" in text or "d/gate - probation" in text
    assert "Pictures stay on the device" in text
    for op in ("lock", "rollback", "probe", "logs"):
        assert f'data-ask href="/devices/d/{op}"' in html


def test_a_device_that_was_never_heard_has_a_page(world: DashWorld) -> None:
    world.controller.enroll("new")
    assert "never seen" in text_of(world.page("/devices/new"))
    assert "there is no device nobody" in text_of(world.page("/devices/nobody", 400))


def started(world: DashWorld, **terms: Any) -> str:
    world.publish("gate", "2")
    for i in range(4):
        world.add_device(f"d{i}", labels={"site": "ns"[i % 2]})
    spec = world.controller.start_rollout(
        RolloutRequest(
            release="gate@2",
            slot="gate",
            canary=1,
            strata=("label.site",),
            waves=(Wave(share=0.5, approval=True), Wave(share=1.0)),
            **terms,
        )
    )
    world.tick()
    return spec.id


def test_a_rollout_page_has_waves_gates_devices_and_what_may_be_done(world: DashWorld) -> None:
    id_ = started(world)
    html = world.page(f"/rollouts/{id_}")
    text = text_of(html)
    assert "running gate@2 to slot gate" in text
    assert "canary 1 0" in text
    assert "wave 1 1 0 1 waiting to 50% of all, needs approval" in text
    assert "failures 0 0 – 0 of the canary" in text
    assert html.count("/skip?device=") == 1, "only those that are at work or in trouble"
    for op in ("pause", "approve", "halt", "abort"):
        assert f'data-ask href="/rollouts/{id_}/{op}"' in html
    assert "rollback" not in html
    assert world.page(f"/rollouts/{id_}?outcome=all").count("/skip?device=") == 4
    assert text_of(world.page("/")).count(id_) == 1


def test_latency_before_and_after_is_that_of_the_devices_that_were_asked(world: DashWorld) -> None:
    id_ = started(world)
    progress = world.controller.rollout(id_)[1]
    [canary] = [n for n, m in progress.members.items() if m.admitted_s is not None]
    new = world.controller.rollout(id_)[0].digest
    for i in range(4):
        world.measures(f"d{i}", ms=4.0)
    world.measures(canary, 2, digest=new, ms=16.0)
    text = text_of(world.page(f"/rollouts/{id_}"))
    assert "before: gate@1 800 " in text, "of one device"
    assert "after: gate@2 800 " in text


def test_a_release_page_has_variants_licence_and_where_it_runs(world: DashWorld) -> None:
    release = world.publish("gate", "2", licence="Apache-2.0")
    world.add_device("d", profile="jetson-orin")
    slot = ReportedSlot(state=State.COMMITTED, active=release.digest, active_release="gate@2")
    world.hears(T.reported("d"), Reported(epoch=1, seq=2, gen=0, slots={"gate": slot}))
    text = text_of(world.page("/releases/gate@2"))
    assert "cpu float (fallback) onnxruntime float32" in text
    assert "licence of the weights Apache-2.0" in text
    assert "jetson-orin 1" in text
    assert "there is no release gate@9" in text_of(world.page("/releases/gate@9", 400))


def test_a_release_whose_blobs_are_gone_says_so(world: DashWorld) -> None:
    release = world.publish("gate", "2")
    for blob in world.controller.blobs.folder.iterdir():
        blob.unlink()
    assert release.digest[:19] in world.page("/releases/gate@2")
    assert "cannot read" in text_of(world.page("/releases/gate@2"))


def test_a_release_that_was_measured_has_a_picture_with_its_numbers_in_words(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish("gate", "2")
    [config] = world.controller.blobs.configs(world.controller.inventory.releases()["gate@2"].digest)

    def line(precision: str, p50_ms: float, drop: float | None) -> VariantLine:
        return replace(
            variant_line(config, 1),
            variant=precision,
            precision=precision,
            p50_ms=p50_ms,
            drop=drop,
            ratio=0.5,
        )

    provenance = Provenance("urn:edgectl:builder", (("profile", "cpu"),), (("model", "ab" * 32),))
    content = ReleaseContent((line("float32", 10.0, None), line("int8", 4.0, 0.004)), provenance)
    monkeypatch.setattr(PageSource, "content", lambda self, digest: content)
    html = world.page("/releases/gate@2")
    assert "cpu/int8: 4 ms, drop 0.004." in html
    assert html.count("<circle") == 2
    text = text_of(html)
    assert "int8 (fallback) onnxruntime int8 4 2.0 0.0040" in text
    assert "built by urn:edgectl:builder profile cpu made of model abab" in text


def test_what_gates_have_decided_stands_on_the_page(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = started(world)
    spec, progress = world.controller.rollout(id_)
    bet = Bet(gate="latency p99", allowed=0.585, alpha=0.01, log_wealth=2.3025851, reason="<b>slow</b>")
    judged = Judged(**{**progress.__dict__, "decisions": (bet,)})
    monkeypatch.setattr(world.controller, "rollout", lambda _: (spec, judged))
    html = world.page(f"/rollouts/{id_}")
    assert "latency p99 0.585 0.01 2.303" in text_of(html)
    assert "share of what stops it: 50 trouble" in html
    assert "&lt;b&gt;slow&lt;/b&gt;" in html


def test_metadata_that_end_and_documents_that_wait_are_told_on_every_page(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    ends = [Expiry("root", 1, now_s + 86400 * 3, True), Expiry("targets", 1, now_s - 1, True)]
    monkeypatch.setattr(world.controller.trust, "expiries", lambda: ends)
    monkeypatch.setattr(world.controller, "waiting", lambda: {"d": b""})
    text = text_of(world.page("/events"))
    assert "root metadata end in 3 days: edgectl keys renew root" in text
    assert "targets metadata have expired: devices install nothing." in text
    assert "1 document waits for the signature of an operator" in text


def test_a_preview_says_who_cannot_run_it_and_who_was_never_seen(world: DashWorld) -> None:
    world.publish("gate", "2")
    world.add_device("unfit", profile="cpu")
    answer = world.act(
        "/rollouts/new", release="gate@2", slot="gate", policy="devices: [unfit, ghost]\nstrata: [profile]\n"
    )
    text = text_of(answer.text)
    assert "Cannot run it: 1 unfit cpu/float needs runtime:onnxruntime" in text
    assert "Never seen: ghost" in text
    assert "1 of 1 devices cannot run it" in text


def test_a_release_that_is_a_configuration_is_shown_as_it_was_written(world: DashWorld) -> None:
    text = b"# <b>loud</b>\nrules:\n  - {id: gate, line: [0.5, 1.0, 0.5, 0.3]}\n"
    release = ConfigRelease(name="yard", version="1", kind="surveillance")
    write_config(world.folder / "yard", release, text)
    world.take(world.folder / "yard", "yard", "1")
    html = world.page("/releases/yard@1")
    assert "A configuration of surveillance pipelines" in html
    assert "# &lt;b&gt;loud&lt;/b&gt;" in html
    assert "Accuracy against latency" not in html


def test_two_engines_are_compared(world: DashWorld) -> None:
    world.add_device("a", profile="cpu")
    world.add_device("b", profile="jetson-orin")
    world.measures("a", ms=4.0)
    world.measures("b", ms=9.0)
    assert "Choose an engine." in text_of(world.page("/latency"))
    key = f"gate:{OLD[-16:]}"
    text = text_of(world.page(f"/latency?engine={key}&engine2={key}&profile2=cpu"))
    assert "in gate 1600 " in text
    assert "in gate on cpu 800 " in text
    assert "Choose an engine." in text_of(world.page("/latency?engine=made-up"))


def test_events_are_paged_and_filtered(world: DashWorld) -> None:
    for i in range(130):
        world.controller.inventory.log("state", "d", f"happened {i}")
    world.controller.inventory.log("rollout", "r", "began")
    html = world.page("/events")
    assert "happened 129" in html
    assert "happened 30 " not in html
    older = next(a["href"] for _, a in Tags(html).found if a.get("rel") == "next")
    assert older is not None
    assert "happened 10" in world.page(older)
    assert "happened" not in world.page("/events?acts=1")
    assert "began" not in world.page("/events?about=d")


@given(text=st.text(max_size=60) | st.just(HOSTILE))
@settings(max_examples=25)
def test_whatever_devices_and_people_write_is_text(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = DashWorld(Path(tmp_path_factory.mktemp("world")), patch)
        try:
            world.add_device(
                "d",
                state=State.FAILED,
                error=text[:900],
                labels={"site": text, text: text},
                profile=text,
                host=text,
                agent=text,
                streams={},
            )
            world.measures(
                "d", frames={"captured": 2, "dropped": {text: 2}}, state=text, reason=text, detail=text
            )
            world.controller.inventory.log("rollout", text[:200], text)
            for path in ("/", "/devices", "/devices/d", "/events", "/latency", "/devices/d/rollback"):
                html = world.page(path)
                assert is_harmless(html), path
                assert len(html) < MOST_BYTES
        finally:
            world.close()


def test_hostile_words_in_addresses_are_text(world: DashWorld) -> None:
    for path in ("/devices", "/events", "/latency", "/rollouts"):
        for name in ("q", "sort", "trouble", "page", "about", "engine", "profile"):
            answer = world.browser.get(path, params={name: HOSTILE})
            assert answer.status_code == 200
            assert is_harmless(answer.text)


@pytest.mark.slow
def test_no_page_of_a_fleet_of_ten_thousand_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has any list more than a hundred lines."""
    world = DashWorld(tmp_path, monkeypatch)
    devices = many_devices(10_000)
    # as much as the wire lets a device say
    devices[7] = Device(
        "cam-00007",
        devices[7].conn,
        Reported(
            epoch=1,
            seq=1,
            gen=0,
            slots={
                f"s{i}": ReportedSlot(state=State.FAILED, error=Failure(code="x", detail="w" * 1000))
                for i in range(64)
            },
        ),
    )
    world.controller.inventory.save_devices(devices)
    world.close()
    world.boot()
    world.serve()
    release = world.publish("gate", "2")
    try:
        id_ = world.controller.start_rollout(
            RolloutRequest(release=release.release, slot="gate", canary=5000)
        ).id
        world.tick()
        paths = [
            "/",
            "/devices",
            "/devices?page=99",
            "/devices?sort=trouble",
            "/devices?trouble=slot",
            "/devices/cam-00007",
            f"/rollouts/{id_}",
            f"/rollouts/{id_}?outcome=all&page=3",
            "/rollouts",
            "/releases/gate@2",
            "/latency",
            "/events",
        ]
        for path in paths:
            html = world.page(path)
            assert len(html.encode()) <= MOST_BYTES, path
            assert html.count("<tr") <= 100 + 66 + 6, path
        assert "9901–10000 of 10000" in text_of(world.page("/devices?page=999"))
        assert "10000 in all" not in world.page("/devices")
    finally:
        world.close()


def test_latency_by_class_is_filtered(world: DashWorld) -> None:
    world.add_device("a", profile="cpu")
    world.add_device("b", profile="jetson-orin")
    world.measures("a", ms=4.0)
    world.measures("b", ms=9.0)
    world.tick()
    both = text_of(world.page("/latency"))
    assert "cpu engine 800" in both
    assert "jetson-orin engine 800" in both
    one = text_of(world.page("/latency?profile=cpu&throttled=no&since=6+hours"))
    assert "cpu engine 800" in one
    assert "jetson-orin engine" not in one
    for nothing in ("throttled=yes", "stage=pre", "release=made-up", "power_mode=15W"):
        assert "Nothing was measured that fits." in text_of(world.page(f"/latency?{nothing}"))


def test_alerts_are_on_the_first_page(world: DashWorld) -> None:
    assert "Alerts" not in text_of(world.page("/"))
    world.hears(T.conn("a"), Conn(epoch=1, online=True, labels={"site": "north"}))
    world.hears(T.conn("a"), Conn(epoch=1, online=False))
    for now_s in (2000.0, 2120.0):
        world.controller.tick(now_s)
    text = text_of(world.page("/"))
    assert "silence north ticket 1 a: it is away" in " ".join(text.split())
