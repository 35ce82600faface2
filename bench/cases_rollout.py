"""Checks of rollouts that mislead an operator, over a real broker, controller and agents, by the commands
that an operator types.

Probation is short so that each check takes less than two minutes; the states, documents and messages are the
product's own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases_common import Check, Outcome, Place, Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

__all__ = ["CHECKS"]

SLOT = "gate-detector"
_END = ("done", "stopped", "aborted", "rolled_back")


class Site:
    """A mosquitto, a controller and its API; devices are agents in processes of their own."""

    def __init__(self, place: Place, fleet: Any) -> None:
        self.place = place
        self.fleet = fleet

    def device(self, name: str, *, on: bool = True) -> None:
        self.fleet.enroll(name)
        if on:
            self.fleet.start_agent(name)
            self.until(
                lambda: any(d["name"] == name and d["online"] for d in self.fleet.client.devices()),
                f"{name} is online",
            )

    def publish(self, version: str, **behaviour: Any) -> str:
        from support.bundle import make_bundle

        return str(
            self.fleet.publish(make_bundle(self.place.out / f"v{version}", version=version, **behaviour))
        )

    def start(self, release: str, *words: object, probation: float = 1.0) -> str:
        """``edgectl rollout start``; returns the rollout's id."""
        run = self.edgectl(
            "rollout",
            "start",
            release,
            "--slot",
            SLOT,
            "--probation",
            probation,
            "--min-inferences",
            1,
            *words,
            "--json",
        )
        if run.code:
            raise AssertionError(run.last_words)
        return str(run.json()["id"])

    def edgectl(self, *words: object) -> Run:
        token = self.fleet.config.state_dir / "token"
        where = ("--controller", f"http://127.0.0.1:{self.fleet.api_port}", "--token-file", token)
        return self.place.edgectl(*words, *where, timeout_s=60)

    def state(self, device: str) -> tuple[str | None, str | None]:
        """What the device says itself: state of the slot, and the release that runs."""
        last = self.fleet.reported.get(device)
        slot = last[-1].slots.get(SLOT) if last else None
        return (slot.state.value, slot.active_release) if slot else (None, None)

    def ended(self, rollout: str, timeout_s: float = 60) -> dict[str, Any]:
        return self.until(
            lambda: (r := self.fleet.client.rollout(rollout))["state"] in _END and r,
            f"{rollout} ends",
            timeout_s,
        )

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.1)
        return value


@contextlib.contextmanager
def site(place: Place) -> Iterator[Site]:
    from conftest import free_port, start_mosquitto
    from support.fleet import Fleet

    broker = start_mosquitto(place.out, free_port())
    fleet = Fleet(place.out / "site", broker.port, free_port())
    try:
        fleet.start_controller()
        yield Site(place, fleet)
    finally:
        fleet.close()
        broker.process.terminate()
        broker.process.wait(10)


def canary_that_is_off(place: Place) -> Outcome:
    """The first device by the product's own order is off: the other one is the canary, and the rollout
    comes to its end."""
    from edgectl.fleet.rollouts.planner import order

    with site(place) as s:
        release = s.publish("1.0.0")
        off, on = order(("gate-1", "gate-2"), release)
        s.device(off)
        s.device(on)
        s.fleet.kill_agent(off)
        s.until(
            lambda: [d["name"] for d in s.fleet.client.devices() if d["online"]] == [on],
            "the will of the first is out",
        )
        rollout = s.start(release, "--device", off, "--device", on, "--canary", 1)
        s.until(lambda: s.state(on) == ("committed", release), "the device that is there commits")
        shown = s.edgectl("rollout", "status", rollout)
        skipped = s.edgectl("rollout", "skip", rollout, off)
        found = s.ended(rollout)
        outcomes = {n: m["outcome"] for n, m in found["members"].items()}
        right = found["state"] == "done" and outcomes == {on: "committed", off: "skipped"}
        return Outcome(
            right and shown.code == skipped.code == 0, f"{found['state']}: {outcomes}; canary {on}"
        )


def nobody_is_there(place: Place) -> Outcome:
    """It says what it waits for, and the slot is free once its terms say so."""
    with site(place) as s:
        release = s.publish("1.0.0")
        s.device("gate-1")
        s.fleet.kill_agent("gate-1")
        s.until(lambda: not any(d["online"] for d in s.fleet.client.devices()), "the will is out")
        rollout = s.start(release, "--idle", 0.01, "--deadline", 1)
        said = s.until(lambda: s.fleet.client.rollout(rollout).get("note"), "it says whom it waits for")
        found = s.ended(rollout, 90)
        again = s.start(release)
        named = "gate-1" in said and found["state"] == "stopped"
        return Outcome(named and bool(again), f"{said!r}; then {found['state']}, and the slot is free")


def first_release_aborted(place: Place) -> Outcome:
    with site(place) as s:
        release = s.publish("1.0.0")
        s.device("gate-1")
        rollout = s.start(release, probation=60)
        s.until(lambda: s.state("gate-1")[0] == "probation", "it is on trial")
        first, second = s.edgectl("rollout", "abort", rollout), s.edgectl("rollout", "abort", rollout)
        found = s.ended(rollout)
        state = s.until(lambda: s.state("gate-1")[0] == "cleared" and s.state("gate-1"), "the slot is empty")
        third = s.edgectl("rollout", "abort", rollout)
        blobs = list((place.out / "site" / "gate-1" / "state" / "store" / "blobs").glob("*"))
        idempotent = first.code == 0 and (second.code == 0 or "aborted" in second.err)
        right = (
            found["state"] == "aborted"
            and state == ("cleared", None)
            and "rollout rollback" in third.err
            and not blobs
        )
        never = "committed" not in s.fleet.history("gate-1", SLOT)
        return Outcome(
            right and idempotent and never,
            f"{found['state']}, device {state[0]}, runs {state[1]}; {third.last_words}",
        )


def taken_back_in_every_state(place: Place) -> Outcome:
    """done → rollback, also with a device that was away; after a newer rollout; while one is at work;
    twice."""
    with site(place) as s:
        one, two, three = s.publish("1.0.0"), s.publish("2.0.0"), s.publish("3.0.0")
        s.device("gate-1")
        s.device("gate-2")
        s.ended(s.start(one, "--canary", 2))
        second = s.start(two, "--canary", 2)
        s.ended(second)
        refused = s.edgectl("rollout", "abort", second)
        third = s.start(three, "--device", "gate-1", probation=60)
        s.until(lambda: s.state("gate-1")[0] == "probation", "the third is on trial")
        busy = s.edgectl("rollout", "rollback", second)
        aborted = s.edgectl("rollout", "abort", third)
        s.ended(third)
        s.until(lambda: s.state("gate-1") == ("committed", two), "gate-1 has the second again")
        s.fleet.kill_agent("gate-2")
        s.until(lambda: sum(d["online"] for d in s.fleet.client.devices()) == 1, "gate-2 is away")
        back = s.edgectl("rollout", "rollback", second)
        s.until(lambda: s.state("gate-1") == ("committed", one), "gate-1 has the first again")
        s.fleet.start_agent("gate-2")
        s.until(
            lambda: s.state("gate-2") == ("committed", one),
            "gate-2 is brought to the right state when it is back",
        )
        found = s.ended(second, 120)
        s.until(
            lambda: (
                {m["outcome"] for m in s.fleet.client.rollout(second)["members"].values()} == {"restored"}
            ),
            "both are named",
        )
        again = s.edgectl("rollout", "rollback", second)
        right = found["state"] == "rolled_back" and back.code == again.code == aborted.code == 0
        told = (
            "rollout rollback" in refused.err
            and f"rollout abort {third}" in busy.err
            and refused.code
            and busy.code
        )
        return Outcome(
            right and bool(told), f"{found['state']}; done: {refused.last_words}; busy: {busy.last_words}"
        )


def slot_cleared(place: Place) -> Outcome:
    with site(place) as s:
        release = s.publish("1.0.0")
        s.device("gate-1")
        s.device("gate-2")
        s.ended(s.start(release, "--canary", 2))
        cleared = s.edgectl("slot", "clear", SLOT, "--device", "gate-1", "--wait", 40, "--json")
        s.fleet.kill_agent("gate-1")
        s.fleet.start_agent("gate-1")
        s.until(lambda: s.fleet.reported["gate-1"][-1].epoch == 2, "it was started again")
        stays = s.state("gate-1")
        refused = s.edgectl("slot", "clear", SLOT, "--device", "nobody")
        s.ended(s.start(release, "--device", "gate-1"))
        filled = s.until(lambda: s.state("gate-1") == ("committed", release), "a rollout fills it again")
        other = s.state("gate-2")
        state = cleared.json()[0]["state"] if cleared.code == 0 else cleared.last_words
        right = (
            state == "cleared" and stays == ("cleared", None) and filled and other == ("committed", release)
        )
        return Outcome(
            bool(right and refused.code), f"{state}, after a kill {stays[0]}; the other one runs {other[1]}"
        )


def release_withdrawn(place: Place) -> Outcome:
    with site(place) as s:
        release = s.publish("1.0.0")
        s.device("gate-1")
        rollout = s.start(release, probation=60)
        s.until(lambda: s.state("gate-1")[0] == "probation", "it is on trial")
        blobs = s.fleet.config.state_dir / "blobs"
        before = len(list(blobs.iterdir()))
        withdraw = ("release", "withdraw", release, "--keys", s.fleet.keys)
        asked = s.edgectl(*withdraw)
        listed = [r["release"] for r in s.fleet.client.releases()]
        done = s.edgectl(*withdraw, "--yes")
        found = s.ended(rollout)
        state = s.until(lambda: s.state("gate-1")[0] == "cleared" and s.state("gate-1"), "it is taken back")
        left = len(list(blobs.iterdir()))
        right = asked.code and "--yes" in asked.err and listed == [release] and done.code == 0 and left == 0
        told = found["state"] == "aborted" and "withdrawn" in found["reason"]
        return Outcome(
            bool(right and told),
            f"asked: {asked.last_words}; then {found['state']}, {state[0]}, blobs {before} → {left}",
        )


CHECKS: dict[str, Check] = {
    "`rollout start … --device off --device on --canary 1`, first device off": canary_that_is_off,
    "first release on an empty slot, `rollout abort` after 14 s of 120 s probation": first_release_aborted,
    "`rollout abort` of a rollout in `rolling_back`, or `done`": taken_back_in_every_state,
    "a release is withdrawn while a rollout of it runs": release_withdrawn,
    "a rollout with nobody there": nobody_is_there,
    "`slot clear` on one device": slot_cleared,
}
