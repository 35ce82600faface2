"""Another configuration in a real worker process: in force between two frames, refused with the setting, and a worker
that is killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleet import wait_until
from support.host_worker import Process, start

from edgectl.pipelines.host.protocol import (
    Configure,
    Configured,
    ConfigureFailed,
    Ended,
    EventMessage,
    Fault,
    Ready,
    Stats,
    Stop,
)
from edgectl.pipelines.host.replay import open_track_log, replay

EVERYWHERE = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
BEFORE: dict[str, Any] = {"zones": {"all": EVERYWHERE}, "annotate": False, "tracklog": True}
AFTER: dict[str, Any] = {
    **BEFORE,
    "rules": [{"id": "night", "intrusion": {"zone": "all"}}],
    "track": {"lost_s": 3},
    "update_lock": {"on": ["night"], "seconds": 5},
}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.close()


def configure(number: int, config: dict[str, Any], stream: str = "gate") -> Configure:
    return Configure(stream=stream, number=number, config=config, told={"digest": f"sha256:{number}"})


def events(worker: Process, type_: str) -> list[dict[str, Any]]:
    found = [m.event for m in worker.seen if isinstance(m, EventMessage)]
    return [event for event in found if event["type"] == type_]


def test_a_running_stream_takes_it_and_its_tracks_go_on(worker: Process, tmp_path: Path) -> None:
    worker.say(start(tmp_path, config=BEFORE, out=tmp_path / "out"))
    worker.hear(Ready)
    worker.heard(EventMessage, lambda m: m.event["type"] == "zone")
    # long enough for the new rule to ring at once
    seen = worker.hear(Stats).stats.frames.processed
    worker.hear(Stats, lambda m: m.stats.frames.processed > seen + 20)
    worker.say(configure(7, AFTER))
    done = worker.hear(Configured)
    assert (done.number, done.in_force) == (7, True)
    assert done.changed == ("update_lock", "rules.night", "track.lost_s")
    worker.heard(EventMessage, lambda m: m.event["type"] == "intrusion")
    worker.stop()
    assert worker.end() == 0
    (event,) = events(worker, "configuration")
    assert (event["phase"], event["digest"], event["kept"]) == ("applied", "sha256:7", ["all"])
    (start_,) = events(worker, "intrusion")
    assert start_["reason"] == "configuration"
    assert [e["phase"] for e in events(worker, "tracked_object")].count("new") == 1
    last = [m for m in worker.seen if isinstance(m, Stats)][-1].stats.frames
    assert last.captured == last.processed + sum(last.dropped.values()) + last.in_flight


def test_what_is_wrong_is_refused_with_its_setting_and_nothing_changes(
    worker: Process, tmp_path: Path
) -> None:
    worker.say(start(tmp_path, config=BEFORE))
    worker.hear(Ready)
    worker.say(configure(1, {**AFTER, "rules": [{"id": "a", "loiter": {"zone": "all", "seconds": -1}}]}))
    failed = worker.hear(ConfigureFailed)
    assert (failed.number, failed.error.code, failed.needs_start) == (1, "config", False)
    assert failed.key == ("rules", 0, "loiter", "seconds")
    worker.say(configure(2, {**AFTER, "zones": {"all": {**EVERYWHERE, "classes": ["dragon"]}}}))
    failed = worker.hear(ConfigureFailed)
    assert failed.key == ("zones", "all", "classes", 0)
    worker.say(configure(3, {**BEFORE, "flow": {"mode": "fifo"}}))
    failed = worker.hear(ConfigureFailed)
    assert (failed.error.code, failed.needs_start) == ("config", True)
    worker.say(configure(4, BEFORE))
    assert worker.hear(Configured).changed == ()
    worker.stop()
    assert not events(worker, "configuration")


def test_a_configuration_that_is_wrong_from_the_start_names_its_setting(
    worker: Process, tmp_path: Path
) -> None:
    worker.say(start(tmp_path, config={**BEFORE, "zones": {"all": {"polygon": [0, 0, 1, 1, 1, 0, 0, 1]}}}))
    fault = worker.hear(Fault)
    assert (fault.error.code, fault.key) == ("config", ("zones", "all", "polygon"))
    assert "crosses itself" in (fault.error.detail or "")
    worker.hear(Ended)


def test_the_neighbour_of_a_stream_that_refuses_loses_nothing(worker: Process, tmp_path: Path) -> None:
    for name in ("gate", "yard"):
        worker.say(start(tmp_path, config=BEFORE, stream=name))
    assert {worker.hear(Ready).stream, worker.hear(Ready).stream} == {"gate", "yard"}
    for number in range(1, 6):
        worker.say(configure(number, {"rules": 7} if number % 2 else {**AFTER, "update_s": number}))
        worker.hear(ConfigureFailed if number % 2 else Configured, lambda m: m.stream == "gate")
    worker.say(Stop(stream="yard", within_s=20))
    worker.hear(Ended, lambda m: m.stream == "yard")
    frames = [m for m in worker.seen if isinstance(m, Stats) and m.stream == "yard"][-1].stats.frames
    assert frames.captured == frames.processed + sum(frames.dropped.values())
    assert {e["stream"] for e in events(worker, "configuration")} == {"gate"}


def test_a_worker_that_is_killed_in_the_middle_leaves_a_log_that_can_be_read(
    worker: Process, tmp_path: Path
) -> None:
    worker.say(start(tmp_path, config=BEFORE, out=tmp_path / "out"))
    worker.hear(Ready)
    for number in range(1, 4):
        worker.say(configure(number, {**AFTER, "update_s": number}))
        worker.hear(Configured, lambda m, number=number: m.number == number)
    # an answer says that it holds; its line is written by the thread of the log
    log_file = tmp_path / "out/tracks.jsonl"
    wait_until(lambda: log_file.read_bytes().count(b'"switched":') >= 3, "the changes are written")
    worker.say(configure(4, BEFORE))
    os.kill(worker.p.pid, signal.SIGKILL)
    assert worker.end() == -signal.SIGKILL
    lines = log_file.read_bytes().split(b"\n")
    if lines[-1]:  # of a line that was being written
        log_file.write_bytes(b"\n".join(lines[:-1]) + b"\n")
    with open_track_log(tmp_path / "out") as log:
        length, (once,) = replay(log, [None])
    assert len(length.switched_s) >= 3
    with open_track_log(tmp_path / "out") as log:
        _, (again,) = replay(log, [None])
    assert json.dumps(once.records) == json.dumps(again.records)

    other = Process(tmp_path)
    try:
        other.say(start(tmp_path, config=AFTER, out=tmp_path / "out"))
        other.hear(Ready)
        other.stop()
    finally:
        other.close()
