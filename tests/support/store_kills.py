"""A controller that is killed in the middle of rollouts, again and again, at any statement, commit or message.

    python tests/support/store_kills.py FOLDER [--times 100] [--seed 0] [--url URL | --restarts]

Each life is a fork of this process: it takes up the database and what the broker and the devices had, goes on,
and kills itself with SIGKILL after a random number of steps. After each, the database must know every decision
that anybody was told of. In the end a life that nobody kills brings the last rollout to its end. Prints JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [  # instead of this folder: it has a tuf.py
    str(ROOT / c)
    for c in ("core", "link", "device_profiles", "models", "engines", "pipelines", "fleet", "tests")
]

import pytest
from sqlalchemy import Engine
from sqlalchemy.event import listen
from support.controller import DIGEST, T, Wire, World
from support.postgres import Postgres, binaries

from edgectl.core.states import State
from edgectl.core.wire import Conn, ControllerState, Desired, Reported, ReportedSlot
from edgectl.fleet.keys.ceremony import KeySet
from edgectl.fleet.rollouts.planner import RolloutRequest
from edgectl.fleet.store.inventory import Inventory, Release
from edgectl.fleet.store.rollouts import folded

__all__ = ["LostDecision", "Story", "check", "kill_again_and_again", "restart_again_and_again"]

DEVICES = tuple(f"d{i}" for i in range(6))
_SETTLED = 60
"""Ticks in which a rollout is over, where nobody is killed."""


class LostDecision(AssertionError):
    """Somebody was told what the database does not know."""


class Story:
    """What everybody was told, in order, in a file that outlives whoever wrote it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "told.jsonl"

    def tell(self, what: str, name: str, payload: bytes = b"") -> None:
        with self._path.open("a") as f:
            f.write(json.dumps([what, name, base64.b64encode(payload).decode()]) + "\n")

    def told(self) -> Iterator[tuple[str, str, bytes]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            what, name, payload = json.loads(line)
            yield what, name, base64.b64decode(payload)

    def retained(self) -> dict[str, bytes]:
        """What the broker keeps."""
        kept = {name: payload for what, name, payload in self.told() if what == "message"}
        return {topic: payload for topic, payload in kept.items() if payload}


class _Broker(Wire):
    """Tells the story of what it is given before it answers."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self._story = story
        self.takes = 1 << 40
        self.retained = story.retained()

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        self._story.tell("message", topic, payload)
        super().publish(topic, payload, retain=retain, timeout_s=timeout_s)


class _Life(World):
    """A controller that takes up what the one before it left, with devices that do what they are told."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.story = Story(folder)
        self._patch = pytest.MonkeyPatch()
        if (folder / "keys").exists():
            self._patch.setattr("support.controller.init_keys", lambda *_, **__: None)
        self._patch.setattr("support.controller.Wire", lambda: _Broker(self.story))
        self._patch.setattr("edgectl.fleet.control.blobs.BlobStore.offered", lambda *_: [])
        super().__init__(folder, self._patch, KeySet(), url)
        self.wire.on_up()
        for topic, payload in list(self.wire.retained.items()):
            self.hears(topic, payload)

    def ends(self) -> None:
        self.controller.inventory.close()
        self._patch.undo()

    def goes_on(self) -> None:
        """One tick: whoever has nothing to do is given something, and devices do what they are told."""
        number = sum(1 for what, _, _ in self.story.told() if what == "tick")
        self.story.tell("tick", str(number))
        self.now = 1000.0 + number
        active = self.controller.inventory.rollouts(active=True)
        if not active:
            version = "123"[len(self.controller.inventory.rollouts()) % 3]
            release = Release(f"gate@{version}", DIGEST[version], (), self.now)
            self.controller.inventory.save_release(release)
            request = RolloutRequest(release=release.release, slot="gate", canary=2)
            self.story.tell("act", self.controller.start_rollout(request).id)
        self.tick()
        for i, device in enumerate(DEVICES):
            self._obeys(device, number, i)

    def _obeys(self, device: str, number: int, i: int) -> None:
        desired = self.told(device)
        if T.conn(device) not in self.wire.retained:
            self._says(T.conn(device), Conn(epoch=1, online=True, slots=("gate",)).encode())
        if desired is None or (number + i) % 2:
            return
        wish = desired.slots["gate"]
        slot = ReportedSlot(
            state=State.COMMITTED,
            gen=desired.gen,
            digest=wish.digest,
            release=wish.release,
            active=wish.digest,
            active_release=wish.release,
        )
        self._says(
            T.reported(device),
            Reported(epoch=1, seq=1 + number, gen=desired.gen, slots={"gate": slot}).encode(),
        )

    def _says(self, topic: str, payload: bytes) -> None:
        self.story.tell("message", topic, payload)
        self.wire.retained[topic] = payload
        self.hears(topic, payload)


def kill_again_and_again(folder: Path, times: int, seed: int = 0, url: str | None = None) -> Counter[str]:
    """Returns what was seen. Raises :class:`LostDecision`."""
    chance, seen = random.Random(seed), Counter[str]()
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(times):
        _live(folder, url, chance.randrange(1, 500), seen)
        seen += check(folder, url)
        seen["kills"] += 1
    _live(folder, url, None, seen)
    check(folder, url)
    seen["rollouts"] = sum(1 for what, _, _ in Story(folder).told() if what == "act")
    return seen


def restart_again_and_again(folder: Path, times: int, seed: int = 0) -> Counter[str]:
    """Not the controller dies but its PostgreSQL, at any statement or commit, and comes back: the controller
    goes on. Raises :class:`LostDecision`."""
    found = binaries()
    if found is None:
        raise SystemExit("PostgreSQL is not installed (apt-get install postgresql)")
    chance, seen, server = random.Random(seed), Counter[str](), Postgres(found)
    left = chance.randrange(1, 500)

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            seen["restarts"] += 1
            server.restart()

    try:
        url = server.new_database()
        folder.mkdir(parents=True, exist_ok=True)
        life = _Life(folder, url)
        life.wire.on_publish = step
        for what in ("before_cursor_execute", "after_cursor_execute", "commit"):
            listen(Engine, what, step)
        while seen["restarts"] < times or life.controller.inventory.rollouts(active=True):
            if left <= 0 and seen["restarts"] < times:
                left = chance.randrange(1, 500)
            life.goes_on()
        life.ends()
        seen += check(folder, url)
        seen["rollouts"] = sum(1 for what, _, _ in life.story.told() if what == "act")
    finally:
        server.close()
    return seen


def check(folder: Path, url: str | None) -> Counter[str]:
    """Every decision that anybody was told of is in the database. Raises :class:`LostDecision`."""
    story, checked = Story(folder), Counter[str]()
    inventory = Inventory(folder / "state", url)
    try:
        devices, rollouts = inventory.devices(), inventory.rollouts()
        newest: dict[str, Desired] = {}
        for what, name, payload in story.told():
            levels = T.parse(name) if what == "message" else None
            if what == "act":
                checked["acts"] += 1
                if name not in rollouts:
                    raise LostDecision(f"{name} began, and the database does not know it")
            elif name == T.ctl:
                checked["numbers"] += 1
                number = ControllerState.model_validate_json(_signed(payload)).seq
                if number > inventory.number("signed"):
                    raise LostDecision(f"number {number} was used and not kept")
            elif levels is not None and levels[-1] == "desired":
                checked["documents"] += 1
                told = Desired.model_validate_json(_signed(payload))
                bare = told.model_copy(update={"fleet": None, "device": None})  # whom it is for
                _check_document(newest, levels[1], bare)
        for device, desired in newest.items():
            stored = devices[device].desired
            if desired.gen > stored.gen or (desired.gen == stored.gen and desired != stored):
                raise LostDecision(f"{device} was told {desired}, stored is {stored}")
        for name, (_, progress) in rollouts.items():
            if inventory._db.read(partial(folded, rollout=name)) != progress:
                raise LostDecision(f"the log of {name} does not add up to where it stands")
        for spec, progress in inventory.rollouts(active=True).values():
            for name, m in progress.members.items():
                wish = devices[name].desired.slots.get(spec.slot)
                if m.admitted_s is not None and (wish is None or wish.digest != spec.digest):
                    raise LostDecision(
                        f"half a step: {name} counts as admitted to {spec.id}, wanted is {wish}"
                    )
    finally:
        inventory.close()
    return checked


def _check_document(newest: dict[str, Desired], device: str, desired: Desired) -> None:
    before = newest.get(device, Desired(gen=0))
    if desired.gen < before.gen or (desired.gen == before.gen and desired != before and before.gen):
        raise LostDecision(f"{device} was told generation {desired.gen} after {before.gen}: {desired}")
    newest[device] = desired


def _signed(payload: bytes) -> bytes:
    """What a signed document says."""
    document = json.loads(payload)
    return json.dumps(document.get("signed", document)).encode()


def _live(folder: Path, url: str | None, steps: int | None, seen: Counter[str]) -> None:
    """One life in a process of its own, for so many steps. None: until a rollout that it began is over."""
    child = os.fork()
    if child == 0:
        try:
            _until_killed(folder, url, steps)
            os._exit(0)
        except BaseException as e:
            print(f"a life ended by itself: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and (os.WEXITSTATUS(status) or steps is not None):
        raise LostDecision(f"a life of {steps} steps ended by itself with {os.WEXITSTATUS(status)}")
    seen["ended by itself" if os.WIFEXITED(status) else "killed"] += 1


def _until_killed(folder: Path, url: str | None, steps: int | None) -> None:
    left = steps

    def step(*_: object) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    listen(Engine, "before_cursor_execute", step)
    listen(Engine, "after_cursor_execute", step)
    listen(Engine, "commit", step)
    life = _Life(folder, url)
    life.wire.on_publish = step
    ticks = 0
    while steps is not None or life.controller.inventory.rollouts(active=True) or not ticks:
        life.goes_on()
        ticks += 1
        if steps is None and ticks > _SETTLED:
            raise LostDecision(f"the rollout does not end in {_SETTLED} ticks")
    life.ends()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="of the store; default: SQLite")
    parser.add_argument("--restarts", action="store_true", help="PostgreSQL dies instead of the controller")
    args = parser.parse_args()
    if args.restarts:
        seen = restart_again_and_again(args.folder, args.times, args.seed)
    else:
        seen = kill_again_and_again(args.folder, args.times, args.seed, args.url)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
