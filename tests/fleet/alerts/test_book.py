from __future__ import annotations

from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.alerts import NOW, fleet

from edgectl.fleet.alerts import book as module
from edgectl.fleet.alerts.book import Alert, AlertBook
from edgectl.fleet.alerts.facts import DeviceFacts
from edgectl.fleet.alerts.rules import RULES
from edgectl.fleet.alerts.settings import AlertsConfig, RuleName

GONE = DeviceFacts("a", "north", online=False)
FINE = DeviceFacts("a", "north")


def step(
    book: AlertBook, after_s: float, *devices: DeviceFacts, **facts: Any
) -> list[tuple[str, str, str, int]]:
    changes = book.step(fleet(*devices, now_s=NOW + after_s, **facts), AlertsConfig())
    return [(c.what, *c.alert.key, c.alert.count) for c in changes]


def test_alert_fires_after_a_while_and_ends_after_a_while() -> None:
    book = AlertBook()
    assert step(book, 0, GONE) == []
    assert step(book, 119, GONE) == []
    assert step(book, 120, GONE) == [("firing", "silence", "north", 1)]
    assert step(book, 200, FINE) == []
    assert step(book, 319, FINE) == []
    assert step(book, 320, FINE) == [("resolved", "silence", "north", 1)]
    assert step(book, 900, FINE) == []


def test_what_comes_and_goes_is_one_alert() -> None:
    book = AlertBook()
    step(book, 0, GONE)
    assert step(book, 60, FINE) == []
    assert step(book, 120, GONE) == [], "it begins anew"
    assert step(book, 240, GONE) == [("firing", "silence", "north", 1)]
    for t in range(300, 3000, 100):
        assert step(book, t, FINE if t % 200 else GONE) == []


def test_five_thousand_devices_at_one_site_are_one_alert_that_names_a_few() -> None:
    book = AlertBook()
    many = [DeviceFacts(f"d{i}", "north", online=False) for i in range(5000)]
    step(book, 0, *many)
    assert step(book, 120, *many) == [("firing", "silence", "north", 5000)]
    assert len(book.firing["silence", "north"].about) == 20


def test_broker_that_is_away_is_one_alert_and_neither_fires_nor_ends_others() -> None:
    book = AlertBook()
    others = [DeviceFacts(f"d{i}", "south", silent_s=1e6) for i in range(5000)]
    step(book, 0, GONE)
    step(book, 120, GONE)
    changes = [c for t in range(200, 4000, 15) for c in step(book, t, FINE, *others, connected=False)]
    assert changes == [("firing", "broker", "", 1)]
    back = [c for t in range(4000, 4200, 15) for c in step(book, t, GONE)]
    assert back == [("resolved", "broker", "", 1)]
    assert set(book.firing) == {("silence", "north")}


def test_alert_that_gets_worse_is_told_again() -> None:
    book = AlertBook()
    ends = {"certificate": NOW + 100}
    assert step(book, 0, certificates=ends) == [("firing", "certificate", "", 1)]
    assert step(book, 50, certificates=ends) == []
    assert step(book, 200, certificates=ends) == [("firing", "certificate", "", 1)]
    assert book.firing["certificate", ""].severity == "page"
    assert book.firing["certificate", ""].since_s == NOW


def test_what_fired_before_a_restart_fires_on_without_being_told_again() -> None:
    book = AlertBook()
    step(book, 0, GONE)
    step(book, 120, GONE)
    kept = [Alert.model_validate_json(a.encode()) for a in book.firing.values()]
    again = AlertBook(kept)
    assert step(again, 130, GONE) == []
    assert step(again, 150, FINE) == []
    assert step(again, 270, FINE) == [("resolved", "silence", "north", 1)]


def test_rule_that_is_off_ends_what_it_fired() -> None:
    book = AlertBook()
    step(book, 0, GONE)
    step(book, 120, GONE)
    off = AlertsConfig(off=("silence",))
    assert book.step(fleet(GONE, now_s=NOW + 200), off) == []
    assert [c.what for c in book.step(fleet(GONE, now_s=NOW + 400), off)] == ["resolved"]


def test_sites_that_devices_make_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALERTS", 10)
    book = AlertBook()
    many = [DeviceFacts(f"d{i}", f"site-{i}", online=False) for i in range(100)]
    step(book, 0, *many)
    assert len(step(book, 120, *many)) == 10
    assert len(step(book, 300, *many)) == 0


def test_step_that_cannot_be_kept_is_thrown_away() -> None:
    book = AlertBook()
    step(book, 0, GONE)
    tried = book.copy()
    assert step(tried, 120, GONE)
    assert book.firing == {}
    assert step(book, 121, GONE) == [("firing", "silence", "north", 1)]


@given(steps=st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.booleans()), max_size=40))
def test_firing_and_resolved_take_turns(steps: list[tuple[int, bool, bool]]) -> None:
    book, t, seen = AlertBook(), 0, list[str]()
    for pause, gone, connected in steps:
        t += pause
        seen += [
            c[0] for c in step(book, t, GONE if gone else FINE, connected=connected) if c[1] == "silence"
        ]
    assert seen == ["firing", "resolved"] * (len(seen) // 2) + ["firing"] * (len(seen) % 2)
    assert (len(seen) % 2 == 1) == (("silence", "north") in book.firing)


def test_every_rule_says_what_it_is_about() -> None:
    assert set(RULES) == set(get_args(RuleName))
    for rule in RULES.values():
        assert rule.doc.endswith(".")


def test_site_that_goes_away_behind_one_device_is_told_and_not_with_every_further_device() -> None:
    book = AlertBook()
    step(book, 0, GONE)
    assert step(book, 120, GONE) == [("firing", "silence", "north", 1)]
    many = [DeviceFacts(f"d{i}", "north", online=False) for i in range(5000)]
    assert step(book, 200, GONE, *many[:4]) == []
    assert step(book, 300, GONE, *many[:5]) == [("firing", "silence", "north", 6)]
    assert step(book, 400, GONE, *many[:7]) == []
    assert step(book, 500, GONE, *many) == [("firing", "silence", "north", 5001)]


def test_no_alert_of_a_device_ends_while_the_broker_is_away() -> None:
    book = AlertBook()
    full = DeviceFacts("a", "north", disk_free_mb=1.0, clock_wrong=True)
    for t in (0, 700):
        step(book, t, full)
    assert set(book.firing) == {("disk", "north"), ("data_quality", "north")}
    changes = [c for t in range(800, 4000, 50) for c in step(book, t, FINE, connected=False)]
    assert changes == [("firing", "broker", "", 1)]
