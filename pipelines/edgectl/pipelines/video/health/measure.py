"""What can be measured of a picture that says how the camera is, and of the view that it usually has.

Twice a second, on a small grey picture of 160 × 90 and a few rows at full size. What moves is averaged away over two
seconds. Brightness is in grey levels, black 0 to white 255.

Left out: what is too much or too little (:mod:`edgectl.pipelines.video.health.judge`).
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["AVERAGE_S", "UsualView", "ViewMeasure", "ViewMeter"]

F32 = NDArray[np.float32]

_WIDTH, _HEIGHT = 160, 90
_ROWS = 16
AVERAGE_S = 2.0
_MOVES = 12.0
"""Grey levels by which something that moves differs from its mean over two seconds."""
_EDGE = 12.0
"""Grey levels a small pixel that are an edge."""
_STRONG = 32.0
_WHITE = 250.0
_MOST_ROW = 1920
"""Pixels of a row that are looked at, from its middle."""
_NOISY = 0.7
"""Share of the finest detail that may be noise; more hides what there is besides."""
_FAR = 16
"""Pixels."""
_TELLING = 30.0
"""Mean square of differences below which a picture is too plain to say whether it is sharp."""
_FAST_S, _SLOW_S = 60.0, 1800.0
"""What is usual is the mean of the first minute, and follows slowly then."""


@dataclass(frozen=True, slots=True)
class ViewMeasure:
    """Of one moment. What is compared with the usual view is None while that is not known."""

    bright: float
    """Median brightness, 0..255."""
    top: float
    """Brightness that one pixel in a hundred exceeds."""
    white: float
    """Share of the picture that is white, 0..1."""
    noise: float | None
    """Standard deviation from frame to frame of what does not move, grey levels; None: nothing to compare yet."""
    sharp: float | None = None
    """Finest detail in what is coarser, 1: as usual; None: too plain to tell."""
    edges: float | None = None
    """Edges, 1: as many as usual."""
    contrast: float | None = None
    """Difference between light and dark, 1: as usual."""
    alike: float | None = None
    """How much light and dark lie where they usually do: correlation, 1: the same."""
    usual_bright: float | None = None
    """Median brightness of the usual view."""
    outline: float | None = None
    """The same of edges."""
    shift: float = 0.0
    """By how much of the picture's width the edges have shifted, where they fit better then."""
    shifted_outline: float = 0.0
    """Correlation of the edges after that shift."""


class UsualView:
    """What the camera usually sees."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Learned."""
        self.bright: F32 = np.zeros((_HEIGHT, _WIDTH), np.float32)
        self.edges: F32 = np.zeros((_HEIGHT, _WIDTH), np.float32)
        self.sharp = 0.0
        self.share = 0.0
        """Of the picture that is edges."""

    @property
    def known(self) -> bool:
        return self.seconds >= _FAST_S

    def learn(
        self, bright: F32, edges: F32, still: NDArray[np.uint8], sharp: float | None, share: float, dt: float
    ) -> None:
        """``still``: 0 where something moves."""
        self.seconds = min(self.seconds + dt, _SLOW_S)
        part = min(1.0, dt / max(self.seconds, dt))
        cv2.accumulateWeighted(bright, self.bright, part, still)
        cv2.accumulateWeighted(edges, self.edges, part, still)
        self.share += part * (share - self.share)
        if sharp is not None:
            self.sharp = sharp if self.sharp == 0 else self.sharp + part * (sharp - self.sharp)

    def dump(self) -> dict[str, Any]:
        """JSON values, some 20 KB."""
        maps = np.stack([self.bright, self.edges]).round().clip(0, 255).astype(np.uint8)
        packed = base64.b64encode(zlib.compress(maps.tobytes(), 6)).decode()
        return {"seconds": self.seconds, "sharp": self.sharp, "share": self.share, "maps": packed}

    @classmethod
    def of(cls, state: dict[str, Any]) -> UsualView:
        """Raises KeyError, TypeError or ValueError for what :meth:`dump` never said."""
        view = cls()
        size = 2 * _HEIGHT * _WIDTH
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(state["maps"]), size + 1)
        except zlib.error as e:
            raise ValueError(str(e)) from e
        numbers = [float(state[name]) for name in ("seconds", "sharp", "share")]
        if len(data) != size or not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError("this is no view")
        maps = np.frombuffer(data, np.uint8).reshape(2, _HEIGHT, _WIDTH).astype(np.float32)
        view.bright, view.edges = maps[0].copy(), maps[1].copy()
        view.seconds, view.sharp, view.share = numbers
        return view


class ViewMeter:
    """One per stream; feed it in order. 0.4 ms a picture of 1080p."""

    def __init__(self, usual: UsualView | None = None) -> None:
        self.usual = usual or UsualView()
        self._mean: F32 | None = None
        self._mean_rows: F32 | None = None
        self._rows: NDArray[np.int16] | None = None
        self._last_s: float | None = None
        self._now: tuple[F32, F32, NDArray[np.uint8], float | None, float, float] | None = None

    def pair(self, luma: NDArray[np.uint8]) -> None:
        """The frame right before the one that is measured: noise is what differs between the two."""
        self._rows = _rows(luma)

    def measure(self, luma: NDArray[np.uint8], t_s: float, *, full_range: bool) -> ViewMeasure:
        """``luma``: (H, W) uint8, rows may be strided."""
        rows, before = _rows(luma), self._rows
        self._rows = None
        noise = None
        if before is not None and before.shape == rows.shape:
            noise = _noise(np.abs(rows - before))
        small = _small(luma, full_range=full_range)
        dt = 0.5 if self._last_s is None else max(0.0, t_s - self._last_s)
        self._last_s = t_s
        part = 1 - math.exp(-dt / AVERAGE_S)
        fresh = rows.astype(np.float32)
        if (
            self._mean is None
            or self._mean_rows is None
            or dt > 5 * AVERAGE_S
            or fresh.shape != self._mean_rows.shape
        ):
            self._mean, self._mean_rows = small.copy(), fresh
        else:
            cv2.accumulateWeighted(small, self._mean, part)
            cv2.accumulateWeighted(fresh, self._mean_rows, part)
        edges = _edges(self._mean)
        share = float((edges > _EDGE).mean())
        # what is left of noise in a mean like this
        sharp = _sharpness(self._mean_rows, (noise or 0.0) * math.sqrt(part / (2 - part)))
        change = small - self._mean
        still = (np.abs(change - np.median(change)) < _MOVES).astype(np.uint8)
        self._now = (self._mean, edges, still, sharp, share, dt)
        plain = ViewMeasure(
            bright=float(np.median(small)),
            top=float(np.percentile(small, 99)),
            white=float((small >= _WHITE).mean()),
            noise=noise,
        )
        return self._compared(plain, edges, sharp, share) if self.usual.known else plain

    def learn(self) -> None:
        """What was measured last is usual."""
        if self._now is not None:
            self.usual.learn(*self._now)

    def forget(self) -> None:
        """What is seen from now on is usual."""
        self.usual = UsualView()

    def _compared(self, plain: ViewMeasure, edges: F32, sharp: float | None, share: float) -> ViewMeasure:
        assert self._mean is not None
        usual = self.usual
        outline, shift, shifted = _correlation(edges, usual.edges), 0.0, 0.0
        if outline < 0.7:
            shift, shifted = _shift(usual.edges, edges)
        return ViewMeasure(
            plain.bright,
            plain.top,
            plain.white,
            plain.noise,
            sharp=None if sharp is None or usual.sharp <= 0 else sharp / usual.sharp,
            edges=share / max(usual.share, 1e-3),
            contrast=float(self._mean.std()) / max(float(usual.bright.std()), 1.0),
            usual_bright=float(np.median(usual.bright)),
            alike=_correlation(self._mean, usual.bright),
            outline=outline,
            shift=shift,
            shifted_outline=shifted,
        )


def _small(luma: NDArray[np.uint8], *, full_range: bool) -> F32:
    step = max(1, luma.shape[0] // (2 * _HEIGHT))
    small = cv2.resize(luma[::step, ::step], (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    if not full_range:
        small = np.clip((small - 16) * (255 / 219), 0, 255)
    return small


def _rows(luma: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Some rows at full size, from the middle of the picture."""
    height, width = luma.shape
    left = max(0, (width - _MOST_ROW) // 2)
    step = max(1, height // _ROWS)
    return luma[step // 2 :: step, left : left + _MOST_ROW].astype(np.int16)


def _noise(apart: NDArray[np.int16]) -> float:
    """Standard deviation of noise, from what two frames differ by; what moves is left out."""
    still = apart[apart <= 3 * (np.median(apart) + 1)]
    return float(still.mean()) / 1.128


def _edges(small: F32) -> F32:
    dx, dy = cv2.Sobel(small, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(small, cv2.CV_32F, 0, 1, scale=0.25)
    # a few strong edges of what passed by must not outweigh all others
    return np.minimum(cv2.magnitude(dx, dy), _STRONG)


def _sharpness(rows: F32, noise: float) -> float | None:
    """Of differences between neighbours in those over 16 pixels, noise aside: of an edge 1/16, and the less the wider
    it is smeared."""
    if rows.shape[1] <= _FAR:
        return None
    near, far = rows[:, 1:] - rows[:, :-1], rows[:, _FAR:] - rows[:, :-_FAR]
    floor = 2 * noise * noise
    fine, coarse = float((near * near).mean()), float((far * far).mean()) - floor
    if coarse < max(_TELLING, floor) or floor > _NOISY * fine:
        return None
    return max(fine - floor, 0.0) / coarse


def _correlation(a: F32, b: F32) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-6 else 0.0


def _shift(usual: F32, now: F32) -> tuple[float, float]:
    """How far edges have shifted, of the picture's width, and how well they fit then."""
    window = cv2.createHanningWindow((_WIDTH, _HEIGHT), cv2.CV_32F)
    # of copies: OpenCV multiplies its inputs by the window in place
    (dx, dy), _ = cv2.phaseCorrelate(usual.copy(), now.copy(), window)
    x, y = round(dx), round(dy)
    if abs(x) >= _WIDTH // 2 or abs(y) >= _HEIGHT // 2 or (x, y) == (0, 0):
        return 0.0, 0.0
    a = usual[max(0, -y) : _HEIGHT - max(0, y), max(0, -x) : _WIDTH - max(0, x)]
    b = now[max(0, y) : _HEIGHT - max(0, -y), max(0, x) : _WIDTH - max(0, -x)]
    return math.hypot(x, y) / _WIDTH, _correlation(np.ascontiguousarray(a), np.ascontiguousarray(b))
