"""Streams that take a configuration and the engines of its parts as one, in real worker processes
(tests/support/worker.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.streams.test_config_slots import FIRST, House, refuses, release
from agent.streams.test_supervisor import ref
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig
from edgectl.agent.streams.config_slots import ConfigSlots, as_released, released_engines
from edgectl.agent.streams.set_engines import PartRef, SetRef, engines_of
from edgectl.core.errors import BundleError, EngineError
from edgectl.pipelines.host.protocol import EngineRef


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    house.supervisor.start()
    house.wait_running(FIRST)
    yield house
    house.supervisor.close()
    house.journal.close()


def a_set(folder: Path, version: str, **behaviour: object) -> SetRef:
    """Version ``n`` says ``update_s: 1n0`` and brings engine ``m@n``."""
    one = release(folder, version, f"update_s: 1{version}0\n")
    part = PartRef(part="detector", slot="gate", engine=ref(folder / "engines", version, **behaviour))
    return SetRef(**one.model_dump(), parts=(part,))


def running(house: House) -> list[tuple[Any, str]]:
    """What each worker said last that it runs."""
    last: dict[str, dict[str, Any]] = {}
    for message in list(house.events.queue):
        if message.event.get("kind") in ("started", "configured"):
            last[message.stream] = message.event
    return [(e["config"]["update_s"], e["releases"]["detector"]) for _, e in sorted(last.items())]


def wait_for(house: House, update_s: float, engine: str) -> None:
    wait_until(lambda: running(house) == [(update_s, engine)] * 2, f"{update_s} with {engine}")


def test_stream_takes_both_at_once_and_both_go_when_the_slot_is_emptied(house: House, tmp_path: Path) -> None:
    one = a_set(tmp_path, "2")
    house.activate(one)
    wait_for(house, 120, "m@2")
    assert house.slots.differs("rules", one) is None
    assert house.supervisor._using("gate") == [], "what the slot has is not theirs meanwhile"
    house.activate(None)
    wait_for(house, 77, "m@1")
    assert len(house.supervisor._using("gate")) == 2
    assert house.supervisor.stream("yard").life.parts.standby == {}


def test_stream_that_took_a_set_goes_back_as_one_when_the_next_one_refuses(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        refuses(house, "door", patched)
        with pytest.raises(EngineError, match="door does not take rules@2"):
            house.activate(a_set(tmp_path, "2"))
    wait_until(lambda: running(house) == [(77, "m@1")] * 2, "both have what they had")
    assert [house.stream(s).set_engines for s in ("yard", "door")] == [{}, {}]


def test_set_with_other_labels_starts_the_streams_anew_with_all_of_it(house: House, tmp_path: Path) -> None:
    house.activate(a_set(tmp_path, "2", labels=["cat"]))
    wait_for(house, 120, "m@2")
    kinds = [m.event["kind"] for m in list(house.events.queue) if m.event.get("kind")]
    assert "configured" not in kinds


def test_worker_that_dies_under_a_set_starts_with_all_of_it(house: House, tmp_path: Path) -> None:
    house.activate(a_set(tmp_path, "2"))
    wait_for(house, 120, "m@2")
    house.events.queue.clear()
    house.stream("yard").worker.kill()
    wait_for(house, 120, "m@2")


def test_worker_that_goes_back_by_itself_is_told_apart(house: House, tmp_path: Path) -> None:
    one, other = a_set(tmp_path, "2"), ref(tmp_path, "9")
    house.activate(one)
    wait_for(house, 120, "m@2")
    door = house.stream("door")
    with door.changed:
        door.life.parts.serving["detector"] = other  # type: ignore[index]
    assert house.slots.differs("rules", one) == "door runs another engine of detector"
    door.adopt(door.config, {})
    assert house.slots.differs("rules", one) == "door went back to the configuration before"


def test_start_reads_configuration_and_engines_from_one_record(tmp_path: Path) -> None:
    one = a_set(tmp_path, "2")
    stream = StreamConfig(
        kind="surveillance", source="s", slots={"detector": "gate"}, config_slot="rules", config=FIRST
    )
    pipelines = {"yard": stream}
    assert as_released(pipelines, {"rules": one}.get)["yard"].config == {"update_s": 120}
    assert released_engines(pipelines, {"rules": one}.get) == {"yard": {"detector": one.parts[0].engine}}
    lost = one.model_copy(update={"blobs": tmp_path / "nowhere"})
    assert as_released(pipelines, {"rules": lost}.get) == pipelines
    assert released_engines(pipelines, {"rules": lost}.get) == {}
    # the slot has another name since
    renamed = stream.model_copy(update={"slots": {"detector": "west", "plates": "p"}})
    assert engines_of(renamed, one) == {"detector": one.parts[0].engine}
    assert engines_of(renamed, ref(tmp_path, "3")) == engines_of(renamed, None) == {}


@pytest.mark.parametrize(
    ("more", "parts", "why"),
    [
        ({}, ["plates"], "the set names the part plates, for which yard has no slot: give it `slots.plates`"),
        (
            {"config_slot": "others"},
            ["detector"],
            "the set would change the engine of door, whose configuration it does not bring",
        ),
    ],
)
def test_slots_that_are_not_for_the_set_alone_to_say_are_refused(
    house: House, more: dict[str, object], parts: list[str], why: str
) -> None:
    active: dict[str, EngineRef] = {}
    pipelines = {
        name: house.stream(name).config.model_copy(update=more if name == "door" else {})
        for name in ("yard", "door")
    }
    slots = ConfigSlots(pipelines, house.supervisor, active.get)
    with pytest.raises(BundleError) as e:
        slots.parts_of("rules", parts)
    assert why in e.value.message


def test_rule_that_names_a_label_that_the_engine_of_the_set_lacks_is_refused_before_the_switch(
    house: House, tmp_path: Path
) -> None:
    one = release(tmp_path, "2", "classes: [cat]\n")
    part = PartRef(part="detector", slot="gate", engine=ref(tmp_path / "engines", "2"))
    with pytest.raises(EngineError, match=r"rules@2: classes\.0: classes names 'cat', which"):
        house.slots.check("rules", SetRef(**one.model_dump(), parts=(part,)))
    assert house.configs() == [FIRST, FIRST]
