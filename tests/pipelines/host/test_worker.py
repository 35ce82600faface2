"""The worker as the agent sees it: a real process, lines in, lines out, whatever happens to either side."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.host_worker import Process, ref, start
from support.pipelines import box_task, class_model_bytes, class_task, make_variant, model_bytes, write_clip

from edgectl.core.files import hex_of
from edgectl.core.schema import Message
from edgectl.core.wire import StreamStats
from edgectl.pipelines.host import hosted_stream
from edgectl.pipelines.host.hosted_stream import HostedStream
from edgectl.pipelines.host.protocol import (
    MAX_LINE_BYTES,
    Commit,
    Ended,
    EngineRef,
    EventMessage,
    Fault,
    LeaseMessage,
    Ready,
    Revert,
    Shadowed,
    ShadowFailed,
    ShadowMessage,
    Stats,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
)
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.video.engine_pool import EnginePool, StuckEngine


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.close()


def test_a_whole_life(worker: Process, tmp_path: Path) -> None:
    worker.say(
        start(
            tmp_path, config={"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}}, out=tmp_path / "out"
        )
    )
    assert worker.hear(Ready).seconds > 0
    event = worker.heard(EventMessage, lambda m: m.event["type"] == "zone").event
    assert (event["stream"], event["zone"], event["releases"]) == ("gate", "all", {"detector": "yard@1"})
    first = worker.hear(Stats)
    second = worker.hear(Stats, lambda m: m.stats.frames.processed > first.stats.frames.processed)
    assert second.stats.kind == "surveillance"
    assert second.stats.slots == {"detector": "sha256:" + "1" * 64}
    assert second.rss_mb > 10
    assert {"engine", "glass_to_event"} <= set(second.stats.stages)

    new = make_variant(tmp_path / "new", box_task(), model_bytes(0.1), name="v2")
    worker.say(Swap(stream="gate", part="detector", engine=ref(new, "yard@2")))
    swapped = worker.hear(Swapped)
    assert swapped.manifest == new.digest
    assert 0 < swapped.gap_ms < 2000
    worker.hear(Stats, lambda m: m.stats.releases == {"detector": "yard@2"})
    worker.say(Revert(stream="gate", part="detector"))
    worker.hear(Stats, lambda m: m.stats.releases == {"detector": "yard@1"})
    worker.say(Swap(stream="gate", part="detector", engine=ref(new, "yard@2")))
    worker.hear(Swapped)
    worker.say(Commit(stream="gate", part="detector"))
    worker.stop()
    assert worker.end() == 0
    told = [m for m in worker.seen if isinstance(m, Stats)][-1].stats
    last, events = told.frames, [m for m in worker.seen if isinstance(m, EventMessage)]
    assert last.captured == last.processed + sum(last.dropped.values()) + last.in_flight
    assert told.counters["events"] == len(events) > 0
    assert (tmp_path / "out/annotated.mp4").is_file()
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_a_swap_to_a_broken_bundle_keeps_the_old_engine(worker: Process, tmp_path: Path) -> None:
    worker.say(start(tmp_path))
    worker.hear(Ready)
    broken = make_variant(tmp_path / "broken", box_task(), b"this is no ONNX file")
    worker.say(Swap(stream="gate", part="detector", engine=ref(broken)))
    failed = worker.hear(SwapFailed)
    assert failed.manifest == broken.digest
    assert failed.error.code in ("engine", "model")
    worker.say(
        Swap(
            stream="gate",
            part="detector",
            engine=EngineRef(blobs=tmp_path / "nowhere", manifest="sha256:" + "0" * 64),
        )
    )
    assert worker.hear(SwapFailed).error.code in ("bundle", "integrity")
    at = worker.hear(Stats).stats.frames.processed
    worker.hear(Stats, lambda m: m.stats.frames.processed > at)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"source": "/nowhere.mp4"}, "source"),
        ({"source": "synth://nowhere"}, "source"),
        ({"config": {"colour": "red"}}, "config"),
        ({"engines": {}}, "usage"),
        ({"engines": {"detector": {"blobs": "/nowhere", "manifest": "sha256:" + "0" * 64}}}, "bundle"),
    ],
)
def test_a_start_that_cannot_work_is_one_fault(
    worker: Process, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    worker.say(start(tmp_path, **change))
    assert worker.hear(Fault).error.code == code
    worker.hear(Ended)
    worker.hang_up()
    assert worker.end() == 0
    assert [type(m) for m in worker.seen] == [Fault, Ended]


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"{}\n",
        b'{"op":"stats"}\n',
        b'{"op":"commit","part":"x"}\n',
        b'{"op":"stop"}\n',
        b"x" * (MAX_LINE_BYTES + 10) + b"\n",
    ],
)
def test_nonsense_is_a_protocol_fault(worker: Process, line: bytes) -> None:
    worker.say(line)
    fault = worker.hear(Fault)
    assert (fault.stream, fault.error.code) == (None, "protocol")
    assert worker.end() == 1


def test_a_finite_source_ends_well_with_a_last_window(worker: Process, tmp_path: Path) -> None:
    worker.say(start(tmp_path, str(write_clip(tmp_path / "c.mp4"))))
    assert not worker.hear(Ended).stuck
    last = worker.seen[-2]
    assert isinstance(last, Stats)
    assert (last.stats.state, last.stats.frames.processed) == ("ended", 30)


class LastWords:
    """A pipeline that is over at once, and writes an event while it stops, as a slow sink does."""

    outputs = ()
    expected = None
    error = None

    def __init__(self, args: PipelineArgs) -> None:
        self._emit = args.emit

    def start(self) -> None: ...

    def wait(self, timeout_s: float) -> bool:
        return True

    def stats(self) -> StreamStats:
        return StreamStats(kind="surveillance", state="ended")

    def interrupt(self) -> None: ...

    def stuck(self) -> tuple[str, ...]:
        return ()

    def stop(self) -> None:
        self._emit({"type": "capability"})


def test_lighter_variants_go_along_and_one_that_cannot_be_read_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PipelineArgs] = []

    def make(kind: str, args: PipelineArgs) -> LastWords:
        made.append(args)
        return LastWords(args)

    monkeypatch.setattr(hosted_stream, "make_pipeline", make)
    order = start(tmp_path)
    own = order.engines["detector"]
    low = make_variant(own.blobs, box_task(), name="low").digest
    lost = make_variant(own.blobs, box_task(), name="lost").digest
    (own.blobs / hex_of(lost)).write_bytes(b"what a dying disk left")
    lighter = {"low-power": low, "small-input": lost}
    engines = {"detector": own.model_copy(update={"lighter": lighter})}
    said: list[Message] = []
    stream = HostedStream(
        order.model_copy(update={"engines": engines}), said.append, lambda stream: None, EnginePool()
    )
    stream.begin()
    assert stream.gone.wait(30)
    assert isinstance(said[0], Ready)
    found = made[0].engines["detector"]
    assert found.variant.digest == own.manifest
    assert {name: variant.digest for name, variant in found.lighter.items()} == {"low-power": low}


def test_the_last_window_comes_behind_the_last_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted_stream, "make_pipeline", lambda kind, args: LastWords(args))
    said: list[Message] = []
    stream = HostedStream(start(tmp_path), said.append, lambda stream: None, EnginePool())
    stream.begin()
    assert stream.gone.wait(30)
    assert [type(m) for m in said] == [Ready, EventMessage, Stats, Ended]


class Hangs(LastWords):
    def stuck(self) -> tuple[str, ...]:
        return ("engine", "sink:webhook")


def test_calls_that_do_not_come_back_are_the_reason_that_telemetry_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_stream, "make_pipeline", lambda kind, args: Hangs(args))
    said: list[Message] = []
    stream = HostedStream(start(tmp_path), said.append, lambda stream: None, EnginePool())
    stream.begin()
    assert stream.gone.wait(30)
    window = next(m for m in said if isinstance(m, Stats))
    assert window.stuck == ("engine", "sink:webhook")
    assert window.stats.reason == "engine_stuck, sink_stuck:webhook"


class SecondHangs(LastWords):
    def stuck(self) -> tuple[str, ...]:
        return ("engine:gear",)


@pytest.mark.parametrize(("vital", "stuck"), [(True, ("engine", "engine:gear")), (False, ("engine:gear",))])
def test_a_second_stage_that_hangs_is_no_engine_that_streams_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vital: bool, stuck: tuple[str, ...]
) -> None:
    """Else the worker would be started anew for it, with all its streams."""
    monkeypatch.setattr(hosted_stream, "make_pipeline", lambda kind, args: SecondHangs(args))
    pool = EnginePool()
    monkeypatch.setattr(pool, "stuck", lambda: (StuckEngine("sha256:1", "gear", "run", 9.0, vital),))
    said: list[Message] = []
    stream = HostedStream(start(tmp_path), said.append, lambda stream: None, pool)
    stream.begin()
    assert stream.gone.wait(30)
    window = next(m for m in said if isinstance(m, Stats))
    assert window.stuck == stuck
    assert str(window.stats.reason).endswith("engine_stuck:gear")


@pytest.mark.parametrize("how", ["agent dies", "sigterm"])
def test_the_worker_stops_in_order(worker: Process, tmp_path: Path, how: str) -> None:
    worker.say(start(tmp_path, out=tmp_path / "out"))
    worker.hear(Ready)
    worker.hear(Stats)
    if how == "agent dies":
        worker.hang_up()
    else:
        os.kill(worker.p.pid, signal.SIGTERM)
    assert worker.end() == 0
    assert (tmp_path / "out/annotated.mp4").is_file()


def test_a_camera_that_is_away_is_an_outage_and_not_a_fault(worker: Process, tmp_path: Path) -> None:
    from conftest import free_port

    worker.say(start(tmp_path, f"rtsp://user:secret@127.0.0.1:{free_port()}/x"))
    worker.hear(Ready)
    event = worker.heard(EventMessage, lambda m: m.event["type"] == "capability").event
    assert (event["type"], event["name"], event["available"], event["reason"]) == (
        "capability",
        "source",
        False,
        "refused",
    )
    assert worker.hear(Stats, lambda m: m.stats.state == "outage").stats.reason == "refused"
    worker.stop()
    assert worker.end() == 0
    assert "secret" not in json.dumps([m.model_dump(mode="json") for m in worker.seen])
    assert "secret" not in (tmp_path / "worker.log").read_text()


def test_swap_and_revert_lose_no_frame(worker: Process, tmp_path: Path) -> None:
    """A live camera: only a newer frame may replace one that waits; nothing may go missing around three
    changes of the engine."""
    worker.say(start(tmp_path, config={"budget_ms": 600_000}))
    worker.hear(Ready)
    new = make_variant(tmp_path / "new", box_task(), model_bytes(0.1), name="v2")
    for message in (
        Swap(stream="gate", part="detector", engine=ref(new, "yard@2")),
        Revert(stream="gate", part="detector"),
        Swap(stream="gate", part="detector", engine=ref(new, "yard@2")),
    ):
        worker.say(message)
        if isinstance(message, Swap):
            worker.hear(Swapped)
        at = worker.hear(Stats).stats.frames.processed
        worker.hear(Stats, lambda m, at=at: m.stats.frames.processed > at)  # type: ignore[misc]
    worker.stop()
    assert worker.end() == 0
    frames = [m for m in worker.seen if isinstance(m, Stats)][-1].stats.frames
    assert set(frames.dropped) <= {"superseded", "shutdown"}
    assert frames.captured == frames.processed + sum(frames.dropped.values()) + frames.in_flight


def test_shadow_compares_on_the_same_frames_and_tells_only_numbers(worker: Process, tmp_path: Path) -> None:
    worker.say(start(tmp_path, config={"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}}))
    worker.hear(Ready)
    for x, agreement in ((0.4, 1.0), (0.1, 0.0)):
        other = make_variant(tmp_path / f"other{x}", box_task(), model_bytes(x), name=f"v{x}")
        worker.say(
            ShadowMessage(stream="gate", part="detector", engine=ref(other, "yard@2"), percent=50, frames=6)
        )
        told = worker.hear(Shadowed)
        assert (told.frames, told.manifest, told.errors) == (6, other.digest, 0)
        assert told.agreement == agreement
        assert told.old_ms > 0
        assert told.new_ms > 0
    broken = make_variant(tmp_path / "broken", box_task(), b"this is no ONNX file")
    worker.say(ShadowMessage(stream="gate", part="detector", engine=ref(broken), percent=50, frames=6))
    assert worker.hear(ShadowFailed).error.code in ("engine", "model")
    worker.say(ShadowMessage(stream="gate", part="detector", engine=ref(other), percent=50, frames=100_000))
    worker.say(Swap(stream="gate", part="detector", engine=ref(other, "yard@3")))
    assert "took another engine" in worker.hear(ShadowFailed).error.detail
    worker.hear(Swapped)
    worker.stop()
    assert worker.end() == 0
    events = [m.event for m in worker.seen if isinstance(m, EventMessage)]
    assert {e["releases"]["detector"] for e in events} <= {"yard@1", "yard@3"}, (
        "nothing of what the shadow found goes anywhere"
    )


def test_event_takes_the_lease_that_the_configuration_asks_for(worker: Process, tmp_path: Path) -> None:
    config = {
        "zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}},
        "rules": [{"id": "crowd", "occupancy": {"zone": "all", "high": 1, "low": 0}}],
        "update_lock": {"on": ["crowd"], "seconds": 12},
    }
    worker.say(start(tmp_path, config=config))
    lease = worker.hear(LeaseMessage)
    assert (lease.ttl_s, lease.reason) == (12, "crowd was seen")


def test_stream_that_hangs_and_one_that_dies_cost_the_third_no_frame(worker: Process, tmp_path: Path) -> None:
    """The hanging one is left behind in bounded time, and can be started again in the same process."""
    clip = write_clip(tmp_path / "c.mp4", frames=2000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        # all before the first is said: each writes the engine's blobs
        hangs = start(tmp_path, f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", stream="hangs")
        gate = start(tmp_path, str(clip), stream="gate")
        dies = start(tmp_path, "/nowhere.mp4", stream="dies")
        worker.say(hangs)
        camera, _ = server.accept()  # and says nothing: FFmpeg waits for an answer
        with camera:
            worker.say(gate)
            worker.say(dies)
            worker.say(Stop(stream="hangs", within_s=0.2))
            assert worker.hear(Ended, lambda m: m.stream == "hangs").stuck == ("source",)
            worker.say(hangs)
            server.accept()[0].close()
            # the file may have been through before the other was given up
            ended = [m for m in worker.seen if isinstance(m, Ended) and m.stream == "gate"]
            assert not (ended or [worker.hear(Ended, lambda m: m.stream == "gate")])[0].stuck
            worker.hang_up()
            assert worker.end() == 0
    assert {m.stream for m in worker.seen if isinstance(m, Fault)} == {"dies"}
    last = [m for m in worker.seen if isinstance(m, Stats) and m.stream == "gate"][-1].stats
    assert (last.state, last.frames.captured, last.frames.processed) == ("ended", 2000, 2000)
    assert not last.frames.dropped


def test_streams_of_a_worker_swap_for_themselves(worker: Process, tmp_path: Path) -> None:
    for stream in ("gate", "yard"):
        worker.say(start(tmp_path, stream=stream))
        worker.hear(Ready, lambda m, s=stream: m.stream == s)  # type: ignore[misc]
    new = make_variant(tmp_path / "new", box_task(), model_bytes(0.1), name="v2")
    worker.say(Swap(stream="yard", part="detector", engine=ref(new, "yard@2")))
    assert worker.hear(Swapped).stream == "yard"
    worker.hear(Stats, lambda m: m.stream == "yard" and m.stats.releases["detector"] == "yard@2")
    worker.hear(Stats, lambda m: m.stream == "gate" and m.stats.releases["detector"] == "yard@1")
    worker.say(Revert(stream="yard", part="detector"))
    worker.hear(Stats, lambda m: m.stream == "yard" and m.stats.releases["detector"] == "yard@1")


def test_command_to_a_stream_that_has_ended_harms_nobody(worker: Process, tmp_path: Path) -> None:
    gate = start(tmp_path, str(write_clip(tmp_path / "c.mp4")))
    worker.say(start(tmp_path, stream="yard"))
    worker.say(gate)
    worker.hear(Ended, lambda m: m.stream == "gate")
    worker.say(Commit(stream="gate", part="detector"))
    worker.say(Stop(stream="gate"))
    at = worker.hear(Stats, lambda m: m.stream == "yard").stats.frames.processed
    worker.hear(Stats, lambda m: m.stream == "yard" and m.stats.frames.processed > at)


def test_stream_that_is_started_twice_is_a_protocol_fault(worker: Process, tmp_path: Path) -> None:
    twice = start(tmp_path)
    worker.say(twice)
    worker.say(twice)
    fault = worker.hear(Fault)
    assert (fault.stream, fault.error.code) == (None, "protocol")
    assert worker.end() == 1


def test_a_stream_of_two_slots_changes_each_of_them_for_itself(worker: Process, tmp_path: Path) -> None:
    """A detector, and a classifier that looks at crops."""

    def gear(name: str, logits: tuple[float, ...], release: str) -> EngineRef:
        variant = make_variant(tmp_path / name, class_task(), class_model_bytes(logits), name=name)
        return EngineRef(
            blobs=variant.blobs, manifest=variant.digest, release=release, bundle="sha256:" + "2" * 64
        )

    def value(m: EventMessage) -> str | None:
        found: str | None = m.event.get("attributes", {}).get("gear", {}).get("value")
        return found

    detector = make_variant(tmp_path / "blobs", box_task(), model_bytes())
    stage = {"part": "gear", "min_height_px": 8, "every_s": 0, "again_s": 0.1, "votes": 3}
    engines = {"detector": ref(detector), "gear": gear("a", (4.0, 0.0), "gear@1")}
    worker.say(start(tmp_path, engines=engines, config={"second_stage": [stage], "update_s": 0.5}))
    worker.hear(Ready)
    worker.hear(EventMessage, lambda m: value(m) == "helmet")
    first = worker.hear(Stats, lambda m: m.stats.crops["gear"].processed > 0).stats
    assert first.slots == {"detector": "sha256:" + "1" * 64, "gear": "sha256:" + "2" * 64}
    assert first.releases == {"detector": "yard@1", "gear": "gear@1"}
    new = gear("b", (0.0, 4.0), "gear@2")
    worker.say(Swap(stream="gate", part="gear", engine=new))
    assert worker.hear(Swapped).part == "gear"
    told = worker.hear(EventMessage, lambda m: value(m) == "no-helmet").event
    assert told["releases"] == {"detector": "yard@1", "gear": "gear@2"}
    worker.say(Revert(stream="gate", part="gear"))
    worker.hear(EventMessage, lambda m: value(m) == "helmet" and m.event["releases"]["gear"] == "gear@1")
    worker.say(
        Swap(
            stream="gate",
            part="detector",
            engine=ref(make_variant(tmp_path / "c", box_task(), model_bytes(0.3), name="c"), "yard@2"),
        )
    )
    assert worker.hear(Swapped).part == "detector"
    worker.say(ShadowMessage(stream="gate", part="gear", engine=new, percent=100, frames=3))
    shadowed = worker.hear(Shadowed)
    assert (shadowed.part, shadowed.frames, shadowed.errors, shadowed.agreement) == ("gear", 3, 0, 0.0)
    last = worker.hear(Stats, lambda m: m.stats.releases["detector"] == "yard@2").stats
    assert last.errors == 0
    worker.stop()
    assert worker.end() == 0
