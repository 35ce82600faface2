"""Which tracker a stream has: by its source, its model and its configuration."""

from __future__ import annotations

from edgectl.core.errors import UsageError
from edgectl.pipelines.kinds.analysis import ObjectTracker
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.kinds.source_facts import period_s
from edgectl.pipelines.kinds.stills import StillObjects
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.video.foot import FootTracker
from edgectl.pipelines.video.tracker import Tracker

__all__ = ["make_tracker"]


def make_tracker(config: VideoConfig, info: SourceInfo, *, finds_masks: bool) -> ObjectTracker:
    """Raises :class:`UsageError` where feet are to be those of masks, and the model finds none."""
    tracker: ObjectTracker
    if info.kind == "images":
        tracker = StillObjects(config.track)
    else:
        tracker = Tracker(config.track, period_s=period_s(info, config.flow.target_fps))
    if config.foot == "box":
        return tracker
    if not finds_masks:
        raise UsageError(
            "foot: mask, and the model finds no masks", hint="leave foot out, or take another model"
        )
    return FootTracker(tracker)
