"""What is marked reaches the broker although it stalls and things change meanwhile; nobody who may not
wait waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.controller import T, Wire

from edgectl.core.errors import IntegrityError, LinkError
from edgectl.core.wire import Desired
from edgectl.fleet.broker.publisher import Publisher


class Bench:
    """Messages say how often something had changed when they were made."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.state = self.trust = 0
        self.held: set[str] = set()
        self.rotten: set[str] = set()
        self.offered: list[str] = []
        self.publisher = Publisher(
            self.wire,  # type: ignore[arg-type]
            T,
            state=lambda: b"state %d" % self.state,
            trust=lambda: b"trust %d" % self.trust,
            desired=lambda device, d: None if device in self.held else b"%s %d" % (device.encode(), d.gen),
            pages=self._pages,
        )

    def _pages(self, digest: str) -> None:
        if digest in self.rotten:
            raise IntegrityError("it has rotted")
        self.wire.publish(T.manifest(digest, 0), b"")
        self.offered.append(digest)

    def mark_all(self) -> None:
        self.publisher.offer([f"sha256:{'a' * 64}"])
        self.publisher.tell("d0", Desired(gen=1))
        self.publisher.trust_changed()
        self.publisher.state_changed()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_published_unless_it_is_marked_and_then_once(bench: Bench) -> None:
    topics: list[str] = []
    bench.wire.on_publish = topics.append
    bench.publisher.publish()
    assert topics == []
    bench.mark_all()
    for _ in range(2):
        bench.publisher.publish()
    bench.publisher.publish_state()
    digest = bench.offered[0]
    assert topics == [T.ctl, T.trust, T.desired("d0"), T.manifest(digest, 0)], (
        "what devices need to go on comes first"
    )


@pytest.mark.parametrize("taken", range(4))
def test_what_a_full_broker_did_not_take_stays_marked(bench: Bench, taken: int) -> None:
    bench.mark_all()
    bench.wire.takes = taken
    with pytest.raises(LinkError):
        bench.publisher.publish()
    assert len(bench.wire.retained) == taken
    bench.wire.takes = 4 - taken
    bench.publisher.publish()
    assert len(bench.wire.retained) == 4


def test_what_changes_while_it_is_handed_over_is_handed_over_again(bench: Bench) -> None:
    """The dispatcher thread cannot wait until the broker has taken the older one."""
    changed = set()

    def change(topic: str) -> None:
        if topic in changed:
            return
        changed.add(topic)
        if topic == T.ctl:
            bench.state += 1
            bench.publisher.state_changed()
        elif topic == T.trust:
            bench.trust += 1
            bench.publisher.trust_changed()
        else:
            bench.publisher.tell("d0", Desired(gen=2))

    bench.wire.on_publish = change
    bench.mark_all()
    bench.publisher.publish()
    assert bench.wire.retained[T.ctl] == b"state 1"
    assert bench.wire.retained[T.trust] == b"trust 1"
    assert bench.wire.retained[T.desired("d0")] == b"d0 2"


def test_newer_desired_state_is_not_replaced_by_the_one_that_failed(bench: Bench) -> None:
    bench.publisher.tell("d0", Desired(gen=1))
    bench.wire.takes = 0
    bench.wire.on_publish = lambda _: bench.publisher.tell("d0", Desired(gen=2))
    with pytest.raises(LinkError):
        bench.publisher.publish()
    bench.wire.takes, bench.wire.on_publish = 9, lambda _: None
    bench.publisher.publish()
    assert bench.wire.retained == {T.desired("d0"): b"d0 2"}


def test_states_of_two_threads_reach_the_broker_in_the_order_in_which_they_were_made(bench: Bench) -> None:
    """A device obeys none with a number below one that it has seen."""
    first, go_on = threading.Event(), threading.Event()
    said: list[bytes] = []

    def state() -> bytes:
        bench.state += 1
        made = b"state %d" % bench.state
        if not first.is_set():
            first.set()
            go_on.wait(0.3)  # so that the other one could overtake it
        said.append(made)
        return made

    publisher = Publisher(
        bench.wire, T, state=state, trust=bytes, desired=lambda *_: None, pages=lambda _: None
    )  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as threads:
        publisher.state_changed()
        one = threads.submit(publisher.publish_state)
        assert first.wait(10)
        publisher.state_changed()
        other = threads.submit(publisher.publish_state)
        other.add_done_callback(lambda _: go_on.set())
        one.result(10)
        other.result(10)
    assert said == [b"state 1", b"state 2"]
    assert bench.wire.retained[T.ctl] == b"state 2"


def test_device_that_must_not_be_told_yet_and_a_rotten_blob_hold_up_nobody(bench: Bench) -> None:
    bench.held, bench.rotten = {"d0"}, {f"sha256:{'b' * 64}"}
    bench.mark_all()
    bench.publisher.tell("d1", Desired(gen=3))
    bench.publisher.tell("d2", Desired(gen=0))
    bench.publisher.offer(bench.rotten)
    bench.publisher.publish()
    assert T.desired("d0") not in bench.wire.retained
    assert bench.wire.retained[T.desired("d1")] == b"d1 3"
    assert T.desired("d2") not in bench.wire.retained, "nothing was ever wanted of it"
    assert bench.offered == [f"sha256:{'a' * 64}"]


def test_without_a_connection_nothing_is_tried(bench: Bench) -> None:
    bench.mark_all()
    bench.wire.is_up = False
    bench.publisher.publish()
    assert bench.wire.retained == {}
    bench.wire.is_up = True
    steps: list[int] = []
    bench.publisher.publish(lambda: steps.append(1))
    assert len(bench.wire.retained) == len(steps) == 4


def test_what_the_broker_is_to_forget_is_emptied_before_anything_is_offered_again(bench: Bench) -> None:
    digest = f"sha256:{'a' * 64}"
    topics: list[str] = []
    bench.wire.on_publish = topics.append
    bench.publisher.forget([T.manifest(digest, 0), T.manifest(digest, 1)])
    bench.publisher.offer([digest])
    bench.wire.takes = 1
    with pytest.raises(LinkError):
        bench.publisher.publish()
    bench.wire.takes = 100
    bench.publisher.publish()
    assert sorted(set(topics[:-1])) == [T.manifest(digest, 0), T.manifest(digest, 1)]
    assert bench.offered == [digest]
    assert topics[-1] == T.manifest(digest, 0), "the pages come last, and stay"
