"""The stream's side of a child that reads a camera: start it, take its frames, kill it when it stalls."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgectl.core.errors import SourceError
from edgectl.core.schema import Message
from edgectl.pipelines.sources.base import MAX_PIXELS
from edgectl.pipelines.sources.child.grabber import MAX_MESSAGE
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import Away
from edgectl.pipelines.stream.colour import VIDEO, Colour, Matrix, to_bgr

__all__ = ["ChildReader", "Grabber"]

_PROGRAM = str(Path(__file__).with_name("grabber.py"))
_LOOK_S = 0.2
_KILLED_S = 1.0
"""How long a killed child is waited for. One that hangs in the kernel dies later: it is collected then."""
_DYING: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Grabber:
    """What reads the camera in the child."""

    place: str
    """``package.module:function`` or ``/path/of/file.py:function``."""
    python: str = sys.executable
    open_s: float = 10.0
    """A camera that has not opened by then hangs."""
    stall_s: float = 5.0
    """One that was open and gives nothing for so long hangs."""


class _Opened(Message):
    width: int | None = Field(ge=1)
    height: int | None = Field(ge=1)
    fps: float | None = Field(gt=0)


class _Ring(Message):
    number: int = Field(ge=0, le=255)
    slots: int = Field(ge=1, le=16)
    slot_bytes: int = Field(ge=1, le=3 * MAX_PIXELS + mmap.PAGESIZE)


class _Counted(Message):
    errors: int = Field(default=0, ge=0)
    corrupt: int = Field(default=0, ge=0)


class _Frame(_Counted):
    deinterlaced: bool = False
    ring: int
    slot: int = Field(ge=0)
    seq: int
    t_ns: int = Field(ge=0)
    shapes: tuple[tuple[int, int], ...] = Field(min_length=1, max_length=3)
    fmt: Literal["I420", "BGR"]
    colour: tuple[Matrix, bool]
    pts_ns: int | None = None
    tilted: bool = False


class _Failed(Message):
    reason: str = Field(max_length=40)
    detail: str


class _Said(Message):
    opened: _Opened | None = None
    ring: _Ring | None = None
    frame: _Frame | None = None
    alive: _Counted | None = None
    failed: _Failed | None = None


class ChildReader:
    """A camera in a child of its own, for :class:`~edgectl.pipelines.sources.media.camera.LiveSource`.

    ``errors`` and ``corrupt`` count as those of :class:`~edgectl.pipelines.sources.media.reader.VideoReader` do;
    ``left_out`` are frames that came while this side did not read.
    """

    start_ns = 0
    deinterlaced = False

    def __init__(
        self, what: str, grabber: Grabber, argument: Mapping[str, Any], *, stop: threading.Event
    ) -> None:
        """Start the child and wait until the camera is open. Raises :class:`SourceError`; no child is left
        then. ``stop`` ends the wait."""
        self.what = what
        self.errors = self.corrupt = self.left_out = 0
        self.width: int | None = None
        self.height: int | None = None
        self.fps: float | None = None
        self._grabber = grabber
        self._stop = stop
        self._ring: _Ring | None = None
        self._memory: mmap.mmap | None = None
        self._seq = 0
        _collect()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            foreign = [] if grabber.python == sys.executable else ["-E"]  # its own libraries, not ours
            command = [grabber.python, *foreign, _PROGRAM, str(theirs.fileno()), str(os.getpid())]
            try:
                self._process = subprocess.Popen(
                    [*command, grabber.place],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as e:
                self._link.close()
                raise SourceError(
                    f"{what}: the process that reads it cannot be started: {e.strerror}", retryable=True
                ) from Away("crashed")
        try:
            # not as an argument of the program: everybody sees those, and a pipeline may hold a password
            with contextlib.suppress(OSError):
                self._link.send(json.dumps(argument).encode())
            self._wait_until_open()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def frames(self) -> Iterator[Picture | None]:
        """Every frame in order; None now and then where there is none. Raises :class:`SourceError` when the
        camera is away, the child hangs, or it is dead."""
        last = time.monotonic()
        while True:
            message = self._next(last, self._grabber.stall_s)
            if message is None:
                yield None
                continue
            last = time.monotonic()
            yield self._taken(message)

    def close(self) -> None:
        """Kill the child, whatever it does. Safe to call twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(_KILLED_S)
        except subprocess.TimeoutExpired:
            _DYING.append(self._process)
        self._link.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _wait_until_open(self) -> None:
        start = time.monotonic()
        while True:
            message = self._next(start, self._grabber.open_s)
            if self._stop.is_set():
                raise SourceError(f"{self.what} was closed", retryable=True) from Away("ended")
            if message is not None and message.opened is not None:
                opened = message.opened
                self.width, self.height, self.fps = opened.width, opened.height, opened.fps
                if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
                    raise SourceError(
                        f"{self.what} has a picture size of {self.width}x{self.height}, which is not supported",
                        hint=f"up to {MAX_PIXELS / 1e6:.0f} megapixels are; let the camera make it smaller",
                        retryable=True,
                    ) from Away("invalid")
                return
            if message is not None:
                self._taken(message)

    def _next(self, since: float, limit_s: float) -> _Said | None:
        """The next message, or None after a short wait. ``since``: when the last one came."""
        if not select.select([self._link], [], [], _LOOK_S)[0]:
            if time.monotonic() - since > limit_s:
                raise SourceError(
                    f"{self.what} hangs: nothing came for {limit_s:g} s", retryable=True
                ) from Away("stalled")
            return None
        data, fds = self._receive()
        try:
            if not data:
                raise SourceError(f"{self.what} {self._death()}", retryable=True) from Away("crashed")
            message = _Said.model_validate_json(data)
            if message.ring is not None:
                self._map(message.ring, fds)
        except (ValidationError, ValueError) as e:
            raise SourceError(
                f"{self.what}: the process that reads it makes no sense", retryable=True
            ) from _caused(Away("crashed"), e)
        finally:
            for fd in fds:
                os.close(fd)
        if message.failed is not None:
            reason, detail = message.failed.reason, message.failed.detail
            text = detail if detail.startswith(self.what) else f"{self.what}: {detail}"
            raise SourceError(text, retryable=reason != "auth") from Away(reason)
        return message

    def _receive(self) -> tuple[bytes, list[int]]:
        """One message and its descriptors; empty if the child is gone."""
        for _ in range(2):
            # One that ended before it read what it was sent resets the socket; what it said last lies behind that.
            with contextlib.suppress(OSError):
                data, fds, *_rest = socket.recv_fds(self._link, MAX_MESSAGE, 1)
                return data, fds
        return b"", []

    def _death(self) -> str:
        try:
            code = self._process.wait(_KILLED_S)
        except subprocess.TimeoutExpired:
            return "cannot be read: the process that reads it hung up"
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return f"cannot be read: the process that reads it died ({how})"

    def _map(self, ring: _Ring, fds: list[int]) -> None:
        size = ring.slots * ring.slot_bytes
        if len(fds) != 1 or os.fstat(fds[0]).st_size < size:
            raise ValueError("a ring without its memory")
        if not fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError("a ring that can shrink")
        if self._memory is not None:
            self._memory.close()
        self._memory, self._ring = mmap.mmap(fds[0], size, access=mmap.ACCESS_READ), ring

    def _taken(self, message: _Said) -> Picture | None:
        counted = message.frame or message.alive
        if counted is not None:
            self.errors, self.corrupt = counted.errors, counted.corrupt
        return None if message.frame is None else self._copied(message.frame)

    def _copied(self, frame: _Frame) -> Picture:
        """The frame in memory of its own; its slot goes back to the child."""
        ring, memory = self._ring, self._memory
        size = sum(rows * columns for rows, columns in frame.shapes)
        height, columns = frame.shapes[0]
        width = columns if frame.fmt == "I420" else columns // 3
        if (
            ring is None
            or memory is None
            or frame.ring != ring.number
            or frame.slot >= ring.slots
            or min(min(s) for s in frame.shapes) < 1
            or size > ring.slot_bytes
            or not 0 < width * height <= MAX_PIXELS
            or len(frame.shapes) != (3 if frame.fmt == "I420" else 1)
            or (frame.fmt == "BGR" and columns % 3)
        ):
            raise SourceError(
                f"{self.what}: the process that reads it makes no sense", retryable=True
            ) from Away("crashed")
        self.deinterlaced = frame.deinterlaced
        data = np.frombuffer(memory, np.uint8, size, frame.slot * ring.slot_bytes).copy()
        with contextlib.suppress(OSError):  # it has died: the next message says so
            self._link.send(bytes((ring.number, frame.slot)), socket.MSG_DONTWAIT)
        self.left_out += max(0, frame.seq - self._seq - 1)
        self._seq = frame.seq
        ends = np.cumsum([rows * columns for rows, columns in frame.shapes])[:-1]
        planes = tuple(
            part.reshape(shape if frame.fmt == "I420" else (height, width, 3))
            for part, shape in zip(np.split(data, ends), frame.shapes, strict=True)
        )
        colour, fmt = Colour(frame.colour[0], frame.colour[1]), frame.fmt
        if fmt == "I420" and (width % 2 or height % 2):  # half a pixel of colour is left at the edge
            planes, colour, fmt = (to_bgr(planes, colour),), VIDEO, "BGR"
        return Picture(planes, fmt, width, height, colour, frame.pts_ns, frame.tilted, arrived_ns=frame.t_ns)


def _caused(e: Away, cause: BaseException) -> Away:
    e.__cause__ = cause
    return e


def _collect() -> None:
    """What was killed earlier and has died since."""
    _DYING[:] = [p for p in _DYING if p.poll() is None]
