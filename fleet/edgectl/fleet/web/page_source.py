"""What pages are made from: read from the controller, and kept as long as it costs to read it
(:class:`edgectl.fleet.web.feed.Sparing`). One thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgectl.core.bundle import LAYER_PROVENANCE, MAX_JSON_BYTES, Variant, read_bounded
from edgectl.core.errors import BundleError, EdgectlError
from edgectl.core.histogram import Histogram
from edgectl.core.schema import Message
from edgectl.core.wire import Telemetry
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.control.telemetry_view import StreamRow
from edgectl.fleet.control.totals_view import MeasuredRow, measured_rows
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutSpec
from edgectl.fleet.rollouts.values import ACTIVE
from edgectl.fleet.store.inventory import Release
from edgectl.fleet.store.totals import TotalsQuery
from edgectl.fleet.web import release_view, rollout_view
from edgectl.fleet.web.device_rows import DeviceRow, FleetRows
from edgectl.fleet.web.feed import Sparing
from edgectl.fleet.web.paging import PER_PAGE

__all__ = ["PageSource"]

_SLOW_S = 30.0
"""How old totals over the whole fleet may be: every device has to be asked for them."""
_ACTIVE_S = 0.8
"""The same of what changes before one's eyes."""
_LINES_KEPT = 2000
_CLASSES_SHOWN = 50


class _Statement(Message, extra="allow"):
    """Any JSON object."""


class PageSource:
    def __init__(self, controller: Controller, sparing: Sparing) -> None:
        self._controller = controller
        self._sparing = sparing
        self._fleet = FleetRows()
        self._lines: dict[str, tuple[Telemetry | None, DeviceRow, list[StreamRow]]] = {}
        """Device → its streams, and what they were made from."""

    def fleet_rows(self) -> FleetRows:
        """Of now, or of a second ago."""
        c = self._controller

        def look() -> FleetRows:
            self._fleet.update(c.devices(), c.inventory.revoked(), c.contested(), c.groups().values())
            return self._fleet

        return self._sparing.get("fleet", look)

    def rollouts(self) -> list[tuple[RolloutSpec, RolloutProgress]]:
        """All of them, newest first."""
        read = self._controller.inventory.rollouts
        return self._sparing.get("rollouts", lambda: list(read().values())[::-1], longest_s=2.0)

    def followed(self) -> list[tuple[RolloutSpec, RolloutProgress]]:
        """Those with a device that has to be looked after, newest first."""
        read = self._controller.inventory.rollouts
        return self._sparing.get("followed", lambda: list(read(active=True).values())[::-1])

    def active(self) -> list[tuple[RolloutSpec, RolloutProgress]]:
        return [(s, p) for s, p in self.followed() if p.state in ACTIVE]

    def banner(self) -> tuple[str, Mapping[str, Any]]:
        """What everybody has to know, on every page."""
        c = self._controller
        now_s = time.time()
        expiries = self._sparing.get("expiries", c.trust.expiries)
        return "banner.html", {
            "frozen": bool(c.frozen),
            "connected": c.connected,
            "expired": [e.role for e in expiries if e.expires_s <= now_s],
            "due": [
                (e.role, max(0, round((e.expires_s - now_s) / 86400)))
                for e in expiries
                if e.due and e.expires_s > now_s
            ],
            "unsigned": len(self._sparing.get("waiting", c.waiting)),
        }

    def streams(self, rows: Sequence[DeviceRow]) -> dict[str, list[StreamRow]]:
        """Device → its streams. Percentiles are merged anew only for who has sent something since."""
        told = {row.name: self._controller.telemetry(row.name) for row in rows}
        found: dict[str, list[StreamRow]] = {}
        for row in rows:
            known = self._lines.get(row.name)
            if known is not None and known[0] is told[row.name] and known[1] is row:
                found[row.name] = known[2]
        fresh: dict[str, list[StreamRow]] = {row.name: [] for row in rows if row.name not in found}
        for line in self._controller.rows_of(fresh):
            fresh[line.device].append(line)
        if len(self._lines) > _LINES_KEPT:
            self._lines.clear()
        for row in rows:
            if row.name in fresh:
                self._lines[row.name] = told[row.name], row, fresh[row.name]
        return found | fresh

    def seen_rollout(self, id_: str, outcome: str) -> rollout_view.SeenRollout:
        """One that is over does not change by itself."""
        active = any(spec.id == id_ for spec, _ in self.followed())

        def look() -> rollout_view.SeenRollout:
            return rollout_view.seen(*self._controller.rollout(id_), outcome)

        return self._sparing.get(("rollout", id_, outcome), look, longest_s=_ACTIVE_S if active else _SLOW_S)

    def before_and_after(self, spec: RolloutSpec, progress: RolloutProgress) -> list[tuple[str, Histogram]]:
        """Over the devices that were asked: what they had, and the release."""

        def look() -> list[tuple[str, Histogram]]:
            asked = {n: m.before for n, m in progress.members.items() if m.admitted_s is not None}
            if not asked:
                return []
            had = Counter((b.release, b.digest) for b in asked.values() if b is not None).most_common(1)
            devices = frozenset(asked)
            of = self._controller.engine_latency
            found = [(f"before: {release}", of(spec.slot, digest, devices)) for (release, digest), _ in had]
            return [*found, (f"after: {spec.release}", of(spec.slot, spec.digest, devices))]

        return self._sparing.get(("latency", spec.id), look, longest_s=_SLOW_S)

    def releases(self) -> list[Release]:
        """Newest first."""
        read = self._controller.inventory.releases
        return self._sparing.get("releases", lambda: list(read().values())[::-1])

    def types(self) -> dict[str, str]:
        """Digest → what a release is, in a word."""
        read = self._controller.releases
        return self._sparing.get(
            "types", lambda: {r.digest: sort.name if sort is not None else "?" for r, sort in read()}
        )

    def content(self, digest: str) -> release_view.ReleaseContent:
        """What a release is, of its blobs; or why they cannot be read."""
        blobs = self._controller.blobs

        def look() -> release_view.ReleaseContent:
            try:
                document = blobs.configuration(digest)
                if document is not None:
                    parts = tuple((part, one.release) for part, one in document.config.parts.items())
                    return release_view.ReleaseContent(
                        kind=document.config.kind, text=document.text(), parts=parts
                    )
                variants = blobs.variants(digest)
                lines = tuple(
                    release_view.variant_line(v.config, sum(d.size for d in v.descriptors()))
                    for v in variants
                )
                return release_view.ReleaseContent(lines, _provenance(variants))
            except EdgectlError as e:
                return release_view.ReleaseContent(problem=e.message)

        return self._sparing.get(("content", digest), look, longest_s=_SLOW_S)

    def engines(self) -> dict[str, tuple[str, str, str]]:
        """Key of an address → label, slot, digest of every engine that was measured."""
        names = {r.digest: r.release for r in self.releases()}
        keys = self._sparing.get("engines", lambda: sorted(self._controller.engines()), longest_s=_SLOW_S)
        return {
            f"{slot}:{digest[-16:]}": (f"{names.get(digest, digest[:19])} in {slot}", slot, digest)
            for slot, digest in keys
        }

    def measured(self, query: TotalsQuery) -> tuple[list[MeasuredRow], bool]:
        """What the fleet measured, a page of classes; and whether there are more."""
        names = {r.digest: r.release for r in self.releases()}

        def look() -> tuple[list[MeasuredRow], bool]:
            found = measured_rows(self._controller.inventory.totals(query, _CLASSES_SHOWN + 1), names)
            return found[:_CLASSES_SHOWN], len(found) > _CLASSES_SHOWN

        return self._sparing.get(("measured", query), look, longest_s=_SLOW_S)

    def choices(self) -> tuple[list[str], list[str]]:
        """Releases, newest first, and slots, for a form to offer: a hundred each at most."""
        slots = sorted({slot for row in self.fleet_rows().rows for slot in row.slots})
        return [r.release for r in self.releases()[:PER_PAGE]], slots[:PER_PAGE]

    def engine(self, slot: str, digest: str, profile: str, rows: list[DeviceRow]) -> Histogram:
        def look() -> Histogram:
            devices = frozenset(r.name for r in rows if r.profile == profile) if profile else None
            return self._controller.engine_latency(slot, digest, devices)

        return self._sparing.get(("engine", slot, digest, profile), look, longest_s=_SLOW_S)


def _provenance(variants: Iterable[Variant]) -> release_view.Provenance | None:
    """Of the first variant that has one. Raises :class:`BundleError`."""
    for v in variants:
        path = v.layer(LAYER_PROVENANCE)
        if path is not None:
            data = read_bounded(path, MAX_JSON_BYTES)
            try:
                return release_view.provenance_of(_Statement.model_validate_json(data).model_dump())
            except ValueError as e:
                raise BundleError("the provenance of this bundle is not valid JSON") from e
    return None
