"""Which tracks are looked at in which frame, and what their votes have decided: one part of a second stage.

Pure; time is capture time. An answer may come any time after its frame, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.second_stage.config import SecondStageConfig
from edgectl.pipelines.video.second_stage.vote import TrackVotes, Vote
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Ballot"]


@dataclass(slots=True)
class _Candidate:
    votes: TrackVotes
    looked: float = -1e18
    """When it was looked at last."""
    waits: bool = False
    """For an answer."""


class Ballot:
    def __init__(
        self, config: SecondStageConfig, labels: Sequence[str], background: Collection[str] = ()
    ) -> None:
        """``labels``: of the tracks. ``background``: values that mean that there is nothing to say: a track that they
        are decided for has no attribute."""
        self._config = config
        self._classes = frozenset(
            i for i, label in enumerate(labels) if not config.classes or label in config.classes
        )
        self._background = frozenset(background)
        self._candidates: dict[int, _Candidate] = {}

    def forget(self, alive: Collection[int]) -> None:
        """Tracks that are no more."""
        for track in [track for track in self._candidates if track not in alive]:
            del self._candidates[track]

    def choose(
        self, tracks: Tracks, t: float, most: int, hidden: Callable[[int], bool] = lambda row: False
    ) -> list[int]:
        """Rows of up to ``most`` tracks to look at in the frame of ``t``: those that are undecided first, then those
        that wait longest. They wait for an answer from now on. ``hidden``: rows that are not looked at."""
        due: list[tuple[bool, float, int, int]] = []
        for row, (track, cls, seen) in enumerate(
            zip(tracks.ids.tolist(), tracks.cls.tolist(), tracks.seen.tolist(), strict=True)
        ):
            if not seen or cls not in self._classes:
                continue
            if float(tracks.xyxy[row, 3] - tracks.xyxy[row, 1]) < self._config.min_height_px or hidden(row):
                continue
            one = self._candidates.get(track)
            if one is None:
                one = self._candidates[track] = _Candidate(TrackVotes(self._config.votes, self._config.agree))
            decided = one.votes.decided is not None
            pause = self._config.again_s if decided else self._config.every_s
            if not one.waits and pause is not None and t - one.looked >= pause - 1e-9:
                due.append((decided, one.looked, track, row))
        chosen = sorted(due)[: max(0, most)]
        for _, _, track, _ in chosen:
            self._candidates[track].looked, self._candidates[track].waits = t, True
        return [row for *_, row in chosen]

    def answer(self, track: int, vote: Vote | None) -> None:
        """What came of looking at a track; None: nothing, or nothing sure enough."""
        one = self._candidates.get(track)
        if one is None:  # it is no more
            return
        one.waits = False
        if vote is not None:
            one.votes.add(vote)

    def decided(self, track: int) -> Attribute | None:
        one = self._candidates.get(track)
        found = None if one is None else one.votes.decided
        return None if found is None or found.value in self._background else found

    def attributes(self) -> Mapping[int, Attribute]:
        """Of every track that has one."""
        return {track: found for track in self._candidates if (found := self.decided(track)) is not None}
