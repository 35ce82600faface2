"""Streaming features equal offline ones, bit for bit, for any chunking; their arithmetic equals an
independent one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.errors import DataError
from edgectl.core.task import AudioInput, FeatureSpec
from edgectl.pipelines.audio.blocks import AudioBlock
from edgectl.pipelines.audio.features import FeatureWindow, windows

MFCC = AudioInput(
    features=FeatureSpec(kind="mfcc", window=480, hop=320, frames=49, spectrum="magnitude"),
    shape=(1, 49, 10, 1),
)
LOG_MEL = AudioInput(
    features=FeatureSpec(kind="log_mel", window=480, hop=320, frames=20, peak_normalise=True)
)
WAVE = AudioInput(features=FeatureSpec(kind="waveform", window=512, hop=512, context=64))

SOUND = np.random.default_rng(4).normal(0, 0.2, 40_000).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([MFCC, LOG_MEL, WAVE]))
def test_any_chunking_gives_identical_features(data: st.DataObject, audio: AudioInput) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(SOUND) - 1), max_size=30)))
    whole = FeatureWindow(audio, every=4).push(AudioBlock(0, SOUND, 0))
    stream = FeatureWindow(audio, every=4)
    pieces = [
        p
        for a, b in zip([0, *cuts], [*cuts, len(SOUND)], strict=True)
        for p in stream.push(AudioBlock(a, SOUND[a:b], 0))
    ]
    assert [end for end, _ in pieces] == [end for end, _ in whole]
    for (_, one), (_, two) in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(one, two)


def test_mfcc_equals_a_direct_computation_of_the_definition() -> None:
    clip = SOUND[: MFCC.features.samples]
    frames = np.stack([clip[i * 320 : i * 320 + 480] for i in range(49)]).astype(np.float64)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(480) / 480)
    magnitude = np.abs(np.fft.fft(frames * taper, 512)[:, :257])
    to_mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    edges = np.linspace(to_mel(20), to_mel(4000), 42)
    energies = np.zeros((49, 40))
    for m in range(40):
        for k in range(1, 257):
            x = to_mel(k * 16000 / 512)
            up, down = (
                (x - edges[m]) / (edges[m + 1] - edges[m]),
                (edges[m + 2] - x) / (edges[m + 2] - edges[m + 1]),
            )
            energies[:, m] += magnitude[:, k] * max(0.0, min(up, down))
    logs = np.log(energies + 1e-6)
    expected = np.stack(
        [2 * (logs * np.cos(np.pi * k * (np.arange(40) + 0.5) / 40)).sum(1) / np.sqrt(80) for k in range(10)],
        1,
    )
    (got,) = windows(MFCC, clip)
    np.testing.assert_allclose(got.reshape(49, 10), expected, atol=2e-4)


def test_peak_normalised_features_do_not_depend_on_loudness() -> None:
    loud, quiet = next(windows(LOG_MEL, SOUND)), next(windows(LOG_MEL, SOUND * np.float32(0.25)))
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_lost_samples_start_over_instead_of_joining_what_does_not_belong_together() -> None:
    stream = FeatureWindow(LOG_MEL, every=1)
    stream.push(AudioBlock(0, SOUND[:7000], 0))
    after = stream.push(AudioBlock(9000, SOUND[9000:20000], 0, gap=2000))
    alone = FeatureWindow(LOG_MEL, every=1).push(AudioBlock(9000, SOUND[9000:20000], 0))
    assert [e for e, _ in after] == [e for e, _ in alone]
    np.testing.assert_array_equal(after[0][1], alone[0][1])


def test_positions_pass_two_to_the_31_without_a_change() -> None:
    first = 2**31 - 8000
    low, high = FeatureWindow(MFCC, every=8), FeatureWindow(MFCC, every=8)
    at_zero = low.push(AudioBlock(0, SOUND, 0))
    beyond = high.push(AudioBlock(first, SOUND, 0))
    assert [e + first for e, _ in at_zero] == [e for e, _ in beyond]
    np.testing.assert_array_equal(at_zero[-1][1], beyond[-1][1])


def test_an_empty_recording_is_refused_and_a_short_one_padded() -> None:
    with pytest.raises(DataError):
        list(windows(MFCC, SOUND[:0]))
    assert len(list(windows(MFCC, SOUND[:100]))) == 1
