"""What is left of ``--minutes``, which bounds a whole build: reading, calibration, quantization, the search,
confirmation and packing.

Each step may use the build's time up to a share of it, and less where what has to follow takes long; what comes
later is left out and listed. The least that makes a bundle is done whatever the time is: the samples that were read
by then (at least 8), one calibration (at least 16 of them), one int8 graph, twenty calls of each candidate, one
confirmation. The clock is an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["CALIBRATE", "LEAST_SAMPLES", "PACK", "QUANTIZE", "READ", "Budget"]

READ, CALIBRATE, QUANTIZE, PACK = 0.25, 0.4, 0.55, 0.92
"""Shares of the time that have passed when reading, calibration, quantization and everything but packing
end."""
LEAST_SAMPLES = 16

_PACE_KNOWN_S = 5.0
_ROUNDS = 0.4
_FRESH = 0.01
_FRESH_LEAST_S = 0.1
_WAIT = 0.2
_WAIT_MOST_S = 60.0


class Budget:
    """``seconds``: of the whole build; infinite: unbounded. Starts when it is made."""

    def __init__(self, seconds: float = math.inf, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()
        self._before = 0.0
        self._left_out: list[str] = []
        self._kept: Callable[[], float] = lambda: 0.0

    @property
    def used(self) -> float:
        """Seconds since it was made."""
        return self._before + self._clock() - self._start

    @property
    def allowed(self) -> float:
        """Seconds that the build may take, all in all."""
        return self._before + self.seconds

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was not done for want of time, each once, in order."""
        return tuple(dict.fromkeys(self._left_out))

    def left(self, share: float = PACK) -> float:
        """Seconds until ``share`` of the time has passed, or until what is kept has to begin; below 0 afterwards."""
        end = self.seconds * share
        # all of it holds packing, too
        if share <= PACK:
            end = min(end, self.seconds * PACK - self._kept())
        return end - (self._clock() - self._start)

    def keep(self, seconds: Callable[[], float]) -> None:
        """From now on, end every step ``seconds()`` before packing begins, or earlier: what is certain to come takes so
        long. Asked anew each time."""
        self._kept = seconds

    def ends_in_s(self, done: float) -> float | None:
        """An estimate: at the pace so far, of which ``done`` (0..1) is the result, and not beyond the build's time. None in
        the first seconds, while nothing is done, and once its time is over: what is then still done has no pace."""
        left = self.left(1.0)
        if self.used < _PACE_KNOWN_S or done <= 0 or left <= 0:
            return None
        return min(self.used * (1 - done) / done, left)

    def over(self, share: float, what: str) -> bool:
        """Whether ``share`` of the time has passed. Then ``what`` is left out, and remembered."""
        if self.left(share) > 0:
            return False
        self._left_out.append(what)
        return True

    def leave_out(self, what: str) -> None:
        """Remember what was not done, by a rule of somebody else's."""
        self._left_out.append(what)

    def share_the_rest(self) -> None:
        """The steps share what is left from here on: else what came before them (a conversion) takes reading's time alone."""
        gone = self._clock() - self._start
        self._before, self._start, self.seconds = self._before + gone, self._start + gone, self.seconds - gone

    def extend(self, seconds: float) -> None:
        """Time that the user allowed for something else (training) does not count."""
        self.seconds += seconds

    def rounds_s(self) -> float:
        """For the rounds of the search. Unbounded: a minute."""
        return 60.0 if math.isinf(self.seconds) else max(0.0, self.left()) * _ROUNDS

    def fresh_s(self, most: float) -> float:
        """For each context in each process of its own, of which there are dozens."""
        return most if math.isinf(self.seconds) else min(most, max(_FRESH_LEAST_S, self.left() * _FRESH))

    def wait_s(self) -> float:
        """For a machine that is busy."""
        return min(_WAIT_MOST_S, max(0.0, self.left()) * _WAIT)
