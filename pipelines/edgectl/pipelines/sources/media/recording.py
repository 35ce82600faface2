"""A recording of sound as blocks of mono float32 at 16 kHz, and whatever else comes in pieces.

Several channels become their mean, or the one of ``?channel=left|right|N``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.error
import numpy as np

from edgectl.core.errors import DataError
from edgectl.core.schema import Config
from edgectl.pipelines.audio.blocks import BLOCK, RATE, AudioBlock, Samples
from edgectl.pipelines.audio.channels import MAX_CHANNELS, Channel, Mixed, check_channel, mix
from edgectl.pipelines.audio.clock import ClockFit
from edgectl.pipelines.sources.media.pace import Pacer

__all__ = ["PieceSource", "Recording", "RecordingOptions"]


class RecordingOptions(Config):
    paced: bool = False
    """As a microphone: sound comes in its own time."""
    channel: Channel = "mean"
    """``mean``, ``left``, ``right`` or a number; the first is 1."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An audio file. Raises :class:`DataError` for what is none, then and while it is read."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise DataError(
                    f"{path.name} has no audio stream", hint="give a WAV, FLAC or other audio file"
                )
            yield container
    except av.error.FFmpegError as e:
        raise DataError(
            f"{path.name} does not decode as audio: {e.strerror}", hint="try to play it with ffplay"
        ) from e


def _facts(path: Path) -> tuple[int, float | None]:
    """How many channels it has, and how long it is if that can be told."""
    with _opened(path) as container:
        channels = container.streams.audio[0].channels
        if not 1 <= channels <= MAX_CHANNELS:
            raise DataError(
                f"{path.name} has {channels} channels; {MAX_CHANNELS} can be read",
                hint="take some of them out",
            )
        return channels, None if container.duration is None else container.duration / 1_000_000


def _decode(path: Path, channel: Channel) -> Iterator[Mixed]:
    """Pieces of a file. FFmpeg's resampler filters before it decimates, so nothing aliases; it keeps the
    channels as they are."""
    with _opened(path) as container:
        samples = 0
        resampler: av.AudioResampler | None = None
        form: tuple[object, ...] = ()
        for frame in container.decode(audio=0):
            samples += frame.samples
            if form != (
                form := (frame.format.name, frame.layout.nb_channels, frame.layout.name, frame.sample_rate)
            ):
                yield from _resampled(resampler, None, channel)  # what the old form has left
                check_channel(channel, frame.layout.nb_channels, path.name)
                # Packed: PyAV cannot hand out the planes of more than 7 channels.
                resampler = av.AudioResampler(format="flt", rate=RATE)
            yield from _resampled(resampler, frame, channel)
        yield from _resampled(resampler, None, channel)
    if not samples:
        raise DataError(f"{path.name} has no sound in it", hint="give a WAV, FLAC or other audio file")


def _resampled(
    resampler: av.AudioResampler | None, frame: av.AudioFrame | None, channel: Channel
) -> Iterator[Mixed]:
    """``frame`` None: the rest."""
    for out in resampler.resample(frame) if resampler is not None else ():
        yield mix(out.to_ndarray().reshape(-1, out.layout.nb_channels), channel)


class PieceSource:
    """Cuts pieces into blocks; paced, it hands them out when a microphone would."""

    def __init__(self, uri: str, pieces: Iterator[Mixed], *, paced: bool, seconds: float | None) -> None:
        self.uri = uri
        self.seconds = seconds
        self.live = paced
        self.counters: dict[str, int] = {}
        self._pieces = pieces
        self._rest: list[Mixed] = []
        self._left = 0  # samples in the rest
        self._position = 0
        self._pacer = Pacer(RATE / BLOCK) if paced else None
        self._closed = False

    def read(self) -> AudioBlock | None:
        while self._left < BLOCK and not self._closed:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest.append(piece)
            self._left += len(piece.data)
            self._count("repaired_samples", piece.repaired)
            self._count("clipped_samples", piece.clipped)
        if not self._left or self._closed:
            return None
        data, unmixed = self._cut()
        captured, clock = time.monotonic_ns(), None
        if self._pacer is not None:
            due = self._pacer.wait(self._position // BLOCK + 1, 3600.0)
            if due is None:
                return None
            captured, clock = due, ClockFit(self._position + BLOCK, due, RATE)
        first, self._position = self._position, self._position + len(data)
        return AudioBlock(first, data, captured, clock=clock, unmixed=unmixed)

    def close(self) -> None:
        self._closed = True
        if self._pacer is not None:
            self._pacer.interrupt()

    def _cut(self) -> tuple[Samples, Samples | None]:
        """One block from the front of the rest."""
        data = np.concatenate([p.data for p in self._rest])
        unmixed = None
        # a piece of one channel is not mixed: nothing cancels
        if any(p.unmixed is not None for p in self._rest):
            unmixed = np.concatenate(
                [np.square(p.data) if p.unmixed is None else p.unmixed for p in self._rest]
            )
        rest = Mixed(data[BLOCK:], None if unmixed is None else unmixed[BLOCK:], 0, 0)
        self._rest, self._left = [rest], len(rest.data)
        return data[:BLOCK], None if unmixed is None else unmixed[:BLOCK]

    def _count(self, name: str, n: int) -> None:
        if n:
            self.counters[name] = self.counters.get(name, 0) + n


class Recording(PieceSource):
    def __init__(self, uri: str, path: Path, options: RecordingOptions) -> None:
        channels, seconds = _facts(path)
        check_channel(options.channel, channels, path.name)
        super().__init__(uri, _decode(path, options.channel), paced=options.paced, seconds=seconds)
