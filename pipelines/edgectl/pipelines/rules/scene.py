"""The states of a scene as classifiers of the whole picture see them: `gate` is `open`."""

from __future__ import annotations

from typing import Any

from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.stream.events import Event

__all__ = ["SceneRule"]


class SceneRule:
    """Events ``scene``: one for each state that is decided, when it is another one than before. What is undecided is
    no state: the one before stays. The votes that decide are counted before the rules."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, float]] = {}
        """Part → its state, and since when."""

    def step(self, now: Observation) -> list[Event]:
        events = []
        for part, found in sorted(now.tracks.scene.items()):
            before = self._states.get(part)
            if before is not None and before[0] == found.value:
                continue
            self._states[part] = (found.value, now.t)
            data: dict[str, Any] = {"part": part, "value": found.value, "score": round(found.score, 3)}
            if before is not None:
                data |= {"was": before[0], "seconds": round(now.t - before[1], 3)}
            events.append(Event("scene", now.t, "start" if before is None else "update", None, data))
        return events

    def snapshot(self) -> dict[str, Any]:
        return {part: list(state) for part, state in self._states.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._states = {part: (str(value), float(since)) for part, (value, since) in state.items()}
