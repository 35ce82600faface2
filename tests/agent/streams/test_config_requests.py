"""Streams whose configuration changes while they run, in real worker processes (tests/support/worker.py)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent.streams.test_supervisor import Bench, ref
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig, read_agent_config
from edgectl.agent.streams import config_requests
from edgectl.agent.streams.config_reload import ConfigReload
from edgectl.agent.streams.config_requests import check_config, configure_stream
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.streams.set_engines import Wanted
from edgectl.agent.streams.worker_process import Left
from edgectl.agent.streams.worker_states import WorkerState
from edgectl.core.errors import ConfigError
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import Configured, EventMessage, Fault, FromWorker, Ready, Start

TOML = """\
name = "gate-1"
state_dir = "state"

[broker]
host = "nas"

[pipelines.yard]
kind = "surveillance"
source = "synth://yard"
slots = {detector = "gate"}
stall_s = 20.0
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.supervisor.start()
    yield bench
    bench.supervisor.close()
    bench.journal.close()


def with_update(bench: Bench, update_s: int, **more: Any) -> StreamConfig:
    return bench.config.model_copy(update={"config": {"update_s": update_s}, **more})


def change(bench: Bench, config: StreamConfig, timeout_s: float = 10) -> str:
    return configure_stream(bench.supervisor._streams["yard"], config, {"digest": "d"}, timeout_s)


def started(bench: Bench) -> int:
    """Process id of the worker that has just begun the stream."""
    while True:
        event = bench.events.get(timeout=10).event
        if event.get("kind") == "started":
            return int(event["pid"])


def config_of(bench: Bench) -> dict[str, Any]:
    return bench.supervisor._streams["yard"].config.config


def test_a_running_stream_takes_it_in_its_process(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    pid = started(bench)
    assert change(bench, with_update(bench, 4)) == "update_s: in force"
    assert {"kind": "configured", "digest": "d"}.items() <= bench.events.get(timeout=5).event.items()
    assert (config_of(bench), bench.state) == ({"update_s": 4}, "running")
    assert psutil.pid_exists(pid)
    assert change(bench, with_update(bench, 4)) == "nothing has changed"


def test_one_that_is_refused_is_not_what_it_starts_with_either(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    with pytest.raises(ConfigError, match="it is too small") as caught:
        change(bench, with_update(bench, 1))
    assert caught.value.key == ("update_s",)
    assert (config_of(bench), bench.state) == ({}, "running")


def test_what_a_running_stream_cannot_take_starts_it_again(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    assert change(bench, with_update(bench, 2)) == "starts again: flow.mode cannot change"
    started(bench)
    assert config_of(bench) == {"update_s": 2}
    assert bench.loops.empty()


def test_another_source_starts_it_again(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    assert change(bench, with_update(bench, 4, source="synth://road")) == "starts again: its source changed"
    started(bench)
    assert bench.supervisor._streams["yard"].config.source == "synth://road"


def test_a_stream_that_does_not_run_starts_with_it(bench: Bench, tmp_path: Path) -> None:
    assert change(bench, with_update(bench, 1)) == "holds from its next start on: it does not run now"
    assert config_of(bench) == {"update_s": 1}


def test_a_worker_that_dies_in_the_middle_comes_back_with_it(bench: Bench, tmp_path: Path) -> None:
    one = ref(tmp_path, "1")
    bench.activate(one)
    started(bench)
    assert change(bench, with_update(bench, 9)) == "holds from its next start on: its worker has ended"
    started(bench)
    bench.wait_served(one)
    assert config_of(bench) == {"update_s": 9}


def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor.stream("yard")
    with pytest.raises(ConfigError, match="no answer within 0 s"):
        change(bench, with_update(bench, 3), timeout_s=0.3)
    assert config_of(bench) == {}
    started(bench)  # nobody knows which one it has
    wait_until(lambda: stream.running_config == {}, "it runs with the one before")


def test_answer_that_comes_too_late_puts_nothing_into_force(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor._streams["yard"]
    for give_up in (
        lambda: check_config(stream, {"update_s": 4}, -1.0),
        lambda: change(bench, with_update(bench, 4), timeout_s=-1.0),
    ):
        with stream.changed:  # the worker's answer waits behind this
            with pytest.raises(ConfigError, match="no answer"):
                give_up()
            assert stream.config_asked == {}
    started(bench)
    wait_until(lambda: stream.running_config is not None, "it runs")
    stream._handle(Configured(stream="yard", number=10**6, changed=("update_s",)))
    assert (config_of(bench), stream.config_answers) == ({}, {})


def test_stream_that_is_being_started_with_the_one_before_starts_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, go = bench.supervisor._streams["yard"], threading.Event()
    handle = stream._handle

    def held(message: FromWorker) -> None:
        if isinstance(message, Ready):
            assert go.wait(20)
        handle(message)

    monkeypatch.setattr(stream, "_handle", held)
    bench.engines["gate"] = ref(tmp_path, "1")
    wait_until(lambda: stream.life.state is WorkerState.LOADING, "it has its start")
    said = change(bench, with_update(bench, 4))
    assert said == "holds from its next start on: it does not run now"
    assert stream.running_config is None, "what it is started with counts for nothing"
    go.set()
    wait_until(lambda: stream.running_config == {"update_s": 4}, "the worker has it")
    while bench.events.get(timeout=10).event["config"] != {"update_s": 4}:
        pass
    assert bench.loops.empty()


def test_start_that_was_sent_with_another_one_does_not_go_on(bench: Bench, tmp_path: Path) -> None:
    """Whoever changed it in between, and however."""
    stream = bench.supervisor._streams["yard"]
    enter = stream.worker.enter

    def changed_meanwhile(start: Start, *about: Any) -> Any:
        if start.config == {}:
            stream.adopt(with_update(bench, 4))
        return enter(start, *about)

    stream.worker.enter = changed_meanwhile  # type: ignore[method-assign]
    bench.engines["gate"] = ref(tmp_path, "1")
    wait_until(lambda: stream.running_config is not None, "it runs")
    assert stream.running_config == {"update_s": 4}


def test_what_a_stream_does_not_survive_preparing_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor._streams["yard"]
    with pytest.raises(ConfigError, match="did not survive preparing it: the worker ended with code"):
        check_config(stream, {"update_s": 10}, 10)
    started(bench)
    assert config_of(bench) == {}


@pytest.mark.parametrize("ended_by", ["restart", "neighbour", "source"])
def test_what_ends_a_stream_from_outside_is_not_held_against_what_it_prepared(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor._streams["yard"]

    def ended(message: object) -> None:
        if ended_by == "restart":
            stream.restart("another engine is back")
        elif stream.place is not None:
            fault = Failure(code=ended_by, detail="it has ended")
            stream.place.put(Fault(stream="yard", error=fault))
            stream.place.over(Left(fault=fault))

    with monkeypatch.context() as patched:
        patched.setattr(stream, "send", ended)
        with pytest.raises(Interrupted, match="was ended by something else"):
            check_config(stream, {"update_s": 4}, 10)


def test_preparing_ends_when_nobody_wants_to_know_any_more(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor._streams["yard"]
    with pytest.raises(Interrupted, match="yard gave no answer"):
        check_config(stream, {"update_s": 3}, 600, lambda: True)
    assert stream.config_asked == {}


def test_a_stream_that_has_gone_back_starts_with_what_it_has(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    for more in ({}, {"stall_s": 21.0}):
        change(bench, with_update(bench, 5, **more))
        wait_until(lambda: config_of(bench) == {}, "the configuration before is what it starts with")
    assert bench.supervisor._streams["yard"].config.stall_s == 21.0


def test_it_has_gone_back_however_late_the_one_who_asked_looks(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    stream = bench.supervisor._streams["yard"]
    about = {"stream": "yard", "number": 1}
    stream.config_asked[1] = Wanted({"update_s": 5}, {})
    stream._handle(Configured(**about, changed=("update_s",)))
    assert config_of(bench) == {"update_s": 5}
    back = {"type": "configuration", "phase": "reverted", "detail": "rule 'x' failed"}
    stream._handle(EventMessage(stream="yard", event=back))
    assert config_of(bench) == {}


def test_what_it_has_gone_back_from_does_not_come_with_the_other_settings(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    ask = config_requests._ask

    def look_late(*about: Any) -> Any:
        answer = ask(*about)
        wait_until(lambda: config_of(bench) == {}, "it has gone back")
        return answer

    monkeypatch.setattr(config_requests, "_ask", look_late)
    assert change(bench, with_update(bench, 5, stall_s=21.0)) == "in force"
    assert config_of(bench) == {}
    assert bench.supervisor._streams["yard"].config.stall_s == 21.0


def reload(bench: Bench, tmp_path: Path, text: str, refused: list[tuple[str, str]]) -> ConfigReload:
    path = tmp_path / "agent.toml"
    path.write_text(TOML)
    found = ConfigReload(path, *read_agent_config(path))
    found.serves(
        bench.supervisor,
        lambda stream, config: RELEASED.get(stream),
        lambda stream, config: None,
        lambda stream, why: refused.append((stream, why)),
    )
    path.write_text(text)
    return found


RELEASED: dict[str, str] = {}
"""Stream → what goes before its configuration in the file."""


def test_configuration_that_a_release_brought_goes_before_that_of_the_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    change(bench, with_update(bench, 4))
    monkeypatch.setitem(RELEASED, "yard", "rules@1 in slot gate-rules")
    reload(bench, tmp_path, TOML + "config = {update_s = 7}\n", []).reload()
    assert config_of(bench) == {"update_s": 4}
    assert "yard: its configuration is rules@1 in slot gate-rules" in caplog.text


def test_configuration_that_is_only_prepared_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    stream = bench.supervisor.stream("yard")
    assert check_config(stream, {"update_s": 4}, 10) == "it does not run now: nothing was tried"
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    assert check_config(stream, {"update_s": 4}, 10) == "changes update_s"
    with pytest.raises(ConfigError, match="it is too small"):
        check_config(stream, {"update_s": 1}, 10)
    assert check_config(stream, {"update_s": 2}, 10) == "needs a new start: flow.mode cannot change"
    assert config_of(bench) == {}


def test_the_file_is_read_again_when_somebody_asks(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    started(bench)
    again = reload(bench, tmp_path, TOML + "config = {update_s = 4}\n", [])
    again.look()
    assert config_of(bench) == {}
    again.asked.set()
    again.look()
    event = bench.events.get(timeout=5).event
    assert (event["kind"], event["name"], event["digest"][:7]) == ("configured", "agent.toml", "sha256:")
    wait_until(lambda: config_of(bench) == {"update_s": 4}, "it is in force")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "agent.toml:1: this is not TOML"),
        (TOML.replace("stall_s = 20.0", "stall_s = -1"), "agent.toml:11: pipelines.yard.stall_s: it must be"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(
    bench: Bench, tmp_path: Path, text: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.activate(ref(tmp_path, "1"))
    reload(bench, tmp_path, text, []).reload()
    assert "nothing has changed" in caplog.text
    assert said in caplog.text
    assert (config_of(bench), bench.state) == ({}, "running")


def test_a_refused_configuration_is_told_with_file_and_line(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench.activate(ref(tmp_path, "1"))
    refused: list[tuple[str, str]] = []
    reload(bench, tmp_path, TOML + "\n[pipelines.yard.config]\nupdate_s = 1\n", refused).reload()
    assert refused == [("yard", f"{tmp_path}/agent.toml:14: it is too small")]
    assert "agent.toml:14: it is too small; yard goes on as before" in caplog.text


def test_what_only_a_new_agent_takes_is_named(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = "\n[pipelines.door]\nkind = 'driving'\nsource = 's'\nslots = {detector = 'gate'}\n"
    text = TOML.replace("nas", "other").replace('{detector = "gate"}', '{detector = "door"}') + other
    reload(bench, tmp_path, text, []).reload()
    assert "agent.toml:4: it holds from the agent's next start on" in caplog.text
    assert "agent.toml:13: it holds from the agent's next start on" in caplog.text
    assert "yard: holds from the agent's next start on: slots changed" in caplog.text


def test_a_fault_of_the_configuration_has_file_and_line_and_blames_no_engine(
    bench: Bench, tmp_path: Path
) -> None:
    stream = bench.supervisor._streams["yard"]
    stream.place_of = lambda key: (
        "agent.toml:12" if key == ("pipelines", "yard", "config", "rules", 0) else None
    )
    stream.adopt(bench.config.model_copy(update={"source": "misconfigured://"}))
    bench.engines["gate"] = ref(tmp_path, "1")
    wait_until(lambda: bench.state == "restarting", "it has failed")
    wait_until(
        lambda: (stream.state[1] or "").startswith("agent.toml:12: rules.0"), "the reason has its place"
    )
    for _ in range(3):
        wait_until(lambda: bench.state != "restarting", "it is tried again")
        wait_until(lambda: bench.state == "restarting", "it has failed again")
    assert bench.loops.empty()
