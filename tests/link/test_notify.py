from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgectl.link.notify import Watchdog, notify, watchdog_interval_s


def test_systemd_hears_us_on_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "n"))
        s.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1", "STATUS=running")
        assert s.recv(100) == b"READY=1\nSTATUS=running"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notify("READY=1")
    assert watchdog_interval_s() is None


def test_watchdog_is_fed_twice_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert watchdog_interval_s() == 30.0


def test_watchdog_says_no_more_than_systemd_wants_to_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [100.0, 100.0, 101.0, 129.9, 130.0, 131.0]  # made, then fed five times
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "n"))
        s.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        watchdog = Watchdog(lambda: times.pop(0))
        while times:
            watchdog.feed()
        assert [s.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        with pytest.raises(BlockingIOError):
            s.recv(100)
