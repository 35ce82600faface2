"""The second model of a stream when it fails, hangs, is slow, or is another one. The detector's stream goes on in every
case."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.pipelines import ClassEngine, write_clip
from support.second_stage import ASKED, Rig

from edgectl.core.errors import EdgectlError, ModelError, UsageError
from edgectl.pipelines.video import engine_pool
from edgectl.pipelines.video.shadow import Shadowing


def test_a_failed_answer_is_no_vote_and_is_told(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    rig.pipeline.start()
    rig.second[0].fails = True
    assert rig.pipeline.wait(60)
    rig.pipeline.stop()
    assert rig.values(1) == [None]
    assert rig.processed == 40
    failures = rig.of("inference_failed")
    assert failures[0]["part"] == "gear"
    assert "the accelerator is gone" in failures[0]["detail"]
    # at most one a second of 2.7 s, each failure counted
    assert len(failures) == 3
    assert rig.crops.dropped["engine_error"] == rig.crops.captured
    assert rig.pipeline.stats().errors == 0


def test_a_decoder_that_fails_does_not_end_the_stream(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    rig.pipeline.start()
    rig.second[0]._logits_at = lambda crop: [float("nan"), 0.0]
    assert rig.pipeline.wait(60)
    rig.pipeline.stop()
    assert rig.pipeline.error is None
    assert rig.processed == 40
    assert "not finite" in rig.of("inference_failed")[0]["detail"]


def _hang(engine: ClassEngine) -> None:
    engine.free.clear()


@pytest.mark.parametrize("paced", [False, True])
def test_a_second_model_that_hangs_does_not_stop_the_stream_and_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paced: bool
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.1)
    clip = write_clip(tmp_path / "clip.mp4", frames=90)
    # ends with nothing but the first crops hanging; a recording would be over before it is let go
    rig = Rig(
        tmp_path,
        f"{clip}?paced=1" if paced else str(clip),
        {"budget_ms": 5000, "govern": {"on": False}} if paced else None,
    )
    rig.pipeline.start()
    engine = rig.second[0]
    _hang(engine)
    try:
        told = rig.hear(lambda e: e.get("reason") == "engine_stuck", "the engine hangs")
        assert (told["name"], told["part"], told["phase"], told["available"]) == (
            "engine",
            "gear",
            "start",
            False,
        )
        assert rig.pipeline.stuck() == ("engine:gear",)
        if not paced:
            assert rig.pipeline.wait(60)
            assert rig.processed == 90
            assert rig.values(1) == [None]
    finally:
        engine.free.set()
    if paced:
        rig.hear(lambda e: e.get("reason") == "engine_stuck" and e["phase"] == "end", "it is back")
        assert rig.pipeline.wait(60)
        assert rig.values(1)[:2] != [None]
        assert rig.processed + sum(rig.pipeline.stats().frames.dropped.values()) == 90
    rig.pipeline.stop()
    assert rig.pipeline.error is None
    assert rig.crops.in_flight == 0


def test_a_camera_never_waits_for_a_slow_second_model(tmp_path: Path, clip: Path) -> None:
    """Each crop takes as long as the whole clip: every frame is processed, and crops that are too old are dropped."""
    rig = Rig(
        tmp_path,
        f"{clip}?paced=1",
        {"second_stage": [{**ASKED, "within_s": 0.1}], "budget_ms": 5000, "govern": {"on": False}},
    )
    rig.pipeline.start()
    engine = rig.second[0]
    _hang(engine)
    assert engine.hangs.wait(20)
    assert rig.pipeline.wait(60)
    engine.free.set()
    rig.pipeline.stop()
    crops = rig.crops
    # one frame, and it waited; a busy machine loses some
    assert rig.processed > 20
    assert crops.captured == crops.processed + sum(crops.dropped.values())
    assert crops.in_flight == 0


def test_crops_that_waited_too_long_are_dropped_as_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.1)
    clip = write_clip(tmp_path / "clip.mp4", frames=60)
    rig = Rig(
        tmp_path,
        f"{clip}?paced=1",
        {"second_stage": [{**ASKED, "within_s": 0.05}], "budget_ms": 5000, "govern": {"on": False}},
    )
    rig.pipeline.start()
    engine = rig.second[0]
    _hang(engine)
    assert engine.hangs.wait(20)
    rig.hear(lambda e: e.get("reason") == "engine_stuck", "the engine hangs, for longer than a crop may wait")
    engine.free.set()
    assert rig.pipeline.wait(60)
    rig.pipeline.stop()
    assert rig.crops.dropped.get("stale", 0) >= 1
    assert rig.crops.in_flight == 0


def test_the_second_model_is_swapped_and_taken_back_while_the_stream_runs(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=90)
    rig = Rig(
        tmp_path,
        f"{clip}?paced=1",
        {"second_stage": [{**ASKED, "again_s": 0}], "budget_ms": 5000, "govern": {"on": False}},
        logits_at=lambda c: [4.0, 0.0],
    )
    rig.pipeline.start()
    rig.hear(lambda e: "attributes" in e, "the first model's answer")
    rig._logits_at = lambda c: [0.0, 4.0]
    rig.pipeline.swap("gear", rig.variant())
    told = rig.hear(
        lambda e: e.get("attributes", {}).get("gear", {}).get("value") == "no-helmet", "the new model's"
    )
    assert told["releases"]["gear"] == "gear@2"
    assert rig.pipeline.stats().releases == {"detector": "yard@1", "gear": "gear@2"}
    rig.pipeline.revert("gear")
    assert rig.second[1].closed.is_set()
    assert not rig.second[0].closed.is_set()
    assert rig.pipeline.wait(60)
    rig.pipeline.stop()
    frames = rig.pipeline.stats().frames
    assert (frames.in_flight, rig.pipeline.stats().errors) == (0, 0)
    # those of the last frames
    assert set(rig.crops.dropped) <= {"shutdown"}
    assert rig.second[0].closed.is_set()


@pytest.mark.parametrize("paced", [False, True])
def test_a_second_model_that_hangs_is_replaced_and_the_new_one_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paced: bool
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.1)
    clip = write_clip(tmp_path / "clip.mp4", frames=120)
    rig = Rig(
        tmp_path,
        f"{clip}?paced=1" if paced else f"{clip}?loop=1",
        {"second_stage": [{**ASKED, "again_s": 0}], "govern": {"on": False}}
        | ({"budget_ms": 5000} if paced else {}),
        logits_at=lambda c: [0.0, 4.0],
    )
    rig.pipeline.start()
    hung = rig.second[0]
    _hang(hung)
    try:
        rig.hear(lambda e: e.get("reason") == "engine_stuck", "the engine hangs")
        # the crop in the call, and the one behind it
        rig.pipeline.swap("gear", rig.variant())
        for track in (1, 2):
            rig.hear(
                lambda e, track=track: e.get("track") == track and "attributes" in e, "the new model's answer"
            )
        rig.hear(lambda e: e.get("reason") == "engine_stuck" and e["phase"] == "end", "it is well")
    finally:
        hung.free.set()
    rig.pipeline.stop()
    crops = rig.crops
    assert crops.in_flight == 0
    assert crops.captured == crops.processed + sum(crops.dropped.values())
    # the one behind that which hung
    assert crops.dropped["superseded"] >= 1


def test_another_set_of_labels_is_refused_and_the_old_model_goes_on(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, f"{clip}?paced=1")
    rig.pipeline.start()
    with pytest.raises(ModelError, match="labels are not"):
        rig.pipeline.swap("gear", rig.variant(("a", "b")))
    assert rig.second[1].closed.is_set()
    with pytest.raises(ModelError, match="labels are not"):
        rig.pipeline.shadow("gear", rig.variant(("a", "b")), 100, 1, lambda result: None)
    assert rig.second[2].closed.is_set()
    with pytest.raises(UsageError, match="no engine for the part 'vest'") as e:
        rig.pipeline.commit("vest")
    assert e.value.hint == "its parts: detector, gear"
    rig.pipeline.stop()


class Compared:
    """What a comparison came to, once."""

    def __init__(self) -> None:
        self.results: list[Shadowing | EdgectlError] = []
        self.told = threading.Event()

    def __call__(self, result: Shadowing | EdgectlError) -> None:
        self.results.append(result)
        self.told.set()

    def result(self) -> Any:
        assert self.told.wait(20)
        (one,) = self.results
        return one


def _running(tmp_path: Path, logits: list[float]) -> tuple[Rig, ClassEngine]:
    """Two tracks that are looked at in each frame, without end, and always called a helmet."""
    clip = write_clip(tmp_path / "clip.mp4", frames=120)
    config = {"second_stage": [{**ASKED, "again_s": 0, "score": 0.6}], "govern": {"on": False}}
    rig = Rig(tmp_path, f"{clip}?loop=1&paced=1", config, logits_at=lambda crop: [4.0, 0.0])
    rig.pipeline.start()
    rig._logits_at = lambda crop: logits
    return rig, rig.second[0]


@pytest.mark.parametrize(("logits", "matched"), [([3.0, 0.0], 6), ([0.0, 3.0], 0)])
def test_another_second_model_is_compared_on_the_same_crops_and_has_no_vote(
    tmp_path: Path, logits: list[float], matched: int
) -> None:
    rig, serving = _running(tmp_path, logits)
    compared = Compared()
    rig.pipeline.shadow("gear", rig.variant(), 50, 6, compared)
    found = compared.result()
    assert (found.frames, found.matched, found.found, found.errors) == (6, matched, 12, 0)
    beside = rig.second[1]
    assert beside.closed.is_set()
    # opening it takes two
    assert beside.runs == 2 + 6
    assert serving.runs >= 2 + 11, "every second crop"
    rig.pipeline.stop()
    assert rig.crops.in_flight == 0
    assert set(rig.values(1)) <= {None, "helmet"}


def test_one_that_is_never_sure_agrees_with_nothing(tmp_path: Path) -> None:
    rig, _ = _running(tmp_path, [0.0, 0.0])
    compared = Compared()
    rig.pipeline.shadow("gear", rig.variant(), 100, 4, compared)
    found = compared.result()
    assert (found.frames, found.matched, found.found) == (4, 0, 4)
    rig.pipeline.stop()


def test_one_that_fails_beside_the_second_model_is_counted_and_the_stream_goes_on(tmp_path: Path) -> None:
    rig, serving = _running(tmp_path, [4.0, 0.0])
    compared = Compared()
    rig.set_up = lambda engine: setattr(engine, "fails_from", 2)
    rig.pipeline.shadow("gear", rig.variant(), 100, 4, compared)
    found = compared.result()
    assert (found.frames, found.matched, found.found, found.errors) == (4, 0, 4, 4)
    runs = serving.runs
    deadline = threading.Event()
    while serving.runs < runs + 4:
        assert not deadline.wait(0.01)
    rig.pipeline.stop()
    assert "engine_error" not in rig.crops.dropped


@pytest.mark.parametrize("how", ["swap", "stop", "another"])
def test_a_comparison_that_is_cut_short_says_so(tmp_path: Path, how: str) -> None:
    rig, _ = _running(tmp_path, [4.0, 0.0])
    compared, other = Compared(), Compared()
    rig.pipeline.shadow("gear", rig.variant(), 100, 100_000, compared)
    if how == "swap":
        rig.pipeline.swap("gear", rig.variant())
    elif how == "another":
        rig.pipeline.shadow("gear", rig.variant(), 100, 2, other)
        assert other.result().frames == 2
    else:
        rig.pipeline.stop()
    why = {
        "swap": "the stream took another engine",
        "stop": "the stream has ended",
        "another": "another engine is compared",
    }
    assert why[how] in str(compared.result())
    assert how == "swap" or rig.second[1].closed.is_set()
    rig.pipeline.stop()
    assert rig.second[1].closed.is_set()


def test_one_that_hangs_beside_the_second_model_is_told_and_the_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.1)
    rig, _ = _running(tmp_path, [4.0, 0.0])
    compared = Compared()
    rig.pipeline.shadow("gear", rig.variant(), 100, 100_000, compared)
    hung = rig.second[1]
    _hang(hung)
    try:
        rig.hear(lambda e: e.get("reason") == "engine_stuck" and e["phase"] == "start", "it hangs")
        assert rig.pipeline.stuck() == ("engine:gear",)
        before = rig.processed
        rig.wait_processed(before + 5)
    finally:
        hung.free.set()
    rig.hear(lambda e: e.get("reason") == "engine_stuck" and e["phase"] == "end", "it is back")
    rig.pipeline.stop()
    assert "the stream has ended" in str(compared.result())
