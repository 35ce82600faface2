"""The same samples give the same events, byte for byte, however they are cut; what cannot be heard is
said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import ModelError
from edgectl.core.task import AudioInput, DecodeSpec, TaskSpec
from edgectl.engines.base import Feeds, Outputs
from edgectl.pipelines.audio.blocks import RATE, AudioBlock, Samples
from edgectl.pipelines.decoders import DECODERS, DecoderType
from edgectl.pipelines.kinds.speech.session import SpeechConfig, SpeechSession
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.tasks import load_task

KEYWORD = TaskSpec.model_validate(
    {
        "name": "double",
        "metric": "top1",
        "labels": ["silence", "ping"],
        "background": ["silence"],
        "input": {
            "kind": "audio",
            "features": {"kind": "log_mel", "window": 480, "hop": 320, "frames": 8, "mels": 8},
        },
        "decode": {"kind": "keyword", "score": 0.5, "softmax": False},
    }
)


class LoudIsSpeech:
    """Says that a frame is speech where it is loud enough; its state counts."""

    runtime = "double 1"
    inputs: tuple[TensorSpec, ...] = (
        TensorSpec(name="input", shape=(1, 576), dtype="float32"),
        TensorSpec(name="state", shape=(2, 1, 128), dtype="float32"),
    )
    outputs: tuple[TensorSpec, ...] = (
        TensorSpec(name="output", shape=(1, 1), dtype="float32"),
        TensorSpec(name="stateN", shape=(2, 1, 128), dtype="float32"),
    )

    def run(self, feeds: Feeds) -> Outputs:
        loud = float(np.abs(feeds["input"]).max()) > 0.05
        bad = not np.isfinite(feeds["state"]).all()
        return {
            "output": np.array([[np.nan if bad else 0.9 if loud else 0.1]], np.float32),
            "stateN": feeds["state"] + 1,
        }

    def close(self) -> None:
        pass


class LoudIsPing(LoudIsSpeech):
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="features", shape=(1, 8, 8), dtype="float32"),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="scores", shape=(1, 2), dtype="float32"),)

    def run(self, feeds: Feeds) -> Outputs:
        p = 0.9 if float(next(iter(feeds.values())).max()) > -1 else 0.1
        return {"scores": np.array([[1 - p, p]], np.float32)}


def bursts(seconds: float, *, seed: int = 0, level: float = 0.3) -> np.ndarray:
    """Noise, with louder noise half of the time."""
    rng = np.random.default_rng(seed)
    gate = np.repeat(rng.random(int(seconds * 10)) < 0.5, RATE // 10)
    return (rng.normal(0, 0.002, len(gate)) + gate * rng.uniform(-level, level, len(gate))).astype(np.float32)


def heard(
    sound: np.ndarray,
    sizes: list[int],
    *,
    gap: tuple[int, int] | None = None,
    unmixed: np.ndarray | None = None,
    **config: Any,
) -> list[Event]:
    """What a session says of a sound in blocks of these sizes in turn; ``gap``: so many samples are lost
    at a place."""
    events: list[Event] = []
    session = SpeechSession(SpeechConfig(hop_frames=2, **config), events.append)
    session.use("vad", LoudIsSpeech(), load_task("silero-vad"))
    session.use("keyword", LoudIsPing(), KEYWORD)
    at, shift, k = 0, 0, 0
    while at < len(sound):
        n = min(sizes[k % len(sizes)], len(sound) - at)
        lost = 0
        if gap is not None and at <= gap[0] < at + n:
            n, lost = (gap[0] - at, 0) if gap[0] > at else (n, gap[1])
        shift += lost
        session.push(
            AudioBlock(
                at + shift,
                sound[at : at + n],
                0,
                lost,
                unmixed=None if unmixed is None else unmixed[at : at + n],
            )
        )
        at, k = at + n, k + 1
    session.finish()
    return events


def lines(events: list[Event]) -> str:
    return "\n".join(json.dumps([e.type, e.t_s, e.phase, dict(e.data)]) for e in events)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(0, 5))
def test_any_block_sizes_give_byte_identical_events(sizes: list[int], seed: int) -> None:
    sound = bursts(4, seed=seed)
    assert lines(heard(sound, sizes)) == lines(heard(sound, [256]))


def test_voice_and_words_are_told_in_the_order_of_their_samples_even_within_one_block() -> None:
    sound = bursts(4)
    events = heard(sound, [len(sound)])
    kinds = [e.type for e in events]
    assert {"speech_start", "speech_end", "keyword"} <= set(kinds)
    # not: all of the one, then all of the other
    assert kinds.index("keyword") < len(kinds) - 1 - kinds[::-1].index("speech_end")
    assert lines(events) == lines(heard(sound, [1]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.integers(1000, 60_000), st.integers(1, 9000)
)
def test_lost_samples_are_the_same_for_any_block_sizes(sizes: list[int], at: int, lost: int) -> None:
    sound = bursts(4)
    assert lines(heard(sound, sizes, gap=(at, lost))) == lines(heard(sound, [256], gap=(at, lost)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.floats(0.0005, 0.02))
def test_soft_sound_is_the_same_for_any_block_sizes(sizes: list[int], level: float) -> None:
    sound = bursts(6, level=level) * np.float32(0.05)
    assert lines(heard(sound, sizes)) == lines(heard(sound, [256]))


def speech(events: list[Event]) -> list[tuple[str, int]]:
    return [(e.type, e.data["sample"]) for e in events if e.type.startswith("speech")]


def sound_faults(events: list[Event]) -> list[tuple[str | None, str, bool]]:
    return [
        (e.phase, e.data["reason"], e.data["available"])
        for e in events
        if e.type == "capability" and e.data["name"] == "sound"
    ]


def test_soft_speech_is_heard_from_its_start_and_said_to_be_soft() -> None:
    """40 dB below: without gain nothing of it is loud enough."""
    sound = bursts(8)
    soft = heard(sound * np.float32(0.01), [256])
    assert speech(soft) == speech(heard(sound, [256], vad_gain_db=0))
    assert sound_faults(soft) == [("start", "too_quiet", False)]
    assert speech(heard(sound * np.float32(0.01), [256], vad_gain_db=0)) == []


def test_at_normal_levels_nothing_is_louder_than_it_is() -> None:
    loud = np.random.default_rng(0).uniform(-0.3, 0.3, 512).astype(np.float32)
    sound = np.concatenate([loud, bursts(12)])
    assert lines(heard(sound, [256])) == lines(heard(sound, [256], vad_gain_db=0))
    assert sound_faults(heard(sound, [256])) == []


def test_a_muted_microphone_is_said_once_and_taken_back() -> None:
    sound = np.concatenate([np.zeros(12 * RATE, np.float32), bursts(4)])
    (said, over) = [e for e in heard(sound, [256]) if e.type == "capability"]
    assert (said.phase, said.data["reason"], said.t_s) == ("start", "silent", 5.0)
    assert (over.phase, over.data["available"]) == ("end", True)
    assert 12 < over.t_s < 14


def test_a_quiet_room_is_no_dead_microphone() -> None:
    assert (
        sound_faults(heard(np.random.default_rng(0).normal(0, 1e-4, 20 * RATE).astype(np.float32), [256]))
        == []
    )


@pytest.mark.parametrize("leak", [0.0, 0.05])
def test_channels_that_cancel_each_other_are_said(leak: float) -> None:
    left = bursts(6)
    right = -(1 - leak) * left
    events = heard(
        ((left + right) / 2).astype(np.float32), [256], unmixed=((left**2 + right**2) / 4).astype(np.float32)
    )
    assert sound_faults(events)[0] == ("start", "channels_cancel", False)


@pytest.mark.parametrize("channels", [2, 6, 16])
@pytest.mark.parametrize("kind", ["alike", "independent", "one speaks"])
def test_channels_that_do_not_cancel_are_not_said_to(channels: int, kind: str) -> None:
    rng = np.random.default_rng(1)
    voices = rng.uniform(-0.3, 0.3, (6 * RATE, channels))
    if kind == "alike":
        voices[:] = voices[:, :1]
    elif kind == "one speaks":
        voices[:, 1:] = 0
    mixed, unmixed = voices.mean(axis=1), (voices**2).mean(axis=1) / channels
    events = heard(mixed.astype(np.float32), [256], unmixed=unmixed.astype(np.float32))
    assert "channels_cancel" not in {reason for _, reason, _ in sound_faults(events)}


def test_a_recording_beyond_full_scale_is_said() -> None:
    events = heard(np.clip(bursts(6) * 30, -1, 1), [256])
    assert sound_faults(events)[0] == ("start", "clipped", False)


def test_a_failed_inference_does_not_poison_what_comes_after() -> None:
    """A state of NaN would make every later probability NaN."""
    engine = LoudIsSpeech()
    events: list[Event] = []
    session = SpeechSession(SpeechConfig(), events.append)
    session.use("vad", engine, load_task("silero-vad"))
    sound = bursts(4)
    session.push(AudioBlock(0, sound[:RATE], 0))
    assert session._vad is not None
    session._vad._value = np.full((2, 1, 128), np.nan, np.float32)
    session.push(AudioBlock(RATE, sound[RATE:], 0))
    assert [e.type for e in events].count("inference_failed") == 1
    assert session.errors == 1


def test_a_source_that_goes_away_closes_what_is_open_and_says_what_was_lost() -> None:
    events: list[Event] = []
    session = SpeechSession(SpeechConfig(), events.append)
    session.use("vad", LoudIsSpeech(), load_task("silero-vad"))
    loud, nothing = np.full(RATE, 0.5, np.float32), np.zeros(0, np.float32)
    session.push(AudioBlock(0, loud, 0))
    session.push(AudioBlock(RATE, nothing, 0, outage="timeout"))
    session.push(AudioBlock(RATE, nothing, 0, outage="ended"))  # the same outage, known better by now
    session.push(AudioBlock(4 * RATE, loud, 0, gap=3 * RATE))
    assert [(e.type, e.phase, e.t_s) for e in events if not e.type.startswith("inference")][1:4] == [
        ("speech_end", None, 1.0),
        ("capability", "start", 1.0),
        ("capability", "end", 4.0),
    ]
    assert [e.data["reason"] for e in events if e.type == "capability"] == ["timeout", "timeout"]
    assert [e.data.get("lost_samples") for e in events if e.type == "capability"] == [None, 3 * RATE]
    assert session.counts["lost_samples"] == 3 * RATE


def test_another_packages_decoder_hears_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Louder than a tenth of full scale is speech."""

    class Loud:
        def __init__(self, engine: object, task: TaskSpec) -> None:
            assert isinstance(task.input, AudioInput)
            self.spec = task.input.features

        def reset(self) -> None:
            pass

        def probability(self, frame: Samples, gain: float = 1.0) -> float:
            return float(np.abs(frame).max() > 0.1)

    monkeypatch.setitem(DECODERS._loaded, "loud", DecoderType("vad", Loud, "", labels=False))
    task = load_task("silero-vad")
    loud = task.model_copy(update={"decode": DecodeSpec(kind="loud")})
    heard: list[Event] = []
    session = SpeechSession(SpeechConfig(vad_gain_db=0), heard.append)
    session.use("vad", None, loud)  # type: ignore[arg-type]
    sound = np.zeros(4 * RATE, np.float32)
    sound[RATE : 2 * RATE] = 0.5
    for first in range(0, len(sound), 256):
        session.push(AudioBlock(first, sound[first : first + 256], 0))
    found = [(e.type, e.t_s) for e in heard if e.type.startswith("speech_")]
    assert [kind for kind, _ in found] == ["speech_start", "speech_end"]
    assert [t for _, t in found] == pytest.approx([1.0, 2.0], abs=0.1)
    with pytest.raises(ModelError, match="not for the part keyword"):
        session.use("keyword", None, loud)  # type: ignore[arg-type]
