"""Credentials: a marked password in every spelling goes through a run and a whole fleet, and every output
is searched for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import psutil
from cases_common import Check, Outcome, Place

from edgectl.builder.build import build_bundle
from edgectl.cli.demo.site import POLICY, Site
from edgectl.fleet.keys.enroll import write_enrolment
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

SECRET = "h4nter2Qx"
SPELLINGS = (
    "rtsp://admin:{s}@{h}/sub",
    "rtsp://admin:pa/{s}@{h}/sub",
    "rtsp://admin:pa%2F{s}@{h}/sub",
    "rtsp://admin%3A{s}%40{h}/sub",
    "rtsp://{h}/sub?user=admin&password={s}",
    "rtsp://{h}/user=admin_password={s}_channel=1_stream=0.sdp",
    "rtsp:/admin:{s}@{h}/sub",
    "admin:{s}@{h}/sub",
)


def run_in_every_spelling(place: Place) -> Outcome:
    """``edgectl run`` of each spelling at a port where nobody listens: terminal, JSON and files."""
    bundle = _yard(place)
    told = []
    for spelling in SPELLINGS:
        uri = spelling.format(s=SECRET, h="127.0.0.1:1")
        for form in ([], ["--json"]):
            run = place.edgectl(
                "run", "surveillance", "-b", bundle, "--source", uri, "--out", place.out / "run", *form
            )
            if SECRET in run.out + run.err or run.code in (0, 1) or run.traceback:
                told.append(spelling)
    files = _files_with(place.out)
    return Outcome(
        not told and not files, f"{2 * len(SPELLINGS)} runs, told in {len(told)}, in {len(files)} files"
    )


def fleet_with_such_a_camera(place: Place) -> Outcome:
    """A device whose camera has the password: broker traffic, logs, `ps`, the controller's answers and the
    device's state."""
    bundle = _yard(place)
    silent = socket.create_server(("127.0.0.1", 0))  # accepts and says nothing: the camera that hangs
    traffic: list[bytes] = []
    with Site(place.out / "site") as site:
        link = Link(BrokerOptions("127.0.0.1", site._broker), "everything")
        link.subscribe("edgectl/1/demo/#", lambda _, payload: traffic.append(payload))
        link.start()
        hosts = (f"127.0.0.1:{silent.getsockname()[1]}", "127.0.0.1:1")
        granted = site.client.enroll("gate")
        config = write_enrolment(
            place.out / "gate",
            "gate",
            root=granted["root"].encode(),
            fleet=granted["fleet"],
            broker=granted["broker"],
            pipelines={
                f"cam-{i}": {
                    "kind": "surveillance",
                    "source": spelling.format(s=SECRET, h=hosts[i % 2]),
                    "slots": {"detector": "gate"},
                }
                for i, spelling in enumerate(SPELLINGS)
            },
            telemetry_s=1.0,
            stats_every_s=0.5,
        )
        site.processes.start("gate", "agent", "run", "--config", str(config))
        _until(lambda: any(d["online"] for d in site.client.devices()), 60)
        rollout = site.client.start_rollout(site.publish(bundle), "gate", canary=1, policy=POLICY)["id"]
        seen: set[str] = set()

        def over() -> bool:
            for process in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
            return site.client.rollout(rollout)["state"] in ("done", "stopped")

        ended = _until(over, 60)
        time.sleep(8)  # back-off and outages are told meanwhile
        told = [site.client.command("gate", op) for op in ("logs", "measure", "probe")]
        answers = json.dumps(
            [site.client.devices(), site.client.rollout(rollout), site.client.events(), told]
        )
        link.close()
    silent.close()
    (place.out / "gate" / "agent.toml").unlink()  # where the person wrote it
    places = {
        "messages": [m for m in traffic if SECRET.encode() in m],
        "answers": [answers] if SECRET in answers else [],
        "ps": [line for line in seen if SECRET in line],
        "files": _files_with(place.out),
    }
    found = {what: len(where) for what, where in places.items() if where}
    return Outcome(
        not found and len(traffic) > 10,
        f"{len(traffic)} messages, {len(seen)} command lines, rollout {'ended' if ended else 'waits'}: found in {found or 'none'}",
    )


def _yard(place: Place) -> Path:
    ours = reference("yard-detector")
    out = place.out / "yard"
    if not out.exists():
        build_bundle(
            ours.model,
            profiles=["cpu"],
            task=load_task(str(ours.task)),
            calibration="synth://yard?seed=5&paced=0&fps=2&seconds=8",
            out=out,
            minutes=0.02,
            name="yard",
            max_drop=0.5,
        )
    return out


def _files_with(folder: Path) -> list[Path]:
    return [
        p
        for p in folder.rglob("*")
        if p.is_file() and p.name != "agent.toml" and SECRET.encode() in p.read_bytes()
    ]


def _until(condition: object, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    wait = threading.Event()
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        wait.wait(0.2)
    return False


CHECKS: dict[str, Check] = {
    "a password in the address of a camera, `edgectl run`": run_in_every_spelling,
    "a password in the address of a camera, a device of a fleet": fleet_with_such_a_camera,
}
