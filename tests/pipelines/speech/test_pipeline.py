"""A speech stream from source to events: the ledger adds up, engines are swapped without losing a block, every end is a good end."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from edgectl.core.bundle import Descriptor, GoldenSpec, Manifest, Recipe, Variant, VariantConfig
from edgectl.core.errors import EdgectlError, EngineError, SourceError, UsageError
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.open import open_model
from edgectl.models import reference
from edgectl.pipelines.config import PipelineConfig
from edgectl.pipelines.pipeline import EngineSlot, PipelineArgs, make_pipeline
from edgectl.pipelines.speech.blocks import AudioBlock, AudioSource
from edgectl.pipelines.speech.sources import open_audio
from edgectl.pipelines.tasks import load_task

DIGEST = "sha256:" + "0" * 64


def slot(release: str = "words@1") -> EngineSlot:
    ours = reference("kiosk-keyword")
    engine = open_model(ours.model.read_bytes())
    config = VariantConfig(
        name="words", version="1", profile="cpu", variant="float", runtime="onnxruntime", task=load_task(str(ours.task)), recipe=Recipe(family="float"),
        inputs=engine.inputs, outputs=engine.outputs, golden=GoldenSpec(samples=1, tolerances={}),
    )  # fmt: skip
    engine.close()
    manifest = Manifest(config=Descriptor(mediaType="x", digest=DIGEST, size=0), layers=())
    return EngineSlot(Variant(Path(), DIGEST, manifest, config), release)


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
    defaults: dict[str, Any] = {"engines": {"keyword": slot()}, "config": PipelineConfig(), "open_engine": real}
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
    assert {e["label"] for e in heard if e["type"] == "keyword"} <= {"tickets", "platform", "help", "repeat", "cancel"}
    assert (tmp_path / "events.jsonl").read_text().count("\n") == len(heard)
    assert pipeline.totals()["engine:keyword"].n > 100


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
    ("source", "error"), [("synth://moon", SourceError), ("no-such-file.wav", SourceError), ("synth://kiosk?loud=1", SourceError)]
)
def test_a_source_that_cannot_be_opened_leaves_no_thread(source: str, error: type[EdgectlError]) -> None:
    before = threading.active_count()
    pipeline = make_pipeline("speech", args(source, []))
    with pytest.raises(error):
        pipeline.start()
    pipeline.stop()
    assert threading.active_count() == before


def test_a_role_that_speech_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="role"):
        make_pipeline("speech", args("synth://kiosk", [], engines={"detector": slot()}))


def test_a_live_source_is_stopped_while_it_waits_for_sound() -> None:
    pipeline = make_pipeline("speech", args("synth://kiosk?seed=2", []))
    pipeline.start()
    pipeline.stop()
    pipeline.stop()
    assert not [t for t in threading.enumerate() if "kiosk" in t.name]


def test_a_stream_that_has_run_for_days_hears_the_same_at_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 kHz passes 2^31 samples after 37 hours. The words are the same; every index is 64 bit, through every stage."""
    first = 2**31 - 5 * 16_000
    uri = "synth://kiosk?seed=1&seconds=20&paced=0"

    def late(offset: int) -> list[dict[str, Any]]:
        def moved(uri: str) -> AudioSource:
            source = open_audio(uri)
            read = source.read

            def shifted() -> AudioBlock | None:
                block = read()
                return None if block is None else dataclasses.replace(block, first=block.first + offset, gap=0)

            monkeypatch.setattr(source, "read", shifted)
            return source

        monkeypatch.setattr("edgectl.pipelines.speech.pipeline.open_audio", moved)
        heard: list[dict[str, Any]] = []
        pipeline = make_pipeline("speech", args(uri, heard))
        pipeline.start()
        assert pipeline.wait(60)
        pipeline.stop()
        assert pipeline.error is None
        assert pipeline.stats().counters.get("lost_samples", 0) == offset  # what was before is a gap, not silence
        return [e for e in heard if e["type"] == "keyword"]

    early, after = late(0), late(first)
    assert len(early) >= 2
    assert [(e["label"], e["score"]) for e in after] == [(e["label"], e["score"]) for e in early]
    assert [e["sample"] - first for e in after] == [e["sample"] for e in early]
    assert after[0]["sample"] < 2**31 < after[-1]["sample"]
    assert after[-1]["t_s"] == pytest.approx(early[-1]["t_s"] + first / 16_000, abs=1e-5)
