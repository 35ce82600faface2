"""Which streams share a worker, whose fault its end is, and when it has to be replaced. Nothing here does IO."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgectl.agent.config import StreamConfig

__all__ = ["WorkerGroup", "culprits", "must_replace", "needs_own_worker", "worker_groups"]

_SHARING_KINDS = frozenset({"surveillance", "driving"})
"""Kinds whose streams may share a process. Those with a microphone do not: PortAudio keeps its state per process,
and opening one device disturbs the others. Nor do kinds of other packages, of which nothing is known."""

_MAX_LEFT_BEHIND = 3
"""Streams that did not stop and stay behind in a process: each holds its threads and what its source had decoded."""

_ISOLATE_WITHIN_S = 3600.0


@dataclass(frozen=True)
class WorkerGroup:
    """Streams that run in one process, in the order of the configuration."""

    streams: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the worker, for logs and telemetry: ``gate``, or ``gate+2`` for ``gate`` and two more."""
        more = len(self.streams) - 1
        return f"{self.streams[0]}+{more}" if more else self.streams[0]


def worker_groups(pipelines: Mapping[str, StreamConfig]) -> list[WorkerGroup]:
    """Streams of a kind that use the same slots for the same parts share a worker, unless ``isolate`` is set."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for stream, config in pipelines.items():
        alone = config.isolate or config.kind not in _SHARING_KINDS
        key = (stream,) if alone else (config.kind, *sorted(config.slots.items()))
        groups.setdefault(key, []).append(stream)
    return [WorkerGroup(tuple(streams)) for streams in groups.values()]


def culprits(trying: Collection[str]) -> frozenset[str] | None:
    """Streams to blame for a crash of the worker that they share; None: nobody can tell.

    ``trying``: streams that were being started, or were opening another engine.
    """
    return frozenset(trying) or None


def must_replace(stuck: Sequence[str], left_behind: int) -> str | None:
    """Why a worker has to be replaced once a stream has left it with something stuck. ``left_behind``: streams that
    it could not stop, this one counted."""
    if not stuck:
        return None
    needed = [what for what in stuck if what != "source" and not what.startswith("sink:")]
    if needed:
        # by the neighbours, too
        return f"a call of its {needed[0]} does not come back"
    if left_behind >= _MAX_LEFT_BEHIND:
        return f"{left_behind} streams could not be stopped"
    return None


def needs_own_worker(crashes_s: Sequence[float], now_s: float, most: int) -> bool:
    """Whether a stream has crashed the worker that it shares too often: ``most`` times within an hour."""
    return sum(now_s - at_s < _ISOLATE_WITHIN_S for at_s in crashes_s) >= most
