"""``edgectl build --on``: candidates are measured on devices, through controller, broker and agent; and what ends such
a session leaves the device as it was."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from support.builder.nets import images, residual_net
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until
from support.variants import small_model
from typer.testing import CliRunner

from edgectl.cli._measuring import FleetDevice, measuring_devices
from edgectl.cli.main import app
from edgectl.core.bundle import Bundle
from edgectl.core.errors import BusyError, EdgectlError, LinkError
from edgectl.core.measuring import MeasureOrder
from edgectl.core.tensors import write_npz
from edgectl.core.transfer import describe
from edgectl.core.wire import Command
from edgectl.engines.measure.job import Contender, MeasureJob


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """The words of a build that says nothing about where it measures."""
    onnx.save(residual_net(), tmp_path / "net.onnx")
    feeds = images(12)
    (tmp_path / "images.npz").write_bytes(
        write_npz({n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]})
    )
    words = ["--profile", "cpu", "--task", "tensor", "--max-drop", "0.05", "--minutes", "0.05"]
    return [str(tmp_path / "net.onnx"), *words, "--calibration", str(tmp_path / "images.npz")]


def build(fleet: Fleet, words: list[str], **options: Any) -> Any:
    where = ["--controller", f"http://127.0.0.1:{fleet.api_port}", "--token-file"]
    return CliRunner().invoke(
        app, ["build", *words, *where, str(fleet.config.state_dir / "token"), "--json"], **options
    )


@pytest.mark.slow
def test_build_measures_on_a_device_and_leaves_nothing_there(
    fleet: Fleet, model: list[str], tmp_path: Path
) -> None:
    fleet.start_controller()
    fleet.enroll("bench-1", profile="cpu", measure={})
    fleet.start_agent("bench-1")
    fleet.wait_online("bench-1")
    told = build(fleet, [*model, "--on", "bench-1", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert any("measured on bench-1" in note for note in report["notes"]), report["notes"]
    assert all(key.endswith("on bench-1") for key in report["candidates"])
    measured = [v.config.measured for v in Bundle(tmp_path / "out").variants]
    assert all(m is not None and m.fresh is not None for m in measured)
    assert not (fleet.folder / "bench-1" / "state" / "measure").exists()
    assert not list((fleet.config.state_dir / "blobs").iterdir()), "what was uploaded is gone"


LONG_S = 3000.0


def long_job() -> tuple[MeasureJob, dict[str, bytes]]:
    model, x = small_model(), np.zeros((1, 3, 8, 8), np.float32)
    feeds = write_npz({"0/x": x})
    job = MeasureJob(
        kind="rounds",
        contenders=(Contender(name="a", model=describe(model)),),
        feeds=describe(feeds),
        seconds=LONG_S,
        most=10_000,
        fewest=10_000,
        timeout_s=LONG_S,
    )
    return job, {describe(d).digest: d for d in (model, feeds)}


def measures(fleet: Fleet, name: str) -> psutil.Process | None:
    """The process that measures for an agent."""
    try:
        children = psutil.Process(fleet.agents[name].pid).children()
        return next((c for c in children if "edgectl.engines.measure.job_child" in c.cmdline()), None)
    except psutil.Error:
        return None


@pytest.mark.slow
def test_deployment_a_lost_builder_and_a_killed_agent_end_what_is_measured_and_the_device_is_unharmed(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_controller()
    fleet.enroll("gate-1", profile="cpu", measure={"beside_streams": True})
    fleet.start_agent("gate-1")
    fleet.wait_rollout(fleet.rollout(fleet.publish(make_bundle(tmp_path / "v1", version="1.0.0"))), "done")
    folder = fleet.folder / "gate-1" / "state" / "measure"
    fleet.wait_online("gate-1")

    forged = MeasureOrder(act="open", session="forged")
    command = Command(id="f", op="measure", deadline_s=time.time() + 60, measure=forged)
    fleet.spy.publish(fleet.topics.command("gate-1"), command.encode()).wait(5)

    # a deployment goes before
    with (
        measuring_devices(fleet.client, ["gate-1"], ["cpu"], "anna") as (device,),
        ThreadPoolExecutor(1) as one,
    ):
        answer = one.submit(device.measure, *long_job())
        wait_until(lambda: measures(fleet, "gate-1"), "it measures", 120)
        rollout = fleet.rollout(fleet.publish(make_bundle(tmp_path / "v2", version="2.0.0")))
        with pytest.raises(BusyError, match="gate-1: this device stopped measuring: slot gate-detector is"):
            answer.result(120)
    fleet.wait_rollout(rollout, "done", timeout_s=120)
    wait_until(lambda: not folder.exists(), "its files are gone")
    active = fleet.reported["gate-1"][-1].slots["gate-detector"].active

    # a builder that is gone renews no lease
    lost = FleetDevice(fleet.client, "gate-1", "cpu", "anna", lease_s=10.0)
    wait_until(lambda: _opens(lost), "it is idle again", 120)
    job, files = long_job()
    with ThreadPoolExecutor(1) as one:
        answer = one.submit(lost.measure, job, files)
        child = wait_until(lambda: measures(fleet, "gate-1"), "it measures", 120)
        lost._ask = lambda *_, **__: (_ for _ in ()).throw(LinkError("the builder is gone"))  # type: ignore[method-assign]
        with pytest.raises(LinkError, match="the builder is gone"):
            answer.result(120)
    psutil.wait_procs([child], timeout=180)
    assert not child.is_running(), "the lease ran out"
    wait_until(lambda: not folder.exists(), "its files are gone")

    # an agent that is killed takes the child with it, and its next start what it left
    with (
        measuring_devices(fleet.client, ["gate-1"], ["cpu"], "anna") as (device,),
        ThreadPoolExecutor(1) as one,
    ):
        answer = one.submit(device.measure, *long_job())
        child = wait_until(lambda: measures(fleet, "gate-1"), "it measures", 120)
        fleet.kill_agent("gate-1")
        psutil.wait_procs([child], timeout=60)
        assert not child.is_running()
        assert folder.exists()
        fleet.start_agent("gate-1")
        with pytest.raises(EdgectlError, match="gate-1"):
            answer.result(300)
    wait_until(lambda: not folder.exists(), "the next start removed what was left", 120)
    wait_until(lambda: len(fleet.conns["gate-1"]) and fleet.state_of("gate-1") == "committed", "it is back")
    assert fleet.reported["gate-1"][-1].slots["gate-detector"].active == active
    log = (fleet.folder / "gate-1" / "log").read_text()
    assert "forged" not in log
    assert "Traceback" not in log


def _opens(device: FleetDevice) -> bool:
    try:
        device.open()
    except BusyError:
        return False
    return True
