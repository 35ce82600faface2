"""A microphone: ``arecord`` in a child process, started again whenever it stops, hangs or dies.

The child's output is polled, so that nothing waits for it for ever, and its messages are read as they come,
so that it never waits for us. Sample time goes on while nothing comes: the first block after an outage says
how many samples were lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.audio.blocks import BLOCK, RATE, AudioBlock
from edgectl.pipelines.audio.channels import MAX_CHANNELS, Channel, channel_index, check_channel, mix
from edgectl.pipelines.audio.clock import ClockFit, SampleClock
from edgectl.pipelines.sources.base import SourceType, parse_options
from edgectl.pipelines.sources.media.camera import backoff_s

__all__ = ["SOURCE", "Microphone", "MicrophoneOptions"]

_log = logging.getLogger(__name__)

_POLL_S = 0.2
_SILENT_S = 2.0  # without a sample for so long, it is away
# a device (Bluetooth, USB) may take so long to its first sample
_START_S = 10.0
# of sound: after that a failure is a new one, and the next try comes soon
_CEILINGS_S = {"auth": 300.0, "not_found": 300.0}
"""The longest wait for a microphone, where a person must act."""
_STABLE_S = 2.0
_STOP_S = 0.5  # to end after SIGTERM, then again after SIGKILL
_READ_BYTES = 16_384
_BURST_S = 0.25  # of sound that a device hands over at once
# times real time: no microphone is faster, and one that claims to be must not take a whole core
_AHEAD = 4.0
_MESSAGES = 4096  # bytes of arecord's messages that are kept
_OVERRUN = re.compile(rb"overrun!!! \(at least ([0-9.]+) ms long\)")


@dataclass(frozen=True)
class _Cause:
    """Why arecord gave up, read from what it said."""

    pattern: str
    reason: str
    hint: str | None = None
    hopeless: bool = False
    """At the start no other try will help."""


_CAUSES = (
    # not "xrun": that is a function of arecord's, which names itself in other errors, too
    _Cause("overrun", "overrun"),
    _Cause("Permission denied", "auth", "add this user to the group `audio`", hopeless=True),
    _Cause("busy", "busy", "`fuser -v /dev/snd/*` shows which program has it"),
    _Cause(
        "Channels count non available",
        "invalid",
        "add `?channels=2`, or use mic://plughw:…, which converts",
        hopeless=True,
    ),
    _Cause(
        "format non available|rate is not accurate",
        "invalid",
        "use mic://plughw:…, which converts",
        hopeless=True,
    ),
    _Cause(
        "No such|Unknown PCM|cannot find card|Invalid argument|not found",
        "not_found",
        "`arecord -L` lists the devices",
        hopeless=True,
    ),
)


class MicrophoneOptions(Config):
    channel: Channel = "mean"
    """``mean``, ``left``, ``right`` or a number; the first is 1."""
    channels: int | None = Field(default=None, ge=1, le=MAX_CHANNELS)
    """How many the device has; None: as many as ``channel`` needs."""


class Microphone:
    """See :class:`~edgectl.pipelines.audio.blocks.AudioSource`. A live microphone never ends by itself.

    ``read`` raises :class:`SourceError` for a device that was never heard and never will be (it does not
    exist, or may not be opened), unless ``patient``.
    """

    live = True
    seconds: float | None = None

    def __init__(self, uri: str, device: str, options: MicrophoneOptions, *, patient: bool = False) -> None:
        self.uri = uri
        self.counters: dict[str, int] = {}
        program = shutil.which("arecord")
        if program is None:
            raise SourceError(
                "arecord is not installed, so no microphone can be read", hint="apt-get install alsa-utils"
            )
        wanted = channel_index(options.channel)
        self._channel = options.channel
        self._channels = options.channels or (1 if wanted is None else max(2, wanted + 1))
        self._what = f"microphone {device}"
        check_channel(options.channel, self._channels, self._what)
        self._patient = patient
        # Not -q: that hides that a device runs at another rate.
        form = f"-f S16_LE -r {RATE} -c {self._channels} -t raw --fatal-errors"
        self._command = [program, "-D", device, *form.split()]
        self._closed = threading.Event()
        self._reading = threading.Lock()  # the child belongs to who holds it
        self._child: _Recorder | None = None
        self._clock = SampleClock(RATE)
        self._fit: ClockFit | None = None
        self._buffer = b""
        self._ready: deque[AudioBlock] = deque()
        # of the first sample in the buffer, before the gap
        self._position = 0
        self._gap = 0  # samples lost before it
        self._heard_ns: int | None = None  # when the newest sample came
        self._outage: str | None = None
        self._attempt = 0
        self._retry_ns = 0

    def read(self) -> AudioBlock | None:
        with self._reading:
            if self._closed.is_set():
                return None
            if not self._ready:
                self._listen()
            return self._ready.popleft() if self._ready else self._nothing()

    def close(self) -> None:
        self._closed.set()
        with self._reading:
            self._end_child()

    def _listen(self) -> None:
        """Wait a little for sound, and do what the child's state asks for."""
        if self._child is None:
            wait_s = (self._retry_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                self._closed.wait(min(wait_s, _POLL_S))
                return
            self._start()
        if self._child is None:
            return
        data = self._child.read(_POLL_S)
        now = time.monotonic_ns()
        silent_s = (now - max(self._child.started_ns, self._heard_ns or 0)) / 1e9
        if data is None or self._child.inaccurate:
            self._failed()
        elif data:
            self._take(data, now)
        elif silent_s >= _SILENT_S:
            self._outage = self._outage or "timeout"
            if self._child.samples or silent_s >= _START_S:
                self._retry("timeout", f"gave nothing for {silent_s:.0f} s")

    def _start(self) -> None:
        try:
            self._child = _Recorder(self._command)
        except OSError as e:
            if self._heard_ns is None and not self._patient:
                raise SourceError(
                    f"arecord does not start: {e.strerror}", hint="apt-get install --reinstall alsa-utils"
                ) from e
            self._retry("invalid", f"arecord does not start: {e.strerror}")

    def _take(self, data: bytes, now: int) -> None:
        assert self._child is not None
        frame = 2 * self._channels
        self._buffer += data
        arrived = len(self._buffer) // frame
        if not self._child.samples:
            self._back(arrived, now)
        self._gap += round(self._child.overrun_s() * self._clock.rate)
        self._child.samples += len(data) // frame
        self._heard_ns = now
        self._fit = self._clock.arrived(self._position + self._gap + arrived, now)
        while len(self._buffer) >= BLOCK * frame:
            self._cut(BLOCK, now)
        ahead = self._child.samples / RATE - _AHEAD * ((now - self._child.started_ns) / 1e9 + 1)
        if ahead > 0:
            self._closed.wait(_POLL_S)

    def _back(self, arrived: int, now: int) -> None:
        """The first samples of a child: so many were lost since the last ones of the child before."""
        if self._heard_ns is not None:
            passed = round((now - self._heard_ns) / 1e9 * self._clock.rate)
            self._gap += max(1, passed - min(arrived, round(_BURST_S * RATE)))
            self._clock.restart()
            _log.info("%s is back after %s", self._what, self._outage)
        self._outage = None

    def _cut(self, samples: int, now: int) -> None:
        """The next block from the buffer."""
        size = samples * 2 * self._channels
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        mixed = mix(
            np.frombuffer(data, dtype="<i2").reshape(-1, self._channels) / np.float32(32768), self._channel
        )
        first = self._position + self._gap
        self._ready.append(AudioBlock(first, mixed.data, now, self._gap, None, self._fit, mixed.unmixed))
        self._position, self._gap = first + samples, 0

    def _nothing(self) -> AudioBlock:
        return AudioBlock(
            self._position, np.zeros(0, np.float32), time.monotonic_ns(), 0, self._outage, self._fit
        )

    def _failed(self) -> None:
        """The child has ended, or says what makes it useless."""
        assert self._child is not None
        message = self._child.last_words()
        cause = next((c for c in _CAUSES if self._child.says(c.pattern)), _Cause("", "ended"))
        if cause.hopeless and self._heard_ns is None and not self._patient:
            self._end_child()
            raise SourceError(f"{self._what} cannot be read: {message or cause.reason}", hint=cause.hint)
        self._retry(cause.reason, message or "arecord ended")

    def _retry(self, reason: str, detail: str) -> None:
        if self._child is not None and self._child.samples >= _STABLE_S * RATE:
            self._attempt = 0
        self._end_child()
        if rest := len(self._buffer) // (2 * self._channels):
            self._cut(rest, self._heard_ns or time.monotonic_ns())
        self._buffer = b""  # half a sample
        self._outage = reason
        self._ready.append(self._nothing())  # said even if it is back at once
        wait_s = (
            backoff_s(self._attempt, _CEILINGS_S.get(reason, 30.0), 0.0, random.uniform(-1, 1))
            if self._attempt or reason != "overrun"
            else 0.0
        )
        self._attempt += 1
        self._retry_ns = time.monotonic_ns() + round(wait_s * 1e9)
        self.counters["source_restarts"] = self.counters.get("source_restarts", 0) + 1
        _log.warning("%s: %s; trying again in %.1f s", self._what, detail, wait_s)

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()


class _Recorder:
    """One run of arecord. Nothing here blocks for longer than it says."""

    def __init__(self, command: list[str]) -> None:
        # A session of its own: Ctrl-C is ours to handle, and what a wrapper script starts ends with it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        self.started_ns = time.monotonic_ns()
        self.samples = 0
        """That it has given."""
        self.inaccurate = False
        """It records at another rate than asked for: the sound is of no use."""
        self._messages = b""
        self._selector = selectors.DefaultSelector()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)

    def read(self, timeout_s: float) -> bytes | None:
        """What has come within ``timeout_s``; empty: nothing; None: it has ended, and nothing is left."""
        data: bytes | None = b""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._process.stdout:
                data = os.read(key.fd, _READ_BYTES) or None
            elif not self._read_messages():
                self._selector.unregister(key.fileobj)
        if data == b"" and self._process.poll() is not None:
            data = self._rest()
        if data is None:
            self._read_messages()
        return data

    def _rest(self) -> bytes | None:
        """What a process that has gone has left. Its output may stay open for ever, in a child of its own."""
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), _READ_BYTES) or None
        except BlockingIOError:
            return None

    def _read_messages(self) -> bool:
        """Whether there may be more."""
        assert self._process.stderr is not None
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self._process.stderr.fileno(), _READ_BYTES)
            self._messages = (self._messages + piece)[-_MESSAGES:]
            self.inaccurate = self.says("rate is not accurate")
            return bool(piece)
        return True

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self._messages.decode(errors="replace"), re.IGNORECASE) is not None

    def overrun_s(self) -> float:
        """Seconds of sound that it says it has lost since the last call."""
        lost = sum(float(m) for m in _OVERRUN.findall(self._messages)) / 1000
        self._messages = _OVERRUN.sub(b"", self._messages)
        return lost

    def last_words(self) -> str:
        """The last line that is an error of arecord's, or the last line."""
        lines = [
            line.strip() for line in self._messages.decode(errors="replace").splitlines() if line.strip()
        ]
        errors = [line.split(": ", 2)[-1] for line in lines if line.startswith(("arecord:", "ALSA lib"))]
        return (errors or lines or [""])[-1][:200]

    def kill(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _open(uri: str, patient: bool) -> Microphone:
    parts = urlsplit(uri)
    options = parse_options(MicrophoneOptions, parts.query, uri)
    return Microphone(uri, parts.netloc or "default", options, patient=patient)


SOURCE = SourceType(
    (("mic://default, mic://hw:1,0", "an ALSA capture device through `arecord`"),),
    sound=_open,
    options=(("a microphone", MicrophoneOptions),),
)
