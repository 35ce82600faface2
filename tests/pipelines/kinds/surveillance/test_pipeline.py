"""Surveillance: the time of day reaches the rules, counts outlast the process, alarms are drawn."""

from __future__ import annotations

import json
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.rules import LABELS, SQUARE, of, seen, thing

from edgectl.core.errors import StorageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.kept import KeptState
from edgectl.pipelines.kinds.surveillance.pipeline import SurveillanceAnalyser
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame, Stamp

NIGHT = 1_764_457_200.0
"""2025-11-29 23:00:00 UTC."""


def analyser(path: Path | None = None, **config: Any) -> SurveillanceAnalyser:
    config.setdefault("rules", [{"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}])
    kept = None if path is None else KeptState(path, "gate")
    return SurveillanceAnalyser(
        parse_config("surveillance", {"zones": {"yard": SQUARE}, **config}), LABELS, kept
    )


def play(who: SurveillanceAnalyser, seconds: float, *, wall: float | None = None) -> list[Event]:
    """Somebody walks from the left to the right, 200 pixels a second."""
    image = np.zeros((1000, 1000, 3), np.uint8)
    events = []
    for i in range(round(seconds * 10)):
        ns = i * 100_000_000
        offset = None if wall is None else round(wall * 1e9)
        frame = Frame.of_bgr(image, Stamp(i, ns, ns, None, offset, "rtcp"))
        events += who.step(frame, seen(thing(1, 200 * i / 10, 500)), i / 10)
    return events


@pytest.mark.parametrize(("wall", "told"), [(NIGHT, 1), (NIGHT - 12 * 3600, 0), (None, 0)])
def test_the_time_of_day_of_a_frame_reaches_the_rules(wall: float | None, told: int) -> None:
    night = {"id": "night", "intrusion": {"zone": "yard", "when": "22:00-06:00"}}
    events = play(analyser(rules=[night]), 3, wall=wall)
    assert len(of(events, "intrusion")) == told
    assert [e.data["reason"] for e in of(events, "capability")] == (
        ["wall_time_missing"] if wall is None else [None]
    )


def test_counts_go_on_after_a_restart(tmp_path: Path) -> None:
    for run in (1, 2, 3):
        who = analyser(tmp_path / "new" / "rules.json")
        (crossing,) = of(play(who, 5), "line_crossing")
        who.close()
        assert crossing.data["counts"]["in"] == {"person": run}


def test_counts_are_written_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: queue.Queue[dict[str, Any]] = queue.Queue()
    monkeypatch.setattr(
        "edgectl.pipelines.kinds.kept.atomic_write",
        lambda _, data: written.put(json.loads(data)),
    )
    who = analyser(tmp_path / "rules.json")
    play(who, 5)
    while written.get(timeout=10)["rules"]["gate"]["state"]["counts"]["in"] != {"person": 1}:
        pass
    who.close()


def test_a_file_that_is_no_state_is_said_and_counting_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text("{")
    who = analyser(path)
    events = play(who, 5)
    who.close()
    assert [e.data["reason"] for e in of(events, "reset")] == ["not_understood"]
    assert of(events, "line_crossing")[0].data["counts"]["in"] == {"person": 1}


def test_a_disk_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptState(tmp_path / "file" / "rules.json", "gate")
    for number in range(3):
        kept.keep({"number": number})
    kept.close()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        KeptState(tmp_path / "folder", "gate").read()


def test_an_alarm_that_is_on_is_drawn_and_one_that_is_over_is_not() -> None:
    who = analyser(rules=[{"id": "in", "intrusion": {"zone": "yard"}}, {"id": "way", "wrong_way": WAY}])
    image = np.zeros((1000, 1000, 3), np.uint8)
    red = (0, 0, 255)
    play(who, 3)
    assert who._alarms == {1: {"in"}}
    who.overlay(seen(thing(1, 600, 500)))(image)
    assert (image == red).all(axis=2).sum() > 300
    image[:] = 0
    who.rules.switch("in", False)
    stamp = Stamp(99, 0, 0, None, None, "arrival")
    who.step(Frame.of_bgr(image, stamp), seen(thing(1, 600, 500)), 3.1)
    who.overlay(seen(thing(1, 600, 500)))(image)
    assert (image == red).all(axis=2).sum() == 0
    assert image.any()


WAY = {"zone": "yard", "allowed": [0.2, 0.5, 0.8, 0.5]}
