"""Builds TensorRT plans again at the highest optimisation level, while the device has nothing to deploy and
cores to spare.

A deployment compiles its plan at a quick level, so that a rollout does not wait. What is built here later is
checked against the golden outputs, measured against the plan in use, and kept only if it is faster; then
running streams take it between two frames. One engine at a time, each once per start of the agent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgectl.core.errors import EdgectlError
from edgectl.pipelines.host.protocol import EngineRef

__all__ = ["PlanImprover"]

log = logging.getLogger(__name__)

_LOOK_S = 15.0


@dataclass
class PlanImprover:
    """``improve(ref)``: build a better engine and say whether there is one now. ``refresh(slot, ref)``:
    streams open the engine anew."""

    slots: Sequence[str]
    active: Callable[[str], EngineRef | None]
    busy: Callable[[], bool]
    """A deployment is under way, or the cores have other work."""
    improve: Callable[[EngineRef], bool]
    refresh: Callable[[str, EngineRef], None]
    after_s: float
    """Seconds without being busy before anything is built."""
    clock: Callable[[], float] = time.monotonic
    _idle_since: float | None = None
    _done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="improve", daemon=True)

    def stop(self) -> None:
        """A build that is under way is not waited for: it runs in a child, and the cache survives its end
        at any moment."""
        self._stop.set()

    def step(self) -> str | None:
        """Look once; at most one engine is built. Returns the slot whose engine is better now."""
        if self.busy():
            self._idle_since = None
            return None
        now = self.clock()
        self._idle_since = now if self._idle_since is None else self._idle_since
        if now - self._idle_since < self.after_s:
            return None
        for slot in self.slots:
            try:
                ref = self.active(slot)
                if ref is None or ref.manifest in self._done:
                    continue
                self._done.add(ref.manifest)
                if not self.improve(ref):
                    continue
                if self.active(slot) != ref or self._stop.is_set():
                    # the better plan lies in the cache for whoever opens this engine again
                    return None
                self.refresh(slot, ref)
            except EdgectlError as e:
                log.warning("%s: the engine stays as it is: %s", slot, e.message)
                return None
            log.info("%s: %s runs a faster plan", slot, ref.release)
            return slot
        return None

    def _run(self) -> None:
        while not self._stop.wait(min(_LOOK_S, self.after_s)):
            try:
                self.step()
            except EdgectlError as e:  # the journal cannot be read now
                log.warning("no plan is rebuilt: %s", e.message)
