"""The trigger fires once a word, in audio time; the shipped net hears the shipped words."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.audio.blocks import AudioBlock
from edgectl.pipelines.audio.keyword import Detection, Trigger
from edgectl.pipelines.kinds.speech.session import SpeechConfig, SpeechSession
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.synth.kiosk import KioskScene
from edgectl.pipelines.tasks import load_task

LABELS, HOP = ("silence", "unknown", "go", "stop"), 1280


def detections(stream: list[tuple[int, float]], trigger: Trigger) -> list[Detection]:
    """``stream``: (class, its probability) every 80 ms; the rest goes to silence."""
    found = []
    for i, (cls, p) in enumerate(stream):
        scores = np.zeros(4, np.float32)
        scores[0] = 1 - p
        scores[cls] += p
        if d := trigger.step((i + 1) * HOP, scores):
            found.append(d)
    return found


def trigger(**options: float) -> Trigger:
    return Trigger(LABELS, ("silence", "unknown"), **options)  # type: ignore[arg-type]


def test_one_word_fires_once() -> None:
    word = [(0, 0.0)] * 10 + [(2, 0.98)] * 8 + [(0, 0.0)] * 20
    assert [d.label for d in detections(word, trigger())] == ["go"]


def test_two_words_fire_twice_after_the_refractory_time() -> None:
    words = ([(2, 0.98)] * 6 + [(0, 0.0)] * 14) * 2
    assert [d.label for d in detections(words, trigger(refractory_s=1.0))] == ["go", "go"]
    assert len(detections(words, trigger(refractory_s=3.0))) == 1


def test_one_window_is_not_enough_and_background_never_fires() -> None:
    assert detections([(0, 0.0)] * 5 + [(3, 0.99)] + [(0, 0.0)] * 5, trigger(smooth_s=0.0, patience=2)) == []
    assert detections([(1, 1.0)] * 50, trigger()) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=120))
def test_detections_keep_their_distance(stream: list[tuple[int, float]]) -> None:
    found = detections(stream, trigger(refractory_s=1.0))
    assert all(b.sample - a.sample >= 16_000 for a, b in itertools.pairwise(found))
    assert {d.label for d in found} <= {"go", "stop"}


def heard(seed: int, seconds: int, sizes: list[int]) -> list[tuple[str, float]]:
    """Keywords that the reference net hears in the kiosk, with blocks of the given sizes in turn."""
    ours = reference("kiosk-keyword")
    events: list[Event] = []
    session = SpeechSession(SpeechConfig(), events.append)
    session.use("keyword", open_model(ours.model.read_bytes()), load_task(str(ours.task)))
    scene, at, k = KioskScene(seed=seed), 0, 0
    while at < seconds * 16_000:
        n = min(sizes[k % len(sizes)], seconds * 16_000 - at)
        session.push(AudioBlock(at, scene.render(at, n), 0))
        at, k = at + n, k + 1
    session.finish()
    return [(e.data["label"], e.t_s) for e in events if e.type == "keyword"]


def test_the_reference_net_hears_what_is_said_in_the_kiosk() -> None:
    truth = [
        w
        for w in KioskScene(seed=1).truth(60 * 16_000)
        if w.label in load_task(str(reference("kiosk-keyword").task)).labels
    ]
    found = heard(1, 60, [256])
    hits = [
        any(w.label == label and w.first < t * 16_000 < w.last + 16_000 for label, t in found) for w in truth
    ]
    assert len(truth) >= 10
    assert sum(hits) >= 0.9 * len(truth)
    assert len(found) <= len(truth) + 1


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(64, 5000), min_size=1, max_size=4))
def test_the_same_sound_gives_the_same_events_for_any_block_sizes(sizes: list[int]) -> None:
    assert heard(3, 8, sizes) == heard(3, 8, [256])


def test_a_session_says_which_parts_are_missing() -> None:
    events: list[Event] = []
    session = SpeechSession(SpeechConfig(), events.append)
    session.announce()
    assert [(e.type, e.data["name"], e.data["available"]) for e in events] == [
        ("capability", "vad", False),
        ("capability", "keyword", False),
    ]
