"""Rows of devices: what is wrong with them, counts, queries, and that nothing is made twice."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dashboard import many_devices

from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Reported, ReportedSlot
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.store.inventory import Device
from edgectl.fleet.web import device_rows
from edgectl.fleet.web.device_rows import BAD_STATES, TROUBLES, FleetRows, row_of, sorted_rows


def device(name: str = "d", *, slot: ReportedSlot | None = None, **conn: Any) -> Device:
    reported = Reported(epoch=1, seq=1, gen=0, slots={"gate": slot}) if slot else None
    return Device(name, Conn(**{"epoch": 1, "online": True, **conn}), reported)


def kinds(row: device_rows.DeviceRow) -> list[str]:
    return [t.kind for t in row.troubles]


def rows_of(devices: list[Device]) -> FleetRows:
    found = FleetRows()
    found.update(devices, (), ())
    return found


def test_a_device_that_works_has_no_trouble() -> None:
    row = row_of(device(slot=ReportedSlot(state=State.COMMITTED, active_release="gate@1")))
    assert (row.troubles, row.status, row.releases) == ((), "fine", "gate@1")


@pytest.mark.parametrize("state", sorted(BAD_STATES))
def test_a_slot_that_failed_says_why(state: State) -> None:
    row = row_of(device(slot=ReportedSlot(state=state, error=Failure(code="golden", detail="y differs"))))
    assert [(t.kind, t.why) for t in row.troubles] == [("slot", f"gate {state.value}: y differs")]
    assert row.status == "trouble"


def test_trouble_comes_worst_first() -> None:
    failed = device(online=False, slot=ReportedSlot(state=State.FAILED))
    failed.reported = failed.reported and failed.reported.model_copy(
        update={"clock": "untrusted", "error": Failure(code="trust", detail="expired")}
    )
    row = row_of(failed, revoked=True, contested=True)
    assert kinds(row) == ["rivals", "revoked", "slot", "error", "clock", "away"]
    assert row.severity == 0


def test_one_that_never_spoke_is_unseen_and_one_that_left_is_away() -> None:
    assert kinds(row_of(Device("d"))) == ["unseen"]
    row = row_of(device(online=False, clean=True))
    assert [(t.kind, t.why) for t in row.troubles] == [("away", "it said so")]
    assert row.status == "away"


def test_the_worst_stand_first_when_sorted_by_trouble() -> None:
    rows = rows_of(many_devices(200)).rows
    found = sorted_rows(rows, "trouble")
    assert [kinds(r)[:1] for r in found[:6]] == [["slot"]] * 2 + [["away"]] * 4
    assert sorted_rows(rows, "made-up") == rows


def test_queries_are_those_of_rollouts() -> None:
    rows = rows_of(many_devices(120))
    found = rows.selected("label.site = north and profile = jetson-orin and fact.sm >= 8.7")
    assert found
    assert all(r.site == "north" and r.profile == "jetson-orin" for r in found)
    assert rows.selected(" ") == rows.rows
    with pytest.raises(ValueError, match="there is no field 'colour'"):
        rows.selected("colour = red")


def test_a_row_is_made_anew_only_where_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = many_devices(300)
    rows = rows_of(devices)
    asked: list[str] = []
    real = row_of
    monkeypatch.setattr(
        device_rows,
        "row_of",
        lambda d, **more: asked.append(d.name) or real(d, **more),  # type: ignore[func-returns-value]
    )
    version = rows.version
    rows.update(devices, (), ())
    assert (asked, rows.version) == ([], version)
    devices[7] = replace(devices[7], conn=Conn(epoch=2, online=False))
    rows.update(devices, (), ())
    assert (asked, rows.version) == ([devices[7].name], version + 1)


def test_a_device_that_is_revoked_and_then_no_longer_is_told() -> None:
    devices = many_devices(3)
    rows = rows_of(devices)
    rows.update(devices, {"cam-00001"}, {"cam-00002"})
    assert (rows.kinds["revoked"], rows.kinds["rivals"]) == (1, 1)
    rows.update(devices, (), ())
    assert (rows.kinds["revoked"], rows.kinds["rivals"]) == (0, 0)


@given(st.integers(0, 10_000))
def test_what_is_counted_is_what_the_rows_say_whatever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    devices = {d.name: d for d in many_devices(12)}
    rows = FleetRows()
    for _ in range(8):
        for name in chance.sample(sorted(devices), 3):
            what = chance.randrange(3)
            if what == 0 and len(devices) > 3:
                del devices[name]
            elif what == 1:
                devices[name] = replace(
                    devices[name], conn=Conn(epoch=2, online=chance.random() < 0.5, profile="x")
                )
            else:
                slot = ReportedSlot(state=chance.choice(list(State)))
                devices[name] = replace(
                    devices[name], reported=Reported(epoch=1, seq=2, gen=0, slots={"gate": slot})
                )
        marked = set(chance.sample(sorted(devices), 2))
        rows.update([devices[n] for n in sorted(devices)], marked, ())
        query = "profile = x or label.site = north"
        assert [r.name for r in rows.rows] == sorted(devices)
        assert sum(g.devices for g in rows.groups) == len(devices)
        assert rows.online == sum(r.online for r in rows.rows)
        groups: Counter[tuple[str, str, str]] = Counter(
            (r.site, r.profile or "-", r.status) for r in rows.rows
        )
        assert groups == Counter(
            {(g.site, g.profile, s): n for g in rows.groups for s, n in g.counts.items() if n}
        )
        told = Counter(k for r in rows.rows for k in {t.kind for t in r.troubles})
        assert {k: rows.kinds[k] for k in TROUBLES} == {k: told[k] for k in TROUBLES}
        assert rows.selected(query) == rows_of_again(rows, query)


def rows_of_again(rows: FleetRows, query: str) -> list[device_rows.DeviceRow]:
    from edgectl.fleet.rollouts.selection import parse_query

    holds = parse_query(query)
    return [r for r in rows.rows if holds(r)]


def test_devices_are_found_by_their_groups_also_after_these_change() -> None:
    rows = FleetRows()
    devices = [device(f"cam-{i}") for i in range(3)]
    names = [d.name for d in devices]
    rows.update(devices, (), (), [DeviceGroup(name="beta", devices=frozenset(names[:1]))])
    assert [r.name for r in rows.selected("group = beta")] == names[:1]
    before = rows.version
    rows.update(devices, (), (), [DeviceGroup(name="beta", select=f"name = {names[2]}")])
    assert [r.name for r in rows.selected("group = beta")] == names[2:]
    assert rows.version > before
    rows.update(devices, (), (), ())
    assert rows.selected("group") == []
