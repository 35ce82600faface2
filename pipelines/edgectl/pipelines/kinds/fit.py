"""Whether a configuration speaks of what the engines of its parts know. Opens no engine: their tasks say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.task import TaskSpec
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig

__all__ = ["check_fit", "check_parts"]


def check_parts(kind: str, config: PipelineConfig, parts: Collection[str]) -> None:
    """Raises :class:`UsageError` for a part that such a pipeline does not have."""
    known = [*KINDS.get(kind).parts, *config.further_parts()]
    if unknown := sorted(set(parts) - set(known)):
        raise UsageError(
            f"a {kind} pipeline with this configuration has no part {unknown[0]!r}",
            hint=did_you_mean(unknown[0], known, there_are="it has "),
        )


def check_fit(kind: str, config: PipelineConfig, tasks: Mapping[str, TaskSpec]) -> None:
    """``tasks``: part → what its engine does, of those that are known. Raises :class:`UsageError` for a part that there is
    not, and for a rule, a filter or a mask that names what an engine does not know."""
    check_parts(kind, config, tasks)
    if not isinstance(config, VideoConfig):
        return
    # what looks at pictures loads much, and most who ask have no video
    from edgectl.pipelines.rules import RuleSet
    from edgectl.pipelines.video.labels import LabelMap
    from edgectl.pipelines.video.object_filter import ObjectFilters
    from edgectl.pipelines.video.privacy import Privacy
    from edgectl.pipelines.video.second_stage.answers import answer_values

    stages = config.attribute_parts()
    values = answer_values({part: task for part, task in tasks.items() if part in stages})
    detector = tasks.get(KINDS.get(kind).parts[0])
    if detector is None:
        return
    labels = LabelMap(config, detector.labels).labels
    ObjectFilters(config.filters, labels)
    zones = {name: zone.polygon for name, zone in config.zones.items()}
    Privacy(config.privacy, detector.labels, config, labels, zones)
    # of a part that is not known here: any text
    attributes = {part: values.get(part, ()) for part in stages}
    RuleSet(config, labels, getattr(config, "camera", None), attributes)
