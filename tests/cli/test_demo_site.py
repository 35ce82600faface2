"""How the demo waits: as long as something moves, and not much longer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edgectl.cli.demo.devices import DEVICES
from edgectl.cli.demo.patience import Patience
from edgectl.cli.demo.site import Site
from edgectl.core.errors import LinkError, RolloutError
from edgectl.fleet.client.client import FleetClient

NAMES = [d.name for d in DEVICES]


class Fleet:
    """A controller that says the next thing of a list each time it is asked, and the last for ever."""

    def __init__(self, answers: Iterable[Any]) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self._last: Any = None

    def _next(self) -> Any:
        self._last = next(self._answers, self._last)
        return self._last

    def devices(self) -> list[dict[str, Any]]:
        online = self._next()
        return [{"name": n, "online": n in online} for n in NAMES]

    def rollout(self, _id: str) -> dict[str, Any]:
        state, outcomes = self._next()
        members = {n: {"outcome": o} for n, o in zip(NAMES, outcomes, strict=False)}
        return {"release": "gate@1", "state": state, "members": members}

    def rows(self) -> list[dict[str, Any]]:
        return []


class Slow:
    """A machine on which each look at the fleet takes a minute and a half."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, _seconds: float) -> None:
        self.now_s += 90.0

    def site(self, folder: Path, answers: Iterable[Any]) -> Site:
        site = Site(folder, clock=lambda: self.now_s, sleep=self.sleep)
        site.client = cast(FleetClient, Fleet(answers))
        return site


def nothing() -> None:
    pass


def test_a_fleet_that_comes_online_one_by_one_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    machine = Slow()
    machine.site(tmp_path, (NAMES[:n] for n in range(len(NAMES) + 1))).wait_online(nothing)
    assert machine.now_s == 90.0 * len(NAMES)


def test_a_device_that_does_not_come_is_named(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="kiosk-1 did not come online"):
        Slow().site(tmp_path, [NAMES[:1], NAMES[:4]]).wait_online(nothing)


def test_a_rollout_that_takes_steps_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    steps = [("running", ["done"] * n + ["waiting"] * (3 - n)) for n in range(4)]
    [ended] = Slow().site(tmp_path, [*steps, ("done", ["done"] * 3)]).wait_rollouts(["r"], nothing)
    assert ended["state"] == "done"


def test_a_rollout_that_stands_still_is_given_up(tmp_path: Path) -> None:
    machine = Slow()
    with pytest.raises(RolloutError, match="stand still: gate@1 running"):
        machine.site(tmp_path, [("running", ["done", "waiting"])]).wait_rollouts(["r"], nothing)
    assert machine.now_s == 180.0


def test_patience_begins_anew_with_every_change() -> None:
    now_s = 0.0
    patience = Patience(10.0, clock=lambda: now_s)
    assert not patience.over("a")
    now_s = 10.0
    assert not patience.over("a")
    now_s = 10.5
    assert not patience.over("b")
    now_s = 20.0
    assert not patience.over("b")
    now_s = 20.6
    assert patience.over("b")
