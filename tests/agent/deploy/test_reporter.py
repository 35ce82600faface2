"""When a report goes out: a real trust store, and a link that takes it or does not."""

from __future__ import annotations

import pytest
from support.tuf import Device

from edgectl.agent.deploy.reporter import Reporter
from edgectl.core.errors import LinkError, StorageError
from edgectl.core.states import State
from edgectl.core.wire import Failure, Reported, ReportedSlot


class Reports:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.sent: list[Reported] = []
        self.woken = 0
        self.now_s = 1000.0
        self.down = False
        self.asked_meanwhile = False
        self.reporter = Reporter(3, device.store, self._send, self._wake, lambda: self.now_s)

    def _send(self, reported: Reported) -> None:
        if self.asked_meanwhile:
            self.reporter.again()
        if self.down:
            raise LinkError("the window is full")
        self.sent.append(reported)

    def _wake(self) -> None:
        self.woken += 1

    def look(self, state: State = State.IDLE, pct: float | None = None, gen: int = 0) -> bool:
        """Whether a report goes out for a device in this state."""
        return self.reporter.report(gen, {"gate": ReportedSlot(state=state, pct=pct)}, self.reporter.trouble)


@pytest.fixture
def reports(device: Device) -> Reports:
    return Reports(device)


def test_news_are_told_at_once_progress_twice_a_second_and_nothing_twice(reports: Reports) -> None:
    assert reports.look()
    assert not reports.look()
    assert reports.look(State.FETCHING, 0.0)
    assert not reports.look(State.FETCHING, 1.0)
    reports.now_s += 0.5
    assert reports.look(State.FETCHING, 2.0)
    reports.now_s += 3600
    assert not reports.look(State.FETCHING, 2.0)
    assert reports.look(State.VERIFYING)
    assert [(r.epoch, r.seq) for r in reports.sent] == [(3, 1), (3, 2), (3, 3), (3, 4)]


def test_clock_that_is_behind_is_news(reports: Reports, served: Device) -> None:
    assert reports.look()
    served.wall -= 86400
    assert reports.look()
    assert [r.clock for r in reports.sent] == [None, "untrusted"]


def test_report_that_could_not_be_sent_is_sent_later(reports: Reports) -> None:
    reports.look()
    reports.down = True
    assert not reports.look(State.FETCHING)
    reports.down = False
    assert reports.look(State.FETCHING)
    reports.reporter.again()
    assert reports.woken == 1
    reports.down = True
    assert not reports.look(State.FETCHING)
    reports.down = False
    assert reports.look(State.FETCHING), "it is still asked for"
    assert not reports.look(State.FETCHING)


def test_what_is_asked_for_while_a_report_is_on_its_way_is_reported_after_it(reports: Reports) -> None:
    reports.asked_meanwhile = True
    assert reports.look()
    reports.asked_meanwhile = False
    assert reports.look()
    assert not reports.look()


def test_trouble_with_the_disk_passes_and_no_other_does_with_it(reports: Reports) -> None:
    reporter = reports.reporter
    reporter.storage_fails(StorageError("the disk is full"))
    assert reports.look()
    assert reports.sent[-1].error == Failure(code="storage", detail="the disk is full", retryable=True)
    reporter.storage_works()
    assert reports.look()
    assert reports.sent[-1].error is None
    expired = reporter.trouble = Failure(code="expired", detail="it ended")
    reporter.storage_works()
    assert reporter.trouble == expired
