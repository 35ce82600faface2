"""Whether something is wrong with the view of a camera: decided from what was measured, with hysteresis in seconds. Pure.

Dark and blinded come first: what a picture without light says of its sharpness means nothing. A lorry that fills the
picture for some seconds, headlights and rain are over before a limit has been passed for long enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.video.health.measure import ViewMeasure

__all__ = ["TROUBLES", "HealthConfig", "Trouble", "ViewJudge", "ViewTrouble"]

Trouble = Literal["dark", "blinded", "noisy", "defocused", "covered", "moved"]


class HealthConfig(Config):
    on: bool = True
    """Tell when the camera is dark, blinded, noisy, defocused, covered or moved."""
    after_s: float = Field(default=10.0, ge=1, le=3600)
    """How long something must be wrong with the view before it is told."""
    clear_s: float = Field(default=5.0, ge=0, le=3600)
    """How long it must be right again."""
    accept_s: float = Field(default=1800.0, ge=60, le=86400)
    """A view that has moved, or is otherwise unlike the usual one, for so long is the usual one from then on."""


@dataclass(frozen=True, slots=True)
class ViewTrouble:
    """Something begins to be wrong, or no longer is."""

    what: Trouble
    on: bool
    why: dict[str, Any]
    """What was measured, and the limit: ``what``, ``value``, ``limit``, ``unit``."""
    since_s: float | None = None
    """When what begins was seen first."""
    accepted: bool = False
    """It is over because it has become usual."""


@dataclass(frozen=True, slots=True)
class _Test:
    what: str
    unit: str
    value: Callable[[ViewMeasure], float | None]
    """None: it cannot be told."""
    on: float
    """Limit at which it begins."""
    off: float
    """And at which it ends."""

    def passed(self, m: ViewMeasure, *, was_on: bool) -> bool | None:
        value = self.value(m)
        if value is None:
            return None
        limit = self.off if was_on else self.on
        return value > limit if self.off < self.on else value < limit


def _defocus(m: ViewMeasure) -> float | None:
    """The detail that is left, where light and dark still lie where they usually do."""
    if m.sharp is None or _is_veiled(m):
        return None
    return m.sharp


def _cover(m: ViewMeasure) -> float | None:
    """Edges that are left, where light and dark lie elsewhere, or are one."""
    if m.edges is None:
        return None
    return m.edges if _is_veiled(m) else 1.0


def _is_veiled(m: ViewMeasure) -> bool:
    """Whether light and dark are not those of the usual view."""
    return m.alike is not None and m.contrast is not None and (m.alike < 0.6 or m.contrast < 0.3)


def _move(m: ViewMeasure) -> float | None:
    """How unlike the usual view the edges are although there are as many, 0..1."""
    if m.outline is None or m.edges is None or m.alike is None or m.usual_bright is None:
        return None
    if m.alike > _SAME:
        return 0.0
    if abs(m.bright - m.usual_bright) > _OTHER_LIGHT:
        return None  # lamps, or infrared instead of colours: other edges of the same view
    if m.shift >= 0.012 and m.shifted_outline >= 0.5 and m.shifted_outline >= m.outline + 0.15:
        return 1.0
    return 1 - max(m.outline, 0.0) if m.edges >= 0.5 else 0.0


_SAME = 0.95
"""Light and dark lie where they usually do, so nothing has moved."""
_OTHER_LIGHT = 60.0
"""Grey levels."""

TROUBLES: dict[Trouble, _Test] = {
    "dark": _Test("brightest part", "grey levels", lambda m: m.top, 40.0, 55.0),
    "blinded": _Test("white share of the picture", "", lambda m: m.white, 0.5, 0.35),
    "noisy": _Test("noise", "grey levels", lambda m: m.noise, 14.0, 9.0),
    "covered": _Test("edges left", "of usual", _cover, 0.3, 0.5),
    "defocused": _Test("detail left", "of usual", _defocus, 0.45, 0.65),
    "moved": _Test("unlike the usual view", "", _move, 0.47, 0.35),
}
"""In the order in which they are asked: the first that holds leaves those behind it untold."""

_LIGHT = ("dark", "blinded")


@dataclass
class _State:
    on: bool = False
    since_s: float | None = None
    """Since when the opposite is seen."""
    began_s: float = 0.0
    last: dict[str, Any] = field(default_factory=dict)


class ViewJudge:
    """One per stream. Times are seconds of capture time, in order."""

    def __init__(self, config: HealthConfig) -> None:
        self._c = config
        self._states: dict[Trouble, _State] = {name: _State() for name in TROUBLES}

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong now."""
        return tuple(name for name, state in self._states.items() if state.on)

    def adopt(self, config: HealthConfig) -> None:
        """Other settings; what is wrong stays so."""
        self._c = config

    def stop(self) -> list[ViewTrouble]:
        """Nobody wants to know any more: what is wrong is told to be over."""
        found = [ViewTrouble(name, False, {}) for name in self.troubles]
        self._states = {name: _State() for name in TROUBLES}
        return found

    def step(self, m: ViewMeasure, t_s: float) -> tuple[list[ViewTrouble], bool]:
        """What begins or ends, and whether the picture may be learned from: nothing is wrong with it, nor seems to
        be."""
        found: list[ViewTrouble] = []
        suspect: Trouble | None = None
        for name, test in TROUBLES.items():
            state = self._states[name]
            passed = test.passed(m, was_on=state.on)
            if suspect is not None and not state.on:
                state.since_s = None
                continue
            if suspect in _LIGHT and name not in _LIGHT:
                state.since_s = None  # what is on stays: nothing is known of it
                continue
            if passed:
                suspect = name
            if passed is None or passed == state.on:
                state.since_s = None
                continue
            state.since_s = t_s if state.since_s is None else state.since_s
            if t_s - state.since_s >= (self._c.clear_s if state.on else self._c.after_s):
                since_s = state.since_s
                state.on, state.since_s, state.began_s = not state.on, None, t_s
                found.append(ViewTrouble(name, state.on, self._why(test, m, on=state.on), since_s))
        found += self._accept(t_s)
        return found, suspect is None and not self.troubles

    def _accept(self, t_s: float) -> list[ViewTrouble]:
        """What is compared with the usual view ends once it has become that."""
        found = []
        for name in ("covered", "defocused", "moved"):
            state = self._states[name]
            if state.on and t_s - state.began_s >= self._c.accept_s:
                self._states[name] = _State()
                found.append(ViewTrouble(name, False, {}, accepted=True))
        return found

    def _why(self, test: _Test, m: ViewMeasure, *, on: bool) -> dict[str, Any]:
        value = test.value(m)
        assert value is not None
        limit = test.on if on else test.off
        return {"what": test.what, "value": round(value, 3), "limit": limit, "unit": test.unit}
