"""The device side of edgectl in an emulated arm64 Debian 12: what runs on an aarch64 device, without one.

    sudo python bench/arm64.py --work /var/tmp/edgectl-arm64 [--install] [--fresh] [--json FILE]

Run it with the Python of an environment that has ``edgectl[cpu,builder]``; about 15 minutes, 7 of them for the
Debian, which a second run uses again unless ``--fresh`` is said. It builds bundles of the shipped models here for
``jetson-orin`` and ``cpu-arm64``, downloads the wheels of a device install for aarch64, and installs them in the
emulated Debian, which has no network. There it runs ``doctor``, ``profiles probe``, ``finalise`` with its golden
check, ``run`` and the agent until it is ready.

Emulated (qemu-user), this says that the wheels exist, load and compute the right thing, and nothing about speed.
There is no GPU and no TensorRT: of ``jetson-orin`` it is the CPU fallback that runs.

Nothing stays mounted, also after Ctrl-C. The emulator is registered with the kernel while it runs, and as before
afterwards.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from debian import Row, enter, inside, make_tree, run, script, wheel, wheels_for

PROGRAMS = {
    "debootstrap": "debootstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "update-binfmts": "binfmt-support",
    "unshare": "util-linux",
}
PACKAGES = ("python3", "python3-venv", "ca-certificates")
PYTHON = "3.11"
"""Of Debian 12."""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
MODELS = {
    "yard-detector": ("surveillance", "synth://yard?seed=7&fps=5&seconds=6&paced=0"),
    "road-detector": ("driving", "synth://road?seed=7&fps=5&seconds=6&paced=0"),
    "kiosk-keyword": ("speech", "synth://kiosk?seed=7&seconds=20&paced=0"),
}
"""A shipped model → its kind of pipeline, and the source that runs through it."""
PROFILES = ("jetson-orin", "cpu-arm64")


@contextlib.contextmanager
def emulator() -> Iterator[None]:
    """The kernel runs aarch64 programs with qemu. As it was afterwards."""
    entry = BINFMT / "qemu-aarch64"
    mounted = (BINFMT / "register").exists()
    if not mounted:
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], "mount binfmt_misc", 30)
    enabled = entry.exists()
    try:
        if not enabled:
            run(["update-binfmts", "--enable", "qemu-aarch64"], "update-binfmts", 60)
        yield
    finally:
        if not enabled:
            subprocess.run(["update-binfmts", "--disable", "qemu-aarch64"], check=False, timeout=60)
        if not mounted:
            subprocess.run(["umount", str(BINFMT)], check=False, timeout=30)


def build_bundles(folder: Path, models: Sequence[str] = tuple(MODELS)) -> None:
    """Shipped models for both profiles, with what this machine's builder makes of them."""
    from edgectl.cli.demo.builds import CALIBRATION
    from edgectl.models import reference

    shutil.rmtree(folder, ignore_errors=True)
    for name in models:
        ours = reference(name)
        command = [sys.executable, "-m", "edgectl.cli", "build", str(ours.model), "--task", str(ours.task)]
        chosen = ["--profile", ",".join(PROFILES), "--calibration", CALIBRATION[name], "--minutes", "2"]
        run([*command, *chosen, "--max-drop", "0.02", "--out", str(folder / name)], f"build {name}", 600)


def enrolled(folder: Path) -> Path:
    """A device's files, as ``edgectl device enroll`` writes them. Its broker is not there."""
    from edgectl.fleet.keys.ceremony import init_keys
    from edgectl.fleet.keys.enroll import write_enrolment

    root = init_keys(folder / "keys").read_bytes()
    yard = {"kind": "surveillance", "source": "synth://yard", "slots": {"detector": "gate-detector"}}
    broker = {"host": "127.0.0.1", "port": 1883}
    return write_enrolment(
        folder / "device", "gate-1", root=root, fleet="home", broker=broker, pipelines={"yard": yard}
    )


class Device:
    """The emulated Debian with an installed edgectl."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def install(self, ours: Path, wheels: Path) -> Row:
        """A new environment each time, without network. Counts packages and megabytes."""
        for name, source in (("wheels", wheels), ("own", ours.parent)):
            shutil.rmtree(self.tree / "srv" / name, ignore_errors=True)
            shutil.copytree(source, self.tree / "srv" / name)
        shutil.rmtree(self.tree / "opt/edgectl", ignore_errors=True)
        claim = "the wheel installs without network"
        made = inside(self.tree, ["python3", "-m", "venv", "/opt/edgectl"], 600)
        before = self._megabytes()
        install = ["pip", "install", "--quiet", "--no-index", "--find-links=/srv/wheels"]
        done = inside(self.tree, [*install, f"edgectl[cpu] @ file:///srv/own/{ours.name}"], 1800)
        if made.returncode or done.returncode:
            return Row(claim, False, (made.stderr + done.stderr)[-1000:])
        listed = json.loads(inside(self.tree, ["pip", "list", "--format=json"], 300).stdout)
        packages = {row["name"] for row in listed} - {"pip", "setuptools", "wheel"}
        checked = inside(self.tree, ["pip", "check"], 300)
        megabytes = sum(f.stat().st_size for f in wheels.glob("*.whl")) / 1e6
        seen = (
            f"{len(packages)} packages, {self._megabytes() - before:.0f} MB installed, {megabytes:.0f} MB of wheels; "
            f"pip check: {(checked.stdout or checked.stderr).strip()}"
        )
        return Row(claim, checked.returncode == 0, seen)

    def _megabytes(self) -> float:
        files = (self.tree / "opt/edgectl").rglob("*")
        return sum(f.lstat().st_size for f in files if f.is_file() and not f.is_symlink()) / 1e6

    def ask(self, claim: str, *arguments: str, timeout_s: float = 600) -> Answer:
        """``edgectl … --json`` there."""
        done = inside(self.tree, ["edgectl", *arguments, "--json"], timeout_s)
        try:
            value = json.loads(done.stdout)
        except ValueError:
            value = None
        return Answer(claim, done.returncode, value, done.stderr[-600:])


class Answer:
    """What a command said: its JSON, or what went wrong instead."""

    def __init__(self, claim: str, code: int, value: Any, said: str) -> None:
        self._claim = claim
        self._wrong = f"exit {code}: {said}" if code or value is None else ""
        self.value: Any = value or {}

    def row(self, held: bool, seen: str) -> Row:
        return Row(self._claim, not self._wrong and held, self._wrong or seen)


def probed(device: Device) -> Row:
    answer = device.ask("profiles probe names an aarch64 machine", "profiles", "probe")
    v = answer.value
    host = Path("/proc/cpuinfo").read_text()
    isa, cpu = set(v.get("isa", [])), str(v.get("cpu"))
    held = v.get("arch") == "aarch64" and {"neon", "dotprod"} <= isa and v.get("profile") == "cpu-arm64"
    foreign = any(i.startswith(("avx", "amx")) for i in isa) or cpu in host
    return answer.row(held and not foreign, f"{cpu}; {' '.join(sorted(isa))}; profile {v.get('profile')}")


def examined(device: Device) -> Row:
    answer = device.ask("doctor finds nothing broken", "doctor", "--state", "/var/lib")
    checks = {c["name"]: c for c in answer.value.get("checks", [])}
    seen = "; ".join(
        f"{n}: {checks[n]['detail']}"
        for n in ("python", "machine", "onnxruntime", "video decoders")
        if n in checks
    )
    return answer.row(bool(answer.value.get("ok")), seen)


def finalised(device: Device, model: str, profile: str) -> Row:
    claim = f"finalise {model} for {profile}, golden check"
    answer = device.ask(claim, "finalise", f"/srv/bundles/{model}", "--profile", profile)
    golden = answer.value.get("golden", {})
    seen = f"{answer.value.get('variant')}: worst cosine {golden.get('worst_cosine', 0):.6f} in {golden.get('runtime')}"
    return answer.row(bool(golden.get("ok")), seen)


def ran(device: Device, model: str) -> Row:
    kind, source = MODELS[model]
    claim = f"run {kind} with {model}"
    bundle = ["--bundle", f"/srv/bundles/{model}"]
    answer = device.ask(claim, "run", kind, *bundle, "--source", source, timeout_s=900)
    frames = answer.value.get("frames", {})
    events = answer.value.get("events", {})
    whole = 0 < frames.get("captured", 0) == frames.get("processed")
    seen = f"{frames.get('processed')} of {frames.get('captured')} frames; " + ", ".join(
        f"{n} {event}" for event, n in sorted(events.items())
    )
    return answer.row(whole and not answer.value.get("errors") and sum(events.values()) > 0, seen)


AGENT = """
edgectl agent run --config agent.toml & agent=$!
while kill -0 $agent && [ ! -e stop ]; do sleep 0.2; done
kill -TERM $agent
wait $agent
"""
"""Stops it in good order once there is a file ``stop``."""


def agent(device: Device, work: Path) -> Row:
    """The agent's own process: it says READY=1, gets SIGTERM, and ends in good order."""
    claim = "agent run is ready, and ends by SIGTERM"
    folder = device.tree / "srv/agent"
    for old in (work / "enrolled", folder):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(enrolled(work / "enrolled").parent, folder)
    command = ["env", "-C", "/srv/agent", "NOTIFY_SOCKET=/srv/agent/notify", "sh", "-c", AGENT]
    started = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(300)
        process = subprocess.Popen(enter(device.tree, command), stderr=subprocess.PIPE, text=True)
        try:
            ready = "READY=1" in systemd.recv(4096).decode().split("\n")
            took = time.monotonic() - started
            (folder / "stop").touch()
            stopping = "STOPPING=1" in systemd.recv(4096).decode().split("\n")
            _, said = process.communicate(timeout=120)
        except (TimeoutError, subprocess.TimeoutExpired) as e:
            process.kill()
            return Row(claim, False, f"{e!r}: {process.communicate()[1][-600:]}")
    held = ready and stopping and process.returncode == 0
    return Row(claim, held, f"ready after {took:.0f} s, exit {process.returncode}" if held else said[-600:])


def installed(work: Path, fresh: bool) -> tuple[Device, Row]:
    """The Debian with edgectl as it is now, while the emulator is there."""
    tree = work / "debian-arm64"
    make_tree(tree, PACKAGES, arch="arm64", fresh=fresh)
    ours = wheel(work)
    wheels = wheels_for(ours, "cpu", work / "wheels-arm64", arch="aarch64", python=PYTHON)
    device = Device(tree)
    return device, device.install(ours, wheels)


def walk(work: Path, fresh: bool) -> list[Row]:
    with emulator():
        device, row = installed(work, fresh)
        rows = [row]
        if row.held:
            build_bundles(work / "bundles")
            shutil.rmtree(device.tree / "srv/bundles", ignore_errors=True)
            shutil.copytree(work / "bundles", device.tree / "srv/bundles")
            rows += [probed(device), examined(device)]
            rows += [finalised(device, model, profile) for model in MODELS for profile in PROFILES]
            rows += [ran(device, model) for model in MODELS]
            rows.append(agent(device, work))
        return rows


if __name__ == "__main__":
    sys.exit(script(__doc__ or "", PROGRAMS, walk))
