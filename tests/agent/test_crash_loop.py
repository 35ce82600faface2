"""An engine that does not survive, in a whole agent with real worker processes: which slot goes back, and that the streams
run again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.agent import parts
from support.bundle import make_bundle
from support.fleet import wait_until
from support.tuf import Repository

from edgectl.agent.config import AgentConfig, StreamConfig
from edgectl.agent.service import _Agent
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Installed, Slot
from edgectl.agent.worker_news import suspects
from edgectl.core.bundle import Bundle
from edgectl.core.bundle.config_release import ConfigBundle, ConfigRelease
from edgectl.core.states import State
from edgectl.core.wire import DesiredSlot, Policy
from edgectl.fleet.client.config_writer import write_config
from edgectl.link.config import BrokerConfig


class Home:
    """The state folder of a device that is off."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "root.json").write_bytes(repository.roots["1.root.json"])

    def install(self, name: str, **behaviour: object) -> Installed:
        """Put a release into the store."""
        bundle = Bundle(make_bundle(self.folder / name, name=name, size=5000, **behaviour))
        blobs = self.state / "store" / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for path in (*bundle.blobs.iterdir(), bundle.root / "index.json"):
            named = bundle.digest.partition(":")[2] if path.name == "index.json" else path.name
            shutil.copyfile(path, blobs / named)
        return Installed(release=name, bundle=bundle.digest, manifest=bundle.variants[0].digest)

    def install_config(self, name: str, update_s: int) -> Installed:
        """The same for a configuration, which the worker double crashes with at 8."""
        place = self.folder / name
        place.mkdir()
        release = ConfigRelease(name=name, version="1", kind="surveillance")
        digest = write_config(place, release, f"update_s: {update_s}\n".encode())
        bundle = ConfigBundle(place)
        for path in bundle.blobs.iterdir():
            shutil.copyfile(path, self.state / "store" / "blobs" / path.name)
        return Installed(release=name, bundle=digest, manifest=bundle.document.digest)

    def remember(self, slot: str, has: Slot, state: State | None = None) -> None:
        """``state``: of the deployment that brought what is active, the last one so far."""
        journal = Journal(self.state / "journal.db")
        d = None
        if state is not None and has.active is not None:
            desired = DesiredSlot(
                release=has.active.release, digest=has.active.bundle, policy=Policy(probation_s=600)
            )
            d = Deployment(slot, 1, state, desired, installed=has.active)
        if d is None:
            journal.save_slot(slot, has)
        else:
            journal.activate(slot, has, d)
        journal.close()

    @contextmanager
    def on(self, config_slot: str | None = None, **slots_of: dict[str, str]) -> Iterator[_Agent]:
        """Stream → part → slot; ``config_slot`` of all of them."""
        streams = {
            name: StreamConfig(
                kind="surveillance",
                source="synth://yard",
                slots=slots,  # type: ignore[arg-type]
                config_slot=config_slot,
                config={"update_s": 77},
            )
            for name, slots in slots_of.items()
        }
        config = AgentConfig(
            name="gate-1",
            broker=BrokerConfig(host="127.0.0.1", port=1),
            state_dir=self.state,
            root=self.folder / "root.json",
            profile="cam",
            pipelines=streams,
            stats_every_s=0.05,
            improve_after_s=0,
        )
        agent, stop = _Agent(config, parts()), threading.Event()
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        try:
            yield agent
        finally:
            stop.set()
            thread.join(20)
            agent.close()


@pytest.fixture
def home(tmp_path: Path, repository: Repository) -> Home:
    return Home(tmp_path, repository)


def active(agent: _Agent, slot: str) -> str | None:
    found = agent._journal.slot(slot).active
    return found.release if found is not None else None


def running(agent: _Agent, *streams: str) -> None:
    wait_until(
        lambda: all(agent._supervisor.states()[s][0] == "running" for s in streams), "the streams run", 40
    )


def test_a_committed_engine_that_does_not_survive_gives_way_to_the_one_before(home: Home) -> None:
    good, bad = home.install("good"), home.install("bad", crash=True)
    home.remember("gate", Slot(active=bad, previous=good), State.COMMITTED)
    with home.on(yard={"detector": "gate"}) as agent:
        wait_until(lambda: active(agent, "gate") == "good", "the engine before is back", 40)
        running(agent, "yard")
        report = agent._deployers["gate"].report()
        assert report.state is State.DEGRADED
        assert report.error is not None
        assert report.error.code == "crash_loop"
        assert "another one serves" in report.error.detail


def test_a_new_engine_is_the_first_suspect_and_the_other_slot_keeps_its_own(home: Home) -> None:
    good, old_gear, bad = home.install("good"), home.install("old-gear"), home.install("bad", crash=True)
    home.remember("gate", Slot(active=good, previous=home.install("older")), State.COMMITTED)
    home.remember("gate-gear", Slot(active=bad, previous=old_gear), State.PROBATION)
    with home.on(yard={"detector": "gate", "gear": "gate-gear"}) as agent:
        deployer = agent._deployers["gate-gear"]
        wait_until(lambda: deployer.report().state is State.ROLLED_BACK, "the new engine is taken back", 40)
        running(agent, "yard")
        assert (active(agent, "gate"), active(agent, "gate-gear")) == ("good", "old-gear")


def test_an_engine_that_serves_another_stream_well_is_not_blamed(home: Home) -> None:
    good, older = home.install("good"), home.install("older")
    home.remember("gate", Slot(active=good, previous=older), State.COMMITTED)
    gear = home.install("gear")
    home.remember("gate-gear", Slot(active=gear, previous=home.install("old-gear")), State.COMMITTED)
    with home.on(hall={"detector": "gate"}, yard={"detector": "gate", "gear": "gate-gear"}) as agent:
        running(agent, "hall", "yard")
        wait_until(lambda: agent._supervisor._streams["hall"].life.steady, "the hall is steady", 40)
        engines = {"detector": agent._engine_of("gate"), "gear": agent._engine_of("gate-gear")}
        assert None not in engines.values()
        agent._news.crash_loop("yard", engines, {"update_s": 77})  # type: ignore[arg-type]
        wait_until(lambda: active(agent, "gate-gear") == "old-gear", "the other engine gives way", 40)
        assert active(agent, "gate") == "good"


def test_a_crash_with_an_engine_that_is_not_the_slots_any_more_blames_nobody(home: Home) -> None:
    good, gone = home.install("good"), home.install("gone", crash=True)
    home.remember("gate", Slot(active=good, previous=home.install("older")), State.COMMITTED)
    with home.on(yard={"detector": "gate"}) as agent:
        running(agent, "yard")
        ours = agent._engine_of("gate")
        assert ours is not None
        before = ours.model_copy(update={"manifest": gone.manifest, "bundle": gone.bundle})
        agent._news.crash_loop("yard", {"detector": before}, {"update_s": 77})
        assert not agent._deployers["gate"]._crashed
        assert active(agent, "gate") == "good"


RULES = "gate-rules"


def remember_engine(home: Home) -> None:
    good, older = home.install("good"), home.install("older")
    home.remember("gate", Slot(active=good, previous=older), State.COMMITTED)


def keeps_its_engine(agent: _Agent) -> None:
    """The stream makes steady progress, and nobody has blamed the engine."""
    wait_until(lambda: agent._supervisor._streams["yard"].life.steady, "the stream is steady", 40)
    assert active(agent, "gate") == "good"
    assert agent._deployers["gate"].report().error is None


def config_of(agent: _Agent) -> dict[str, object] | None:
    return agent._supervisor._streams["yard"].running_config


def test_a_configuration_on_trial_that_is_taken_back_does_not_cost_the_engine(home: Home) -> None:
    remember_engine(home)
    bad, before = home.install_config("bad-rules", 8), home.install_config("rules", 20)
    home.remember(RULES, Slot(active=bad, previous=before), State.PROBATION)
    with home.on(config_slot=RULES, yard={"detector": "gate"}) as agent:
        rules = agent._deployers[RULES]
        wait_until(lambda: rules.report().state is State.ROLLED_BACK, "the configuration is taken back", 40)
        keeps_its_engine(agent)
        assert config_of(agent) == {"update_s": 20}


def test_a_committed_configuration_that_a_stream_does_not_survive_gives_way_and_the_engine_stays(
    home: Home,
) -> None:
    remember_engine(home)
    bad, before = home.install_config("bad-rules", 8), home.install_config("rules", 20)
    home.remember(RULES, Slot(active=bad, previous=before), State.COMMITTED)
    with home.on(config_slot=RULES, yard={"detector": "gate"}) as agent:
        wait_until(lambda: active(agent, RULES) == "rules", "the configuration before is back", 40)
        keeps_its_engine(agent)
        assert config_of(agent) == {"update_s": 20}
        report = agent._deployers[RULES].report()
        assert report.state is State.DEGRADED
        assert report.error is not None
        assert report.error.detail.startswith("the configuration that served did not survive")


def test_behind_the_first_configuration_there_is_what_stands_in_agent_toml(home: Home) -> None:
    remember_engine(home)
    home.remember(RULES, Slot(active=home.install_config("bad-rules", 8)), State.COMMITTED)
    with home.on(config_slot=RULES, yard={"detector": "gate"}) as agent:
        wait_until(lambda: active(agent, RULES) is None, "the slot is empty", 40)
        keeps_its_engine(agent)
        assert config_of(agent) == {"update_s": 77}


def test_an_engine_that_came_after_the_configuration_is_blamed_before_it(home: Home) -> None:
    good = home.install("good")
    rules, before = home.install_config("new-rules", 21), home.install_config("rules", 20)
    home.remember(RULES, Slot(active=rules, previous=before), State.COMMITTED)
    home.remember("gate", Slot(active=home.install("bad", crash=True), previous=good), State.COMMITTED)
    with home.on(config_slot=RULES, yard={"detector": "gate"}) as agent:
        wait_until(lambda: active(agent, "gate") == "good", "the engine before is back", 40)
        running(agent, "yard")
        assert active(agent, RULES) == "new-rules"
        assert agent._deployers[RULES].report().error is None


@pytest.mark.parametrize(
    ("activated", "on_trial", "proven", "blamed"),
    [
        ({"a": 1, "b": 2}, (), (), ["a", "b"]),
        ({"a": 1, "b": 2}, ("b",), (), ["b"]),
        ({"a": 1, "b": 2}, ("b",), ("b",), ["b"]),
        ({"a": 1, "b": 2}, (), ("a",), ["b"]),
        ({"a": 1, "b": 2}, (), ("a", "b"), []),
        ({"a": 1, "b": 2, "rules": 1}, ("b", "rules"), (), ["rules"]),
        ({"a": 1, "b": 2, "rules": 3}, ("b",), (), ["b"]),
        ({"a": 1, "b": 2, "rules": 3}, (), (), ["rules"]),
        ({"a": 1, "b": 4, "rules": 3}, (), (), ["a", "b"]),
        ({"a": 0, "b": 0, "rules": 0}, (), (), ["a", "b"]),
    ],
)
def test_who_is_blamed(
    activated: dict[str, int], on_trial: tuple[str, ...], proven: tuple[str, ...], blamed: list[str]
) -> None:
    assert suspects(activated, on_trial, proven, "rules" if "rules" in activated else None) == blamed
