"""Numbers of what the director's keys sign rise whatever clocks, restarts and lying devices do; commands
leave in their order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl.core.errors import LinkError, StorageError
from edgectl.core.wire import MAX_COMMAND_S, MAX_GEN, Command, Reply, Topics
from edgectl.fleet.control.commands import MAX_WAIT_S, Commander, CommandRequest, SequenceNumbers
from edgectl.fleet.store.inventory import Inventory

YEAR_S = 365 * 86400.0
NOW_S = 1_800_000_000.0
_CLOCK = st.floats(min_value=0.0, max_value=NOW_S + 50 * YEAR_S)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[[], Inventory]]:
    """Makes databases that know nothing yet."""
    with contextlib.ExitStack() as made:
        yield lambda: made.enter_context(contextlib.closing(Inventory(tmp_path, "sqlite://")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["next", "restart", "heard"]), _CLOCK, st.integers(0, MAX_GEN)), max_size=12
    )
)
def test_numbers_rise_over_restarts_clocks_and_claims(
    new: Callable[[], Inventory], steps: list[tuple[str, float, int]]
) -> None:
    inventory = new()
    numbers, last = SequenceNumbers(inventory), 0
    for what, now_s, claimed in steps:
        if what == "restart":
            numbers = SequenceNumbers(inventory)
        elif what == "heard":
            numbers.heard(claimed, now_s)
        else:
            number = numbers.next(now_s)
            assert last < number <= MAX_GEN
            last = number


def test_controller_that_lost_everything_goes_on_above_what_devices_have_seen(
    new: Callable[[], Inventory],
) -> None:
    before = SequenceNumbers(new())
    seen = [before.next(NOW_S) for _ in range(10)][-1]
    after = SequenceNumbers(new())
    assert after.next(NOW_S + 2) > seen, "by the clock alone"
    ahead = before.next(NOW_S + YEAR_S)
    assert after.next(NOW_S + 3) < ahead, "not after a clock that was ahead"
    assert after.heard(ahead, NOW_S + 4)
    assert after.next(NOW_S + 5) == ahead + 1
    assert not after.heard(ahead, NOW_S + 6), "no news"


def test_device_that_lies_drives_numbers_ten_years_and_no_further(new: Callable[[], Inventory]) -> None:
    numbers = SequenceNumbers(new())
    assert not numbers.heard(MAX_GEN, NOW_S)
    assert not numbers.heard(int((NOW_S + 10 * YEAR_S + 1) * 1000), NOW_S)
    assert numbers.next(NOW_S) == int(NOW_S * 1000)
    assert numbers.heard(int((NOW_S + 10 * YEAR_S) * 1000), NOW_S)
    lost = SequenceNumbers(new())
    assert lost.heard(int((NOW_S + 10 * YEAR_S) * 1000), NOW_S + 60), (
        "what was believed once is believed again"
    )


def test_number_that_cannot_be_kept_is_not_used(
    new: Callable[[], Inventory], monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = new()
    numbers = SequenceNumbers(inventory)
    first = numbers.next(NOW_S)
    with monkeypatch.context() as full:
        full.setattr(inventory, "keep_number", lambda *_: (_ for _ in ()).throw(StorageError("full")))
        with pytest.raises(StorageError):
            numbers.next(NOW_S)
    assert numbers.next(NOW_S) == first + 1


# ---- sending


class Link:
    """Remembers what is published; the device answers at once."""

    broker = "127.0.0.1:1"

    def __init__(self) -> None:
        self.is_up = True
        self.sent: list[Command] = []
        self.used = threading.Event()
        self.answer: Callable[[Command], None] = lambda _: None

    def publish(self, topic: str, payload: bytes, *, timeout_s: float) -> None:
        assert topic == "edgectl/1/home/d/gate-1/cmd"
        self.sent.append(Command.model_validate_json(payload))
        self.used.set()
        self.answer(self.sent[-1])


class Director:
    """Signs nothing; the first command is slow, so that others could overtake it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._first = True

    def seal_command(self, _device: str, command: Command) -> bytes:
        if self._first:
            self._first = False
            self._link.used.wait(0.3)
        return command.encode()


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def commander(tmp_path: Path, link: Link) -> Iterator[Commander]:
    inventory = Inventory(tmp_path)
    made = Commander(Topics("home"), Director(link), SequenceNumbers(inventory), inventory, link)  # type: ignore[arg-type]
    link.answer = lambda c: made.on_reply("gate-1", Reply(id=c.id, ok=True, result={"op": c.op}).encode())
    yield made
    inventory.close()


def test_command_lives_for_the_wait_and_what_clocks_may_differ(commander: Commander, link: Link) -> None:
    before_s = time.time()
    assert commander.send("gate-1", CommandRequest(op="probe", wait_s=MAX_WAIT_S)).result == {"op": "probe"}
    (sent,) = link.sent
    assert before_s <= sent.deadline_s - MAX_WAIT_S - 300 <= time.time() + 1
    assert sent.deadline_s < sent.seq / 1000 + MAX_COMMAND_S


def test_nothing_is_kept_for_a_broker_that_is_away(commander: Commander, link: Link) -> None:
    link.is_up = False
    with pytest.raises(LinkError, match=r"not connected to the broker at 127\.0\.0\.1:1"):
        commander.send("gate-1", CommandRequest(op="force", owner="anna", slot="gate", reason="fix"))
    assert link.sent == []
    told = [(e.subject, e.text) for e in commander._inventory.events()]
    assert told == [
        ("gate-1", "anna: force of gate: fix"),
        ("gate-1", "force: the controller is not connected to the broker at 127.0.0.1:1"),
    ]


def test_commands_of_many_operators_leave_in_the_order_of_their_numbers(
    commander: Commander, link: Link
) -> None:
    with ThreadPoolExecutor(2) as operators:
        replies = list(
            operators.map(lambda _: commander.send("gate-1", CommandRequest(op="probe")), range(4))
        )
    assert all(r.ok for r in replies)
    numbers = [c.seq for c in link.sent]
    assert numbers == sorted(set(numbers))
    assert len({c.id for c in link.sent}) == 4
    assert commander._waiting == {}


def test_what_a_builder_asks_every_few_seconds_is_not_written_down(commander: Commander, link: Link) -> None:
    for act in ("open", "look", "result", "close"):
        measure = {"act": act, "session": "build-1"}
        asked = CommandRequest.model_validate({"op": "measure", "owner": "anna", "measure": measure})
        assert commander.send("gate-1", asked).ok
    assert [c.measure.act for c in link.sent if c.measure] == ["open", "look", "result", "close"]
    told = [e.text for e in commander._inventory.events()]
    assert told == ["anna: measure open", "measure: done", "anna: measure close", "measure: done"]
