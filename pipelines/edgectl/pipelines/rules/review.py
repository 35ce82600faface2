"""Many events, one notification: what happens at the same time becomes one ``review``.

It begins with the first event of a rule that is worth one, grows while more happens (``update``: another object,
another zone, or it became more severe), and ends when nothing that it began with goes on and nothing happened for
``quiet_s``. Steps last: it sees what the other rules made of the same frame.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from edgectl.core.schema import Config
from edgectl.pipelines.rules.observation import Observation, Seconds
from edgectl.pipelines.stream.events import Event

__all__ = ["ReviewConfig", "ReviewRule"]

Severity = Literal["alert", "detection"]

_BEGIN, _END = ("start", "enter", "preliminary", "imminent"), ("end", "leave", "clear")
_MOST = 64
"""Objects, labels and zones that a review names; more are counted."""


class ReviewConfig(Config):
    """Which rules and zones are worth a notification, by id."""

    alert: tuple[str, ...] = ()
    """Those that somebody must look at now."""
    detection: tuple[str, ...] = ()
    """Those that somebody may look at later."""
    quiet_s: Seconds = 8.0
    """So long nothing happens before it ends."""
    longest_s: float = Field(default=600.0, gt=0, le=86400)
    """A longer one ends; what goes on begins another."""
    pre_s: Seconds = 5.0
    """What belongs to it before its first event: for clips."""
    post_s: Seconds = 5.0
    """And after its last."""

    @model_validator(mode="after")
    def _one_severity_each(self) -> ReviewConfig:
        if both := set(self.alert) & set(self.detection):
            raise ValueError(f"{min(both)!r} is both an alert and a detection")
        return self

    def names(self) -> tuple[str, ...]:
        return (*self.alert, *self.detection)


@dataclass(slots=True)
class _Review:
    number: int
    start: float
    last: float
    severity: Severity
    rules: list[str] = field(default_factory=list)
    zones: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)
    objects: int = 0
    events: int = 0


class ReviewRule:
    """Events ``review`` with phase ``new``, ``update`` and ``end``: ``severity``, ``rules``, ``zones``, ``labels``,
    ``tracks``, ``objects``, ``events``, ``start_s``, ``end_s``, ``clip_s`` (from and to)."""

    def __init__(self, config: ReviewConfig) -> None:
        self._c = config
        self._review: _Review | None = None
        self._number = 0
        self._going_on: list[str] = []
        """Rule and track of what has begun and not ended yet."""

    def step(self, now: Observation) -> list[Event]:
        t = now.t
        told: list[Event] = []
        review = self._review
        if review is not None and t - review.start > self._c.longest_s:
            told.append(self._ended(review))
            review = None
        before = None if review is None else self._shape(review)
        for event in now.events:
            severity = self._severity(event)
            if severity is None:
                continue
            self._follow(event)
            if review is None:
                if event.phase in _END:  # the rest of a review that is over
                    continue
                self._number += 1
                review = _Review(self._number, t, t, severity)
            self._add(review, event, severity, t)
        if review is not None:
            if self._going_on:
                review.last = t
            if before is None:
                told.append(self._event("new", review, t))
            elif self._shape(review) != before:
                told.append(self._event("update", review, t))
            elif t - review.last >= self._c.quiet_s - 1e-9:
                told.append(self._ended(review))
                review = None
        self._review = review
        return told

    def snapshot(self) -> dict[str, Any]:
        return {
            "review": None if self._review is None else asdict(self._review),
            "number": self._number,
            "going_on": list(self._going_on),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._review = None if state["review"] is None else _Review(**state["review"])
        self._number = state["number"]
        self._going_on = list(state["going_on"])

    def lasting(self) -> dict[str, Any]:
        return {"number": self._number}

    def recall(self, state: dict[str, Any]) -> None:
        self._number = int(state["number"])

    def _severity(self, event: Event) -> Severity | None:
        if event.rule is None or event.type == "capability":
            return None
        return (
            "alert"
            if event.rule in self._c.alert
            else "detection"
            if event.rule in self._c.detection
            else None
        )

    def _follow(self, event: Event) -> None:
        key = f"{event.rule}/{event.data.get('track')}"
        if event.phase in _BEGIN and key not in self._going_on:
            self._going_on.append(key)
        elif event.phase in _END and key in self._going_on:
            self._going_on.remove(key)

    def _add(self, review: _Review, event: Event, severity: Severity, t: float) -> None:
        review.last, review.events = t, review.events + 1
        if severity == "alert":
            review.severity = "alert"
        track, data = event.data.get("track"), event.data
        if track is not None and track not in review.tracks:
            review.objects += 1
            _note(review.tracks, track)
        _note(review.labels, data.get("label"))
        _note(review.zones, data.get("zone"))
        _note(review.rules, event.rule)

    def _shape(self, review: _Review) -> tuple[Any, ...]:
        """What an update is worth: one more event of what is known is not."""
        return review.severity, review.objects, tuple(review.labels), tuple(review.zones), tuple(review.rules)

    def _ended(self, review: _Review) -> Event:
        return self._event("end", review, review.last)

    def _event(self, phase: str, review: _Review, t: float) -> Event:
        end = review.last if phase == "end" else None
        data = {
            "review": review.number,
            "severity": review.severity,
            "rules": list(review.rules),
            "zones": list(review.zones),
            "labels": list(review.labels),
            "tracks": list(review.tracks),
            "objects": review.objects,
            "events": review.events,
            "start_s": round(review.start, 6),
            "end_s": None if end is None else round(end, 6),
            "clip_s": [
                round(max(0.0, review.start - self._c.pre_s), 6),
                None if end is None else round(end + self._c.post_s, 6),
            ],
        }
        return Event("review", t, phase, None, data)


def _note(known: list[Any], value: Any) -> None:
    if value is not None and value not in known and len(known) < _MOST:
        known.append(value)
