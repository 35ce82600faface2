"""Files of every kind give the same mono sound; what is wrong with one is one sentence."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.errors import DataError, EdgectlError, SourceError
from edgectl.pipelines.audio.blocks import RATE
from edgectl.pipelines.audio.channels import mix
from edgectl.pipelines.audio.level import STRETCH, SoundCheck
from edgectl.pipelines.sources import open_audio, read_audio

N = 8000
TONE = (0.9 * np.sin(2 * np.pi * 440 * np.arange(N) / RATE)).astype(np.float32)


def write(
    path: Path,
    sound: np.ndarray,
    *,
    codec: str = "pcm_s16le",
    format: str = "s16",
    rate: int = RATE,
    layout: str | None = None,
) -> Path:
    """Float samples ``(n, channels)`` in ±1 as an audio file."""
    channels = sound.shape[1]
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        stream.format = format
        resampler = av.AudioResampler(format=format, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound, np.float32).reshape(1, -1), format="flt", layout=layout
        )
        frame.sample_rate = rate
        for out in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(out):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def write_plain(path: Path, sound: np.ndarray, *, rate: int = RATE) -> Path:
    """Any number of channels, 16 bits, in the oldest kind of WAV header, which names no loudspeakers."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(sound.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return path


def repeat(channels: int, sound: np.ndarray = TONE) -> np.ndarray:
    return np.repeat(sound[:, None], channels, axis=1)


@pytest.mark.parametrize("channels", [2, 3, 6, 8, 9, 16, 64])
def test_alike_channels_sound_as_one_of_them(tmp_path: Path, channels: int) -> None:
    one = read_audio(write_plain(tmp_path / "one.wav", repeat(1)))
    many = read_audio(write_plain(tmp_path / "many.wav", repeat(channels)))
    np.testing.assert_allclose(many, one, atol=1e-6)
    assert np.abs(many).max() <= 1


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_another_rate_has_the_same_loudness_and_is_not_late(tmp_path: Path, rate: int, channels: int) -> None:
    tone = 0.9 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    got = read_audio(write_plain(tmp_path / "x.wav", repeat(channels, tone), rate=rate))
    expected = 0.9 * np.sin(2 * np.pi * 440 * np.arange(len(got)) / RATE)
    assert len(got) == pytest.approx(RATE, abs=40)
    np.testing.assert_allclose(got[400:-400], expected[400:-400], atol=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "format", "tolerance"),
    [
        ("8bit.wav", "pcm_u8", "u8", 0.01),
        ("24bit.wav", "pcm_s24le", "s32", 1e-6),
        ("32bit.wav", "pcm_s32le", "s32", 1e-6),
        ("float.wav", "pcm_f32le", "flt", 1e-6),
        ("double.wav", "pcm_f64le", "dbl", 1e-6),
        ("mulaw.wav", "pcm_mulaw", "s16", 0.03),
        ("alaw.wav", "pcm_alaw", "s16", 0.03),
        ("packed.flac", "flac", "s16", 1e-4),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_sample_format_has_the_same_loudness(
    tmp_path: Path, name: str, codec: str, format: str, tolerance: float, channels: int
) -> None:
    got = read_audio(write(tmp_path / name, repeat(channels), codec=codec, format=format))
    np.testing.assert_allclose(got[: N - 16], TONE[: len(got)][: N - 16], atol=tolerance)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_planar_samples_have_the_same_loudness(tmp_path: Path, channels: int) -> None:
    path = write(tmp_path / "x.m4a", repeat(channels), codec="aac", format="fltp")
    with av.open(str(path)) as container:
        assert next(container.decode(audio=0)).format.is_planar
    got = read_audio(path)[2000:6000]
    # the encoder takes the tone out of the subwoofer's channel
    heard = 5 / 6 if channels == 6 else 1
    assert np.sqrt(np.mean(got**2)) == pytest.approx(heard * 0.9 / np.sqrt(2), rel=0.02)


def test_a_channel_can_be_chosen(tmp_path: Path) -> None:
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    path = write_plain(tmp_path / "six.wav", np.ones((N, 6)) * levels)
    for channel, level in {"left": 0.1, "right": 0.2, "1": 0.1, "6": 0.6, "mean": 0.35}.items():
        assert read_audio(f"{path}?channel={channel}")[100] == pytest.approx(level, abs=1e-4), channel
    assert read_audio(path)[100] == pytest.approx(0.35, abs=1e-4)


@pytest.mark.parametrize("channel", ["3", "right", "0", "65", "centre", "-1", ""])
def test_a_channel_that_is_not_there_is_refused_at_once(tmp_path: Path, channel: str) -> None:
    path = write_plain(tmp_path / "x.wav", repeat(1))
    with pytest.raises(SourceError) as e:
        open_audio(f"{path}?channel={channel}")
    assert e.value.hint


def test_more_channels_than_can_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="100 channels"):
        open_audio(str(write_plain(tmp_path / "x.wav", repeat(100))))


def test_float_samples_beyond_full_scale_are_cut_off_and_counted(tmp_path: Path) -> None:
    source = open_audio(str(write(tmp_path / "x.wav", repeat(2) * 4, codec="pcm_f32le", format="flt")))
    blocks = list(iter(source.read, None))
    sound = np.concatenate([b.data for b in blocks])
    assert np.abs(sound).max() == 1
    assert source.counters["clipped_samples"] == int((np.abs(TONE * 4) > 1).sum())


def test_samples_that_are_no_numbers_become_silence_and_are_counted(tmp_path: Path) -> None:
    sound = repeat(1).copy()
    sound[100:200] = np.nan
    sound[300] = np.inf
    source = open_audio(str(write(tmp_path / "x.wav", sound, codec="pcm_f32le", format="flt")))
    got = np.concatenate([b.data for b in iter(source.read, None)])
    assert np.isfinite(got).all()
    assert source.counters == {"repaired_samples": 101}
    np.testing.assert_array_equal(got[500:1000], TONE[500:1000])


def test_opposite_channels_tell_what_they_had_before_they_were_mixed(tmp_path: Path) -> None:
    source = open_audio(str(write_plain(tmp_path / "x.wav", TONE[:, None] * np.array([[1.0, -1.0]]))))
    block = source.read()
    assert block is not None
    assert block.unmixed is not None
    assert np.abs(block.data).max() < 1e-4
    np.testing.assert_allclose(block.unmixed, TONE[:256] ** 2 / 2, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 1000), st.floats(0, 1e6))
def test_a_mix_is_finite_and_never_beyond_full_scale_or_its_loudest_channel(
    channels: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    samples = (rng.normal(0, 1, (64, channels)) * scale).astype(np.float32)
    samples[rng.random((64, channels)) < 0.1] = np.nan
    mixed = mix(samples, "mean")
    assert mixed.data.dtype == np.float32
    assert np.abs(mixed.data).max() <= 1
    loudest = np.nan_to_num(np.abs(samples)).max(axis=1)
    assert (np.abs(mixed.data) <= loudest * np.float32(1 + 1e-6)).all()


@pytest.mark.parametrize("uri", ["mic://?channel=5&channels=2", "mic://?channels=0", "mic://?rate=8000"])
def test_a_microphone_is_not_asked_for_what_it_cannot_give(uri: str) -> None:
    with pytest.raises(EdgectlError):
        open_audio(uri)


def test_a_form_that_changes_within_a_file_is_read_on(tmp_path: Path) -> None:
    """Two recordings one after the other in one file, as loggers write them."""
    one = write(tmp_path / "one.mp2", repeat(1), codec="mp2", format="s16")
    two = write(tmp_path / "two.mp2", repeat(2, np.tile(TONE, 3)), codec="mp2", format="s16", rate=32_000)
    joined = tmp_path / "joined.mp2"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    got = read_audio(joined)
    assert len(got) == pytest.approx(N + 3 * N / 2, abs=3000)
    assert np.sqrt(np.mean(got[2000:6000] ** 2)) == pytest.approx(0.9 / np.sqrt(2), rel=0.02)
    assert np.sqrt(np.mean(got[-6000:-2000] ** 2)) == pytest.approx(0.9 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("loud", [1.0, 10.0, 32767.0, 3e38])
def test_alike_channels_cancel_nothing_however_loud_they_are(loud: float) -> None:
    mixed = mix(repeat(2, TONE.astype(np.float64) * loud).astype(np.float32), "mean")
    check = SoundCheck()
    faults = {check.step(mixed.data[:STRETCH], np.asarray(mixed.unmixed)[:STRETCH], None) for _ in range(8)}
    assert "channels_cancel" not in faults
    assert ("clipped" in faults) == (loud > 1)


def test_opposite_channels_cancel_however_loud_they_are() -> None:
    mixed = mix(np.stack([TONE, -TONE], axis=1) * 1e4, "mean")
    check = SoundCheck()
    assert "channels_cancel" in {
        check.step(mixed.data[:STRETCH], np.asarray(mixed.unmixed)[:STRETCH], None) for _ in range(8)
    }


def test_a_recording_without_a_sample_is_no_quiet_one(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "empty.wav", repeat(1)[:0])
    with pytest.raises(DataError, match=r"empty\.wav has no sound in it"):
        open_audio(str(path)).read()
