"""Iterating over a pipeline's events: all of them, in order, and no thread is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.pipelines import (
    BoxEngine,
    box_task,
    bundle_of,
    class_model_bytes,
    class_task,
    make_variant,
    write_clip,
)

from edgectl.core.bundle import Bundle
from edgectl.core.errors import EdgectlError, SourceError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.event_run import EventRun, run
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.stream.part import PartVariant

CAMERA = "synth://yard?fps=100&width=96&height=64"
FRAMES = 1200


class Talkative(EventRun):
    """Each frame has an object, and with ``update_s`` so small, each frame an event."""

    def __init__(self, folder: Path, source: Any, engine: BoxEngine | None = None, **more: Any) -> None:
        self.engine = engine or BoxEngine(lambda _: [(0.4, 0.3, 0.6, 0.8, 0.9, 0)])
        variant = make_variant(folder / "blobs", box_task())
        config = parse_config("surveillance", {"update_s": 1e-6, "track": {"confirm_s": 0}})
        parts = {"detector": PartVariant(variant)}
        super().__init__("surveillance", parts, source, config, open_engine=lambda v: self.engine, **more)


def waiting(events: EventRun, n: int, seconds: float) -> bool:
    """Whether ``n`` events wait for the loop within some seconds."""
    with events._change:
        return events._change.wait_for(lambda: len(events._waiting) >= n, seconds)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_of_a_file_no_event_is_lost_and_the_pipeline_waits_for_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder.MAX_RECORDS", 16)
    clip = write_clip(tmp_path / "c.mp4", frames=FRAMES)
    with Talkative(tmp_path, str(clip)) as events:
        first = next(events)
        assert waiting(events, 256, 30)
        assert not waiting(events, 257, 1)
        assert events.engine.runs < FRAMES / 2
        rest = list(events)
    assert first["type"] == "tracked_object"
    seen = [r["seq"] for r in (first, *rest) if r["type"] == "tracked_object" and r["phase"] != "end"]
    assert seen == list(range(seen[0], FRAMES))
    assert seen[0] <= 1
    summary = events.summary()
    assert summary.frames.processed == FRAMES
    assert sum(summary.events.values()) == 1 + len(rest)
    assert events.engine.closed.is_set()


@pytest.mark.parametrize("way_out", ["break", "error"])
def test_leaving_the_loop_early_stops_everything(tmp_path: Path, way_out: str) -> None:
    def leave() -> None:
        with Talkative(tmp_path, CAMERA) as events:
            for _ in events:
                if way_out == "error":
                    raise KeyError("the loop's own")
                break

    if way_out == "error":
        with pytest.raises(KeyError):
            leave()
    else:
        leave()


def test_a_loop_that_stands_still_can_be_left(tmp_path: Path) -> None:
    """Nobody takes events; the sink thread waits for room when the block is left."""
    clip = write_clip(tmp_path / "c.mp4", frames=FRAMES)
    with Talkative(tmp_path, str(clip)) as events:
        assert waiting(events, 256, 30)
    assert events.summary().frames.in_flight == 0


def test_events_that_wait_at_the_end_of_the_source_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source ends while nobody takes events, and far more wait than the loop's own queue holds. Then the
    loop is faster than the sink thread: it finds nothing, and ends the pipeline with most of them still to come."""
    monkeypatch.setattr("edgectl.pipelines.host.event_run._POLL_S", 0.0)
    clip = write_clip(tmp_path / "c.mp4", frames=FRAMES)
    with Talkative(tmp_path, str(clip)) as events:
        assert events._streams[0].pipeline.wait(60)
        heard = list(events)
    assert len([r for r in heard if r["type"] == "tracked_object"]) >= FRAMES - 1
    assert sum(events.summary().events.values()) == len(heard)


def test_a_failure_comes_behind_the_last_event(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=40)

    class Dies(BoxEngine):
        def run(self, feeds: Any) -> Any:
            if self.runs == 20:
                raise RuntimeError("a native crash, nearly")
            return super().run(feeds)

    heard = []
    with (
        pytest.raises(EdgectlError, match="a native crash, nearly"),
        Talkative(tmp_path, str(clip), Dies(lambda _: [(0.4, 0.3, 0.6, 0.8, 0.9, 0)])) as events,
    ):
        heard.extend(events)
    assert len(heard) >= 15


def test_a_source_that_is_not_there_is_said_where_the_block_begins(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"), Talkative(tmp_path, str(tmp_path / "none.mp4")):
        pytest.fail("it must not begin")


def test_outside_of_its_block_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not started"):
        next(Talkative(tmp_path, CAMERA))


def test_a_run_is_started_once(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=20)
    with Talkative(tmp_path, str(clip)) as events:
        with pytest.raises(UsageError, match="was started before"), events:
            pytest.fail("it must not begin")
        assert list(events)
    with pytest.raises(UsageError, match="was started before"), events:
        pytest.fail("it must not begin")


def test_ctrl_c_while_the_last_events_are_written_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source has ended: the loop's last step closes the sinks, and leaving the block has to go on with it."""
    close, calls = SinkPool.close, []

    def interrupted(self: SinkPool) -> bool:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return close(self)

    monkeypatch.setattr(SinkPool, "close", interrupted)
    clip = write_clip(tmp_path / "c.mp4", frames=20)
    with pytest.raises(KeyboardInterrupt), Talkative(tmp_path, str(clip)) as events:
        list(events)
    assert events.engine.closed.is_set()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds one box, wherever it looks."""
    constants = {
        "box": np.array([[[0.4, 0.3, 0.6, 0.8]]]),
        "score": np.array([[[0.9, 0.0]]]),
        "nothing": np.array([0.0]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["box", "zero"], ["boxes"]),
        helper.make_node("Add", ["score", "zero"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one box",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 2]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    root = tmp_path_factory.mktemp("bundle") / "gate"
    return bundle_of(root, box_task(), model.SerializeToString())


ZONE = {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}


@pytest.mark.parametrize("form", ["path", "text", "bundle", "list"])
@pytest.mark.parametrize("config", ["mapping", "file", "parsed"])
def test_a_bundle_a_source_and_a_loop_are_all_it_takes(
    tmp_path: Path, bundle: Path, form: str, config: str
) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=20)
    (tmp_path / "c.yaml").write_text(json.dumps({"zones": ZONE}))
    forms = {"path": bundle, "text": str(bundle), "bundle": Bundle(bundle), "list": [bundle]}
    configs = {
        "mapping": {"zones": ZONE},
        "file": tmp_path / "c.yaml",
        "parsed": parse_config("surveillance", {"zones": ZONE}),
    }
    with run("surveillance", forms[form], clip, config=configs[config], out=tmp_path / "out") as events:
        types = {event["type"] for event in events}
    assert types == {"capability", "tracked_object", "zone"}
    summary = events.summary()
    assert summary.frames.processed == 20
    assert {p.name for p in summary.outputs} == {"events.jsonl", "annotated.mp4"}


def test_a_bundle_for_each_part_has_its_name(tmp_path: Path, bundle: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=20)
    gear = bundle_of(tmp_path / "gear", class_task(), class_model_bytes())
    stage = {"part": "gear", "min_height_px": 8, "every_s": 0, "votes": 2}
    parts = {"detector": bundle, "gear": str(gear)}
    with run("surveillance", parts, clip, config={"second_stage": [stage]}) as events:
        decided = [event["attributes"]["gear"]["value"] for event in events if "attributes" in event]
    assert decided == ["helmet"]
    assert events.summary().crops["gear"].processed > 0


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("cooking", {}, "no kind of pipeline"),
        ("surveillance", {"config": {"zone": {}}}, "there is no such setting"),
        (
            "driving",
            {"config": parse_config("surveillance", None)},
            "a driving pipeline takes a DrivingConfig",
        ),
        ("speech", {}, "needs an engine for the part keyword or vad"),
        ("surveillance", {"prefer": "faast"}, "no preference 'faast'"),
        ("surveillance", {"seconds": 0}, "it must be more than 0"),
        ("surveillance", {"seconds": float("nan")}, "it must be more than 0"),
        ("surveillance", {"seconds": float("inf")}, "it must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_starts(
    bundle: Path, kind: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run(kind, bundle, CAMERA, **more)


def test_a_camera_can_be_watched_for_a_while(bundle: Path) -> None:
    with run("surveillance", bundle, CAMERA, config={"zones": ZONE}, seconds=1.0) as events:
        assert [e["phase"] for e in events if e["type"] == "zone"] == ["enter"]


CTRL_C = """
import os, signal, sys, threading
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from pipelines.host.test_event_run import CAMERA, Talkative
try:
    with Talkative(Path(sys.argv[1]), CAMERA) as events:
        for n, _ in enumerate(events):
            if n == 5:
                os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print([t.name for t in threading.enumerate()])
"""


def test_ctrl_c_ends_the_loop_and_every_thread(tmp_path: Path) -> None:
    tests = Path(__file__).resolve().parents[2]
    script = CTRL_C.replace("pipelines.host.test_event_run", "test_event_run")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)],
        env={"PYTHONPATH": str(tests), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "['MainThread']\n", done.stderr


def test_several_sources_share_an_engine_and_their_events_come_together(tmp_path: Path) -> None:
    sources = {name: str(write_clip(tmp_path / f"{name}.mp4", frames=30)) for name in ("gate", "yard")}
    heard = []
    with (
        pytest.raises(SourceError, match="no file"),
        Talkative(tmp_path, {**sources, "dead": str(tmp_path / "none.mp4")}, out=tmp_path / "out") as events,
    ):
        heard.extend(events)
    assert set(events.errors) == {"dead"}
    for name in sources:
        own = [e for e in heard if e["stream"] == name]
        assert events.summary(name).frames.processed == 30
        assert sum(events.summary(name).events.values()) == len(own) >= 30
        assert [e["seq"] for e in own] == sorted(e["seq"] for e in own)
        assert (tmp_path / "out" / name / "events.jsonl").is_file()
    with pytest.raises(UsageError, match="did not start"):
        events.summary("dead")
    with pytest.raises(UsageError, match="which stream"):
        events.summary()
    assert events.engine.closed.is_set()


def test_several_sources_do_not_publish_to_one_address(bundle: Path) -> None:
    sources = {"gate": "a.mp4", "yard": "b.mp4"}
    with pytest.raises(UsageError, match="'gate' and 'yard' would both send to rtsp://server/yard"):
        run("surveillance", bundle, sources, config={"restream": "rtsp://server/yard"})
    run("surveillance", bundle, {"gate": "a.mp4"}, config={"restream": "rtsp://server/yard"})
