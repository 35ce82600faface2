"""What rules asked, one paragraph for a rule and an object."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.text import Text

if TYPE_CHECKING:
    from edgectl.pipelines.host.why import Explanation, Why
    from edgectl.pipelines.rules.predicate import Predicate

__all__ = ["why_value", "why_view"]

_MOST = 12
"""Answers that are shown; ``--json`` has all."""


def why_value(why: Why) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "stream": why.stream,
        "t_s": round(why.moment.t, 6),
        "event": None if why.moment.event is None else why.moment.event["id"],
        "explanations": [
            {
                "rule": one.rule,
                "track": one.explained.track,
                "label": one.label,
                "anchor": None if one.anchor is None else [round(v, 4) for v in one.anchor],
                "t_s": round(one.t, 6),
                "told": [" ".join(filter(None, (event.type, event.phase))) for event in one.told],
                "on": one.explained.on,
                "failed_first": None if one.explained.failed is None else one.explained.failed.what,
                "asked": [_finite(predicate._asdict()) for predicate in one.explained.asked],
            }
            for one in why.explanations
        ],
    }


def why_view(why: Why) -> RenderableType:
    if not why.explanations:
        return Text("no rule looked at such an object then")
    parts: list[RenderableType] = []
    for one in why.explanations[:_MOST]:
        parts += ["", _heading(why, one)]
        parts += [_line(why, one, predicate) for predicate in one.explained.asked]
    if len(why.explanations) > _MOST:
        rest = len(why.explanations) - _MOST
        parts += ["", f"… and {rest:,} more: --rule and --track choose, --json lists all"]
    return Group(*parts)


def _heading(why: Why, one: Explanation) -> Text:
    who = "the scene" if one.explained.track is None else f"{one.label or 'object'} {one.explained.track}"
    at = "" if one.anchor is None else " at {:.2f},{:.2f}".format(*one.anchor)
    if one.told:
        said = "told " + ", ".join(" ".join(filter(None, (e.type, e.phase))) for e in one.told)
    elif one.explained.on:
        said = "is on"
    else:
        said = "told nothing"
    return Text.assemble((f"{_time(why, one.t)}  ", "dim"), (one.rule, "bold"), f" {said}: {who}{at}")


def _line(why: Why, one: Explanation, predicate: Predicate) -> Text:
    first = predicate is one.explained.failed
    mark = ("  yes  ", "green") if predicate.holds else ("  no   ", "red")
    measured = _measured(predicate)
    since = "" if predicate.since is None else f" since {_time(why, predicate.since)}"
    return Text.assemble(
        mark,
        predicate.what,
        f": {measured}" * bool(measured),
        since,
        (": failed first" if first else "", "bold"),
    )


def _measured(predicate: Predicate) -> str:
    value, limit, unit = predicate.value, predicate.limit, predicate.unit
    if limit is not None and not math.isfinite(limit):
        limit = None
    if value is None or not math.isfinite(value):
        return "" if limit is None else f"limit {limit:g} {unit}".rstrip()
    of = "" if limit is None else f", limit {round(limit, 3):g}"
    return f"{round(value, 3):g} {unit}".rstrip() + of


def _time(why: Why, t: float) -> str:
    """The site's clock time, or the place in a file."""
    if why.wall_offset_s is None:
        minutes, seconds = divmod(t, 60)
        hours, minutes = divmod(int(minutes), 60)
        return f"{hours}:{minutes:02}:{seconds:06.3f}"
    here = datetime.fromtimestamp(t + why.wall_offset_s, ZoneInfo(why.time_zone))
    return here.strftime("%H:%M:%S.") + f"{here.microsecond // 1000:03}"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: None
        if isinstance(v, float) and not math.isfinite(v)
        else round(v, 6)
        if isinstance(v, float)
        else v
        for k, v in values.items()
    }
