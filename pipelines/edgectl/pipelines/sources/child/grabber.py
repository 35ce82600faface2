"""The program of a child that reads a camera: it loads a grabber, and hands its frames over by shared memory.

The standard library alone, and nothing of ours: it is run by its path, also under another Python of the machine
(GStreamer's bindings are those of the system).

A grabber is a function ``grab(argument, out)``: ``argument`` are JSON values, ``out`` is a :class:`FrameOut`. It
returns when the camera has ended, or after :meth:`FrameOut.failed`.

Between the two processes lies a socket that keeps the borders of messages (``SOCK_SEQPACKET``, unix(7)):

* to the stream, JSON: ``{"opened": …}``, ``{"ring": …}`` with the descriptor of the memory, ``{"frame": …}``,
  ``{"alive": …}``, ``{"failed": …}``;
* to the child, two bytes: a ring's number, and the slot of it that was copied and is free again.

A frame is written only into a free slot. So neither side ever sees half a frame, on any processor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import importlib.util
import json
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MAX_FRAME", "MAX_MESSAGE", "SLOTS", "FrameOut", "main"]

SLOTS = 4
MAX_FRAME = 3 * 8192 * 8192
"""Bytes of the largest frame that is taken."""
MAX_MESSAGE = 4096
"""Bytes of one message."""
_MAX_ARGUMENT = 64 << 10
_FEW_SLOTS_FROM = MAX_FRAME // 8
_PR_SET_PDEATHSIG = 1
_BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class FrameOut:
    """Where a grabber puts its frames. The program ends in any of the methods if the stream is gone."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._memory: mmap.mmap | None = None
        self._ring = 0  # its number, modulo 256
        self._slot_bytes = 0
        self._free: list[int] = []
        self._seq = 0
        self.has_failed = False

    def opened(self, width: int | None, height: int | None, fps: float | None) -> None:
        """The camera is open; what it does not tell is None."""
        self._say({"opened": {"width": width, "height": height, "fps": fps}}, wait=True)

    def frame(
        self, shapes: Sequence[tuple[int, int]], fill: Callable[[memoryview], None], facts: dict[str, Any]
    ) -> bool:
        """Hand over one frame. False: it cannot be, and :meth:`failed` was said.

        ``shapes``: rows, and bytes in a row, of each plane. ``fill`` writes them one behind the other, without
        gaps, into the view that it is given. ``facts``: JSON values that go with the frame. A frame for which
        there is no free slot is left out; the gap in the numbers tells it.
        """
        size = sum(rows * columns for rows, columns in shapes)
        if not 0 < size <= MAX_FRAME:
            self.failed("invalid", f"a frame of {size} bytes, which is not supported")
            return False
        if size > self._slot_bytes and not self._make_ring(size):
            return False
        self._take_back()
        self._seq += 1
        if not self._free:
            return True
        slot = self._free.pop(0)
        assert self._memory is not None
        start = slot * self._slot_bytes
        with memoryview(self._memory) as whole, whole[start : start + size] as view:
            fill(view)
        place = {"ring": self._ring, "slot": slot, "seq": self._seq, "t_ns": time.monotonic_ns()}
        if not self._say({"frame": {**place, "shapes": list(shapes), **facts}}):
            self._free.append(slot)
        return True

    def alive(self, facts: dict[str, Any]) -> None:
        """Something came that gave no frame."""
        self._say({"alive": facts})

    def failed(self, reason: str, detail: str) -> None:
        """The camera is away, or cannot be read. ``reason`` is a code, ``detail`` for a person."""
        self.has_failed = True
        self._say({"failed": {"reason": reason, "detail": detail[:500]}}, wait=True)

    def _make_ring(self, size: int) -> bool:
        """New memory for frames of ``size`` bytes. Without a name: it is gone with the last of the two
        processes, and no limit of /dev/shm is in the way."""
        slots = SLOTS if size < _FEW_SLOTS_FROM else 2
        slot_bytes = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = os.memfd_create("edgectl-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            try:
                # Taken now: where there is no room later, the answer is SIGBUS.
                os.posix_fallocate(fd, 0, slots * slot_bytes)
            except OSError as e:
                self.failed(
                    "no_room",
                    f"its frames need {slots * slot_bytes / 1e6:.0f} MB of shared memory: {e.strerror}",
                )
                return False
            # fcntl(2): the size stays as it is, so the stream can map it and trust that
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            if self._memory is not None:
                self._memory.close()
            self._memory = mmap.mmap(fd, slots * slot_bytes)
            self._ring = (self._ring + 1) % 256
            self._slot_bytes, self._free = slot_bytes, list(range(slots))
            told = {"number": self._ring, "slots": slots, "slot_bytes": slot_bytes}
            socket.send_fds(self._link, [_packed({"ring": told})], [fd])
        except BrokenPipeError:
            os._exit(0)
        finally:
            os.close(fd)
        return True

    def _take_back(self) -> None:
        """The slots that the stream has copied meanwhile."""
        while True:
            try:
                said = self._link.recv(2, socket.MSG_DONTWAIT)
            except OSError as e:
                if e.errno in _BUSY:
                    return
                os._exit(0)
            if len(said) != 2:
                os._exit(0)
            if said[0] == self._ring and said[1] not in self._free:
                self._free.append(said[1])

    def _say(self, message: dict[str, Any], *, wait: bool = False) -> bool:
        """False: the stream does not read, and the message was left out. ``wait``: until it does."""
        try:
            self._link.send(_packed(message), 0 if wait else socket.MSG_DONTWAIT)
        except OSError as e:
            if e.errno in _BUSY:
                return False
            os._exit(0)
        return True


def _packed(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _load(place: str) -> Callable[[dict[str, Any], FrameOut], None]:
    """``package.module:function`` or ``/path/of/file.py:function``."""
    where, _, name = place.rpartition(":")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location("edgectl_grabber", where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    grab: Callable[[dict[str, Any], FrameOut], None] = getattr(module, name)
    return grab


def main(argv: Sequence[str]) -> int:
    """Arguments: the socket's descriptor, the parent's process id, the grabber's place. The grabber's argument is
    the first message."""
    fd, parent, place = argv
    # prctl(2): killed with the parent, even in the middle of a native call
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    with socket.socket(fileno=int(fd)) as link:
        out = FrameOut(link)
        try:
            _load(place)(json.loads(link.recv(_MAX_ARGUMENT)), out)
            if not out.has_failed:
                out.failed("ended", "it gives no more frames")
        except Exception as e:
            out.failed("crashed", f"{type(e).__name__}: {e}")
            return 1
    return 0


if __name__ == "__main__":
    del sys.path[0]  # this folder: no module of it may stand in for a library
    sys.exit(main(sys.argv[1:]))
