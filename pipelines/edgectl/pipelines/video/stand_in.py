"""Another variant of the detector, in its place while less has to be done: opened beside the stream, which goes on
meanwhile, and closed when it is not wanted any more.

Left out: when that is (:mod:`edgectl.pipelines.stream.governor`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from edgectl.core.errors import EdgectlError, ModelError
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.swap import HotSwap

__all__ = ["StandIn"]

_log = logging.getLogger(__name__)
_CLOSE_S = 20.0


@dataclass(frozen=True)
class _Cast:
    """Who plays: a variant in the place of the slot's engine ``own``, or that itself."""

    own: Detector
    variant: PartVariant | None = None


class StandIn:
    """One per stream, with at most one other variant open. :meth:`want` from any thread."""

    def __init__(
        self,
        stream: str,
        engines: HotSwap[Detector],
        open_detector: Callable[[PartVariant], Detector],
        failed: Callable[[PartVariant, EdgectlError], None],
    ) -> None:
        """``open_detector``: opened, warm and with its seat. ``failed`` hears of a variant that cannot be opened; the
        detector's own goes on. It is called by a thread of this object."""
        self._stream = stream
        self._engines = engines
        self._open = open_detector
        self._failed = failed
        self._change = threading.Condition()
        self._wanted = self._present = _Cast(engines.engine)
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, own: Detector, variant: PartVariant | None) -> None:
        """A variant in the place of the slot's engine ``own``, or None for that itself. Returns at once."""
        with self._change:
            self._wanted = _Cast(own, variant)
            if self._thread is None and variant is not None and not self._closed:
                self._thread = stream_thread("stand-in", self._stream, self._follow, self._give_up)
                self._thread.start()
            self._change.notify_all()

    @property
    def settled(self) -> bool:
        """Whether what is wanted is in place."""
        with self._change:
            return self._wanted == self._present or (self._thread is None and self._wanted.variant is None)

    def close(self) -> None:
        """Begin nothing more. The engine itself is closed with the others of the stream."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # -- in the thread --

    def _follow(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._wanted != self._present)
                if self._closed:
                    return
                wanted = self._wanted
            try:
                other = None if wanted.variant is None else self._opened(wanted.variant, wanted.own)
            except EdgectlError as e:
                with self._change:
                    if self._wanted == wanted:
                        # not again for the same one
                        self._wanted = self._present
                assert wanted.variant is not None
                self._tell(wanted.variant, e)
                continue
            self._engines.stand_in(other, wanted.own)
            with self._change:
                self._present = wanted
                self._change.notify_all()

    def _opened(self, variant: PartVariant, own: Detector) -> Detector:
        detector = self._open(variant)
        if detector.labels != own.labels:
            detector.close()
            raise ModelError(
                f"variant {variant.stands_in} has {len(detector.labels)} labels, the detector has {len(own.labels)}"
            )
        if detector.keypoints != own.keypoints:
            detector.close()
            raise ModelError(f"the keypoints of variant {variant.stands_in} are not those of the detector")
        return detector

    def _tell(self, variant: PartVariant, e: EdgectlError) -> None:
        _log.warning(
            "stream %s: the variant %s cannot take over: %s", self._stream, variant.stands_in, e.message
        )
        self._failed(variant, e)

    def _give_up(self, e: EdgectlError) -> None:
        """A defect has ended the thread."""
        if (variant := self._wanted.variant) is not None:
            self._tell(variant, e)
