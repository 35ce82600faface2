"""Pictures of a fixed camera whose place, weather and traffic the seed draws: for the bench and the tests of camera health.
Limits of the judge were changed after false alarms on a few of its seeds; the bench's own seeds were never used for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FAULTS", "View"]

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

WIDTH, HEIGHT, MARGIN = 480, 270, 120
FAULTS = ("dark", "blinded", "noisy", "defocused", "covered", "moved")


@dataclass
class _Passing:
    """Something that goes through the picture, in front of the place."""

    begin_s: float
    end_s: float
    share: float
    """Of the picture's width."""
    picture: F32


class View:
    """One camera. :meth:`frame` gives its picture at a time; with ``fault`` as it is with it."""

    def __init__(self, seed: int, seconds: float) -> None:
        self._rng = np.random.default_rng((seed, 11))
        self.seconds = seconds
        self._place = self._draw_place()
        self._noise = float(self._rng.uniform(0.5, 5.0))
        self._night_s = float(self._rng.uniform(0.3, 0.8)) * seconds
        self._night = float(self._rng.uniform(0.25, 1.0))
        """How much of the light is left at night."""
        self._ramp_s = float(self._rng.uniform(120, 600))
        self._clouds = [
            (float(t), float(g))
            for t, g in zip(
                np.cumsum(self._rng.exponential(60, 40)), self._rng.uniform(0.75, 1.2, 40), strict=True
            )
        ]
        self._rain = self._spans(2, 60, 200)
        self._headlights = self._spans(12, 1.0, 5.0)
        self._lorries = [self._passing(*span, share=(0.5, 1.1)) for span in self._spans(8, 3.0, 8.0)]
        self._people = [self._passing(*span, share=(0.03, 0.12)) for span in self._spans(30, 5.0, 30.0)]
        self._cover = self._draw_cover()
        self._move = self._draw_move()
        self._blur = float(self._rng.uniform(2.0, 7.0))
        self._grain = float(self._rng.uniform(22, 60))

    def frame(self, t: float, fault: str | None = None) -> U8:
        """(270, 480) uint8, full range."""
        canvas = self._place
        if fault == "moved":
            canvas = cv2.warpAffine(canvas, self._move, canvas.shape[::-1], borderMode=cv2.BORDER_REFLECT)
        picture = canvas[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH] * self._light(t)
        for one in (*self._people, *self._lorries):
            if one.begin_s <= t <= one.end_s:
                self._put(picture, one, t)
        if any(a <= t <= b for a, b in self._headlights):
            self._shine(picture, t)
        if any(a <= t <= b for a, b in self._rain):
            self._let_it_rain(picture)
        if fault == "defocused":
            picture = cv2.GaussianBlur(picture, (0, 0), self._blur)
        elif fault == "covered":
            picture = self._cover + 0.02 * picture
        elif fault == "dark":
            picture = picture * 0.03
        elif fault == "blinded":
            picture = picture * 2 + 190
        grain = self._noise * (2.0 if self._light(t) < 0.5 else 1.0) + (
            self._grain if fault == "noisy" else 0
        )
        picture = picture + self._rng.normal(0, grain, picture.shape).astype(np.float32)
        return np.clip(picture, 0, 255).astype(np.uint8)

    def pairs(
        self, until_s: float, fault: str | None = None, *, after_s: float = 0.0
    ) -> Iterator[tuple[float, U8, U8]]:
        """Twice a second: time, the frame before it, its frame."""
        for i in range(int(after_s * 2), int(until_s * 2)):
            t = i / 2
            yield t, self.frame(t - 0.04, fault), self.frame(t, fault)

    def _spans(self, n: int, least_s: float, most_s: float) -> list[tuple[float, float]]:
        begins = self._rng.uniform(0, self.seconds, n)
        return [(float(b), float(b + self._rng.uniform(least_s, most_s))) for b in begins]

    def _light(self, t: float) -> float:
        cloud = next((g for at, g in reversed(self._clouds) if at <= t), 1.0)
        dusk = np.clip((t - self._night_s) / self._ramp_s, 0, 1)
        return float(cloud * (1 - dusk * (1 - self._night)))

    def _draw_place(self) -> F32:
        rng = self._rng
        height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
        ramp = np.linspace(rng.uniform(90, 190), rng.uniform(50, 150), height, dtype=np.float32)
        place = np.repeat(ramp[:, None], width, axis=1)
        for _ in range(int(rng.integers(25, 70))):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            w, h = (int(v) for v in rng.integers(8, 160, 2))
            colour = float(rng.uniform(20, 225))
            shape = rng.integers(0, 3)
            if shape == 0:
                cv2.rectangle(place, (x, y), (x + w, y + h), colour, -1)
            elif shape == 1:
                cv2.line(place, (x, y), (x + w, y + h), colour, int(rng.integers(1, 5)), cv2.LINE_AA)
            else:
                cv2.circle(place, (x, y), w // 3 + 2, colour, -1, cv2.LINE_AA)
        rough = cv2.GaussianBlur(rng.normal(0, 1, place.shape).astype(np.float32), (0, 0), 1.2)
        return np.asarray(place + rough * rng.uniform(3, 25), np.float32)

    def _passing(self, begin_s: float, end_s: float, *, share: tuple[float, float]) -> _Passing:
        rng = self._rng
        size = float(rng.uniform(*share))
        w, h = max(4, int(size * WIDTH)), max(8, int(min(1.1, size * rng.uniform(0.8, 2.5)) * HEIGHT))
        body = np.full((h, w), rng.uniform(20, 230), np.float32)
        for _ in range(int(rng.integers(2, 9))):
            x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
            cv2.rectangle(body, (x, y), (x + w // 3, y + h // 4), float(rng.uniform(10, 240)), -1)
        return _Passing(begin_s, end_s, size, body)

    def _put(self, picture: F32, one: _Passing, t: float) -> None:
        h, w = one.picture.shape
        way = (t - one.begin_s) / (one.end_s - one.begin_s)
        left, top = int(-w + way * (WIDTH + w)), max(0, HEIGHT - h - int(0.05 * HEIGHT))
        x0, x1 = max(0, left), min(WIDTH, left + w)
        y1 = min(HEIGHT, top + h)
        if x1 > x0:
            picture[top:y1, x0:x1] = one.picture[: y1 - top, x0 - left : x1 - left] * self._light(t)

    def _shine(self, picture: F32, t: float) -> None:
        x = int((np.sin(t) * 0.4 + 0.5) * WIDTH)
        glow = np.zeros_like(picture)
        cv2.circle(glow, (x, int(0.6 * HEIGHT)), int(0.2 * HEIGHT), 255.0, -1)
        picture += cv2.GaussianBlur(glow, (0, 0), 25)

    def _let_it_rain(self, picture: F32) -> None:
        for _ in range(150):
            x, y = int(self._rng.integers(0, WIDTH)), int(self._rng.integers(0, HEIGHT))
            cv2.line(picture, (x, y), (x - 2, y + int(self._rng.integers(6, 20))), 210.0, 1)

    def _draw_cover(self) -> F32:
        base = np.full((HEIGHT, WIDTH), self._rng.uniform(60, 200), np.float32)
        ramp = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :] * self._rng.uniform(0, 25)
        return np.asarray(base + ramp, np.float32)

    def _draw_move(self) -> NDArray[np.float64]:
        rng = self._rng
        centre = (WIDTH / 2 + MARGIN, HEIGHT / 2 + MARGIN)
        matrix = np.asarray(
            cv2.getRotationMatrix2D(centre, float(rng.uniform(-8, 8)), float(rng.uniform(0.95, 1.15)))
        )
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.2) * WIDTH
        matrix[:, 2] += [far * np.cos(angle), far * np.sin(angle)]
        return matrix
