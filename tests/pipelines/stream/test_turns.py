"""Who is next at an engine."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from edgectl.pipelines.stream.turns import Seat, Turns


def always() -> bool:
    return True


def seats(*sizes: int, ready: Callable[[], bool] = always) -> tuple[Turns[str], list[Seat[str]]]:
    turns: Turns[str] = Turns()
    turns.seats = [Seat(size, ready) for size in sizes]
    return turns, turns.seats


def taken(turns: Turns[str], now: int = 0) -> str | None:
    turn = turns.take(now)
    return None if turn is None else turn[1]


def test_the_earliest_deadline_is_first_and_of_two_alike_the_one_that_waits_longer() -> None:
    turns, (a, b, c) = seats(1, 1, 1)
    turns.offer(a, "late", 300, now_ns=0)
    turns.offer(b, "second", 200, now_ns=9)
    turns.offer(c, "first", 200, now_ns=3)
    assert [taken(turns) for _ in range(4)] == ["first", "second", "late", None]


def test_a_newer_frame_takes_the_place_and_the_turn_of_the_older_one() -> None:
    turns, (a, b) = seats(1, 1)
    turns.offer(a, "old", 100, now_ns=0)
    turns.offer(b, "other", 150, now_ns=1)
    assert turns.offer(a, "new", 200, now_ns=2) == "old"
    assert taken(turns) == "new"


def test_a_queue_keeps_its_order_and_loses_its_oldest() -> None:
    turns, (a,) = seats(2)
    lost = [turns.offer(a, name, due, now_ns=due) for due, name in enumerate("abc")]
    assert lost == [None, None, "a"]
    assert [taken(turns) for _ in range(3)] == ["b", "c", None]


def test_a_stream_that_cannot_take_a_result_waits_and_lets_others_pass() -> None:
    turns, (a,) = seats(1, ready=lambda: False)
    b: Seat[str] = Seat(1, always)
    turns.seats.append(b)
    turns.offer(a, "a", 1, now_ns=0)
    turns.offer(b, "b", 2, now_ns=0)
    assert [taken(turns), taken(turns)] == ["b", None]
    assert len(a.items) == 1


@given(st.lists(st.tuples(st.integers(5, 60), st.integers(20, 400)), min_size=2, max_size=6))
@example([(5, 20), (5, 20), (5, 396)])
def test_under_overload_nobody_starves(streams: list[tuple[int, int]]) -> None:
    """Streams of any rate and budget, each at least twice as fast as the engine: everybody has his turn."""
    turns, places = seats(*[1] * len(streams))
    engine_ms = 2 * max(period for period, _ in streams)
    served = [0] * len(streams)
    longest = max(budget for _, budget in streams)
    # a turn is due after the longest budget; then it is behind one turn of each other at most
    turn_ms = longest + 2 * len(streams) * engine_ms
    ran_ms = max(40 * engine_ms, turn_ms)
    for now in range(ran_ms):
        for i, (period, budget) in enumerate(streams):
            if now % period == 0:
                turns.offer(places[i], str(i), now + budget, now)
        if now % engine_ms == 0 and (who := taken(turns, now)) is not None:
            served[int(who)] += 1
    assert min(served) >= ran_ms // turn_ms
