from __future__ import annotations

import pytest

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Conn, Reported, StreamStats, Telemetry
from edgectl.fleet.alerts.facts import BurnRates, DeviceFacts
from edgectl.fleet.control.alert_watch import AlertWatch, late_of
from edgectl.fleet.store.devices import Device

START = 1_800_000_000.0


def device(**labels: str) -> Device:
    return Device("d0", Conn(epoch=1, online=True, labels=labels), Reported(epoch=1, seq=1, gen=0))


def stats(*ms: float, budget_ms: float | None = 100.0, **changes: object) -> StreamStats:
    h = Histogram()
    for value in ms:
        h.record(value * 1000)
    s = StreamStats(kind="sound", stages={"avail_to_event": h.data()}, budget_ms=budget_ms)
    return s.model_copy(update=changes)


def told(seq: int, *ms: float, epoch: int = 1, **changes: object) -> Telemetry:
    t = Telemetry(epoch=epoch, seq=seq, window_s=60.0, streams={"yard": stats(*ms)})
    return t.model_copy(update=changes)


def facts(watch: AlertWatch, now_s: float, since_s: float = 0.0, **labels: str) -> DeviceFacts:
    return watch.facts(device(**labels), now_s, since_s)


def test_frames_over_the_budget_are_late_and_without_a_budget_none_is() -> None:
    assert late_of(stats(50, 99, 150, 300)) == (2, 4)
    assert late_of(stats(50, 300, budget_ms=None)) == (0, 0)
    assert late_of(StreamStats(kind="sound", budget_ms=10.0)) == (0, 0)


def test_shares_of_late_frames_are_those_of_four_windows() -> None:
    watch = AlertWatch()
    for minute in range(6 * 60):
        late = minute >= 350  # the last ten minutes
        watch.add("d0", told(minute, *((200.0,) * 30 if late else (50.0,) * 30)), START + 60 * minute)
    rates = facts(watch, START + 6 * 3600 - 30).streams["yard"].late
    assert rates.m5 == 1.0
    assert rates.m30 == pytest.approx(10 / 35, abs=0.05)
    assert rates.h1 == pytest.approx(10 / 65, abs=0.03)
    assert rates.h6 == pytest.approx(10 / 360, abs=0.01)
    later = facts(watch, START + 6 * 3600 + 3600).streams["yard"].late
    assert (later.m5, later.m30) == (None, None)
    assert later.h6 == pytest.approx(10 / 300, abs=0.01)
    assert facts(watch, START + 13 * 3600).streams["yard"].late == BurnRates()


def test_message_that_does_not_come_is_missing_until_it_comes_late() -> None:
    watch = AlertWatch()
    for seq in (1, 2, 5):
        watch.add("d0", told(seq), START)
    assert facts(watch, START).missing == 2
    watch.add("d0", told(3, replay=True), START)
    assert facts(watch, START).missing == 1
    watch.add("d0", told(4, replay=True), START)
    watch.add("d0", told(900, epoch=0, replay=True), START)
    assert facts(watch, START).missing == 0
    watch.add("d0", told(1, epoch=2), START)
    assert facts(watch, START).missing == 0, "it counts anew"


def test_what_the_spool_gave_up_is_remembered_for_an_hour() -> None:
    watch = AlertWatch()
    watch.add("d0", told(1, spool_dropped=5), START)
    assert facts(watch, START).dropped == 0, "since when is not known"
    watch.add("d0", told(2, spool_dropped=12), START + 60)
    assert facts(watch, START + 600).dropped == 7
    assert facts(watch, START + 3700).dropped == 0


def test_silence_counts_from_when_the_controller_could_hear() -> None:
    watch = AlertWatch()
    assert facts(watch, START, since_s=START).silent_s == 0
    watch.add("d0", told(1, health={"disk_free_mb": 123.0}), START)
    assert facts(watch, START + 900).silent_s == 900
    assert facts(watch, START + 900, START + 800).silent_s == 100
    assert facts(watch, START).disk_free_mb == 123.0
    watch.remove("d0")
    assert facts(watch, START, since_s=START).silent_s == 0


@pytest.mark.parametrize(
    ("label", "site"),
    [("North", "north"), ("a/b+c#", "a-b-c"), ("..", ""), ("", ""), ("Ä" * 3, ""), ("x" * 99, "x" * 64)],
)
def test_site_becomes_a_name(label: str, site: str) -> None:
    assert facts(AlertWatch(), START, site=label).site == site


def test_device_is_what_it_said_last() -> None:
    d = device(site="north")
    assert d.reported is not None
    d.reported = d.reported.model_copy(update={"clock": "untrusted"})
    d.conn = Conn(epoch=1, online=False, clean=True)
    told_of = AlertWatch().facts(d, START, 0.0)
    assert (told_of.online, told_of.clean, told_of.clock_wrong) == (False, True, True)


def test_outage_whose_messages_come_late_leaves_nothing_missing() -> None:
    watch = AlertWatch()
    watch.add("d0", told(9), START)
    for seq in range(10, 40):
        watch.add("d0", told(seq, replay=True), START + 3600)
    watch.add("d0", told(40), START + 3600)
    assert facts(watch, START + 3600).missing == 0


def test_message_that_was_lost_is_missing_for_an_hour() -> None:
    watch = AlertWatch()
    for seq in (1, 3):
        watch.add("d0", told(seq), START)
    assert facts(watch, START + 3599).missing == 1
    assert facts(watch, START + 3600).missing == 0


def test_stream_that_has_just_begun_was_not_late_for_an_hour() -> None:
    watch = AlertWatch()
    watch.add("d0", told(1, *(200.0,) * 100), START)
    rates = facts(watch, START).streams["yard"].late
    assert rates.m5 == 1.0
    assert rates.h1 == pytest.approx(1 / 12)
    for minute in range(1, 11):
        watch.add("d0", told(1 + minute, *(200.0,) * 100), START + 60 * minute)
    assert facts(watch, START + 600).streams["yard"].late.h1 == pytest.approx(1 / 6)


def test_a_few_frames_say_nothing() -> None:
    watch = AlertWatch()
    watch.add("d0", told(1, *(200.0,) * 29), START)
    assert facts(watch, START).streams["yard"].late == BurnRates()


def test_device_that_sent_nothing_since_the_controller_began_is_silent_since_then() -> None:
    assert facts(AlertWatch(), START + 4000, since_s=START).silent_s == 4000
