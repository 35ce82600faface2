"""The capture thread of a video stream: owns the source, books every frame, hands it over, and tells what
becomes of the source.

Left out: what happens to a frame afterwards. A source that goes away is told once, and once more when it is
back; so is one that ends, restarts its clock, changes its size or stands still.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from edgectl.core.errors import DataError, EdgectlError, SourceError
from edgectl.pipelines.sources import EndOfStream, Source, SourceInfo
from edgectl.pipelines.sources.base import KeyFrameSource, LossySource, RetryingSource
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp
from edgectl.pipelines.stream.ledger import Cause, Ledger
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.video.health.watch import HealthWatch
from edgectl.pipelines.video.picture_watch import PictureWatch

__all__ = ["Capture", "FrameTaker"]

_POLL_S = 0.2
_STALLED_S = 12.0
"""A source whose ``read`` has not come back for so long hangs in a native call. Longer than a camera's own
time-outs."""


class FrameTaker(Protocol):
    """Where the frames go. Called from the capture thread; ``tell`` from others, too."""

    def take_over(self, frame: Frame) -> None:
        """A frame that is booked as captured: it is processed or dropped there."""
        ...

    def tell(self, event: Event, stamp: Stamp, frame: Frame | None = None) -> None:
        """What is to be told of the source, before the frame of the stamp is handed over; stamps without a
        frame have the number of the next one. ``frame``: the picture that shows it."""
        ...

    def end(self) -> None:
        """No more frames."""
        ...


class Capture:
    """``open``, then ``deliver`` once what takes the frames is ready, then ``stop`` and ``join``: in this
    order, from one thread."""

    def __init__(
        self,
        stream: str,
        source: Source,
        ledger: Ledger,
        *,
        target_fps: float | None,
        seconds: float | None,
        failed: Callable[[EdgectlError], None],
        health: HealthWatch | None = None,
    ) -> None:
        """``health``: looks at what the camera sees. ``seconds``: end after so much capture time. ``failed`` hears of an error after :meth:`open`, in
        the capture thread."""
        self.outage: str | None = None
        """Reason code while the source is away."""
        self.view: str | None = None
        """What is wrong with what the camera sees."""
        self._source = source
        self._ledger = ledger
        self.target_fps = target_fps
        """Frames beyond that are dropped; None: none are. Set from any thread."""
        self._seconds = seconds
        self._failed = failed
        self._thread = stream_thread("capture", stream, self._run, self._fail)
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._go = threading.Event()
        self._info: SourceInfo | None = None
        self._error: EdgectlError | None = None
        self._to: FrameTaker | None = None
        self._gate_next_s: float | None = None
        self._first_s: float | None = None
        self._decode_errors = self._corrupt = self._superseded = self._degraded = 0
        self._watch = PictureWatch()
        self._health = health
        self._last: Stamp | None = None
        self._telling = threading.Lock()
        self._reading_since: float | None = None

    def open(self) -> SourceInfo:
        """Start the thread and let it open the source, which belongs to it. Raises what the source raises;
        nothing runs then. Raises :class:`SourceError` after :meth:`stop`, even if the source does not come back."""
        self._thread.start()
        while not self._opened.wait(_POLL_S):
            if self._stop.is_set():
                raise SourceError("the source was not open yet when the stream was to stop")
        if self._info is not None:
            return self._info
        self._thread.join()
        assert self._error is not None
        raise self._error

    def deliver(self, to: FrameTaker) -> None:
        """Begin to read, until the end of the source."""
        self._to = to
        self._go.set()

    def look_after(self) -> None:
        """Tell of a source that hangs. From another thread, now and then."""
        since = self._reading_since
        if since is not None and time.monotonic() - since > _STALLED_S:
            self._tell_outage("stalled")

    @property
    def trouble(self) -> tuple[str | None, float | None]:
        """What went wrong with a source that is away, and in how many seconds it is tried again. From any thread."""
        if self.outage is None or not isinstance(self._source, RetryingSource):
            return None, None
        return self._source.trouble, self._source.retry_s()

    @property
    def stuck(self) -> bool:
        """The source does not come back from a call: from opening, from reading, or although it is to stop."""
        since = self._reading_since
        late = since is not None and time.monotonic() - since > _STALLED_S
        return late or (self._stop.is_set() and self._thread.is_alive())

    def only_key_frames(self, on: bool) -> bool:
        """See :class:`~edgectl.pipelines.sources.base.KeyFrameSource`. From any thread."""
        return isinstance(self._source, KeyFrameSource) and self._source.only_key_frames(on)

    def say(self, make: Callable[[float], Event]) -> None:
        """Tell of something that came up beside the frames, in their order. From any thread. ``make``: from the time
        of now."""
        if self._to is not None:
            stamp = self.now()
            self._to.tell(make(stamp.t_s), stamp)

    def stop(self) -> None:
        """Read no more. Returns at once."""
        self._stop.set()
        self._source.interrupt()
        self._go.set()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended within ``timeout_s``."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- in the thread --

    def _run(self) -> None:
        try:
            self._info = self._source.open()
            self._opened.set()
            self._go.wait()
            self._read_all()
        except (SourceError, DataError) as e:
            if self._to is not None:
                self._book_unread()
                self._tell(
                    Notice("source", "failed", False, "start", {"detail": e.message[:500]}), self.now()
                )
            raise
        finally:
            self._source.close()
            if self._to is not None:
                self._to.end()

    def _fail(self, e: EdgectlError) -> None:
        if self._opened.is_set():
            self._failed(e)
        else:
            self._error = e
            self._opened.set()

    def _read_all(self) -> None:
        assert self._info is not None
        # A camera that is away gives no frames to tell the time by.
        deadline = (
            time.monotonic() + self._seconds if self._seconds is not None and self._info.realtime else None
        )
        while not self._stop.is_set() and (deadline is None or time.monotonic() < deadline):
            try:
                frame = self._read()
            except EndOfStream as e:
                self._book_unread()
                if e.notice is not None and not self._stop.is_set():
                    self._tell(e.notice, self.now())
                return
            self._book_unread()
            if frame is None:
                self._tell_outage(
                    self._source.outage or ("corrupt" if self._watch.blind(self.now().t_s) else self.outage)
                )
                continue
            if deadline is None and self._over(frame.stamp.t_s):
                return
            if self._watch.blind(frame.stamp.t_s) and self.outage is None and self._last is not None:
                self._tell_outage("corrupt", self._last)  # a file: it is known only now how long it took
            self._tell_outage(None, frame.stamp)
            pictures = self._watch.good(frame) if self._info.kind != "images" else ()
            for notice in (*frame.notices, *pictures):
                self._tell(notice, frame.stamp)
            self._look_at_view(frame)
            self._last = frame.stamp
            self._hand_over(frame)
            # its memory is the decoder's, who wants it back before the next one
            del frame
        if self._last is None and self.outage is not None and not self._stop.is_set():
            why = self.trouble[0] or f"there was no picture: {self.outage}"
            raise SourceError(f"no picture came in {self._seconds:g} s: {why}")

    def _read(self) -> Frame | None:
        self._reading_since = time.monotonic()
        try:
            return self._source.read(_POLL_S)
        finally:
            self._reading_since = None

    def _over(self, t_s: float) -> bool:
        if self._first_s is None:
            self._first_s = t_s
        return self._seconds is not None and t_s - self._first_s >= self._seconds - 1e-6

    def _book_unread(self) -> None:
        """Frames that came and were not handed on by the source."""
        errors, corrupt = self._source.decode_errors, self._source.corrupt_frames
        superseded = self._source.superseded_frames if isinstance(self._source, LossySource) else 0
        degraded = self._source.degraded_frames if isinstance(self._source, KeyFrameSource) else 0
        booked: tuple[tuple[Cause, int], ...] = (
            ("decode_error", errors - self._decode_errors),
            ("corrupt", corrupt - self._corrupt),
            ("superseded", superseded - self._superseded),
            ("degraded", degraded - self._degraded),
        )
        for cause, new in booked:
            if new:
                self._ledger.capture(new)
                self._ledger.drop(cause, new)
        self._decode_errors, self._corrupt = errors, corrupt
        self._superseded, self._degraded = superseded, degraded
        self._watch.damaged(errors + corrupt)

    def _tell_outage(self, outage: str | None, stamp: Stamp | None = None) -> None:
        """One ``capability`` event when the source goes away, one when it is back: in this order, whichever threads see it."""
        with self._telling:
            before, self.outage = self.outage, outage
            if (outage is None) != (before is None):
                reason = str(outage or before)
                self._tell(
                    Notice("source", reason, outage is None, "end" if outage is None else "start"),
                    stamp or self.now(),
                )

    def _tell(self, notice: Notice, stamp: Stamp) -> None:
        data = {"name": notice.name, "available": notice.available, "reason": notice.reason, **notice.data}
        assert self._to is not None
        self._to.tell(Event("capability", stamp.t_s, notice.phase, None, data), stamp)

    def _look_at_view(self, frame: Frame) -> None:
        """Tell what is wrong with what the camera sees; its frames say so, too."""
        assert self._to is not None
        health = self._health
        for event in () if health is None else health.look(frame):
            self._to.tell(event, frame.stamp, frame)
        view = None if health is None else health.view
        frame.view = self.view = view or ("frozen" if self._watch.frozen else None)

    def now(self) -> Stamp:
        """The time of something that has no frame: the clock's, or where a recording has come to."""
        assert self._info is not None
        now = time.monotonic_ns()
        seq = 0 if self._last is None else self._last.seq + 1
        if self._info.realtime:
            return Stamp(seq, now, now, None, time.time_ns() - now, "arrival")
        return Stamp(seq, 0 if self._last is None else self._last.t_ns, now, None, None, "pts")

    def _hand_over(self, frame: Frame) -> None:
        assert self._to is not None
        self._ledger.capture()
        if self._gated(frame.stamp.t_s):
            self._ledger.drop("gated")
            return
        self._to.take_over(frame)

    def _gated(self, t_s: float) -> bool:
        """Whether ``target_fps`` leaves this frame out."""
        fps = self.target_fps
        if fps is None:
            return False
        if self._gate_next_s is None or t_s > self._gate_next_s + 1:
            self._gate_next_s = t_s
        if t_s < self._gate_next_s - 0.25 / fps:
            return True
        self._gate_next_s += 1 / fps
        return False
