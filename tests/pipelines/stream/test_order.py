"""Results come out in the order of their frames, and none is lost or given twice."""

from __future__ import annotations

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.stream.order import InOrder, Place


@given(st.data())
def test_whatever_is_settled_first_the_first_place_comes_out_first(data: st.DataObject) -> None:
    order: InOrder[int] = InOrder()
    open_: list[tuple[int, Place[int]]] = []
    expected: list[int | None] = []
    taken: list[int] = []
    for _ in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.sampled_from(["place", "settle", "give_up", "take"]))
        if what == "place":
            open_.append((len(expected), order.place()))
            expected.append(len(expected))
        elif open_ and what != "take":
            number, place = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
            if what == "settle":
                assert order.settle(place, number)
            else:
                order.give_up(place)
                expected[number] = None
        elif what == "take":
            # what could come is what lies before the first place that is open
            limit = min((number for number, _ in open_), default=len(expected))
            could = [n for n in expected[:limit] if n is not None][len(taken) :]
            assert order.ready(3) == min(3, len(could))
            item = order.take(0)
            assert item == (could[0] if could else None)
            taken += [] if item is None else [item]
    order.end()
    assert order.finished == (not open_ and len(taken) == len([n for n in expected if n is not None]))
    for number, place in open_:
        order.settle(place, number)
    while (item := order.take(0)) is not None:
        taken.append(item)
    assert taken == [n for n in expected if n is not None]
    assert order.finished


def test_after_an_abort_nothing_is_taken_and_what_was_settled_comes_back() -> None:
    order: InOrder[str] = InOrder()
    first, second, third = order.place(), order.place(), order.place()
    order.settle(second, "b")
    order.give_up(third)
    assert order.abort() == ["b"]
    assert not order.settle(first, "a")
    assert not order.settle(order.place(), "d")
    assert order.take(0) is None
    assert order.finished
    assert order.abort() == []


def test_who_waits_is_woken_by_the_first_place_and_by_the_end() -> None:
    order: InOrder[int] = InOrder()
    places = [order.place() for _ in range(3)]
    got: list[Any] = []

    def take_all() -> None:
        while (item := order.take(30)) is not None:
            got.append(item)

    thread = threading.Thread(target=take_all)
    thread.start()
    order.settle(places[1], 1)
    order.settle(places[0], 0)
    order.end()
    order.give_up(places[2])
    thread.join(10)
    assert not thread.is_alive()
    assert got == [0, 1]
