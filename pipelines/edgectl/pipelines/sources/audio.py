"""Where sound comes from.

=============================
================================================================================== ``/path/speech.wav``,
``file:`` any audio file that FFmpeg reads, as fast as the reader takes it; ``?paced=1`` as a microphone
``synth://kiosk?seed=1``        spoken words with known times; also ``seconds``, ``paced`` ``mic://``,
``mic://hw:1,0``    an ALSA capture device (:mod:`edgectl.pipelines.sources.microphone`)
=============================
==================================================================================

Every source gives mono float32 at 16 kHz. Several channels become their mean, or the one of
``?channel=left|right|N``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
import av.container
import av.error
import numpy as np
from pydantic import Field

from edgectl.core.errors import DataError, SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.audio.blocks import BLOCK, RATE, AudioBlock, AudioSource, Samples
from edgectl.pipelines.audio.channels import MAX_CHANNELS, Channel, Mixed, check_channel, mix
from edgectl.pipelines.audio.clock import ClockFit
from edgectl.pipelines.sources.base import parse_options, redact
from edgectl.pipelines.sources.media.pace import Pacer
from edgectl.pipelines.sources.microphone import Microphone, MicrophoneOptions
from edgectl.pipelines.synth.kiosk import KioskScene

__all__ = ["BLOCK", "open_audio", "read_audio"]


class _FileOptions(Config):
    paced: bool = False
    channel: Channel = "mean"


class _KioskOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    paced: bool = True


def open_audio(uri: str, *, patient: bool = False) -> AudioSource:
    """The source for a URI. ``patient``: a microphone that is away at first is waited for.

    Raises :class:`SourceError` for an unknown scheme, a missing file, a bad parameter or a channel that is
    not there, and
    :class:`DataError` for a file that does not decode.
    """
    scheme = urlsplit(uri).scheme if "://" in uri or uri.startswith("file:") else ""
    parts = urlsplit(uri)
    if scheme == "synth":
        if parts.netloc != "kiosk":
            raise SourceError(f"there is no synthetic sound {parts.netloc!r}", hint="synth://kiosk is one")
        return _Kiosk(uri, parse_options(_KioskOptions, parts.query, uri))
    if scheme == "mic":
        return Microphone(
            uri,
            parts.netloc or "default",
            parse_options(MicrophoneOptions, parts.query, uri),
            patient=patient,
        )
    if scheme not in ("", "file"):
        raise SourceError(
            f"unknown sound source scheme {scheme!r}", hint="use a path, file:, mic:// or synth://kiosk"
        )
    raw, _, query = (uri, "", "") if Path(uri).exists() else uri.partition("?")
    path = Path(unquote(raw.removeprefix("file://").removeprefix("file:")) if scheme == "file" else raw)
    if not path.is_file():
        raise SourceError(f"there is no file {redact(str(path))}", hint="check the path of the source")
    return _File(uri, path, parse_options(_FileOptions, query, uri))


def read_audio(uri: str | Path, *, max_seconds: float = 7200.0) -> Samples:
    """A whole recording, or a synthetic sound with ``seconds``, as float32 mono 16 kHz in ±1.

    Raises :class:`SourceError` if it is not there, :class:`DataError` if it has no sound or does not end in
    time.
    """
    source = open_audio(str(uri))
    name = redact(Path(str(uri)).name)
    if source.live:
        source.close()
        raise DataError(
            f"{name} never ends", hint="use a recording, or a synthetic sound with paced=0 and seconds"
        )
    pieces, total = [], 0
    while (block := source.read()) is not None:
        pieces.append(block.data)
        total += len(block.data)
        if total > max_seconds * RATE:
            raise DataError(f"{name} is longer than {max_seconds:g} s", hint="cut it into shorter recordings")
    if not total:
        raise DataError(f"{name} has no sound in it", hint="give it more seconds")
    return np.concatenate(pieces)


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


class _Blocks:
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


class _File(_Blocks):
    def __init__(self, uri: str, path: Path, options: _FileOptions) -> None:
        channels, seconds = _facts(path)
        check_channel(options.channel, channels, path.name)
        super().__init__(uri, _decode(path, options.channel), paced=options.paced, seconds=seconds)


class _Kiosk(_Blocks):
    def __init__(self, uri: str, options: _KioskOptions) -> None:
        self.scene = KioskScene(seed=options.seed)
        limit = None if options.seconds is None else round(options.seconds * RATE)
        super().__init__(uri, self._render(limit), paced=options.paced, seconds=options.seconds)

    def _render(self, limit: int | None) -> Iterator[Mixed]:
        at = 0
        while limit is None or at < limit:
            n = BLOCK if limit is None else min(BLOCK, limit - at)
            yield Mixed(self.scene.render(at, n), None, 0, 0)
            at += n
