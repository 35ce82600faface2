from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.fleet.store import heard
from edgectl.fleet.store.database import Database
from edgectl.fleet.store.heard import SeqRanges


@given(seqs=st.lists(st.integers(0, 60)))
def test_numbers_are_in_the_set_once_they_were_added_and_across_its_text(seqs: list[int]) -> None:
    ranges = SeqRanges()
    for seq in seqs:
        ranges.add(seq)
        ranges = SeqRanges(str(ranges))
    assert [seq for seq in range(62) if seq in ranges] == sorted(set(seqs))


def test_numbers_in_a_row_are_one_range() -> None:
    ranges = SeqRanges("1-3 7")
    for seq in (5, 4, 6):
        ranges.add(seq)
    assert str(ranges) == "1-7"


def test_set_with_too_many_gaps_closes_the_oldest_and_never_forgets_what_it_holds() -> None:
    ranges, seqs = SeqRanges(), list(range(0, 4 * heard.RANGES, 2))
    for seq in seqs:
        ranges.add(seq)
    assert len(str(ranges).split()) == heard.RANGES
    assert all(seq in ranges for seq in seqs)
    assert seqs[-1] - 1 not in ranges


def test_device_remembers_its_newest_starts_for_a_while(tmp_path: Path, store_url: str | None) -> None:
    db = Database(tmp_path, store_url)
    db.write(lambda c: heard.note(c, "d0", {7: [1, 2, 4]}, 0.0))
    db.write(lambda c: heard.note(c, "d0", {epoch: [1] for epoch in range(100, 140)}, 1000.0))
    db.write(lambda c: heard.note(c, "d1", {7: [9]}, 0.0))
    found = db.read(lambda c: heard.of(c, ["d0", "d1", "d2"]))
    assert ("d0", 7) not in found, "a device that makes starts up forgets its own"
    assert 9 in found["d1", 7]
    assert max(epoch for _, epoch in found) == 139
    db.write(lambda c: heard.forget_old(c, heard.KEPT_S + 1.0))
    assert {device for device, _ in db.read(lambda c: heard.of(c, ["d0", "d1"]))} == {"d0"}
    db.write(lambda c: heard.forget(c, "d0"))
    assert db.read(lambda c: heard.of(c, ["d0"])) == {}
    db.close()


@pytest.mark.parametrize("n", [1, 1200])
def test_any_number_of_devices_is_asked_for(tmp_path: Path, n: int) -> None:
    db = Database(tmp_path)
    db.write(lambda c: heard.note(c, f"d{n - 1}", {1: [1]}, 0.0))
    assert list(db.read(lambda c: heard.of(c, [f"d{i}" for i in range(n)]))) == [(f"d{n - 1}", 1)]
    db.close()
