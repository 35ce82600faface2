"""Events to a real broker, which is killed, refuses, or is not there; the switch; Home Assistant's birth."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Broker, free_port, start_mosquitto
from support.fleet import wait_until
from support.forwarder import Forwarder
from support.home_assistant import entities
from support.pipelines import BoxEngine, box_task, make_variant, tracks

from edgectl.core.errors import LinkError, UsageError
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import Sink, SinkContext, StreamControl, StreamOutput
from edgectl.pipelines.sinks.mqtt.mqtt import EventsVoice, OwnMqttConfig
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.shown import ShownFrame


def sink(url: str, out: Path | None, **options: Any) -> Sink:
    config = parse_config(
        "surveillance", {"mqtt": {"url": url, "topic": "t", **options}, "annotate": False, "events": False}
    )
    context = SinkContext("gate", out, 10.0, ("person",), ("yard",), ("gate",), StreamControl())
    return open_sinks(config, context)["mqtt"]


class Watcher:
    """What a broker passed on, per topic."""

    def __init__(self, port: int) -> None:
        """Returns once the broker has taken the subscription."""
        self.got: dict[str, list[bytes]] = {}
        self.link = Link(BrokerOptions("127.0.0.1", port), "watcher", max_backoff_s=0.2)
        self.link.subscribe("#", lambda t, p: self.got.setdefault(t, []).append(p))
        self.link.connect()
        self.watch()

    def watch(self) -> None:
        """Returns once the broker has taken the subscription: what it passed on before went to nobody."""

        def hears_itself() -> bool:
            self.link.publish("watching", b"")
            return "watching" in self.got

        self.got.pop("watching", None)
        wait_until(hears_itself, "who watches hears itself")

    def last(self, topic: str) -> bytes | None:
        return self.got.get(topic, [None])[-1]  # type: ignore[list-item]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(p) for p in self.got.get("t/events", [])]


def record(i: int) -> dict[str, Any]:
    phase = "update" if i % 3 else "new"
    return {"id": f"{i:05}", "type": "tracked_object", "phase": phase, "track": i}


def test_no_event_is_lost_and_their_order_is_kept_while_the_broker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._TROUBLE_S", 0.1)
    monkeypatch.setattr("edgectl.pipelines.sinks.pool._WATCH_S", 0.02)
    port = free_port()
    broker = start_mosquitto(tmp_path, port)
    watcher = Watcher(port)
    told: list[SinkState] = []
    way = Forwarder(free_port(), port)
    way.join()
    pool = SinkPool("gate", [sink(f"mqtt://127.0.0.1:{way.port}", tmp_path)], wait=False, tell=told.append)

    def say(numbers: range) -> None:
        for i in numbers:
            pool.offer(StreamOutput((record(i),), None, tracks((1, 5, 5)), i / 10))

    say(range(100))
    wait_until(lambda: len(watcher.events()) == 100, "the first ones arrive")
    assert watcher.last("t/available") == b"online"
    broker.process.kill()
    broker.process.wait()
    way.cut()
    say(range(100, 400))
    wait_until(lambda: [s.reason for s in told] == ["away"], "it is told")
    assert "is away" in str(told[0].detail)
    broker = start_mosquitto(tmp_path, port)
    watcher.watch()
    way.join()
    wait_until(lambda: [s.reason for s in told] == ["away", "back"], "it is told, too")
    say(range(400, 450))
    wait_until(lambda: watcher.events()[-1]["id"] == "00449", "the last arrives")
    # whose acknowledgement died with the broker comes twice
    assert list(dict.fromkeys(e["id"] for e in watcher.events())) == [f"{i:05}" for i in range(450)]
    wait_until(
        lambda: json.loads(watcher.last("t/state") or b"{}").get("objects") == {"all": 1, "person": 1},
        "the state is back",
    )
    assert pool.close(20)
    wait_until(lambda: watcher.last("t/available") == b"offline", "the end is said")
    way.cut()
    watcher.link.close()
    broker.process.terminate()
    broker.process.wait()


def test_what_waits_when_a_run_ends_is_sent_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.mqtt.connection._FIRST_S", 0.1)
    monkeypatch.setattr("edgectl.pipelines.sinks.mqtt.connection._LATE_S", 0.0)
    port = free_port()
    first = sink(f"mqtt://127.0.0.1:{port}", tmp_path)
    first.write(StreamOutput((record(0), record(1))))
    first.close()
    broker = start_mosquitto(tmp_path, port)
    watcher = Watcher(port)
    second = sink(f"mqtt://127.0.0.1:{port}", tmp_path)
    second.write(StreamOutput((record(2),)))
    wait_until(lambda: len(watcher.events()) == 3, "all arrive")
    assert [(e["id"], e["late"]) for e in watcher.events()] == [(f"{i:05}", True) for i in range(3)]
    second.close()
    watcher.link.close()
    broker.process.terminate()
    broker.process.wait()


def guard(folder: Path, port: int) -> Broker:
    """A broker with the user ``cam`` and the password ``p@ss/word``."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    users = folder / "users"
    subprocess.run([tool, "-b", "-c", str(users), "cam", "p@ss/word"], check=True, capture_output=True)
    return start_mosquitto(folder, port, extra=f"user root\npassword_file {users}\n")


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    broker = guard(tmp_path, free_port())
    yield broker
    broker.process.terminate()
    broker.process.wait()


def test_a_broker_that_comes_back_and_refuses_the_password_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.mqtt.connection._FIRST_S", 0.1)
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._TROUBLE_S", 0.1)
    monkeypatch.setattr("edgectl.pipelines.sinks.pool._WATCH_S", 0.02)
    port, told = free_port(), list[SinkState]()
    mqtt = sink(f"mqtt://cam:geheim@127.0.0.1:{port}", tmp_path)
    pool = SinkPool("gate", [mqtt], wait=False, tell=told.append)
    wait_until(lambda: told, "it is away")
    assert told[0].cause is None
    broker = guard(tmp_path, port)
    wait_until(lambda: len(told) > 1, "it says no")
    assert (told[1].reason, told[1].cause) == ("away", "auth")
    assert "refuses user and password" in str(told[1].detail)
    assert pool.close(20)
    assert [s.cause for s in told] == [None, "auth"]
    assert "geheim" not in repr(told)
    broker.process.terminate()
    broker.process.wait()


def test_a_wrong_password_is_said_at_once_and_no_password_is_ever_shown(
    guarded: Broker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("edgectl.pipelines.sinks.mqtt.connection._FIRST_S", 60)
    with pytest.raises(LinkError, match="refuses user and password") as e:
        sink(f"mqtt://cam:geheim@127.0.0.1:{guarded.port}", tmp_path)
    right = sink(f"mqtt://cam:p%40ss%2Fword@127.0.0.1:{guarded.port}", tmp_path)
    assert right.trouble() is None
    config = parse_config("surveillance", {"mqtt": {"url": "mqtt://cam:geheim@h"}})
    right.close()
    shown = f"{e.value}{e.value.hint}{caplog.text}{capfd.readouterr()}{config!r}{vars(right)!r}"
    assert "geheim" not in shown
    assert "ss/word" not in shown
    assert "ss%2Fword" not in shown
    assert not [t for t in threading.enumerate() if "mqtt" in t.name]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://u:geheim@h"}, "mqtt.url: the address of the MQTT broker is none"),
        ({"url": "mqtt://h", "topic": "a/#"}, "mqtt.topic"),
        (
            {"url": "mqtt://h", "home_assistant": {"labls": []}},
            "mqtt.home_assistant.labls: there is no such setting",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as e:
        parse_config("surveillance", {"mqtt": options})
    assert "geheim" not in str(e.value)


def test_without_a_broker_it_says_where_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECTL_MQTT", raising=False)
    config = parse_config("surveillance", {"mqtt": {"picture": True}})
    with pytest.raises(UsageError, match="no MQTT broker") as e:
        open_sinks(config, SinkContext("gate"))
    assert "--mqtt" in str(e.value.hint)
    named = config.with_sink("mqtt", url="mqtt://nas")
    assert isinstance(named.sinks["mqtt"], OwnMqttConfig)
    assert (named.sinks["mqtt"].url, named.sinks["mqtt"].picture) == ("mqtt://nas", True)
    with pytest.raises(UsageError, match=r"mqtt\.url: the address of the MQTT broker is none"):
        config.with_sink("mqtt", url="nas:geheim")


def test_a_camera_that_goes_away_is_told_at_once_although_no_frame_follows() -> None:
    voice = EventsVoice(OwnMqttConfig(topic="t"), SinkContext("gate", None, 10.0), 0.0)
    assert [s.topic for s in voice.hear(StreamOutput((), None, tracks(), 0.0), 0.1)] == ["t/state"]
    away = {"type": "capability", "name": "source", "available": False, "reason": "timeout"}
    said = voice.hear(StreamOutput((away,)), 0.2)
    assert [s.topic for s in said] == ["t/events", "t/state"]
    assert json.loads(said[1].payload)["source"] == "timeout"
    assert json.loads(said[1].payload)["fps"] == 0


def test_a_word_that_the_switch_does_not_know_switches_nothing() -> None:
    control = StreamControl()
    voice = EventsVoice(OwnMqttConfig(topic="t"), SinkContext("gate", control=control), 0.0)
    switch = voice.commands()["t/detect/set"]
    for word, on in ((b"toggle", True), (b"OFF", False), (b"on", False), (b"", False), (b"ON", True)):
        assert [(s.topic, s.payload) for s in switch(word)] == [("t/detect/state", b"ON" if on else b"OFF")]
        assert control.detect == on


def test_a_rule_is_armed_over_the_broker_and_its_switch_shows_what_it_is(
    mosquitto: Broker, tmp_path: Path
) -> None:
    zone = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
    rule = {"id": "guard", "intrusion": {"zone": "all"}}
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    slot = PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
    values = {
        "zones": {"all": zone},
        "rules": [rule],
        "mqtt": {"url": url, "topic": "t", "home_assistant": True},
    }
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "gate",
            "synth://yard?seconds=60",
            {"detector": slot},
            parse_config("surveillance", values),
            lambda _: None,
            lambda _: BoxEngine(lambda _: []),
        ),
    )
    watcher = Watcher(mosquitto.port)
    pipeline.start()
    try:
        topic = "homeassistant/device/t/config"
        wait_until(lambda: watcher.last(topic), "the device is there")
        switch = entities(topic, json.loads(watcher.last(topic) or b""))["arm_guard"]
        wait_until(lambda: watcher.last(switch["state_topic"]) == b"ON", "it is armed")
        watcher.link.publish(switch["command_topic"], b"OFF")
        wait_until(lambda: watcher.last(switch["state_topic"]) == b"OFF", "it is not")
        # the event goes by the disk, the state does not
        wait_until(
            lambda: [e["on"] for e in watcher.events() if e["type"] == "switch"] == [False],
            "the event says so",
        )
    finally:
        pipeline.stop()
        watcher.link.close()


def test_home_assistant_hears_of_the_device_again_at_its_birth_and_its_switch_works(
    mosquitto: Broker, tmp_path: Path
) -> None:
    watcher = Watcher(mosquitto.port)
    port = mosquitto.port
    config = parse_config(
        "surveillance",
        {
            "mqtt": {"url": f"mqtt://127.0.0.1:{port}", "topic": "t", "home_assistant": True},
            "annotate": False,
            "events": False,
        },
    )
    control = StreamControl()
    context = SinkContext("gate", None, 10.0, ("person",), ("yard",), ("gate",), control)
    own = open_sinks(config, context)["mqtt"]
    topic = "homeassistant/device/t/config"
    wait_until(lambda: watcher.last(topic), "the device is there")
    found = entities(topic, json.loads(watcher.last(topic) or b""))
    assert {p["platform"] for p in found.values()} == {"sensor", "binary_sensor", "camera", "switch"}
    switch = found["detect"]
    wait_until(lambda: watcher.last(switch["state_topic"]) == b"ON", "its state is known")
    watcher.link.publish(switch["command_topic"], b"OFF")
    wait_until(lambda: watcher.last(switch["state_topic"]) == b"OFF", "it is switched")
    assert not control.detect
    watcher.link.publish(switch["command_topic"], b"ON")
    wait_until(lambda: watcher.last(switch["state_topic"]) == b"ON", "and back")
    assert control.detect
    image = ShownFrame(Frame.of_bgr(np.full((48, 64, 3), 99, np.uint8), Stamp(0, 0, 0)))
    own.write(StreamOutput((), image, tracks((1, 5, 5)), 0.0, 5.0))
    wait_until(lambda: watcher.last(found["picture"]["topic"]), "its picture comes")
    own.write(StreamOutput((), image, tracks((1, 5, 5)), 0.1, 5.0))
    before = len(watcher.got[topic])
    watcher.link.publish("homeassistant/status", b"online")
    wait_until(lambda: len(watcher.got[topic]) > before, "the device is said again")
    assert len(watcher.got[found["picture"]["topic"]]) == 1  # not with every frame
    own.close()
    late = Watcher(mosquitto.port)
    wait_until(lambda: topic in late.got and "t/available" in late.got, "who comes later hears of it")
    assert late.last("t/available") == b"offline"
    late.link.close()
    watcher.link.close()


def test_what_a_configuration_has_no_more_is_removed_from_home_assistant(tmp_path: Path) -> None:
    """Also where another run said it, and for a Home Assistant that is away meanwhile."""
    port = free_port()
    broker = start_mosquitto(tmp_path, port)
    watcher = Watcher(port)
    topic = "homeassistant/device/t/config"

    def said() -> dict[str, Any]:
        return json.loads(watcher.last(topic) or b"{}").get("cmps", {})

    def run(*zones: str, armed: tuple[str, ...] = ()) -> Sink:
        control = StreamControl()
        control.armed = lambda: dict.fromkeys(armed, True)
        config = parse_config(
            "surveillance",
            {
                "mqtt": {"url": f"mqtt://127.0.0.1:{port}", "topic": "t", "home_assistant": True},
                "events": False,
            },
        )
        context = SinkContext("gate", tmp_path, 10.0, ("person",), zones, (), control)
        return open_sinks(config, context)["mqtt"]

    first = run("yard", "door", armed=("night",))
    wait_until(lambda: "zone_yard_count" in said(), "the device is said")
    wait_until(lambda: watcher.last("t/arm/night/state") == b"ON", "and the switch")
    first.close()
    second = run("door")
    wait_until(
        lambda: said().get("zone_yard_count") == {"platform": "sensor"}, "what is no more is taken back"
    )
    assert said()["zone_yard"] == {"platform": "binary_sensor"}
    assert said()["arm_night"] == {"platform": "switch"}
    assert "unique_id" in said()["zone_door"]
    assert "zone_yard" not in entities(topic, json.loads(watcher.last(topic) or b""))
    wait_until(lambda: watcher.last("t/arm/night/state") == b"", "its retained state goes, too")
    n = len(watcher.got[topic])
    second.close()
    third = run("yard")
    wait_until(lambda: said().get("zone_door") == {"platform": "binary_sensor"}, "and the other way round")
    assert "unique_id" in said()["zone_yard"]
    assert said()["arm_night"] == {"platform": "switch"}, "Home Assistant may have been away since"
    third.close()
    assert len(watcher.got[topic]) <= n + 2, "it does not answer to itself"
    watcher.link.close()
    broker.process.terminate()
    broker.process.wait(10)
