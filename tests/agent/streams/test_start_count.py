"""Starts in a row, counted on disk for each set of engines with each configuration."""

from __future__ import annotations

from pathlib import Path

from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.start_count import StartCount
from edgectl.pipelines.host.protocol import EngineRef

ENGINES = {"detector": EngineRef(blobs=Path("/b"), manifest="sha256:1")}


def test_starts_with_one_configuration_do_not_count_against_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    count = StartCount("yard", journal)
    assert [count.add(ENGINES, {"rules": [1]}) for _ in range(3)] == [1, 2, 3]
    assert count.add(ENGINES, {"rules": [2]}) == 1
    assert StartCount("door", journal).add(ENGINES, {"rules": [1]}) == 1
    count.clear(ENGINES, {"rules": [2]})
    assert StartCount("yard", journal).add(ENGINES, {"rules": [1]}) == 4, "it is on disk"
    assert count.add(ENGINES, {"rules": [2]}) == 1
    journal.close()
