from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from edgectl.core.wire import Conn, Desired
from edgectl.fleet.store.devices import Device
from edgectl.fleet.store.said import SaidBuffer


def _event(i: int) -> dict[str, object]:
    return {"text": str(i)}


def test_row_is_as_it_was_when_it_was_noted() -> None:
    said, d = SaidBuffer(), Device("d0", Conn(epoch=1, online=True))
    said.note_device(d)
    d.desired = Desired(gen=7)
    assert said.take().devices["d0"].desired.gen == 0


def test_what_comes_back_is_older_than_what_was_noted_since() -> None:
    said = SaidBuffer()
    for epoch in (1, 2):
        said.note_device(Device("d0", Conn(epoch=epoch, online=True)))
    said.note_device(Device("d1", Conn(epoch=5, online=True)))
    said.note_event(_event(1))
    failed = said.take()
    assert not said
    said.note_device(Device("d0", Conn(epoch=3, online=True)))
    said.note_event(_event(2))
    said.give_back(failed)
    batch = said.take()
    assert {n: d.conn.epoch for n, d in batch.devices.items() if d.conn} == {"d0": 3, "d1": 5}
    assert batch.events == [_event(1), _event(2)]


@given(bound=st.integers(1, 5), steps=st.lists(st.sampled_from(["note", "take", "give back"]), max_size=40))
def test_newest_events_wait_in_order_and_all_others_are_counted(bound: int, steps: list[str]) -> None:
    said, noted, written = SaidBuffer(bound), 0, list[dict[str, object]]()
    taken = said.take()
    for step in steps:
        if step == "note":
            said.note_event(_event(noted))
            noted += 1
        elif step == "take":
            written += taken.events
            taken = said.take()
        else:
            said.give_back(taken)
            taken = said.take()
            assert len(taken.events) <= bound
    written += taken.events + said.take().events
    assert [e["text"] for e in written] == sorted((e["text"] for e in written), key=lambda t: int(str(t)))
    assert len(written) + said.dropped() == noted
    assert said.dropped() == 0
    assert noted == 0 or written[-1] == _event(noted - 1), "never the newest"
