"""Where sound comes from.

=============================  ==================================================================================
``/path/speech.wav``, ``file:`` any audio file that FFmpeg reads, as fast as the reader takes it; ``?paced=1`` as a microphone
``synth://kiosk?seed=1``        spoken words with known times; also ``seconds``, ``paced``
``mic://``, ``mic://hw:1,0``    an ALSA capture device through ``arecord``
=============================  ==================================================================================

Every source gives mono float32 at 16 kHz in blocks of 256 samples (16 ms: it divides 512 and 1280).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
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
from edgectl.pipelines.sources.base import NoOptions, parse_options, redact
from edgectl.pipelines.sources.pace import Pacer
from edgectl.pipelines.speech.blocks import RATE, AudioBlock, AudioSource, Samples
from edgectl.pipelines.synth.kiosk import KioskScene

__all__ = ["BLOCK", "open_audio", "read_audio"]

BLOCK = 256  # samples


class _FileOptions(Config):
    paced: bool = False


class _KioskOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    paced: bool = True


def open_audio(uri: str) -> AudioSource:
    """The source for a URI. Raises :class:`SourceError` for an unknown scheme, a missing file or device, a bad parameter."""
    scheme = urlsplit(uri).scheme if "://" in uri or uri.startswith("file:") else ""
    parts = urlsplit(uri)
    if scheme == "synth":
        if parts.netloc != "kiosk":
            raise SourceError(f"there is no synthetic sound {parts.netloc!r}", hint="synth://kiosk is one")
        return _Kiosk(uri, parse_options(_KioskOptions, parts.query, uri))
    if scheme == "mic":
        parse_options(NoOptions, parts.query, uri)
        return _Microphone(uri, parts.netloc or "default")
    if scheme not in ("", "file"):
        raise SourceError(f"unknown sound source scheme {scheme!r}", hint="use a path, file:, mic:// or synth://kiosk")
    raw, _, query = (uri, "", "") if Path(uri).exists() else uri.partition("?")
    path = Path(unquote(raw.removeprefix("file://").removeprefix("file:")) if scheme == "file" else raw)
    if not path.is_file():
        raise SourceError(f"there is no file {redact(str(path))}", hint="check the path of the source")
    return _File(uri, path, parse_options(_FileOptions, query, uri))


def read_audio(uri: str | Path, *, max_seconds: float = 7200.0) -> Samples:
    """A whole recording, or a synthetic sound with ``seconds``, as float32 mono 16 kHz in ±1.

    Raises :class:`SourceError` if it is not there, :class:`DataError` if it has no sound or does not end in time.
    """
    source = open_audio(str(uri))
    name = redact(Path(str(uri)).name)
    if source.live:
        source.close()
        raise DataError(f"{name} never ends", hint="use a recording, or a synthetic sound with paced=0 and seconds")
    pieces, total = [], 0
    while (block := source.read()) is not None:
        pieces.append(block.data)
        total += len(block.data)
        if total > max_seconds * RATE:
            raise DataError(f"{name} is longer than {max_seconds:g} s", hint="cut it into shorter recordings")
    if not total:
        raise DataError(f"{name} has no sound in it", hint="give a WAV, FLAC or other audio file")
    return np.concatenate(pieces)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """An audio file. Raises :class:`DataError` for what is none, then and while it is read."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise DataError(f"{path.name} has no audio stream", hint="give a WAV, FLAC or other audio file")
            yield container
    except av.error.FFmpegError as e:
        raise DataError(f"{path.name} does not decode as audio: {e.strerror}", hint="try to play it with ffplay") from e


def _length(path: Path) -> float | None:
    with _opened(path) as container:
        return None if container.duration is None else container.duration / 1_000_000


def _decode(path: Path) -> Iterator[Samples]:
    """Resampled pieces of a file. FFmpeg's resampler filters before it decimates, so nothing aliases."""
    with _opened(path) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            for out in resampler.resample(frame):
                yield np.asarray(out.to_ndarray().ravel(), dtype=np.float32)
        for out in resampler.resample(None):
            yield np.asarray(out.to_ndarray().ravel(), dtype=np.float32)


class _Blocks:
    """Cuts pieces into blocks; paced, it hands them out when a microphone would."""

    def __init__(self, uri: str, pieces: Iterator[Samples], *, paced: bool, seconds: float | None) -> None:
        self.uri = uri
        self.seconds = seconds
        self.live = paced
        self._pieces = pieces
        self._rest = np.zeros(0, dtype=np.float32)
        self._position = 0
        self._pacer = Pacer(RATE / BLOCK) if paced else None
        self._closed = False

    def read(self) -> AudioBlock | None:
        while len(self._rest) < BLOCK and not self._closed:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest = np.concatenate([self._rest, piece]) if len(self._rest) else piece
        block, self._rest = self._rest[:BLOCK], self._rest[BLOCK:]
        if not len(block) or self._closed:
            return None
        captured = time.monotonic_ns()
        if self._pacer is not None:
            due = self._pacer.wait(self._position // BLOCK + 1, 3600.0)
            if due is None:
                return None
            captured = due
        first, self._position = self._position, self._position + len(block)
        return AudioBlock(first, block, captured)

    def close(self) -> None:
        self._closed = True
        if self._pacer is not None:
            self._pacer.interrupt()


class _File(_Blocks):
    def __init__(self, uri: str, path: Path, options: _FileOptions) -> None:
        super().__init__(uri, _decode(path), paced=options.paced, seconds=_length(path))


class _Kiosk(_Blocks):
    def __init__(self, uri: str, options: _KioskOptions) -> None:
        self.scene = KioskScene(seed=options.seed)
        limit = None if options.seconds is None else round(options.seconds * RATE)
        super().__init__(uri, self._render(limit), paced=options.paced, seconds=options.seconds)

    def _render(self, limit: int | None) -> Iterator[Samples]:
        at = 0
        while limit is None or at < limit:
            n = BLOCK if limit is None else min(BLOCK, limit - at)
            yield self.scene.render(at, n)
            at += n


class _Microphone:
    """``arecord`` on a pipe: no native dependency. A late reader loses the oldest sound in ALSA, which arecord reports."""

    live = True
    seconds: float | None = None

    def __init__(self, uri: str, device: str) -> None:
        self.uri = uri
        program = shutil.which("arecord")
        if program is None:
            raise SourceError("arecord is not installed, so no microphone can be read", hint="apt-get install alsa-utils")
        command = [program, "-q", "-D", device, "-f", "S16_LE", "-r", str(RATE), "-c", "1", "-t", "raw", "--fatal-errors"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._position = 0
        self._closed = False

    def read(self) -> AudioBlock | None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        data = self._process.stdout.read(BLOCK * 2)
        if len(data) < BLOCK * 2:
            if self._closed:
                return None
            reason = self._process.stderr.read(4096).decode(errors="replace").strip().splitlines()
            raise SourceError(f"the microphone stopped: {reason[-1] if reason else 'arecord ended'}", retryable=True)
        samples = np.asarray(np.frombuffer(data, dtype="<i2") / 32768, dtype=np.float32)
        first, self._position = self._position, self._position + BLOCK
        return AudioBlock(first, samples, time.monotonic_ns())

    def close(self) -> None:
        self._closed = True
        self._process.terminate()
        self._process.wait(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
