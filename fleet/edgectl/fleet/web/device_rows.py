"""The devices of a fleet as its lists show them: a row each, what is wrong with it, counts by site and profile. Pure.

A row is made anew only where what it was made from has changed, so that ten thousand devices cost a viewer a few
milliseconds a look.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edgectl.core.states import State
from edgectl.core.wire import Conn, Reported
from edgectl.fleet.rollouts.groups import DeviceGroup, groups_with
from edgectl.fleet.rollouts.selection import parse_query

__all__ = [
    "BAD_STATES",
    "SORTS",
    "TROUBLES",
    "DeviceRow",
    "FleetRows",
    "SiteGroup",
    "SlotLine",
    "Trouble",
    "row_of",
    "sorted_rows",
]

BAD_STATES = frozenset({State.FAILED, State.REJECTED, State.ROLLED_BACK, State.DEGRADED, State.EXPIRED})
TROUBLES = {
    "rivals": "several machines claim to be it",
    "revoked": "its certificate was revoked",
    "slot": "a slot has failed",
    "error": "the device reports an error",
    "clock": "its clock is behind signed time",
    "away": "away",
    "unseen": "never seen",
}
"""Kind → what it says, the worst first."""
_NO_SITE = "-"
_MOST_QUERIES = 16


@dataclass(frozen=True)
class SlotLine:
    slot: str
    state: str
    release: str
    """That runs; empty where none does."""
    active: str | None
    why: str

    @property
    def bad(self) -> bool:
        return self.state in BAD_STATES


@dataclass(frozen=True)
class Trouble:
    kind: str
    """One of :data:`TROUBLES`."""
    why: str = ""


@dataclass(frozen=True)
class DeviceRow:
    """What queries ask of a device (:class:`edgectl.fleet.rollouts.selection.Facts`), and what lists show."""

    name: str
    site: str
    profile: str | None
    online: bool
    labels: Mapping[str, str]
    facts: frozenset[str]
    slots: frozenset[str]
    streams: Mapping[str, str]
    lines: tuple[SlotLine, ...]
    troubles: tuple[Trouble, ...]
    groups: frozenset[str] = frozenset()

    @property
    def status(self) -> str:
        """``trouble``, ``away`` or ``fine``: what its part of a bar is."""
        if any(t.kind not in ("away", "unseen") for t in self.troubles):
            return "trouble"
        return "away" if self.troubles else "fine"

    @property
    def releases(self) -> str:
        return ", ".join(dict.fromkeys(line.release for line in self.lines if line.release))

    @property
    def severity(self) -> int:
        """The lower, the worse."""
        return _SEVERITY[self.troubles[0].kind] if self.troubles else len(TROUBLES)


_SEVERITY = {kind: i for i, kind in enumerate(TROUBLES)}


@dataclass
class SiteGroup:
    """Devices of one profile at one site."""

    site: str
    profile: str
    counts: Counter[str] = field(default_factory=Counter)
    """By :attr:`DeviceRow.status`."""

    @property
    def devices(self) -> int:
        return self.counts.total()


class KnownDevice(Protocol):
    """What a row is made from: a device of the inventory."""

    @property
    def name(self) -> str: ...
    @property
    def conn(self) -> Conn | None: ...
    @property
    def reported(self) -> Reported | None: ...


def row_of(device: KnownDevice, *, revoked: bool = False, contested: bool = False) -> DeviceRow:
    conn, reported = device.conn, device.reported
    labels = conn.labels if conn else {}
    lines = tuple(
        SlotLine(
            slot,
            r.state.value,
            r.active_release or "",
            r.active,
            (r.error.detail or r.error.code) if r.error else (r.stage or ""),
        )
        for slot, r in sorted(reported.slots.items() if reported else ())
    )
    return DeviceRow(
        name=device.name,
        site=labels.get("site") or _NO_SITE,
        profile=conn.profile if conn else None,
        online=bool(conn and conn.online),
        labels=labels,
        facts=frozenset(conn.facts) if conn else frozenset(),
        slots=frozenset(conn.slots) if conn else frozenset(),
        streams=conn.streams if conn else {},
        lines=lines,
        troubles=tuple(_troubles(conn, reported, lines, revoked, contested)),
    )


def _troubles(
    conn: Conn | None, reported: Reported | None, lines: Iterable[SlotLine], revoked: bool, contested: bool
) -> Iterable[Trouble]:
    """In the order of :data:`TROUBLES`."""
    if contested:
        yield Trouble("rivals")
    if revoked:
        yield Trouble("revoked")
    for line in lines:
        if line.bad:
            yield Trouble("slot", f"{line.slot} {line.state}" + (f": {line.why}" if line.why else ""))
    if reported is not None and reported.error is not None:
        yield Trouble("error", reported.error.detail or reported.error.code)
    if reported is not None and reported.clock is not None:
        yield Trouble("clock")
    if conn is None:
        yield Trouble("unseen")
    elif not conn.online:
        yield Trouble("away", "it said so" if conn.clean else "")


@dataclass(frozen=True)
class _RowSource:
    """What a row was made from, compared by identity: messages are replaced, never changed."""

    conn: Conn | None
    reported: Reported | None
    marked: bool
    """Revoked or contested: then it is made anew each time."""
    row: DeviceRow


class FleetRows:
    """Rows of all devices, by name, and what is counted of them. One thread."""

    def __init__(self) -> None:
        self._sources: dict[str, _RowSource] = {}
        self._groups: dict[tuple[str, str], SiteGroup] = {}
        self._named: tuple[DeviceGroup, ...] = ()
        self._queries: OrderedDict[str, dict[str, tuple[DeviceRow, bool]]] = OrderedDict()
        self.rows: list[DeviceRow] = []
        self.version = 0
        """Rises with every change of any row."""
        self.kinds: Counter[str] = Counter()
        """Devices by each kind of trouble that they have."""
        self.online = 0

    def update(
        self,
        devices: Iterable[KnownDevice],
        revoked: Collection[str],
        contested: Collection[str],
        named: Iterable[DeviceGroup] = (),
    ) -> None:
        """``devices``: all there are, by name; ``named``: groups of devices, which queries ask for."""
        sources, changed = self._sources, False
        named = tuple(named)
        regrouped, self._named = named != self._named, named
        names: list[str] = []
        for d in devices:
            name = d.name
            names.append(name)
            known = sources.get(name)
            marked = name in revoked or name in contested
            if (
                known is not None
                and known.conn is d.conn
                and known.reported is d.reported
                and not marked
                and not known.marked
                and not regrouped
            ):
                continue
            row = row_of(d, revoked=name in revoked, contested=name in contested)
            if named:
                row = replace(row, groups=groups_with(row, named))
            if known is None or known.row != row:
                if known is not None:
                    self._count(known.row, -1)
                self._count(row, 1)
                changed = True
            elif known is not None:
                row = known.row
            sources[name] = _RowSource(d.conn, d.reported, marked, row)
        if len(names) != len(sources):
            for gone in sources.keys() - set(names):
                self._count(sources.pop(gone).row, -1)
            changed = True
        if changed:
            self.rows = [sources[name].row for name in names]
            self.version += 1

    def find(self, name: str) -> DeviceRow | None:
        source = self._sources.get(name)
        return source.row if source is not None else None

    @property
    def groups(self) -> list[SiteGroup]:
        """By site and profile."""
        return [self._groups[key] for key in sorted(self._groups)]

    def selected(self, query: str) -> list[DeviceRow]:
        """Those that a query means (:mod:`edgectl.fleet.rollouts.selection`). Raises ValueError for what is none."""
        if not query.strip():
            return self.rows
        holds = parse_query(query)
        known = self._queries.pop(query, {})
        answers: dict[str, tuple[DeviceRow, bool]] = {}
        for row in self.rows:
            before = known.get(row.name)
            answers[row.name] = before if before is not None and before[0] is row else (row, bool(holds(row)))
        self._queries[query] = answers
        while len(self._queries) > _MOST_QUERIES:
            self._queries.popitem(last=False)
        return [row for row, found in answers.values() if found]

    def _count(self, row: DeviceRow, by: int) -> None:
        key = (row.site, row.profile or "-")
        group = self._groups.setdefault(key, SiteGroup(*key))
        group.counts[row.status] += by
        if not group.devices:
            del self._groups[key]
        self.online += by * row.online
        for kind in {t.kind for t in row.troubles}:
            self.kinds[kind] += by


SORTS: dict[str, Any] = {
    "name": lambda r: r.name,
    "trouble": lambda r: (r.severity, r.name),
    "site": lambda r: (r.site, r.name),
    "profile": lambda r: (r.profile or "", r.name),
    "release": lambda r: (r.releases, r.name),
    "online": lambda r: (r.online, r.name),
}
"""What a list may be sorted by."""


def sorted_rows(rows: list[DeviceRow], by: str) -> list[DeviceRow]:
    """``by``: one of :data:`SORTS`; anything else means as they are, by name."""
    return rows if by == "name" or by not in SORTS else sorted(rows, key=SORTS[by])
