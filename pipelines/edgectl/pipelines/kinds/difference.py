"""What changes when a stream gets another configuration, and what of it needs a new start of the stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgectl.core.errors import UsageError
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.sinks import SINKS

__all__ = ["ConfigDifference", "NewStartNeeded", "difference"]

_IN_PLACE = frozenset(
    {
        "budget_ms",
        "filters",
        "flow.max_age_ms",
        "flow.target_fps",
        "gate",
        "ground",
        "health",
        "privacy",
        "review",
        "rules",
        "time_zone",
        "track",
        "update_lock",
        "update_s",
        "zones",
    }
)
"""Settings, with all below them, that a running stream takes. Sinks are closed and opened anew."""


class NewStartNeeded(UsageError):
    """The stream goes on as it was: these settings hold from its next start on."""

    @property
    def code(self) -> str:
        return "config"


@dataclass(frozen=True)
class ConfigDifference:
    changed: tuple[str, ...]
    """Settings, as people read them: ``zones.yard``, ``rules.gate``, ``track.lost_s``, ``mqtt``."""
    needs_start: tuple[str, ...]
    """Those of them that need a new start of the stream."""
    sinks: frozenset[str]
    """Those that are opened, closed, or opened anew."""

    def check(self) -> None:
        """Raises :class:`NewStartNeeded`."""
        if self.needs_start:
            raise NewStartNeeded(
                f"{' and '.join(self.needs_start)} cannot change while the stream runs",
                hint="start the stream again",
            )


def difference(old: VideoConfig, new: VideoConfig) -> ConfigDifference:
    """Of two configurations of one kind."""
    changed = _changed(old, new)
    sinks = _sinks(old, new)
    kept = set(old.chosen()) & set(new.chosen())
    start = [key for key in changed if not _is_in_place(key)]
    start += [name for name in sorted(sinks & kept) if SINKS.get(name).begins_anew]
    seconds = [max((o.packet_seconds() for o in c.chosen().values()), default=0.0) for c in (old, new)]
    if seconds[1] and old.privacy.hides != new.privacy.hides:
        start.append("privacy")
    if seconds[1] > seconds[0]:
        start += [name for name, o in new.chosen().items() if o.packet_seconds() > seconds[0]]
    return ConfigDifference((*changed, *sorted(sinks)), tuple(dict.fromkeys(start)), frozenset(sinks))


def _changed(old: VideoConfig, new: VideoConfig) -> list[str]:
    """Settings, two levels deep; rules by their ids. Without sinks."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = []
    for name in type(new).model_fields:
        was, now = before.get(name), after.get(name)
        if name == "rules":
            was, now = ({rule["id"]: rule for rule in rules or ()} for rules in (was, now))
        if isinstance(was, dict) and isinstance(now, dict):
            inner = [*was, *(key for key in now if key not in was)]
            found += [f"{name}.{key}" for key in inner if was.get(key) != now.get(key)]
        elif was != now:
            found.append(name)
    return found


def _is_in_place(key: str) -> bool:
    return key in _IN_PLACE or key.partition(".")[0] in _IN_PLACE


def _sinks(old: VideoConfig, new: VideoConfig) -> set[str]:
    """Sinks whose options are others, and those that name zones and lines, where these are others."""
    before, after = old.chosen(), new.chosen()
    found = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if _names(old) != _names(new):
        found |= {name for name in {*before, *after} if SINKS.get(name).names_zones}
    return found


def _names(config: VideoConfig) -> tuple[Any, ...]:
    return tuple(config.zones), tuple((type(rule).__name__, rule.id) for rule in config.rules)
