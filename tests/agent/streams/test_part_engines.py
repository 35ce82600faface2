"""The engines of a worker's parts: asked, answered, kept warm, gone back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.agent.streams.part_engines import PartEngines
from edgectl.core.errors import ProtocolError
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import EngineRef, Revert, Swap, SwapFailed, Swapped

ONE, TWO, THREE = (EngineRef(blobs=Path("/b"), manifest=f"m{n}", bundle=f"b{n}") for n in (1, 2, 3))


def took(parts: PartEngines, ref: EngineRef) -> PartEngines:
    parts, _ = parts.switch("yard", "detector", ref)
    return parts.answered(Swapped(stream="yard", part="detector", manifest=ref.manifest, gap_ms=1))


def test_swap_changes_what_serves_when_it_is_answered_and_keeps_the_old_one_warm() -> None:
    parts, message = PartEngines(serving={"detector": ONE}).switch("yard", "detector", TWO)
    assert message == Swap(stream="yard", part="detector", engine=TWO)
    assert parts.serving == {"detector": ONE}
    parts = parts.answered(Swapped(stream="yard", part="detector", manifest="m2", gap_ms=1))
    assert (parts.serving, parts.standby, parts.asked) == ({"detector": TWO}, {"detector": ONE}, {})


def test_way_back_to_a_warm_engine_needs_no_answer_and_exists_once() -> None:
    parts, message = took(PartEngines(serving={"detector": ONE}), TWO).switch("yard", "detector", ONE)
    assert message == Revert(stream="yard", part="detector")
    assert (parts.serving, parts.standby, parts.asked) == ({"detector": ONE}, {}, {})
    _, message = parts.switch("yard", "detector", TWO)
    assert message == Swap(stream="yard", part="detector", engine=TWO), "it was unloaded"


def test_after_a_commit_the_way_back_is_a_swap() -> None:
    parts = took(PartEngines(serving={"detector": ONE}), TWO).committed("detector")
    _, message = parts.switch("yard", "detector", ONE)
    assert message == Swap(stream="yard", part="detector", engine=ONE)


def test_refused_swap_leaves_what_serves_and_says_why_once() -> None:
    parts, _ = PartEngines(serving={"detector": ONE}).switch("yard", "detector", TWO)
    why = Failure(code="engine", detail="it does not open")
    parts = parts.answered(SwapFailed(stream="yard", part="detector", manifest="m2", error=why))
    assert (parts.serving, parts.standby, parts.asked) == ({"detector": ONE}, {}, {})
    parts, said = parts.heard("detector")
    assert said == why
    assert parts.heard("detector")[1] is None


@pytest.mark.parametrize("manifest", ["m1", "m3"])
def test_answer_to_a_question_that_was_not_asked_breaks_the_protocol(manifest: str) -> None:
    parts, _ = PartEngines(serving={"detector": ONE}).switch("yard", "detector", TWO)
    with pytest.raises(ProtocolError, match="was not asked to swap"):
        parts.answered(Swapped(stream="yard", part="detector", manifest=manifest, gap_ms=1))
    with pytest.raises(ProtocolError, match="was not asked to swap"):
        parts.answered(Swapped(stream="yard", part="classifier", manifest="m2", gap_ms=1))


def test_parts_are_apart() -> None:
    parts, _ = PartEngines(serving={"vad": ONE, "keyword": TWO}).switch("yard", "keyword", THREE)
    parts = parts.answered(Swapped(stream="yard", part="keyword", manifest="m3", gap_ms=1))
    assert (parts.serving, parts.standby) == ({"vad": ONE, "keyword": THREE}, {"keyword": TWO})
    assert parts.contradicted({"vad": "b1", "keyword": "b2"}) == ["keyword"]
    assert parts.contradicted({}) == [], "a worker that does not name a part contradicts nothing"
