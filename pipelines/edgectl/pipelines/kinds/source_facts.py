"""Small facts of a video stream: how often its pictures come, who keeps its packets, and what is told when an
engine hangs."""

from __future__ import annotations

from collections.abc import Mapping

from edgectl.core.errors import UsageError
from edgectl.pipelines.sinks.base import SinkOptions
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.sources.media.ring import PacketRing, PacketSource
from edgectl.pipelines.stream.events import Event

__all__ = ["engine_event", "packet_ring", "period_s"]


def period_s(info: SourceInfo, target_fps: float | None) -> float | None:
    """Seconds between two frames that are looked at, as far as the source tells."""
    rates = [fps for fps in (info.fps, target_fps) if fps]
    return 1 / min(rates) if rates else None


def engine_event(part: str, t_s: float, *, available: bool) -> Event:
    """An engine whose call does not come back, or has come back after all."""
    data = {"name": "engine", "available": available, "reason": "engine_stuck", "part": part}
    return Event("capability", t_s, "end" if available else "start", None, data)


def packet_ring(sinks: Mapping[str, SinkOptions], source: object) -> PacketRing | None:
    """Keeps the source's packets where a sink wants them. Raises :class:`UsageError` for a source that has none."""
    wanted = {name: s for name, o in sinks.items() if (s := o.packet_seconds())}
    if not wanted:
        return None
    ring = PacketRing(max(wanted.values()))
    if not isinstance(source, PacketSource) or not source.keep_packets(ring):
        raise UsageError(
            f"{min(wanted)}: this source gives no packets that could be kept",
            hint="it needs a network camera or a video file; annotate writes a video of any source",
        )
    return ring
