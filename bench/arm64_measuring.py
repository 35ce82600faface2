"""``edgectl build --on`` measures on an emulated arm64 Debian 12, and whatever is killed there leaves it unharmed.

    sudo python bench/arm64_measuring.py --work /var/tmp/edgectl-arm64 [--install] [--fresh] [--json FILE]

Run it with the Python of an environment that has ``edgectl[cpu,builder,fleet,dev]``, beside a mosquitto; it uses the
Debian of ``arm64.py``, and takes half an hour on a busy machine without making that. A real controller and broker run
here, a real agent in the Debian: enrolled, and with a release of kiosk-keyword that it runs meanwhile. It is started
anew whenever it ends, as systemd would. Then kiosk-keyword is built here for ``cpu-arm64`` and measured there four
times: the process that measures is killed meanwhile; the agent is; the build is, so that the lease ends; and nothing
is. After each, the device has to be as it was: nothing that measures, no files of it, its release runs and counts
frames, its agent answers and opens a session.

**The times that are measured there mean nothing**: qemu translates every instruction, and float and int8 differently.
What this shows is the protocol, and the patience of a device that is 10 to 30 times slower than this machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from arm64 import PROGRAMS, build_bundles, emulator, installed
from debian import Row, enter, script
from remote_measuring import build_words, measuring, struck

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.fleet import Fleet, wait_until

from edgectl.cli._measuring import FleetDevice
from edgectl.core.bundle import Bundle
from edgectl.core.errors import EdgectlError
from edgectl.core.wire import Policy

_MODEL, _SLOT, _STREAM = "kiosk-keyword", "kiosk-words", "kiosk"
_PROFILE = "cpu-arm64"
_MINUTES = 0.3
_MEASURES = "edgectl.engines."
_SLOW_S = 300.0
_BUILD_S = 1800.0
_LEASE_S = 60.0
"""Of a build."""
_LOOP = """
while [ ! -e stop ]; do
  edgectl agent run --config agent.toml 2>> log
  echo "--- the agent ended: $?" >> log
  sleep 1
done
"""


class EmulatedAgent:
    """An enrolled agent in the emulated Debian, started anew whenever it ends."""

    def __init__(self, fleet: Fleet, tree: Path, name: str) -> None:
        kiosk = {
            "kind": "speech",
            "source": "synth://kiosk?seed=31",
            "slots": {"keyword": _SLOT},
            "config": {"speech": {"hop_frames": 20}},
            "stall_s": _SLOW_S,
        }
        allowed = {"beside_streams": True, "busy_cores": 64.0, "minutes": 120.0}
        self.name = name
        self._fleet = fleet
        self.folder = tree / "srv/measuring" / name
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        enrolled = fleet.enroll(name, {_STREAM: kiosk}, measure=allowed).parent
        shutil.copytree(enrolled, self.folder)
        words = ["env", "-C", f"/srv/measuring/{name}", "sh", "-c", _LOOP]
        self._process = subprocess.Popen(["nice", "-n", "19", *enter(tree, words, network=True)])

    @property
    def pid(self) -> int:
        """Of what everything there descends from."""
        return self._process.pid

    def kill(self) -> None:
        """The agent alone, by SIGKILL."""
        for p in measuring(self.pid, "/edgectl"):
            if p.cmdline()[-4:] == ["agent", "run", "--config", "agent.toml"]:
                p.kill()

    def kill_measuring(self) -> None:
        for p in measuring(self.pid):
            p.kill()

    def answers(self) -> None:
        self._fleet.wait_online(self.name)
        self._fleet.client.command(self.name, "health", wait_s=60.0)

    def frames(self) -> tuple[int, int]:
        """The epoch of the agent that says so, and how many frames its stream has processed since it started."""
        last = self._fleet.telemetry[self.name][-1]
        stats = last.streams.get(_STREAM)
        return last.epoch, stats.frames.processed if stats else 0

    def left(self) -> list[str]:
        """What is still there of a session."""
        there = [" ".join(p.cmdline()[-6:])[:80] for p in measuring(self.pid, _MEASURES)]
        return there + [str(f.name) for f in [self.folder / "state/measure"] if f.exists()]

    def close(self) -> None:
        (self.folder / "stop").touch()
        for p in measuring(self.pid, "/edgectl"):
            with contextlib.suppress(psutil.Error):
                p.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Bench:
    """The builds. Each has a folder of its own."""

    def __init__(self, fleet: Fleet, agent: EmulatedAgent) -> None:
        self._fleet = fleet
        self._agent = agent
        self._active: str | None = None

    def deploy(self, bundle: Path) -> Row:
        claim = "the device is enrolled and runs a release"

        def deployed() -> tuple[bool, str]:
            wait_until(lambda: self._fleet.conns.get(self._agent.name), "the agent is there", _SLOW_S)
            self._fleet.wait_online(self._agent.name)
            began = time.monotonic()
            policy = Policy(probation_s=5.0, min_inferences=20, max_latency_ratio=None)
            release = self._fleet.publish(bundle)
            answer = self._fleet.client.start_rollout(release, _SLOT, policy=policy.model_dump())
            self._fleet.wait_rollout(str(answer["id"]), "done", timeout_s=_SLOW_S)
            self._active = self._fleet.reported[self._agent.name][-1].slots[_SLOT].active
            conn = self._fleet.conns[self._agent.name][-1]
            seen = f"profile {conn.profile}, committed after {time.monotonic() - began:.0f} s"
            return conn.profile == _PROFILE, seen

        return _row(claim, deployed)

    def whole(self, out: Path) -> Row:
        def built() -> tuple[bool, str]:
            done, took = self._build(out)
            if done.returncode:
                return False, done.stderr[-600:]
            report = json.loads(done.stdout)
            ((_, outcomes),) = report["candidates"].items()
            timed = [o for o in outcomes if o["measured"]]
            finalists = [o for o in timed if o["measured"].get("fresh")]
            shipped = [v.config for v in Bundle(out).variants if v.config.measured is not None]
            there = all("aarch64" in v.measured.machine for v in shipped if v.measured)
            noted = any(f"measured on {self._agent.name}" in n for n in report["notes"])
            seen = (
                f"{len(timed)} candidates timed there, {len(finalists)} of them in processes of their own, "
                f"{len(shipped)} ship with figures, in {took:.0f} s; {_sayings(report)}"
            )
            return bool(noted and there and shipped), seen

        return _row("a build ends with figures of the device (no speed: emulated)", built, self._unharmed)

    def child_killed(self, out: Path) -> Row:
        claim = "the process that measures is killed: the build says so, and ends"
        return self._without_figures(claim, out, self._agent.kill_measuring, "SIGKILL")

    def agent_killed(self, out: Path) -> Row:
        claim = "the agent is killed: the build says so, and ends"
        return self._without_figures(claim, out, self._agent.kill, "")

    def _without_figures(self, claim: str, out: Path, strike: Callable[[], object], said: str) -> Row:
        def built() -> tuple[bool, str]:
            with struck(self._agent.pid, strike) as there:
                done, took = self._build(out)
            if done.returncode:
                return False, done.stderr[-600:]
            report = json.loads(done.stdout)
            lost = [n for n in report["notes"] if f"was measured on {self._agent.name}" in n and said in n]
            held = there.is_set() and bool(lost) and Bundle(out).variants
            return bool(held), f"{took:.0f} s; {_sayings(report)}"

        return _row(claim, built, self._unharmed)

    def builder_killed(self, out: Path) -> Row:
        def built() -> tuple[bool, str]:
            began = []
            with subprocess.Popen(
                self._words(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as build:

                def strike() -> None:
                    build.kill()
                    began.append(time.monotonic())

                with struck(self._agent.pid, strike) as there:
                    build.wait(_BUILD_S)
            if not there.is_set():
                return False, f"the build ended with {build.returncode} before anything was measured"
            wait_until(lambda: not measuring(self._agent.pid, _MEASURES), "the lease ends", 2 * _LEASE_S + 30)
            took = time.monotonic() - began[0]
            return took < _LEASE_S + 30, f"{took:.0f} s after the build was killed, nothing measured any more"

        return _row("the build is killed: its lease ends", built, self._unharmed)

    def _words(self, out: Path) -> list[str]:
        words = build_words(self._fleet, _MODEL, _PROFILE, _MINUTES, out, self._agent.name)
        return ["nice", "-n", "19", *words]

    def _build(self, out: Path) -> tuple[subprocess.CompletedProcess[str], float]:
        print(f"building: {out.name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        done = subprocess.run(self._words(out), capture_output=True, text=True, timeout=_BUILD_S, check=False)
        return done, time.monotonic() - began

    def _unharmed(self) -> str:
        """How long it took until the device was as it was."""
        agent, began = self._agent, time.monotonic()
        wait_until(lambda: not agent.left(), f"nothing of the session is left: {agent.left()}", _SLOW_S)
        heard = len(self._fleet.telemetry.get(agent.name, []))
        wait_until(lambda: len(self._fleet.telemetry.get(agent.name, [])) > heard, "it is heard", _SLOW_S)
        agent.answers()
        before = agent.frames()
        wait_until(
            lambda: agent.frames()[0] == before[0] and agent.frames()[1] > before[1], "frames", _SLOW_S
        )
        slot = self._fleet.reported[agent.name][-1].slots[_SLOT]
        assert slot.state.value == "committed", f"slot {_SLOT} is {slot.state.value}"
        assert slot.active == self._active, f"{slot.active_release} is active, which nobody ordered"
        again = FleetDevice(self._fleet.client, agent.name, _PROFILE, "bench")
        again.open()
        again.close()
        wait_until(lambda: not agent.left(), f"the last session is over: {agent.left()}", _SLOW_S)
        return f"unharmed after {time.monotonic() - began:.0f} s"


def _row(claim: str, scene: Callable[[], tuple[bool, str]], after: Callable[[], str] = lambda: "") -> Row:
    seen = []
    try:
        held, what = scene()
        seen.append(what)
        if told := after():
            seen.append(told)
    except (AssertionError, EdgectlError, subprocess.TimeoutExpired) as e:
        held = False
        seen.append(str(e))
    return Row(claim, held, "; ".join(seen))


def _sayings(report: dict[str, Any]) -> str:
    return " / ".join(n for n in report["notes"] if "measured on" in n or "was checked on" in n)


@contextlib.contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    broker = start_mosquitto(folder, free_port())
    try:
        fleet = Fleet(folder, broker.port, free_port())
        try:
            fleet.start_controller()
            yield fleet
        finally:
            fleet.close()
    finally:
        broker.process.terminate()
        broker.process.wait(10)


def walk(work: Path, fresh: bool) -> list[Row]:
    with emulator(), tempfile.TemporaryDirectory(prefix="edgectl-arm64-") as name:
        device, row = installed(work, fresh)
        if not row.held:
            return [row]
        build_bundles(work / "bundles", [_MODEL])
        with fleet_in(Path(name)) as fleet:
            agent = EmulatedAgent(fleet, device.tree, "arm")
            try:
                bench, out = Bench(fleet, agent), Path(name) / "out"
                rows = [row, bench.deploy(work / "bundles" / _MODEL)]
                if rows[-1].held:
                    rows += [
                        bench.child_killed(out / "child-killed"),
                        bench.agent_killed(out / "agent-killed"),
                        bench.builder_killed(out / "builder-killed"),
                        bench.whole(out / "whole"),
                    ]
            finally:
                agent.close()
                shutil.copy(agent.folder / "log", work / "agent.log")
    return rows


if __name__ == "__main__":
    code = script(__doc__ or "", {**PROGRAMS, "mosquitto": "mosquitto"}, walk)
    print("No speed: what was timed in the emulator says nothing about any device.")
    sys.exit(code)
