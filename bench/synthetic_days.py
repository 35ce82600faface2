"""Days of a camera as tracks, with what is odd known: a pavement, a road with two directions, a shop door.

The seed draws everything that makes a site its own: where people walk, how wide the way is, how many come in a day and
when, how fast they are, where they stop, how much boxes tremble, how often nothing is detected. Nothing here knows the
rule that is measured with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.tracker import Tracks

__all__ = ["LABELS", "SITES", "Come", "Site", "day"]

LABELS = ("person", "vehicle")
WIDTH, HEIGHT = 1280, 720
DAY_S = 86400.0
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Come:
    """One object and its way."""

    start: float
    """Second of the day."""
    points: F64
    """(N, 2) corners of the way, relative to the frame."""
    speed: float
    """Own heights a second."""
    cls: int = 0
    stops: tuple[tuple[float, float], ...] = ()
    """Where on the way (0..1), for how many seconds."""
    odd: str = ""
    """What is odd about it; empty: nothing."""


class Site:
    """What a seed made of a kind of site."""

    def __init__(self, kind: str, seed: int) -> None:
        rng = np.random.default_rng((hash_of(kind), seed))
        self.kind, self.seed = kind, seed
        self.fps = float(rng.choice([3, 4, 5]))
        self.missing = float(rng.uniform(0, 0.4))
        self.sigma = float(rng.uniform(1, 5))
        self.per_day = int(rng.uniform(150, 500))
        self.size = float(rng.uniform(0.09, 0.16)), float(rng.uniform(0.06, 0.16))
        self.walk = float(rng.uniform(0.65, 0.85)), float(rng.uniform(0.08, 0.16))
        self.drive = float(rng.uniform(3, 5)), float(rng.uniform(0.3, 0.8))
        self.left, self.right = rng.uniform(0.5, 0.75, 2)
        self.bend, self.width = float(rng.uniform(-0.06, 0.06)), float(rng.uniform(0.03, 0.08))
        self.share = float(rng.uniform(0.3, 0.7))
        self.stopping = float(rng.uniform(0.05, 0.2))
        self.bench = rng.uniform(0.3, 0.7)
        self.door = np.array([rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.38)])
        self.peaks = rng.uniform(7, 20, 2) * 3600
        self.turners = float(rng.uniform(0.02, 0.1))

    def height(self, y: float | F64) -> float | F64:
        """Of an object whose foot is at ``y``, relative to the frame's height."""
        return self.size[0] + self.size[1] * y

    def way(
        self, rng: np.random.Generator, *, to_right: bool, beside: float = 0.0, spread: float = 1.0
    ) -> F64:
        """From edge to edge along the site's way, ``beside`` it by a share of the frame's height."""
        u = np.linspace(0, 1, 9)
        aside = beside + spread * self.width * float(np.clip(rng.normal(0, 0.5), -1, 1))
        y = self.left + (self.right - self.left) * u + self.bend * np.sin(np.pi * u) + aside
        points = np.stack([u, np.clip(y, 0.05, 0.99)], axis=1)
        return points if to_right else points[::-1]

    def when(self, rng: np.random.Generator) -> float:
        """Most come around two hours of the day, some at any."""
        if rng.random() < 0.2:
            return float(rng.uniform(0, DAY_S))
        return float(np.clip(rng.normal(rng.choice(self.peaks), 5400), 0, DAY_S - 1))


def day(site: Site, number: int, odd: int) -> tuple[Iterator[tuple[Tracks, float]], dict[int, str]]:
    """Tracks and times of a day, and what is odd: track id → which sort. ``odd``: how many are."""
    rng = np.random.default_rng((hash_of(site.kind), site.seed, number))
    usual, strange = SITES[site.kind]
    comes = [usual(site, rng) for _ in range(int(rng.normal(site.per_day, site.per_day / 10)))]
    comes += [strange[int(rng.integers(len(strange)))](site, rng) for _ in range(odd)]
    comes.sort(key=lambda come: come.start)
    first = number * 100_000
    sorts = {first + i: come.odd for i, come in enumerate(comes) if come.odd}
    return _frames(site, rng, number * DAY_S, first, comes), sorts


def _frames(
    site: Site, rng: np.random.Generator, start: float, first: int, comes: list[Come]
) -> Iterator[tuple[Tracks, float]]:
    rows: dict[int, list[tuple[int, int, F64, bool]]] = {}
    for i, come in enumerate(comes):
        for frame, box, seen in _boxes(site, rng, come):
            rows.setdefault(frame, []).append((first + i, come.cls, box, seen))
    idle = range(0, int(DAY_S * site.fps), int(30 * site.fps))
    for frame in sorted({*rows, *idle}):
        here = sorted(rows.get(frame, []), key=lambda row: row[0])
        n = len(here)
        yield (
            Tracks(
                np.array([row[0] for row in here], np.int64),
                np.array([row[2] for row in here], np.float32).reshape(n, 4),
                np.full(n, 0.9, np.float32),
                np.array([row[1] for row in here], np.int32),
                np.array([row[3] for row in here], np.bool_),
                WIDTH,
                HEIGHT,
            ),
            start + frame / site.fps,
        )


def _boxes(site: Site, rng: np.random.Generator, come: Come) -> Iterator[tuple[int, F64, bool]]:
    """Frame number in the day, box in pixels and whether it is detected, while it is on its way."""
    legs = np.diff(come.points, axis=0)
    middle = (come.points[:-1] + come.points[1:]) / 2
    pixels = np.hypot(legs[:, 0] * WIDTH, legs[:, 1] * HEIGHT)
    seconds = np.concatenate([[0], np.cumsum(pixels / (site.height(middle[:, 1]) * HEIGHT * come.speed))])
    at, where = seconds, come.points
    for share, stay in come.stops:
        t = share * seconds[-1]
        spot = np.array([np.interp(t, at, where[:, 0]), np.interp(t, at, where[:, 1])])
        k = int(np.searchsorted(at, t))
        at = np.concatenate([at[:k], [t, t + stay], at[k:] + stay])
        where = np.concatenate([where[:k], [spot, spot], where[k:]])
    wobble = float(rng.uniform(0, 0.004)), float(rng.uniform(0.1, 0.4)), float(rng.uniform(0, 6))
    for frame in range(int(np.ceil(come.start * site.fps)), int((come.start + at[-1]) * site.fps)):
        t = frame / site.fps - come.start
        x, y = float(np.interp(t, at, where[:, 0])), float(np.interp(t, at, where[:, 1]))
        y += wobble[0] * np.sin(wobble[1] * t * 6 + wobble[2])
        h = float(site.height(y)) * HEIGHT
        w = h * (0.4 if come.cls == 0 else 1.8)
        box = np.array([x * WIDTH - w / 2, y * HEIGHT - h, x * WIDTH + w / 2, y * HEIGHT])
        yield (
            frame,
            np.clip(box + rng.normal(0, site.sigma, 4), 0, [WIDTH, HEIGHT] * 2),
            bool(rng.random() >= site.missing),
        )


def hash_of(text: str) -> int:
    """The same in every run."""
    return int.from_bytes(text.encode()[:6].ljust(6), "big")


def _walk(site: Site, rng: np.random.Generator) -> float:
    return float(max(0.4, rng.normal(*site.walk)))


def _pedestrian(site: Site, rng: np.random.Generator, beside: float = 0.0) -> Come:
    stops: tuple[tuple[float, float], ...] = ()
    if rng.random() < site.stopping:
        stops = ((float(np.clip(rng.normal(site.bench, 0.04), 0.1, 0.9)), float(rng.uniform(5, 60))),)
    points = site.way(rng, to_right=bool(rng.random() < site.share), beside=beside)
    return Come(site.when(rng), points, _walk(site, rng), 0, stops)


def _pavement(site: Site, rng: np.random.Generator) -> Come:
    come = _pedestrian(site, rng)
    if rng.random() < site.turners:  # from the way to a gate at the lower edge
        points = np.concatenate([come.points[:5], [[site.bench, 0.98]]])
        return Come(come.start, points, come.speed)
    return come


def _across(site: Site, rng: np.random.Generator) -> Come:
    """Through where nobody walks: from the way to the upper edge, or back."""
    x = float(rng.uniform(0.15, 0.85))
    start = site.way(rng, to_right=True)[int(x * 8)]
    points = np.array([start, [x + rng.uniform(-0.1, 0.1), 0.32], [x + rng.uniform(-0.15, 0.15), 0.12]])
    return Come(
        site.when(rng), points if rng.random() < 0.5 else points[::-1], _walk(site, rng), odd="across"
    )


def _runner(site: Site, rng: np.random.Generator) -> Come:
    points = site.way(rng, to_right=bool(rng.random() < site.share))
    return Come(site.when(rng), points, float(rng.uniform(2.4, 3.5)), odd="runs")


def _loiterer(site: Site, rng: np.random.Generator) -> Come:
    """Stands for minutes where nobody does."""
    where = float(rng.uniform(0.1, 0.9))
    while abs(where - site.bench) < 0.2:
        where = float(rng.uniform(0.1, 0.9))
    points = site.way(rng, to_right=True)
    stay = ((where, float(rng.uniform(180, 600))),)
    return Come(site.when(rng), points, _walk(site, rng), 0, stay, "stands")


def _road(site: Site, rng: np.random.Generator) -> Come:
    if rng.random() < 0.25:
        return _pedestrian(site, rng, beside=-0.22)
    to_right = bool(rng.random() < 0.5)
    points = site.way(rng, to_right=to_right, beside=0.1 if to_right else -0.05, spread=0.25)
    stops: tuple[tuple[float, float], ...] = ()
    if rng.random() < site.stopping:  # a light near the end of the way
        stops = ((0.8, float(rng.uniform(5, 45))),)
    return Come(site.when(rng), points, float(max(1.5, rng.normal(*site.drive))), 1, stops)


def _wrong_way(site: Site, rng: np.random.Generator) -> Come:
    points = site.way(rng, to_right=True, beside=-0.05, spread=0.25)
    if rng.random() < 0.5:
        points = site.way(rng, to_right=False, beside=0.1, spread=0.25)
    return Come(site.when(rng), points, float(max(1.5, rng.normal(*site.drive))), 1, odd="wrong way")


def _on_the_road(site: Site, rng: np.random.Generator) -> Come:
    points = site.way(rng, to_right=bool(rng.random() < 0.5), beside=0.03)
    return Come(site.when(rng), points, _walk(site, rng), 0, odd="on the road")


def _breakdown(site: Site, rng: np.random.Generator) -> Come:
    come = _road(site, rng)
    while come.cls != 1:
        come = _road(site, rng)
    stay = ((float(rng.uniform(0.25, 0.6)), float(rng.uniform(150, 400))),)
    return Come(come.start, come.points, come.speed, 1, stay, "stands")


def _shop(site: Site, rng: np.random.Generator) -> Come:
    if rng.random() < 0.35:
        return _pedestrian(site, rng)
    to_right = bool(rng.random() < site.share)
    way = site.way(rng, to_right=to_right)
    near = int(np.argmin(np.abs(way[:, 0] - site.door[0])))
    points = np.concatenate([way[: max(near, 1)], site.door[None] + rng.normal(0, 0.006, (1, 2))])
    come = Come(site.when(rng), points, _walk(site, rng))
    if rng.random() < 0.5:
        come = Come(come.start, points[::-1], come.speed)
    if rng.random() < site.stopping:
        come = Come(come.start, come.points, come.speed, 0, ((0.5, float(rng.uniform(5, 40))),))
    return come


def _runs_out(site: Site, rng: np.random.Generator) -> Come:
    way = site.way(rng, to_right=bool(rng.random() < 0.5))
    near = int(np.argmin(np.abs(way[:, 0] - site.door[0])))
    points = np.concatenate([site.door[None], way[min(near + 1, 8) :]])
    if len(points) < 2:
        points = np.concatenate([site.door[None], way[-1:]])
    return Come(site.when(rng), points, float(rng.uniform(2.4, 3.5)), odd="runs")


def _around_the_house(site: Site, rng: np.random.Generator) -> Come:
    """Along the wall to where there is no door."""
    side = 0.05 if site.door[0] > 0.5 else 0.95
    points = np.array([[side, 0.9], [side, 0.4], [side + (0.2 if side < 0.5 else -0.2), 0.2]])
    return Come(site.when(rng), points, _walk(site, rng), odd="across")


SITES = {
    "pavement": (_pavement, (_across, _runner, _loiterer)),
    "road": (_road, (_wrong_way, _on_the_road, _breakdown)),
    "shop door": (_shop, (_around_the_house, _runs_out, _loiterer)),
}
"""Kind of site → what is usual there, and what is not."""
