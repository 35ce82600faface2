"""Streams whose configuration comes from a slot, in real worker processes (tests/support/worker.py), and ``agent.toml``
beside it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.streams.test_supervisor import TIMING, WORKER, ref
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig, read_agent_config
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams import config_slots
from edgectl.agent.streams.config_reload import ConfigReload
from edgectl.agent.streams.config_slots import ConfigSlots, as_released
from edgectl.agent.streams.supervised_stream import SupervisedStream, WorkerCallbacks
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.core.bundle.config_release import ConfigBundle, ConfigRelease
from edgectl.core.errors import EngineError
from edgectl.fleet.client.config_writer import write_config
from edgectl.pipelines.host.protocol import Configure, EngineRef, EventMessage

FIRST = {"update_s": 77}
REFUSED = 1
TOML = """\
name = "gate-1"
state_dir = "state"

[broker]
host = "nas"

[pipelines.yard]
kind = "surveillance"
source = "synth://yard"
slots = {detector = "gate"}
config_slot = "rules"
config = {update_s = 77}
stall_s = 10

[pipelines.door]
kind = "surveillance"
source = "synth://door"
slots = {detector = "gate"}
config_slot = "rules"
config = {update_s = 77}
stall_s = 10
"""


def release(folder: Path, version: str, text: str, kind: str = "surveillance") -> EngineRef:
    place = folder / f"rules-{version}"
    place.mkdir()
    digest = write_config(place, ConfigRelease(name="rules", version=version, kind=kind), text.encode())
    bundle = ConfigBundle(place)
    return EngineRef(
        blobs=bundle.blobs, manifest=bundle.document.digest, release=f"rules@{version}", bundle=digest
    )


class House:
    """Two streams of one slot, as the agent has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "agent.toml"
        self.path.write_text(TOML)
        config, file = read_agent_config(self.path)
        self.active: dict[str, EngineRef] = {"gate": ref(folder, "1")}
        """Slot → what is on record."""
        self.events: queue.Queue[EventMessage] = queue.Queue()
        self.refused: list[tuple[str, str]] = []
        self.journal = Journal(folder / "j.db")
        self.supervisor = Supervisor(
            config.pipelines,
            self.active.get,
            self.journal,
            WorkerCallbacks(lambda *_: None, lambda _, e: self.events.put(e), lambda *_: None),
            command=WORKER,
            stats_every_s=0.05,
            timing=replace(TIMING, steady_s=30),
        )
        self.slots = ConfigSlots(config.pipelines, self.supervisor, self.active.get)
        self.again = ConfigReload(self.path, config, file)
        self.again.serves(
            self.supervisor,
            self.slots.written,
            self.slots.accepted,
            lambda *about: self.refused.append(about),
        )

    def stream(self, name: str) -> SupervisedStream:
        return self.supervisor.stream(name)

    def activate(self, one: EngineRef | None) -> None:
        if one is None:
            del self.active["rules"]
        else:
            self.active["rules"] = one
        self.slots.ensure("rules", one, 10, lambda: False)

    def reload(self, text: str) -> None:
        self.path.write_text(text)
        self.again.reload()

    def configs(self) -> list[dict[str, Any]]:
        return [self.stream(name).config.config for name in ("yard", "door")]

    def wait_running(self, config: dict[str, Any]) -> None:
        wait_until(
            lambda: all(self.stream(name).running_config == config for name in ("yard", "door")),
            f"both run with {config}",
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    house.supervisor.start()
    house.wait_running(FIRST)
    yield house
    house.supervisor.close()
    house.journal.close()


def refuses(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream takes nothing that it is told."""
    stream = house.stream(name)
    send = stream.send

    def told(message: object) -> None:
        if isinstance(message, Configure):
            message = message.model_copy(update={"config": {"update_s": REFUSED}})
        send(message)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "send", told)


def test_stream_that_took_it_goes_back_when_the_next_one_refuses(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(house, "door", monkeypatch)
    with pytest.raises(EngineError, match="door does not take rules@1: update_s: it is too small"):
        house.activate(release(tmp_path, "1", "update_s: 20\n"))
    assert house.configs() == [FIRST, FIRST]
    house.wait_running(FIRST)


def test_stream_that_does_not_even_go_back_starts_again(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(house, "door", monkeypatch)
    give_back = house.slots._give_back

    def refused_by_then(stream: SupervisedStream, config: dict[str, Any]) -> None:
        refuses(house, "yard", monkeypatch)
        give_back(stream, config)

    monkeypatch.setattr(house.slots, "_give_back", refused_by_then)
    with pytest.raises(EngineError, match="door does not take"):
        house.activate(release(tmp_path, "1", "update_s: 20\n"))
    house.wait_running(FIRST)


def test_two_streams_of_a_slot_must_not_write_to_one_place(house: House, tmp_path: Path) -> None:
    shared = release(tmp_path, "1", "restream: {url: rtsp://nas/live}\n")
    with pytest.raises(
        EngineError,
        match=r"rules@1: restream.* of door: .* would both send to rtsp://nas/live: each stream needs",
    ):
        house.slots.check("rules", shared)
    assert house.configs() == [FIRST, FIRST]


def test_release_that_cannot_be_read_leaves_what_stands_in_agent_toml(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = release(tmp_path, "1", "update_s: 20\n")
    pipelines = {
        "yard": StreamConfig(
            kind="surveillance", source="s", slots={"d": "gate"}, config_slot="rules", config=FIRST
        )
    }
    assert as_released(pipelines, {"rules": one}.get)["yard"].config == {"update_s": 20}
    lost = one.model_copy(update={"blobs": tmp_path / "nowhere"})
    assert as_released(pipelines, {"rules": lost}.get) == pipelines
    assert "what stands in agent.toml holds" in caplog.text
    slots = ConfigSlots(pipelines, None, {"rules": lost}.get)  # type: ignore[arg-type]
    assert slots.on_record("yard") == FIRST


def test_what_each_stream_runs_is_compared_with_the_release(house: House, tmp_path: Path) -> None:
    one = release(tmp_path, "1", "update_s: 20\n")
    house.activate(one)
    assert house.slots.differs("rules", one) is None
    door = house.stream("door")
    door._worker_config = {"update_s": 21}
    assert house.slots.differs("rules", one) == "door runs with another configuration"
    door.adopt(door.config.model_copy(update={"config": FIRST}))
    assert house.slots.differs("rules", one) == "door went back to the configuration before"


def test_stream_that_cannot_start_with_it_says_so_until_it_has_another_one(
    house: House, tmp_path: Path
) -> None:
    one = release(tmp_path, "1", "update_s: 20\n")
    house.activate(one)
    door = house.stream("door")
    door.adopt(door.config.model_copy(update={"source": "misconfigured://"}))
    door.restart("as a crash would")
    wait_until(lambda: door.config_fault is not None, "it has failed")
    assert (
        house.slots.differs("rules", one) == "door does not start with it: rules.0: there is no such setting"
    )
    door.adopt(door.config.model_copy(update={"source": "synth://door", "config": FIRST}))
    assert door.config_fault is None


def test_configuration_is_parsed_once_and_only_some_are_kept(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = release(tmp_path, "1", "update_s: 20\n")
    house.activate(one)

    def parsed(*_: object) -> None:
        raise AssertionError("it was parsed again")

    with monkeypatch.context() as patched:
        patched.setattr(config_slots, "read_config", parsed)
        assert house.slots.differs("rules", one) is None
        assert house.slots.on_record("yard") == {"update_s": 20}
    for i in range(2, 22):
        house.slots.differs("rules", release(tmp_path, str(i), f"update_s: {100 + i}\n"))
    assert len(house.slots._parsed) == 16


def test_reload_of_agent_toml_does_not_put_a_release_before_back(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.activate(release(tmp_path, "1", "update_s: 20\n"))
    two = release(tmp_path, "2", "update_s: 21\n")
    configure = house.supervisor.configure

    def slot_first(*about: Any) -> Any:
        house.activate(two)  # by the thread of the slot, between the look at the file and its application
        return configure(*about)

    monkeypatch.setattr(house.supervisor, "configure", slot_first)
    house.reload(TOML.replace("stall_s = 10", "stall_s = 11"))
    assert house.configs() == [{"update_s": 21}, {"update_s": 21}]
    assert house.stream("yard").config.stall_s == 11


def test_nobody_else_changes_a_configuration_while_the_file_is_applied(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    written = house.slots.written

    def asked(stream: str, config: dict[str, Any]) -> str | None:
        def other_thread() -> None:
            lock = house.stream(stream).configuring
            taken.append(lock.acquire(blocking=False))
            if taken[-1]:
                lock.release()

        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        return written(stream, config)

    monkeypatch.setattr(house.again, "_released", asked)
    house.reload(TOML.replace("77", "78"))
    assert taken == [False, False]
    assert house.slots.on_record("yard") == {"update_s": 78}


def test_stream_that_was_added_to_agent_toml_does_not_end_the_next_reload(house: House) -> None:
    more = TOML + TOML[TOML.index("[pipelines.door]") :].replace("door", "shed")
    house.reload(more)
    house.reload(more.replace("77", "78"))
    assert house.configs() == [{"update_s": 78}, {"update_s": 78}]
    assert house.slots.written("shed", {}) is None


def test_configuration_that_a_stream_refused_is_not_what_it_goes_back_to(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    house.reload(TOML.replace("77", str(REFUSED)))
    assert [stream for stream, _ in house.refused] == ["yard", "door"]
    assert house.slots.on_record("yard") == FIRST
    house.activate(release(tmp_path, "1", "update_s: 20\n"))
    house.refused.clear()
    house.reload(TOML.replace("77", f"{REFUSED}.0"))
    assert [why.split(": ")[1] for _, why in house.refused] == ["it is too small"] * 2
    house.activate(None)
    house.wait_running(FIRST)


def test_configuration_of_the_file_waits_prepared_until_the_slot_is_empty(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house.activate(release(tmp_path, "1", "update_s: 20\n"))
    house.reload(TOML.replace("77", "78"))
    assert (
        "its configuration is rules@1 in slot rules: that of the file holds once the slot is empty"
        in caplog.text
    )
    assert house.configs() == [{"update_s": 20}, {"update_s": 20}]
    house.activate(None)
    house.wait_running({"update_s": 78})
