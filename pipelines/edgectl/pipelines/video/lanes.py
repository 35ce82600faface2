"""The two lines of the own lane, found classically: bright ridges, one vanishing point, a shared curvature.

A line on a flat road is ``u = u0 + s·(v - v0) + c / (v - v0)`` in the picture, where (u0, v0) is the
vanishing point, ``s`` the line's own slope and ``c`` the curvature that all lines share. Ridge points vote
for where their line ends; the votes fade over seconds, so that dashed lines stay; a least-squares fit of (u0,
v0, s_left, s_right, c) to the points near the winners follows.

The best fit to a road without lines is no lane. So each line must be *seen*: as paint much brighter than the
road, on it and not just as much beside it (grass and gravel have points everywhere, a seam of tar is dull),
and both as far apart as the lines of one lane are. Left out: yellow lines on bright concrete, night, snow,
several lanes. Two bright kerbs a lane's width apart are taken for lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["CameraConfig", "LaneFinder", "Lanes"]

F64 = NDArray[np.float64]

_WIDTH = 480  # the picture is searched at this width
# rows above this part of the height are never road
_TOP = 0.38
# of the votes for where a line ends at the bottom row, over two picture widths
_BINS = 192
_CONTRAST = 14.0  # grey levels by which a ridge stands out
_FULL_WEIGHT = 30.0  # of the contrast of a point that counts as one
# time constant of the votes: longer than the gap between two dashes at speed
_VOTES_S = 0.45
_SMOOTH_S = 0.12
_FORGET_S = 1.0  # without support for this long there is no lane
_MIN_SUPPORT = 14.0  # rows with a ridge point on a line, after fading
# grey levels by which paint is brighter than the road
_PAINT = 25.0
# of the contrast of the brightest ridges: what is duller is a seam beside them
_DULL = 0.35
# of the rows below the horizon that show paint: until a line is believed, and to stay so
_NEW, _KEPT = 0.17, 0.08
# within which both lines must have been seen to be believed: longer than the gap between two dashes
_TOGETHER_S = 0.6
# width of a line over camera height: 7 cm from a car, which seams of tar seldom have
_NARROW = 0.05
# times as many rows on a line as on parallels beside it
_BESIDE = 3.0
# difference of the slopes: lane width over camera height, from a lorry's to a low car's
_APART = (1.1, 3.9)


class CameraConfig(Config):
    """How the dash camera is mounted. Without it, metres cannot be told from pixels."""

    height_m: float | None = Field(default=None, gt=0, le=10)
    """Above the road."""
    fx_px: float | None = Field(default=None, gt=0)
    """Focal length in pixels at the width of the stream."""
    horizon: float | None = Field(default=None, gt=0, lt=1)
    """Row of the horizon relative to the height; None: where the lane lines meet."""
    lane_width_m: float = Field(default=3.6, gt=1, le=10)
    """Of the lanes that are driven on."""
    hood: float = Field(default=1.0, gt=0.5, le=1)
    """Row below which the own car is seen, relative to the height."""


@dataclass(frozen=True)
class Lanes:
    """The own lane at one time, in pixels of the frame."""

    u0: float
    v0: float
    """Vanishing point."""
    left: float
    right: float
    """Slopes s of the two lines; left < right."""
    curve: float
    support: tuple[float, float]
    """How well each line is seen, 0..1."""

    def at(self, v: float | F64) -> tuple[F64, F64]:
        """Column of the left and the right line at rows ``v`` (below the vanishing point)."""
        d = np.asarray(v, np.float64) - self.v0
        bend = self.u0 + self.curve / d
        return bend + self.left * d, bend + self.right * d

    def polyline(self, bottom: float, points: int = 24) -> tuple[F64, F64]:
        """Both lines as points (N, 2), from the row ``bottom`` up to where they are trusted."""
        v = np.linspace(bottom, self.v0 + 0.22 * (bottom - self.v0), points)
        left, right = self.at(v)
        return np.stack([left, v], axis=1), np.stack([right, v], axis=1)


class LaneFinder:
    """State of one camera. ``find`` with growing time; the result is smoothed in seconds, not in frames."""

    def __init__(self, *, horizon: float | None = None, hood: float = 1.0) -> None:
        """``horizon``: its row relative to the height, if known; ``hood``: rows below it show the own car."""
        self._horizon = horizon
        self._hood = hood
        self.reset()

    def reset(self) -> None:
        self._votes = np.zeros(_BINS)
        self._state: F64 | None = None  # u0, v0, s_left, s_right, c, at search size
        self._t: float | None = None
        self._good_t = -math.inf
        self._seen_t = [-math.inf, -math.inf]  # when each line last showed paint
        self._believed = False
        self._support = (0.0, 0.0)

    def find(
        self, luma: NDArray[np.uint8], t: float, ignore: NDArray[np.float32] | None = None
    ) -> Lanes | None:
        """Search one picture (H, W). ``ignore``: boxes (N, 4) of vehicles, whose edges are no lines. None:
        no lane."""
        height, width = luma.shape
        scale = _WIDTH / width
        rows = round(height * scale)
        top, bottom = round(rows * _TOP), max(round(rows * self._hood), round(rows * _TOP) + 8)
        part = luma[round(top / scale) : round(bottom / scale)]
        small = np.asarray(cv2.resize(part, (_WIDTH, bottom - top), interpolation=cv2.INTER_AREA), np.int16)
        dt = 0.0 if self._t is None else t - self._t
        self._t = t
        v0 = float(self._state[1]) if self._state is not None else (self._horizon or 0.5) * rows
        u, v, w = _ridges(small, top, v0)
        if ignore is not None and len(ignore):
            keep = _outside(u, v, ignore * scale)
            u, v, w = u[keep], v[keep], w[keep]
        fade = math.exp(-dt / _VOTES_S)
        self._votes *= fade
        self._support = (self._support[0] * fade, self._support[1] * fade)
        if len(u) >= 8:
            self._advance(u, v, w, rows, bottom, dt, t)
            self._look(u, v, w, small, top, t)
        if self._state is None:
            return None
        if t - self._good_t > _FORGET_S:
            self._state = None
            self._votes[:] = 0
        if self._state is None or not self._believe(t):
            return None
        u0, v0, left, right, curve = (float(x) for x in self._state)
        return Lanes(u0 / scale, v0 / scale, left, right, curve / scale**2, self._support)

    def _look(self, u: F64, v: F64, w: F64, image: NDArray[np.int16], top: int, t: float) -> None:
        """Which of the two lines show paint in this picture."""
        if self._state is None:
            return
        for side, share in enumerate(_paint(u, v, w, image, top, self._state)):
            if share >= (_KEPT if self._believed else _NEW):
                self._seen_t[side] = t

    def _believe(self, t: float) -> bool:
        """Both lines were seen together, neither has been out of sight for long since, and they are a
        lane's width apart."""
        assert self._state is not None
        within = _FORGET_S if self._believed else _TOGETHER_S
        apart = _APART[0] <= self._state[3] - self._state[2] <= _APART[1]
        self._believed = bool(apart and t - min(self._seen_t) <= within)
        return self._believed

    def _advance(self, u: F64, v: F64, w: F64, rows: int, bottom: int, dt: float, t: float) -> None:
        """Vote with one picture's points, then fit the lines to those near the winners."""
        near = v > rows * _TOP + 0.25 * (bottom - rows * _TOP)  # far points bend away in curves
        if self._state is None:
            point, votes = self._search(u[near], v[near], w[near], rows, bottom)
        else:
            point = (float(self._state[0]), float(self._state[1]))
            votes = _votes(u[near], v[near], w[near], *point, bottom)
        self._votes += votes
        ends = _lane_ends(self._votes)
        if ends is None:
            return
        slopes = [(end - point[0]) / (bottom - point[1]) for end in ends]
        state = np.array([*point, *slopes, 0.0]) if self._state is None else self._state.copy()
        if np.abs(state[2:4] - slopes).max() * (bottom - point[1]) > 0.12 * _WIDTH:
            # a lane change: the winners have moved by more than noise
            state[2:4] = slopes
        fitted, support = _least_squares(u, v, w, state, firm=self._horizon is not None)
        left, right = (min(1.0, s / _MIN_SUPPORT) for s in support)
        plausible = 0.8 < fitted[3] - fitted[2] < 8 and rows * 0.3 < fitted[1] < rows * 0.75
        if max(left, right) < 0.4 or not plausible:
            return
        self._support = (max(left, self._support[0]), max(right, self._support[1]))
        follow = 1.0 if self._state is None else 1 - math.exp(-dt / _SMOOTH_S)
        self._state = state + follow * (fitted - state)
        self._good_t = t

    def _search(self, u: F64, v: F64, w: F64, rows: int, bottom: int) -> tuple[tuple[float, float], F64]:
        """The vanishing point that gives the sharpest votes, anywhere in the middle of the picture, and
        these votes."""
        us = np.arange(0.34, 0.661, 0.02) * _WIDTH
        vs = np.array([self._horizon * rows]) if self._horizon else np.arange(0.42, 0.70, 0.015) * rows
        middle = _BINS // 2
        best, best_score, best_votes = (float(us[0]), float(vs[0])), -1.0, np.zeros(_BINS)
        for v0 in vs:
            for u0 in us:
                votes = _votes(u, v, w, float(u0), float(v0), bottom)
                score = float(votes[:middle].max() + votes[middle:].max())
                if score > best_score:
                    best, best_score, best_votes = (float(u0), float(v0)), score, votes
        return best, best_votes


def _ridges(image: NDArray[np.int16], top: int, v0: float) -> tuple[F64, F64, F64]:
    """Points that are brighter than the road on both sides, a marking's width away: columns, rows, weights
    (contrast, ≤ 3)."""
    rows = np.arange(image.shape[0]) + top
    reach = np.clip(np.rint(2 + 0.10 * np.maximum(rows - v0, 0)), 2, 24).astype(np.intp)[:, None]
    columns = np.arange(_WIDTH)[None, :]
    left = np.take_along_axis(image, np.clip(columns - reach, 0, _WIDTH - 1), axis=1)
    right = np.take_along_axis(image, np.clip(columns + reach, 0, _WIDTH - 1), axis=1)
    contrast = image - np.maximum(left, right)
    # Peaks only, and sides that agree: an edge between road and verge has one bright side.
    peak = (contrast >= np.roll(contrast, 1, axis=1)) & (contrast > np.roll(contrast, -1, axis=1))
    bright = contrast[peak & (contrast > _CONTRAST)]
    least = max(_CONTRAST, _DULL * float(np.quantile(bright, 0.9))) if len(bright) else _CONTRAST
    hit = (contrast > least) & peak & (np.abs(left - right) < contrast) & (rows[:, None] > v0 + 4)
    y, x = np.nonzero(hit)
    weight = np.minimum(contrast[y, x] / _FULL_WEIGHT, 1.5)
    return x.astype(np.float64), (y + top).astype(np.float64), weight.astype(np.float64)


def _votes(u: F64, v: F64, w: F64, u0: float, v0: float, bottom: int) -> F64:
    """Votes for where lines through (u0, v0) end at the bottom row: bins over ``-0.5 … 1.5`` picture
    widths."""
    below = v > v0 + 6
    end = u0 + (u[below] - u0) * ((bottom - v0) / (v[below] - v0))
    index = np.floor((end / _WIDTH + 0.5) * (_BINS / 2)).astype(np.intp)
    index[(index < 0) | (index >= _BINS)] = _BINS  # out of range: all share a bin that is cut off
    votes = np.bincount(index, weights=w[below], minlength=_BINS + 1)[:_BINS]
    smooth: F64 = np.convolve(votes, (0.5, 1.0, 0.5), mode="same")
    return smooth


def _lane_ends(votes: F64) -> tuple[float, float] | None:
    """Bottom columns of the strong peaks nearest to the middle of the car, left and right; None if a side
    has none."""
    ends = ((np.arange(_BINS) + 0.5) * 2 / _BINS - 0.5) * _WIDTH
    off = ends - _WIDTH / 2
    peak = (votes >= np.roll(votes, 1)) & (votes >= np.roll(votes, -1)) & (votes > 4.0)
    found = []
    for side in (off < -0.05 * _WIDTH, off > 0.05 * _WIDTH):
        candidates = np.nonzero(peak & side)[0]
        if not len(candidates):
            return None
        strong = candidates[votes[candidates] >= 0.3 * votes[candidates].max()]
        found.append(float(ends[strong[np.argmin(np.abs(off[strong]))]]))
    return found[0], found[1]


def _least_squares(u: F64, v: F64, w: F64, state: F64, *, firm: bool) -> tuple[F64, tuple[float, float]]:
    """Refine (u0, v0, s_left, s_right, c) on the points near each line; also how many rows support each line.

    Linear in all five, because a small shift of v0 moves a line by ``-s`` times the shift. ``firm``: v0 is
    known.
    """
    fitted = state.copy()
    support = (0.0, 0.0)
    for tolerance in (0.14, 0.07):
        d = v - fitted[1]
        reach = 1.5 + tolerance * d
        off = [np.abs(u - (fitted[0] + s * d + fitted[4] / np.maximum(d, 1))) for s in (fitted[2], fitted[3])]
        left, right = ((o < reach) & (d > 8) for o in off)
        use = left | right
        if use.sum() < 6:
            return state, support
        support = (_rows_on(v, left, off[0] < 3 * reach), _rows_on(v, right, off[1] < 3 * reach))
        dd, ww = d[use], w[use]
        slope = np.where(left[use], fitted[2], fitted[3])
        a = np.stack([np.ones_like(dd), -slope, dd * left[use], dd * right[use], 1 / dd], axis=1)
        # A prior towards the present state: a side without points keeps its slope, a straight road keeps c
        # near 0.
        prior = np.diag([0.5, 1e9 if firm else 2.0, 400.0, 400.0, 2e-3])
        residual = u[use] - (fitted[0] + slope * dd + fitted[4] / dd)
        towards = prior @ np.array([0.0, 0.0, 0.0, 0.0, -fitted[4]])
        fitted = fitted + np.linalg.solve(
            (a * ww[:, None]).T @ a + prior, (a * ww[:, None]).T @ residual + towards
        )
    return fitted, support


def _paint(u: F64, v: F64, w: F64, image: NDArray[np.int16], top: int, state: F64) -> tuple[float, float]:
    """The share of rows below the vanishing point in which each line is painted.

    0 for a line that is too narrow near the car, or whose parallels have as many ridges.
    """
    u0, v0, slopes, curve = state[0], state[1], state[2:4], state[4]
    rows = np.arange(math.ceil(v0 + 8), top + image.shape[0])
    if len(rows) < 16:
        return 0.0, 0.0
    bend = u0 + curve / (rows - v0)
    left, right = (np.clip(np.rint(bend + s * (rows - v0)), 0, _WIDTH - 1).astype(np.intp) for s in slopes)
    road = np.array(
        [np.median(image[y - top, a : max(a, b) + 1]) for y, a, b in zip(rows, left, right, strict=True)]
    )
    below = v >= rows[0]
    u, v, w = u[below], v[below], w[below]
    x, y, d = u.astype(np.intp), v.astype(np.intp), v - v0
    level = road[y - rows[0]]
    bright = (image[y - top, x] - level > _PAINT) & (w * _FULL_WEIGHT > _PAINT)
    tolerance = 1 + 0.025 * d
    near = d > 0.35 * (rows[-1] - v0)
    shares = []
    for s in slopes:
        off = u - (u0 + s * d + curve / d)
        on = (np.abs(off) < tolerance) & bright
        painted = len(np.unique(y[on]))
        beside = [
            len(np.unique(y[np.abs(off - k * (3 + 0.13 * d)) < tolerance])) for k in (-4, -3, -2, 2, 3, 4)
        ]
        seen = painted >= _BESIDE * sum(beside) / len(beside)
        if seen and (close := on & near).any():
            seen = bool(
                np.median(_widths(image, y[close] - top, x[close], level[close]) / d[close]) >= _NARROW
            )
        shares.append(painted / len(rows) if seen else 0.0)
    return shares[0], shares[1]


def _widths(image: NDArray[np.int16], y: NDArray[np.intp], x: NDArray[np.intp], road: F64) -> F64:
    """How many pixels (n,) about each point are nearer to its brightness than to the road's."""
    columns = x[:, None] + np.arange(-20, 21)
    bright = image[y[:, None], np.clip(columns, 0, _WIDTH - 1)] > ((image[y, x] + road) / 2)[:, None]
    runs = [
        np.cumprod(bright[:, part], axis=1).sum(axis=1) for part in (slice(20, None), slice(19, None, -1))
    ]
    return np.asarray(runs[0] + runs[1], np.float64)


def _rows_on(v: F64, near: NDArray[np.bool_], around: NDArray[np.bool_]) -> float:
    """Rows with a point on a line, less where its surroundings are just as full: gravel has points
    everywhere, a line has not."""
    share = float(near.sum()) / max(1.0, float((near | around).sum()))
    return len(np.unique(v[near])) * min(1.0, max(0.0, (share - 0.55) / 0.2))


def _outside(u: F64, v: F64, boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = boxes.T[:, :, None]
    inside: NDArray[np.bool_] = (u > x1 - 2) & (u < x2 + 2) & (v > y1 - 2) & (v < y2 + 2)
    return np.asarray(~inside.any(axis=0))
