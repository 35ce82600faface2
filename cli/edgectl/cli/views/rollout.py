"""What a rollout would do, and where it stands, as people read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._printer import table
from edgectl.core.durations import in_words

__all__ = ["preview_view", "status_view"]

_MOST_UNFIT = 5
_MOST_DEVICES = 20
_QUIET = ("committed", "waiting", "restored")
"""Outcomes that nobody has to look at."""
_GOING_ON = ("admitted", "retrying", "returning")


def preview_view(request: Mapping[str, Any], found: Mapping[str, Any]) -> RenderableType:
    """``found``: the fields of :class:`edgectl.fleet.rollouts.preview.Preview`."""
    lines: list[RenderableType] = [Text(_headline(request, found), "bold"), ""]
    if found["devices"]:
        lines += [_waves(found["waves"]), "", *_sums(request, found), "", *_gates(found)]
    if found["unfit"]:
        lines += ["", *_unfit(found["unfit"])]
    if found["absent"]:
        lines.append(f"never seen: {', '.join(found['absent'])}")
    lines += [Text(f"! {w}", "yellow") for w in found["warnings"]]
    return Group(*lines)


def _headline(request: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    text = f"{request['release']} to slot {request['slot']}: {found['devices']} devices, {found['online']} online"
    return text + (f", {found['current']} run it already" if found["current"] else "")


def _waves(waves: list[dict[str, Any]]) -> RenderableType:
    strata = any(w["strata"] for w in waves)
    columns = ["wave", ">devices", ">online", ">at once", ">receive", ">at least", ""]
    t = table(*columns, *(["strata"] if strata else []))
    for w in waves:
        name = "canary" if w["number"] == 0 else str(w["number"])
        spread = ", ".join(f"{s} {n}" for s, n in w["strata"].items())
        t.add_row(
            name,
            str(w["devices"]),
            str(w["online"]),
            str(w["at_once"]),
            _bytes(w["bytes"]),
            in_words(w["least_s"]),
            "approval first" if w["approval"] else "",
            *([spread] if strata else []),
        )
    return t


def _sums(request: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"sent once {_bytes(found['upload_bytes'])}, received {_bytes(found['received_bytes'])} at most",
        f"busiest wave: {_bytes(found['peak_bytes'])} at once, {_bytes(found['peak_site_bytes'])} of it into one site",
        f"takes {in_words(found['least_s'])} at least (approvals, windows, absences aside)",
    ]
    if (start := request.get("start_s")) is not None:
        lines.append(f"begins at {datetime.fromtimestamp(start, timezone.utc):%Y-%m-%d %H:%M} UTC")
    return lines


def _gates(found: Mapping[str, Any]) -> list[str]:
    return [f"- {line}" for line in found["gates"]]


def _unfit(unfit: Mapping[str, str]) -> list[str]:
    lines = [f"cannot run it: {name}: {why}" for name, why in list(unfit.items())[:_MOST_UNFIT]]
    more = len(unfit) - _MOST_UNFIT
    return [*lines, f"and {more} more"] if more > 0 else lines


def _bytes(n: int) -> str:
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def status_view(r: Mapping[str, Any], *, every: bool = False) -> RenderableType:
    """One rollout: ``r`` as the API gives it. ``every``: each of its devices, else those that are at work or in
    trouble, a screen of them."""
    lines: list[RenderableType] = [
        Text.assemble((f"{r['id']}  {r['release']} to slot {r['slot']}: ", "bold"), _state(r))
    ]
    lines += [Text(why) for why in (r.get("reason"), r.get("note")) if why]
    if not r["members"]:
        return Group(*lines)
    lines += ["", _progress(r)]
    found = sorted(r["members"].items(), key=lambda i: (i[1]["outcome"] in _GOING_ON, i[1]["wave"], i[0]))
    shown = [(n, m) for n, m in found if every or m["outcome"] not in _QUIET]
    cut = shown if every else shown[:_MOST_DEVICES]
    if cut:
        lines += ["", _devices(cut, bool(r.get("strata")))]
    if more := len(found) - len(cut):
        lines.append(f"and {more} more devices: --all")
    return Group(*lines)


def _state(r: Mapping[str, Any]) -> Text:
    colour = {"done": "green", "running": "cyan", "paused": "yellow"}.get(r["state"], "red")
    last = max(1, len(r.get("waves", ())))
    where = "canary" if r["wave"] == 0 else f"wave {r['wave']} of {last}"
    return Text(f"{r['state']}, {where}" if r["state"] in ("running", "paused") else r["state"], colour)


def _progress(r: Mapping[str, Any]) -> RenderableType:
    """A line a wave."""
    waves: dict[int, Counter[str]] = {}
    for m in r["members"].values():
        waves.setdefault(m["wave"], Counter())[m["outcome"]] += 1
    t = table("wave", ">devices", ">committed", "", "others", "terms")
    for number, found in sorted(waves.items()):
        n, done = found.total(), found.pop("committed", 0)
        others = ", ".join(f"{k} {outcome}" for outcome, k in sorted(found.items()))
        bar = "█" * round(10 * done / n) + "░" * (10 - round(10 * done / n))
        t.add_row("canary" if number == 0 else str(number), str(n), str(done), bar, others, _terms(r, number))
    return t


def _terms(r: Mapping[str, Any], number: int) -> str:
    waves = r.get("waves", ())
    terms = (
        {"soak_s": r.get("soak_s", 0.0), "soak_inferences": r.get("soak_inferences", 0)}
        if number == 0
        else (waves[number - 1] if number <= len(waves) else {})
    )
    found = []
    if terms.get("approval"):
        found.append("approved" if r.get("approved", 0) >= number else "needs approval")
    if terms.get("soak_s"):
        found.append(f"soaks {in_words(terms['soak_s'])}")
    if terms.get("soak_inferences"):
        found.append(f"{terms['soak_inferences']} inferences")
    return ", ".join(found)


def _devices(members: list[tuple[str, Mapping[str, Any]]], strata: bool) -> RenderableType:
    t = table("device", "wave", *(["stratum"] if strata else []), "outcome", "detail")
    for name, m in members:
        of = [m.get("stratum") or "-"] if strata else []
        t.add_row(name, str(m["wave"]), *of, m["outcome"], m.get("detail") or "")
    return t
