"""The pages of the dashboard: what each one shows, out of :class:`edgectl.fleet.web.page_source.PageSource`. How it looks
is in ``templates/``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from edgectl.core.errors import UsageError
from edgectl.core.histogram import Histogram
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.control.machine_view import machine_of
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutSpec
from edgectl.fleet.rollouts.values import DeviceOutcome, RolloutState
from edgectl.fleet.store.rollup import HOUR_S
from edgectl.fleet.store.totals import TotalsQuery
from edgectl.fleet.web import release_view, rollout_view
from edgectl.fleet.web.charts import HistogramChart, histogram_chart
from edgectl.fleet.web.device_rows import SORTS, TROUBLES, FleetRows, sorted_rows
from edgectl.fleet.web.feed import PageView
from edgectl.fleet.web.page_source import PageSource
from edgectl.fleet.web.paging import PER_PAGE, number_of, page_of

__all__ = ["COMMANDS", "Pages", "Query"]

Query = Mapping[str, str]
"""Of an address: the last value of each name."""

COMMANDS: dict[str, tuple[str, str]] = {
    "probe": ("Probe", "The device says what it is: facts about the machine, and its runtimes."),
    "health": ("Health", "The device measures load, memory, disk and temperature now."),
    "logs": ("Logs", "The device sends its last events, and what was done on it by hand."),
    "lock": ("Lock", "The device activates nothing for a while. Its pipelines go on."),
    "unlock": ("Unlock", "Ends the lock that was taken from here."),
    "hold": ("Hold", "Nothing is activated until it is released, or the agent starts again."),
    "release": ("Release", "Ends a hold."),
    "force": ("Force", "A waiting release is activated now, whatever windows and leases say."),
    "cancel": ("Cancel", "A deployment that is not activated yet is given up; one in probation goes back."),
    "rollback": (
        "Roll back",
        "A deployment in probation goes back, and its release is blocked on this device.",
    ),
}
"""Command → its name, and what it does."""
_TROUBLES_SHOWN = 6
_DEVICES_SHOWN = 8
_EVENTS_SHOWN = 30
_ALERTS_SHOWN = 50
_MOST_TEXT = 100_000
_ENGINES_OFFERED = 200
_FILTERS = ("release", "slot", "profile", "stage", "power_mode", "throttled", "since")
_PERIODS = {"6 hours": 6, "24 hours": 24, "7 days": 7 * 24, "30 days": 30 * 24}
"""Hours."""


class Pages:
    def __init__(self, controller: Controller, source: PageSource) -> None:
        self._controller = controller
        self._source = source

    def _page(
        self, title: str, template: str, nav: str, fixed: Mapping[str, Any] | None = None, **parts: Any
    ) -> PageView:
        return PageView(title, template, {"banner": self._source.banner(), **parts}, fixed or {}, nav)

    def fleet(self, _path: Query, query: Query) -> PageView:
        rows = self._source.fleet_rows()
        rollouts = self._source.active()
        groups = page_of(rows.groups, number_of(query.get("page", "")))
        return self._page(
            "Fleet",
            "fleet.html",
            "/",
            numbers=(
                "fleet_numbers.html",
                {
                    "devices": len(rows.rows),
                    "online": rows.online,
                    "kinds": [(k, TROUBLES[k], rows.kinds[k]) for k in TROUBLES if rows.kinds[k]],
                    "rollouts": len(rollouts),
                },
            ),
            alerts=("fleet_alerts.html", {"alerts": self._controller.alerts()[:_ALERTS_SHOWN]}),
            wrong=("fleet_wrong.html", {"wrong": _wrong(rows), "rollouts": _stopped(rollouts)}),
            rollouts=(
                "fleet_rollouts.html",
                {"rollouts": [_summary(*r) for r in rollouts[:10]], "more": max(0, len(rollouts) - 10)},
            ),
            groups=("fleet_groups.html", {"page": groups, "href": _hrefs("/", query)}),
        )

    def devices(self, _path: Query, query: Query) -> PageView:
        rows = self._source.fleet_rows()
        problem = ""
        try:
            found = rows.selected(query.get("q", ""))
        except ValueError as e:
            found, problem = [], str(e)
        if (kind := query.get("trouble", "")) in TROUBLES:
            found = [r for r in found if any(t.kind == kind for t in r.troubles)]
        sort = query.get("sort", "name")
        page = page_of(sorted_rows(found, sort), number_of(query.get("page", "")))
        return self._page(
            "Devices",
            "devices.html",
            "/devices",
            {
                "query": query.get("q", ""),
                "trouble": kind,
                "sort": sort,
                "problem": problem,
                "troubles": TROUBLES,
            },
            list=(
                "device_list.html",
                {
                    "page": page,
                    "streams": self._source.streams(page.items),
                    "sort": sort,
                    "sorts": tuple(SORTS),
                    "href": _hrefs("/devices", query),
                    "troubles": TROUBLES,
                },
            ),
        )

    def device(self, path: Query, query: Query) -> PageView:
        name = path["name"]
        c = self._controller
        d = c.device(name)
        row = self._source.fleet_rows().find(name)
        told = c.telemetry(name)
        stats = dict(told.streams) if told is not None else {}
        drops: Counter[str] = Counter()
        for s in stats.values():
            drops.update(s.frames.dropped)
        named = [(stream, c.stream_latency(name, stream)) for stream in sorted(stats)[:4]]
        head = {
            "d": d,
            "row": row,
            "troubles": TROUBLES,
            "rivals": [claim.description for claim in c.rivals(name)],
            "revoked": c.is_revoked(name),
        }
        events = c.inventory.events(_EVENTS_SHOWN, about=name)[::-1]
        return self._page(
            name,
            "device.html",
            "/devices",
            {"name": name, "commands": COMMANDS},
            head=("device_head.html", head),
            slots=(
                "device_slots.html",
                {"d": d, "bad": {line.slot for line in row.lines if line.bad} if row else set()},
            ),
            streams=(
                "device_streams.html",
                {"rows": c.rows_of([name]), "stats": stats, "health": told.health if told else {}},
            ),
            machine=("device_machine.html", {"rows": machine_of(told).rows()}),
            latency=(
                "latency_chart.html",
                _chart(named, f"Engine latency of {name}, last windows", "device-chart"),
            ),
            drops=(
                "device_drops.html",
                {"drops": drops.most_common(20), "captured": sum(s.frames.captured for s in stats.values())},
            ),
            events=("event_list.html", {"events": events, "links": False}),
        )

    def rollouts(self, _path: Query, query: Query) -> PageView:
        page = page_of(self._source.rollouts(), number_of(query.get("page", "")))
        lines = [_summary(*r) for r in page.items]
        return self._page(
            "Rollouts",
            "rollouts.html",
            "/rollouts",
            list=("rollout_list.html", {"page": page, "lines": lines, "href": _hrefs("/rollouts", query)}),
        )

    def rollout(self, path: Query, query: Query) -> PageView:
        id_, outcome = path["id"], query.get("outcome", "")
        seen = self._source.seen_rollout(id_, outcome)
        spec, progress = seen.spec, seen.progress
        members = page_of(seen.members, number_of(query.get("page", "")))
        return self._page(
            id_,
            "rollout.html",
            "/rollouts",
            {"id": id_, "spec": spec},
            head=(
                "rollout_head.html",
                {"spec": spec, "p": progress, "acts": seen.acts},
            ),
            waves=(
                "rollout_waves.html",
                {"waves": seen.waves, "began": progress.began_s, "says": seen.sentence},
            ),
            gates=(
                "rollout_gates.html",
                {
                    "failures": seen.failures,
                    "gates": seen.gates,
                },
            ),
            latency=(
                "latency_chart.html",
                _chart(
                    self._source.before_and_after(spec, progress),
                    f"Engine latency in slot {spec.slot}, before and after",
                    "rollout-chart",
                ),
            ),
            members=(
                "rollout_members.html",
                {
                    "id": id_,
                    "page": members,
                    "counts": seen.counts,
                    "outcome": outcome,
                    "strata": bool(spec.strata),
                    "open": progress.state in (RolloutState.RUNNING, RolloutState.PAUSED),
                    "href": _hrefs(f"/rollouts/{id_}", query),
                },
            ),
        )

    def releases(self, _path: Query, query: Query) -> PageView:
        page = page_of(self._source.releases(), number_of(query.get("page", "")))
        return self._page(
            "Releases",
            "releases.html",
            "/releases",
            list=(
                "release_list.html",
                {"page": page, "types": self._source.types(), "href": _hrefs("/releases", query)},
            ),
        )

    def release(self, path: Query, query: Query) -> PageView:
        name = path["release"]
        found = next((r for r in self._source.releases() if r.release == name), None)
        if found is None:
            raise UsageError(f"there is no release {name}", hint="the list of releases names them")
        content = self._source.content(found.digest)
        where = release_view.running(self._source.fleet_rows().rows, found.digest)
        page = page_of(where, number_of(query.get("page", "")))
        return self._page(
            name,
            "release.html",
            "/releases",
            {
                "release": found,
                "content": content,
                "lines": content.lines[:PER_PAGE],
                "more": max(0, len(content.lines) - PER_PAGE),
                "scatter": release_view.drops(content.lines),
                "text": content.text[:_MOST_TEXT],
                "provenance": content.provenance,
            },
            where=(
                "release_where.html",
                {
                    "page": page,
                    "profiles": release_view.by_profile(where)[:50],
                    "href": _hrefs(f"/releases/{name}", query),
                },
            ),
        )

    def latency(self, _path: Query, query: Query) -> PageView:
        engines = self._source.engines()
        rows = self._source.fleet_rows().rows
        profiles = sorted({r.profile for r in rows if r.profile})
        wanted = [(query.get(f"engine{n}", ""), query.get(f"profile{n}", "")) for n in ("", "2")]
        named = []
        for key, profile in wanted:
            if key in engines:
                label, slot, digest = engines[key]
                named.append(
                    (
                        label + (f" on {profile}" if profile else ""),
                        self._source.engine(slot, digest, profile, rows),
                    )
                )
        named.reverse()  # grey is what is compared with
        releases = {r.release: r.digest for r in self._source.releases()}
        rows_measured, more = self._source.measured(_totals(query, releases))
        return self._page(
            "Latency",
            "latency.html",
            "/latency",
            {
                "engines": {k: label for k, (label, _, _) in list(engines.items())[:_ENGINES_OFFERED]},
                "profiles": profiles[:_ENGINES_OFFERED],
                "wanted": wanted,
                "releases": list(releases)[:_ENGINES_OFFERED],
                "chosen": {name: query.get(name, "") for name in _FILTERS},
                "periods": _PERIODS,
            },
            measured=("latency_measured.html", {"rows": rows_measured, "more": more}),
            chart=(
                "latency_chart.html",
                _chart(
                    named,
                    "Engine latency",
                    "explorer-chart",
                    "Choose an engine." if not named else "Nothing was measured yet.",
                ),
            ),
        )

    def events(self, _path: Query, query: Query) -> PageView:
        before = query.get("before", "")
        about = query.get("about", "").strip()[:200]
        acts = query.get("acts", "") == "1"
        found = self._controller.inventory.events(
            PER_PAGE,
            about=about or None,
            before=int(before) if before.isascii() and before.isdecimal() and len(before) < 18 else None,
            acts=acts,
        )[::-1]
        older = _hrefs("/events", query)(before=found[-1].id) if len(found) == PER_PAGE else ""
        return self._page(
            "Events",
            "events.html",
            "/events",
            {"about": about, "acts": acts},
            list=("event_list.html", {"events": found, "links": True, "older": older}),
        )


def _totals(query: Query, releases: Mapping[str, str]) -> TotalsQuery:
    """Of the filters of an address; what is empty or unknown filters nothing, an unknown release everything."""
    release = query.get("release", "")
    hours = _PERIODS.get(query.get("since", ""), 0)
    # whole hours: what is asked for again and again is the same question
    since_s = (time.time() // HOUR_S - hours) * HOUR_S if hours else 0.0
    slot, profile, stage, power_mode = (
        query.get(name, "")[:100] or None for name in ("slot", "profile", "stage", "power_mode")
    )
    throttled = {"yes": True, "no": False}.get(query.get("throttled", ""))
    digest = releases.get(release, "-") if release else None
    return TotalsQuery(
        digest, slot, profile, stage, power_mode=power_mode, throttled=throttled, since_s=since_s
    )


def _hrefs(path: str, query: Query) -> Callable[..., str]:
    """``href(page=2)``: the address with something changed; what is empty is left out."""

    def href(**changed: object) -> str:
        # another filter or order begins at its first page
        kept = dict(query) if "page" in changed else {k: v for k, v in query.items() if k != "page"}
        values = {k: str(v) for k, v in {**kept, **changed}.items() if v not in ("", None)}
        return path + (f"?{urlencode(values)}" if values else "")

    return href


def _wrong(rows: FleetRows) -> list[dict[str, Any]]:
    """The kinds of trouble that there are, the worst first, each with a few devices."""
    kinds = [k for k in TROUBLES if rows.kinds[k]][:_TROUBLES_SHOWN]
    found: dict[str, list[tuple[str, str]]] = {k: [] for k in kinds}
    missing = set(kinds)
    for row in rows.rows if kinds else ():
        for t in row.troubles:
            if t.kind in missing:
                found[t.kind].append((row.name, t.why))
                if len(found[t.kind]) >= _DEVICES_SHOWN:
                    missing.discard(t.kind)
        if not missing:
            break
    return [
        {
            "kind": k,
            "title": TROUBLES[k],
            "n": rows.kinds[k],
            "devices": found[k],
            "more": rows.kinds[k] - len(found[k]),
        }
        for k in kinds
    ]


def _stopped(rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]]) -> list[tuple[str, str]]:
    """Rollouts that somebody has to look at: id, why."""
    return [
        (s.id, f"{p.state.value.replace('_', ' ')}: {p.reason or p.note or ''}".rstrip(": "))
        for s, p in rollouts
        if p.state is RolloutState.ROLLING_BACK or p.note
    ]


def _summary(spec: RolloutSpec, progress: RolloutProgress) -> dict[str, Any]:
    waves = rollout_view.waves_of(spec, progress)
    counts: Counter[str] = Counter()
    for m in progress.members.values():
        counts[m.outcome.value] += 1
    whole = rollout_view.whole_bar(progress)
    return {
        "spec": spec,
        "p": progress,
        "bar": whole,
        "devices": counts.total(),
        "committed": counts[DeviceOutcome.COMMITTED.value],
        "where": next((w.name for w in waves if w.current), ""),
    }


def _chart(
    named: list[tuple[str, Histogram]], title: str, id_: str, empty: str = "Nothing was measured yet."
) -> dict[str, Any]:
    chart: HistogramChart | None = histogram_chart(named)
    return {"chart": chart, "title": title, "id": id_, "empty": empty}
