"""The systemd units under a real systemd: a Debian 12 that boots in a container (systemd-nspawn).

    sudo python bench/units.py --work /var/tmp/edgectl-units [--install] [--fresh] [--json FILE]

Run it with the Python of an environment that has ``edgectl[cpu,builder]``; about 12 minutes, with the Debian there
already 10. It installs the wheel and the units as ``systemd/README.md`` says, the controller's keys with a
passphrase, and looks at

* readiness: ``systemctl start`` returns when the service can be used, not before;
* what the hardening comes to: the exposure by ``systemd-analyze security``, and what the kernel says of the agent;
* the passphrase: given by ``LoadCredential``, nowhere else, and the controller does not start without it;
* a worker that is stopped (SIGSTOP): the agent starts another one;
* an agent that is stopped (SIGSTOP): systemd's watchdog ends it and starts it again;
* power off while a release is warmed up, and power off and a power cut in the middle of its activation: the next boot
  ends in ``committed`` or ``rolled_back``, and the slot serves.

The units are used as they are, with their own times. The container has loopback and no other network. It ends with
this script, however that ends, and nothing stays mounted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from container import Container, until
from debian import REPOSITORY, Row, Trouble, inside, make_tree, run, script, wheel, wheels_for

PROGRAMS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates")
PYTHON = "3.11"
UNITS = ("edgectl-broker", "edgectl-controller", "edgectl-agent")
SYSTEMD = REPOSITORY / "systemd"
SLOT = "gate-detector"
VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")
PASSPHRASE = "correct horse battery staple"
EXPOSURE = 2.5
"""What a unit may come to by ``systemd-analyze security``, of 10."""
ENDS, BAD_ENDS = ("committed", "rolled_back"), ("failed", "rejected", "degraded", "canceled", "expired")
CONTROLLER = {"EDGECTL_TOKEN_FILE": "/var/lib/edgectl-controller/token"}
LISTENER = """
import json, os, sys
import paho.mqtt.client as paho
def listen(kind, heard):
    topic = f"edgectl/1/home/d/gate-1/{kind}"
    def on_message(client, userdata, message):
        if message.topic == topic:  # amqtt gives a new subscriber what is retained on other topics, too
            heard(json.loads(message.payload))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe(topic, 1)
    client.on_subscribe = lambda *_: print("listening", flush=True)
    client.on_message = on_message
    client.connect("127.0.0.1")
    client.loop_forever()
def tell(what):
    print(what, flush=True)
    os._exit(0)
"""
STATE_WATCH = f"""{LISTENER}
def heard(reported):
    slot = reported.get("slots", {{}}).get({SLOT!r}, {{}})
    if slot.get("release") == sys.argv[1] and slot.get("state") in sys.argv[2:]:
        tell(slot["state"])
listen("reported", heard)
"""
"""Prints the first of the states that the device reports of a release, within milliseconds."""
SERVING = f"""{LISTENER}
def heard(telemetry):
    for stream in telemetry.get("streams", {{}}).values():
        if stream.get("fps", 0) > 0:
            tell(json.dumps({{"fps": round(stream["fps"], 1), "releases": stream["releases"]}}))
listen("tele", heard)
"""
"""Prints the first telemetry window with frames that arrives from now on."""


class Site:
    """Broker, controller and one device in the container."""

    def __init__(self, container: Container, tree: Path) -> None:
        self.container = container
        self.tree = tree

    def show(self, unit: str, name: str) -> str:
        return self.container("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def log(self, unit: str) -> str:
        return self.container("journalctl", "-u", unit, "-n", "12", "-o", "cat", "--no-pager").stdout

    def edgectl(self, *arguments: str, timeout_s: float = 120) -> str:
        return self.container.must("edgectl", *arguments, timeout_s=timeout_s, **CONTROLLER)

    def slot(self) -> dict[str, Any]:
        """What the controller last heard of the slot; empty while it has heard nothing."""
        done = self.container("edgectl", "fleet", "devices", "--json", **CONTROLLER)
        devices = json.loads(done.stdout) if done.returncode == 0 else []
        found: dict[str, Any] = (
            ((devices[0].get("reported") or {}) if devices else {}).get("slots", {}).get(SLOT, {})
        )
        return found

    def worker(self) -> int | None:
        """Its process id on this machine."""
        parent = self.agent()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and b"worker" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        return None

    def agent(self) -> int:
        """The agent's process id on this machine, by the one that it has in the container."""
        inner = self.show("edgectl-agent", "MainPID")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                status = (entry / "status").read_text()
                ids = re.search(r"^NSpid:\s*(.+)$", status, re.MULTILINE)
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if ids and ids[1].split()[-1] == inner and len(ids[1].split()) > 1 and b"agent" in command:
                    return int(entry.name)
        raise Trouble("the agent does not run")

    def serves(self, timeout_s: float = 90) -> dict[str, Any] | None:
        """The first telemetry window with frames in it that arrives from now on."""
        listener = self.container.listen(SERVING)
        try:
            said = listener.communicate(timeout=timeout_s)[0].removeprefix("listening\n")
        except subprocess.TimeoutExpired:
            return None
        finally:
            listener.kill()
        found: dict[str, Any] | None = json.loads(said) if said else None
        return found

    def start_rollout(self, release: str) -> None:
        judge = ["--probation", "6", "--min-inferences", "30", "--max-latency-ratio", "10", "--soak", "0"]
        self.edgectl("rollout", "start", release, "--slot", SLOT, "--canary", "1", *judge)


def install(tree: Path, work: Path) -> Row:
    """The wheel and what the units need, in a tree that does not run, without network."""
    ours = wheel(work)
    extras = "cpu,fleet,broker"
    wheels = wheels_for(ours, extras, work / "wheels-amd64", arch="x86_64", python=PYTHON)
    for folder in ("srv", "opt/edgectl", "etc/edgectl", "etc/edgectl-controller", "var/lib/private", "root"):
        shutil.rmtree(tree / folder, ignore_errors=True)
    for enabled in (tree / "etc/systemd/system/multi-user.target.wants").glob("edgectl-*"):
        enabled.unlink()
    for state in (tree / "var/lib").glob("edgectl*"):
        shutil.rmtree(state) if state.is_dir() and not state.is_symlink() else state.unlink()
    (tree / "root").mkdir(mode=0o700)
    shutil.copytree(wheels, tree / "srv/wheels")
    shutil.copy(ours, tree / "srv/wheels")
    claim = "the wheel installs without network"
    made = inside(tree, ["python3", "-m", "venv", "/opt/edgectl"], 300)
    command = ["pip", "install", "--quiet", "--no-index", "--find-links=/srv/wheels"]
    done = inside(tree, [*command, f"edgectl[{extras}]"], 600)
    program = tree / "usr/local/bin/edgectl"
    program.unlink(missing_ok=True)
    program.symlink_to("/opt/edgectl/bin/edgectl")
    listed = inside(tree, ["pip", "list", "--format=json"], 120).stdout
    count = len({row["name"] for row in json.loads(listed)} - {"pip", "setuptools"}) if listed else 0
    return Row(
        claim,
        not (made.returncode or done.returncode),
        done.stderr[-800:] or f"{count} packages for [{extras}]",
    )


def build_bundles(folder: Path) -> None:
    """Releases of one detector. What they compute is the same; their digests are not."""
    from edgectl.cli.demo.builds import CALIBRATION
    from edgectl.models import reference

    ours = reference("yard-detector")
    for version in VERSIONS:
        command = [sys.executable, "-m", "edgectl.cli", "build", str(ours.model), "--task", str(ours.task)]
        source = ["--calibration", CALIBRATION[ours.name], "--max-drop", "0.02", "--minutes", "0.5"]
        names = ["--name", "gate", "--version", version, "--profile", "cpu", "--out", str(folder / version)]
        run([*command, *source, *names], f"build gate@{version}", 600)


def install_units(site: Site) -> None:
    """By the very lines of systemd/README.md."""
    text = (SYSTEMD / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("install ")]
    assert lines, "systemd/README.md shows how to install the units"
    shutil.rmtree(site.tree / "srv/systemd", ignore_errors=True)
    shutil.copytree(SYSTEMD, site.tree / "srv/systemd")
    for unit in UNITS:
        shutil.rmtree(site.tree / f"etc/systemd/system/{unit}.service.d", ignore_errors=True)
    for line in lines:
        site.container.must("sh", "-ec", f"cd /srv; {line}")
    site.container.must("systemctl", "daemon-reload")


def controller_files(site: Site) -> None:
    """Keys with a passphrase, and controller.toml. What signs releases stays with root."""
    must = site.container.must
    must("sh", "-c", f"umask 077; printf '%s\\n' '{PASSPHRASE}' >/etc/edgectl-controller/passphrase")
    must("edgectl", "keys", "init", "--out", "/srv/operator/keys")
    must(
        "edgectl",
        "controller",
        "init",
        "--keys",
        "/etc/edgectl-controller/keys",
        "-o",
        "/etc/edgectl-controller/controller.toml",
    )
    must(
        "sh",
        "-c",
        "cd /srv/operator/keys; cp online.pem director.pem *.root.json targets.json /etc/edgectl-controller/keys/",
    )
    for key in ("online.pem", "director.pem"):
        path = f"/etc/edgectl-controller/keys/{key}"
        must(
            "edgectl",
            "keys",
            "passphrase",
            path,
            EDGECTL_PASSPHRASE_FILE="/etc/edgectl-controller/passphrase",
        )
    must("systemd-tmpfiles", "--create")


def ready(site: Site, unit: str, usable: Callable[[], bool], what: str, verb: str = "start") -> Row:
    claim = f"{unit}: ready when systemctl start returns"
    started = time.monotonic()
    done = site.container("systemctl", verb, unit, timeout_s=320)
    took = time.monotonic() - started
    works = done.returncode == 0 and usable()
    state = f"{site.show(unit, 'Type')}, {site.show(unit, 'SubState')} after {took:.1f} s, {what}: {'yes' if works else 'no'}"
    return Row(claim, works, state if works else f"{state}; {site.log(unit)[-800:]}")


def passphrase(site: Site) -> Iterator[Row]:
    """Without it, with it, and who else can read it."""
    container, unit = site.container, "edgectl-controller"
    container("systemctl", "start", unit, timeout_s=60)
    said = site.log(unit)
    refused = site.show(unit, "SubState") != "running" and "has a passphrase" in said
    container("systemctl", "stop", unit)
    line = next((line for line in said.splitlines() if "passphrase" in line), said[-300:])
    yield Row("controller: does not start without the passphrase of its keys", refused, line)
    drop_in = site.tree / f"etc/systemd/system/{unit}.service.d/override.conf"
    drop_in.parent.mkdir()
    ini = re.search(r"```ini\n(.*?)```", (SYSTEMD / "README.md").read_text(), re.DOTALL)
    assert ini is not None, "systemd/README.md shows the drop-in"
    drop_in.write_text(ini[1])
    container.must("systemctl", "daemon-reload")
    yield ready(
        site,
        unit,
        lambda: not container("edgectl", "fleet", "devices", **CONTROLLER).returncode,
        "API answers",
    )
    credential = f"/run/credentials/{unit}.service/passphrase"
    reads = {
        user: container("setpriv", "--reuid", user, "--clear-groups", "cat", credential).returncode == 0
        for user in ("edgectl-controller", "edgectl-agent", "nobody")
    }
    pid = site.show(unit, "MainPID")
    exposed = (
        container("grep", "-c", PASSPHRASE, f"/proc/{pid}/environ", f"/proc/{pid}/cmdline").returncode == 0
    )
    only = reads == {"edgectl-controller": True, "edgectl-agent": False, "nobody": False}
    seen = f"read by {', '.join(u for u, can in reads.items() if can) or 'nobody'}; in environment or arguments: {'yes' if exposed else 'no'}"
    yield Row("controller: its passphrase comes by LoadCredential, to it alone", only and not exposed, seen)


def hardened(site: Site) -> Iterator[Row]:
    for unit in UNITS:
        said = site.container("systemd-analyze", "security", "--no-pager", f"{unit}.service").stdout
        match = re.search(r"exposure level for \S+ ([0-9.]+) (\w+)", said.replace(":", ""))
        level = float(match[1]) if match else 10.0
        yield Row(
            f"{unit}: exposure at most {EXPOSURE}",
            level <= EXPOSURE,
            f"{level} {match[2] if match else said[-300:]}",
        )
    status = Path(f"/proc/{site.agent()}/status").read_text()
    fields = {k: v.strip() for k, _, v in (line.partition(":") for line in status.splitlines())}
    bare = fields["CapEff"].strip("0") == "" == fields["CapBnd"].strip("0")
    seen = f"NoNewPrivs {fields['NoNewPrivs']}, Seccomp {fields['Seccomp']}, CapEff {fields['CapEff']}, CapBnd {fields['CapBnd']}, uid {fields['Uid'].split()[0]}"
    held = (
        bare and fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2" and fields["Uid"].split()[0] != "0"
    )
    yield Row("agent: no capability, no new privileges, filtered system calls", held, seen)


def delivered(site: Site, release: str) -> Row:
    started = time.monotonic()
    site.start_rollout(release)
    state = until(
        lambda: (s := site.slot()).get("state") in (*ENDS, *BAD_ENDS) and s,
        "the rollout ends",
        180,
    )
    took = time.monotonic() - started
    serves = site.serves()
    seen = f"{state['state']} after {took:.0f} s; {serves}"
    return Row(
        "a release is rolled out to the agent's unit", state["state"] == "committed" and bool(serves), seen
    )


def restarted(site: Site) -> Row:
    """With a release to run, ready means that its pipeline has made an inference."""
    row = ready(site, "edgectl-agent", lambda: site.worker() is not None, "its worker runs", verb="restart")
    status = site.show("edgectl-agent", "StatusText")
    serves = site.serves()
    held = row.held and status == "running" and bool(serves)
    return Row("edgectl-agent: ready once its pipeline runs", held, f"{row.seen}; {serves}")


def worker_stopped(site: Site) -> Row:
    claim = "a worker that hangs (SIGSTOP) is replaced by the agent"
    before, agent, restarts = site.worker(), site.agent(), site.show("edgectl-agent", "NRestarts")
    assert before is not None
    started = time.monotonic()
    os.kill(before, signal.SIGSTOP)
    try:
        new = until(lambda: (w := site.worker()) not in (None, before) and w, "another worker", 120)
    except Trouble as e:
        os.kill(before, signal.SIGCONT)
        return Row(claim, False, f"{e}; {site.log('edgectl-agent')[-600:]}")
    took, serves = time.monotonic() - started, site.serves()
    same = agent == site.agent() and site.show("edgectl-agent", "NRestarts") == restarts
    seen = f"after {took:.0f} s, agent the same: {'yes' if same else 'no'}; {serves}"
    return Row(claim, bool(new and serves and same), seen)


def agent_stopped(site: Site) -> Row:
    claim = "an agent that hangs (SIGSTOP) is ended and started by systemd"
    before, restarts = site.agent(), int(site.show("edgectl-agent", "NRestarts"))
    release = site.slot().get("active_release")
    started = time.monotonic()
    os.kill(before, signal.SIGSTOP)

    def again() -> bool:
        n = int(site.show("edgectl-agent", "NRestarts") or 0)
        return n > restarts and site.show("edgectl-agent", "SubState") == "running"

    try:
        until(again, "systemd has started it again", 240)
    except Trouble as e:
        with contextlib.suppress(ProcessLookupError):
            os.kill(before, signal.SIGCONT)
        return Row(claim, False, f"{e}; {site.log('edgectl-agent')[-600:]}")
    took, serves, after = time.monotonic() - started, site.serves(), site.slot()
    watched = (
        "Watchdog timeout" in site.container("journalctl", "-u", "edgectl-agent", "-b", "--no-pager").stdout
    )
    gone = not Path(f"/proc/{before}").exists()
    held = bool(serves) and watched and gone and after.get("active_release") == release
    return Row(
        claim,
        held,
        f"ready again after {took:.0f} s by the watchdog: {'yes' if watched else 'no'}; {after.get('state')} {serves}",
    )


def off(site: Site, release: str, name: str, states: Sequence[str], end: Callable[[], None]) -> Row:
    """The machine goes off while a release is in one of the states, and is started again."""
    claim = f"{name} in {states[0]}: the next boot ends well"
    before = site.slot().get("active_release")
    listener = site.container.listen(STATE_WATCH, release, *states)
    assert listener.stdout is not None
    try:
        listener.stdout.readline()
        site.start_rollout(release)
        state = listener.stdout.readline().strip()
        end()
    finally:
        listener.kill()
        listener.wait(30)
    booted = site.container.boot()

    def running() -> bool:
        return all(site.show(unit, "SubState") == "running" for unit in UNITS)

    def ended() -> dict[str, Any] | None:
        slot = site.slot()
        return slot if slot.get("release") == release and slot.get("state") in (*ENDS, *BAD_ENDS) else None

    until(running, "the units run", 180)
    last = until(ended, "an end state", 240)
    serves = site.serves()
    served = (serves or {}).get("releases", {}).get(SLOT)
    wanted = release if last["state"] == "committed" else before
    held = bool(state) and last["state"] in ENDS and last.get("active_release") == wanted == served
    seen = f"off in {state or 'no such state'}, up after {booted:.0f} s, {last['state']}, {serves} {last.get('error') or ''}"
    return Row(claim, held, seen)


def walk(work: Path, fresh: bool) -> list[Row]:
    tree, log = work / "debian-systemd", work / "console.log"
    make_tree(tree, PACKAGES, arch="amd64", fresh=fresh)
    rows = [install(tree, work)]
    if not rows[0].held:
        return rows
    build_bundles(tree / "srv/bundles")
    log.unlink(missing_ok=True)
    container = Container(tree, log)
    site = Site(container, tree)
    try:
        container.boot()
        install_units(site)
        rows.append(ready(site, "edgectl-broker", lambda: connects(container, 1883), "port 1883 open"))
        controller_files(site)
        rows += passphrase(site)
        stream = ["--stream", "surveillance=synth://yard", "--slot", f"detector={SLOT}"]
        site.edgectl("device", "enroll", "gate-1", *stream, "--out", "/srv/operator/gate-1")
        container.must("sh", "-c", "cp /srv/operator/gate-1/* /etc/edgectl/ && systemd-tmpfiles --create")
        rows.append(ready(site, "edgectl-agent", lambda: online(site), "online"))
        for version in VERSIONS:
            site.edgectl("release", "publish", f"/srv/bundles/{version}", "--keys", "/srv/operator/keys")
        rows.append(delivered(site, "gate@1.0.0"))
        rows.append(restarted(site))
        rows += hardened(site)
        rows.append(worker_stopped(site))
        rows.append(agent_stopped(site))
        container.must("systemctl", "enable", *UNITS)
        rows.append(off(site, "gate@2.0.0", "poweroff", ["warming"], container.power_off))
        rows.append(off(site, "gate@3.0.0", "poweroff", ["activating", "probation"], container.power_off))
        rows.append(off(site, "gate@4.0.0", "a power cut", ["activating", "probation"], container.cut))
        failed = container("systemctl", "--failed", "--no-legend", "--no-pager").stdout.strip()
        rows.append(Row("no unit of the machine has failed", not failed, failed or "none"))
        container.power_off()
    except Trouble as e:
        said = "".join(f"\n{unit}: {site.log(unit)[-1000:]}" for unit in UNITS)
        print(said, file=sys.stderr)
        rows.append(Row("the walk ends", False, str(e)))
    finally:
        container.close()
    return rows


def connects(container: Container, port: int) -> bool:
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2).close()"
    return container("python3", "-c", code).returncode == 0


def online(site: Site) -> bool:
    """Its birth is at the controller a moment after it is ready, or before."""
    with contextlib.suppress(Trouble):
        found = until(
            lambda: any(d["online"] for d in json.loads(site.edgectl("fleet", "devices", "--json"))),
            "online",
            20,
        )
        return bool(found)
    return False


if __name__ == "__main__":
    sys.exit(script(__doc__ or "", PROGRAMS, walk))
