"""The labels a stream speaks of: the model's own, filtered and merged (``vehicle: [car, truck, bus]``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.duplicates import without_doubles

__all__ = ["LabelConfig", "LabelMap"]


class LabelConfig(Config):
    classes: tuple[str, ...] = ()
    """Labels to look for; empty: all of the model's."""
    merge: dict[str, tuple[str, ...]] = {}
    """New label → labels it stands for (``vehicle: [car, truck, bus]``)."""


class LabelMap:
    """Maps detections from the model's classes to the stream's. ``labels[i]`` names class ``i``
    afterwards."""

    def __init__(self, config: LabelConfig, labels: Sequence[str]) -> None:
        """Raises :class:`UsageError` if the configuration names a label that the model does not have."""
        to = {old: new for new, olds in config.merge.items() for old in olds}
        for where, names in (("classes", set(config.classes) - set(config.merge)), ("merge", set(to))):
            if unknown := names - set(labels):
                label = min(unknown)
                raise UsageError(
                    f"{where} names {label!r}, which the model does not know",
                    hint=did_you_mean(label, labels, there_are="it knows "),
                    key=(where, config.classes.index(label) if where == "classes" else to[label]),
                )
        renamed = [to.get(label, label) for label in labels]
        wanted = set(config.classes) or set(renamed)
        self.labels = tuple(dict.fromkeys(r for r in renamed if r in wanted))
        self._to = np.array([self.labels.index(r) if r in wanted else -1 for r in renamed], np.int32)
        self._identity = self.labels == tuple(labels)
        self._merged = bool(to)

    def __call__(self, found: Detections) -> Detections:
        if self._identity or not len(found):
            return found
        cls = self._to[found.cls]
        keep = np.nonzero(cls >= 0)[0]
        found = dataclasses.replace(found.select(keep), cls=cls[keep])
        return without_doubles(found) if self._merged and len(found) > 1 else found
