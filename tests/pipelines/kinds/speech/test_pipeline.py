"""A speech stream from source to events: the ledger adds up, engines are swapped without losing a block,
every end is a good end."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgectl.core.bundle import Descriptor, GoldenSpec, Manifest, Recipe, Variant, VariantConfig
from edgectl.core.errors import EdgectlError, EngineError, SourceError, StorageError, UsageError
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.audio.blocks import AudioBlock, AudioSource
from edgectl.pipelines.audio.clock import ClockFit
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.sources import open_audio
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.tasks import load_task

DIGEST = "sha256:" + "0" * 64


def slot(release: str = "words@1") -> PartVariant:
    ours = reference("kiosk-keyword")
    engine = open_model(ours.model.read_bytes())
    config = VariantConfig(
        name="words",
        version="1",
        profile="cpu",
        variant="float",
        runtime="onnxruntime",
        task=load_task(str(ours.task)),
        recipe=Recipe(family="float"),
        inputs=engine.inputs,
        outputs=engine.outputs,
        golden=GoldenSpec(samples=1, tolerances={}),
    )
    engine.close()
    manifest = Manifest(config=Descriptor(mediaType="x", digest=DIGEST, size=0), layers=())
    return PartVariant(Variant(Path(), DIGEST, manifest, config), release)


class Broken:
    """An engine that opens and then fails at every run."""

    def __init__(self, real: Engine) -> None:
        self.inputs, self.outputs, self.runtime, self.closed = real.inputs, real.outputs, real.runtime, False
        real.close()

    def run(self, feeds: Feeds) -> Outputs:
        raise EngineError("out of memory")

    def close(self) -> None:
        self.closed = True


def real(_: Variant) -> Engine:
    return open_model(reference("kiosk-keyword").model.read_bytes())


def args(source: str, heard: list[dict[str, Any]], **options: Any) -> PipelineArgs:
    defaults: dict[str, Any] = {
        "engines": {"keyword": slot()},
        "config": parse_config("speech", None),
        "open_engine": real,
    }
    return PipelineArgs("kiosk", source, emit=heard.append, **(defaults | options))


def test_a_recording_is_heard_to_its_end_and_every_block_is_booked(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=1&seconds=20&paced=0", heard, out=tmp_path))
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    stats = pipeline.stats()
    assert pipeline.error is None
    assert stats.frames.captured == stats.frames.processed == 1250
    assert stats.counters.get("keyword:tickets", 0) + stats.counters.get("keyword:platform", 0) >= 1
    assert {e["label"] for e in heard if e["type"] == "keyword"} <= {
        "tickets",
        "platform",
        "help",
        "repeat",
        "cancel",
    }
    assert (tmp_path / "events.jsonl").read_text().count("\n") == len(heard)
    assert pipeline.totals()["engine:keyword"].n > 100


def test_a_stop_that_was_interrupted_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, calls = SinkPool.close, []

    def interrupted(self: SinkPool) -> bool:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return close(self)

    monkeypatch.setattr(SinkPool, "close", interrupted)
    before = set(threading.enumerate())
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=1&seconds=2&paced=0", [], out=tmp_path))
    pipeline.start()
    assert pipeline.wait(60)
    with pytest.raises(KeyboardInterrupt):
        pipeline.stop()
    pipeline.stop()
    assert set(threading.enumerate()) <= before


def test_an_engine_is_swapped_between_two_blocks_and_taken_back() -> None:
    heard: list[dict[str, Any]] = []
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=1", heard))
    pipeline.start()
    try:
        gap_ms = pipeline.swap("keyword", slot("words@2"))
        assert pipeline.stats().releases == {"keyword": "words@2"}
        assert 0 < gap_ms < 2000
        pipeline.revert("keyword")
        assert pipeline.stats().releases == {"keyword": "words@1"}
        pipeline.swap("keyword", slot("words@3"))
        pipeline.commit("keyword")
        pipeline.revert("keyword")  # nothing to go back to
        assert pipeline.stats().releases == {"keyword": "words@3"}
        with pytest.raises(UsageError):
            pipeline.swap("vad", slot())
    finally:
        pipeline.stop()
    frames = pipeline.stats().frames
    assert frames.captured == frames.processed + sum(frames.dropped.values())
    assert set(frames.dropped) <= {"shutdown"}


def test_a_failed_inference_is_an_event_and_never_silence() -> None:
    heard: list[dict[str, Any]] = []
    pipeline = make_pipeline(
        "speech", args("synth://kiosk?seed=1&seconds=3&paced=0", heard, open_engine=lambda v: Broken(real(v)))
    )
    pipeline.start()
    assert pipeline.wait(30)
    pipeline.stop()
    stats = pipeline.stats()
    assert stats.errors > 0
    assert [e for e in heard if e["type"] == "inference_failed"]
    assert stats.frames.dropped["engine_error"] == stats.errors
    assert stats.frames.captured == stats.frames.processed + sum(stats.frames.dropped.values())


@pytest.mark.parametrize(
    ("source", "error"),
    [("synth://moon", SourceError), ("no-such-file.wav", SourceError), ("synth://kiosk?loud=1", SourceError)],
)
def test_a_source_that_cannot_be_opened_leaves_no_thread(source: str, error: type[EdgectlError]) -> None:
    before = threading.active_count()
    pipeline = make_pipeline("speech", args(source, []))
    with pytest.raises(error):
        pipeline.start()
    pipeline.stop()
    assert threading.active_count() == before


def test_a_part_that_speech_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="part"):
        make_pipeline("speech", args("synth://kiosk", [], engines={"detector": slot()}))


def test_a_live_source_is_stopped_while_it_waits_for_sound() -> None:
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=2", []))
    pipeline.start()
    pipeline.stop()
    pipeline.stop()
    assert not [t for t in threading.enumerate() if "kiosk" in t.name]


def test_a_stream_that_has_run_for_days_hears_the_same_at_the_same_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 kHz passes 2^31 samples after 37 hours. The words are the same; every index is 64 bit, through
    every stage."""
    first = 2**31 - 5 * 16_000
    uri = "synth://kiosk?seed=1&seconds=20&paced=0"

    def late(offset: int) -> list[dict[str, Any]]:
        def moved(uri: str, **_: object) -> AudioSource:
            source = open_audio(uri)
            read = source.read

            def shifted() -> AudioBlock | None:
                block = read()
                return (
                    None if block is None else dataclasses.replace(block, first=block.first + offset, gap=0)
                )

            monkeypatch.setattr(source, "read", shifted)
            return source

        monkeypatch.setattr("edgectl.pipelines.kinds.speech.pipeline.open_audio", moved)
        heard: list[dict[str, Any]] = []
        pipeline = make_pipeline("speech", args(uri, heard))
        pipeline.start()
        assert pipeline.wait(60)
        pipeline.stop()
        assert pipeline.error is None
        # what was before is a gap, not silence
        assert pipeline.stats().counters.get("lost_samples", 0) == offset
        return [e for e in heard if e["type"] == "keyword"]

    early, after = late(0), late(first)
    assert len(early) >= 2
    assert [(e["label"], e["score"]) for e in after] == [(e["label"], e["score"]) for e in early]
    assert [e["sample"] - first for e in after] == [e["sample"] for e in early]
    assert after[0]["sample"] < 2**31 < after[-1]["sample"]
    assert after[-1]["t_s"] == pytest.approx(early[-1]["t_s"] + first / 16_000, abs=1e-5)


class Scripted:
    """A live source that gives the blocks it is told, and then the end."""

    uri, live, seconds = "mic://", True, None

    def __init__(self, blocks: list[AudioBlock]) -> None:
        self.counters = {"source_restarts": 3}
        self._blocks = blocks

    def read(self) -> AudioBlock | None:
        return self._blocks.pop(0) if self._blocks else None

    def close(self) -> None:
        pass


class Away(Scripted):
    """A live source that gives nothing for ever."""

    def __init__(self, reason: str) -> None:
        super().__init__([])
        self._reason, self._closed = reason, threading.Event()

    def read(self) -> AudioBlock | None:
        if self._closed.wait(0.01):
            return None
        return AudioBlock(0, np.zeros(0, np.float32), time.monotonic_ns(), outage=self._reason)

    def close(self) -> None:
        self._closed.set()


def run(
    monkeypatch: pytest.MonkeyPatch, source: AudioSource, **options: Any
) -> tuple[list[dict[str, Any]], Any]:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr("edgectl.pipelines.kinds.speech.pipeline.open_audio", lambda uri, **_: source)
    pipeline = make_pipeline("speech", args("mic://", heard, **options))
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.error is None
    return heard, pipeline.stats()


def quiet(first: int, n: int = 256, **more: Any) -> AudioBlock:
    noise = np.random.default_rng(first).normal(0, 0.01, n).astype(np.float32)
    return AudioBlock(first, noise, time.monotonic_ns(), **more)


def test_an_outage_is_told_once_with_what_was_lost_and_every_sample_is_booked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = [quiet(256 * i) for i in range(4)]
    away = [
        AudioBlock(1024, np.zeros(0, np.float32), 0, outage=reason)
        for reason in ("timeout", "timeout", "ended", "ended")
    ]
    after = [quiet(33_024, gap=32_000), *(quiet(33_024 + 256 * i) for i in range(1, 4))]
    heard, stats = run(monkeypatch, Scripted([*before, *away, *after]))
    told = [e for e in heard if e["type"] == "capability" and e["name"] == "source"]
    assert [(e["phase"], e["reason"], e["available"], e["t_s"]) for e in told] == [
        ("start", "timeout", False, 0.064),
        ("end", "timeout", True, 2.064),
    ]
    assert told[1]["lost_samples"] == 32_000
    assert stats.counters["lost_samples"] == 32_000
    assert stats.counters["source_restarts"] == 3
    assert (stats.frames.captured, stats.frames.processed, stats.frames.dropped) == (8, 8, {})


def test_a_run_of_so_many_seconds_ends_with_a_microphone_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard, stats = run(monkeypatch, Away("busy"), seconds=0.2)
    assert [e["reason"] for e in heard if e["type"] == "capability" and e["name"] == "source"] == ["busy"]
    assert stats.frames.captured == 0


@pytest.mark.parametrize("per_block_ms", [1, 16, 160])
def test_so_many_seconds_of_a_microphone_are_seconds_of_the_clock(
    per_block_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is sixteen times too fast, one that is right, and one that is ten times too slow."""
    now = time.monotonic_ns()
    blocks = [
        dataclasses.replace(quiet(256 * i), captured_ns=now + per_block_ms * 1_000_000 * i)
        for i in range(4000)
    ]
    _, stats = run(monkeypatch, Scripted(blocks), seconds=1.6)
    assert stats.frames.captured == pytest.approx(1600 / per_block_ms, rel=0.1, abs=1)


def test_so_many_seconds_of_a_paced_source_are_exactly_so_many_blocks() -> None:
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=1", [], seconds=0.32))
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.stats().frames.captured == 20


def test_a_stream_whose_microphone_is_away_says_so_in_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    source = Away("busy")
    monkeypatch.setattr("edgectl.pipelines.kinds.speech.pipeline.open_audio", lambda uri, **_: source)
    pipeline = make_pipeline(
        "speech",
        dataclasses.replace(
            args("mic://", []), emit=lambda e: told.set() if e.get("reason") == "busy" else None
        ),
    )
    pipeline.start()
    try:
        assert told.wait(60)
        assert pipeline.stats().state == "outage"
    finally:
        pipeline.stop()


def test_an_event_of_a_live_stream_has_the_time_at_which_its_sample_was_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a card that is 1 % fast, after ten minutes: the sample says 606 s, the clock 600."""
    now = time.monotonic_ns()
    line = ClockFit(600 * 16_160, now, 16_160.0)
    gap = AudioBlock(590 * 16_160, np.zeros(0, np.float32), now, outage="timeout", clock=line)
    heard, _ = run(monkeypatch, Scripted([gap]))
    (told,) = [e for e in heard if e.get("name") == "source"]
    assert told["t_s"] == pytest.approx(590 * 1.01)
    assert told["time"] == pytest.approx(time.time() - (time.monotonic_ns() - now) / 1e9 - 10, abs=0.05)
    assert told["clock"] == "arrival"


def test_a_step_of_the_wall_clock_is_in_the_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded as 1970 before the clock was set must not stay there."""
    now = time.monotonic_ns()
    steps = iter(range(1, 1000))
    monkeypatch.setattr(
        "edgectl.pipelines.kinds.speech.pipeline.time",
        SimpleNamespace(
            time_ns=lambda: next(steps) * 10**18, monotonic_ns=time.monotonic_ns, monotonic=time.monotonic
        ),
    )
    line = ClockFit(0, now, 16_000.0)
    one = AudioBlock(0, np.zeros(0, np.float32), now, outage="timeout", clock=line)
    two = AudioBlock(160, np.full(256, 0.01, np.float32), now, gap=160, clock=line)
    heard, _ = run(monkeypatch, Scripted([one, two]))
    first, second = [e["time"] for e in heard if e.get("name") == "source"]
    assert second - first > 0.9e9


def test_a_microphone_far_from_its_rate_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [ClockFit(0, 0, rate) for rate in (16_000.0, 16_300.0, 48_000.0, 48_000.0, 16_000.0)]
    heard, _ = run(monkeypatch, Scripted([quiet(256 * i, clock=line) for i, line in enumerate(lines)]))
    told = [(e["phase"], e["reason"], e["rate_hz"]) for e in heard if e.get("name") == "sample_rate"]
    assert told == [("start", "fast", 48_000), ("end", "fast", 16_000)]


def test_a_folder_that_cannot_be_written_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("a file is here")
    engine, source = Broken(real(None)), Away("timeout")  # type: ignore[arg-type]
    monkeypatch.setattr("edgectl.pipelines.kinds.speech.pipeline.open_audio", lambda uri, **_: source)
    pipeline = make_pipeline("speech", args("mic://", [], open_engine=lambda v: engine, out=tmp_path / "out"))
    before = threading.enumerate()
    with pytest.raises(StorageError):
        pipeline.start()
    assert engine.closed
    assert source._closed.is_set()
    assert set(threading.enumerate()) <= set(before)
