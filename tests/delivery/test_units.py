"""The systemd units say what they must; systemd itself checks them where it is installed."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import free_port

from edgectl.fleet.keys.ceremony import init_keys
from edgectl.fleet.keys.enroll import write_enrolment

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))


def load(path: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.stem)
def test_unit_is_hardened_and_restarts(path: Path) -> None:
    unit = load(path)
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "LockPersonality", "RestrictSUIDSGID"):
        assert unit[key] == "yes", key
    assert unit["ProtectSystem"] == "strict"
    assert unit["CapabilityBoundingSet"] == ""
    assert unit["Restart"] == "on-failure"
    assert unit["Type"] == "notify"
    assert "WatchdogSec" in unit
    assert unit.get("DynamicUser") == "yes" or unit["User"] == path.stem


def test_agent_keeps_cameras_sound_and_gpu() -> None:
    unit = load(next(p for p in UNITS if p.stem == "edgectl-agent"))
    assert unit["Type"] == "notify"
    assert "WatchdogSec" in unit
    for trap in ("PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute"):
        assert trap not in unit, f"{trap} breaks cameras or inference runtimes"
    assert {"video", "render", "audio"} <= set(unit["SupplementaryGroups"].split())


def test_a_stop_of_the_agent_does_not_strike_down_its_children_beside_it() -> None:
    # A warm-up that dies by systemd's SIGTERM counts against the release.
    assert load(SYSTEMD / "edgectl-agent.service")["KillMode"] == "mixed"


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.stem)
def test_exposure_is_low(path: Path) -> None:
    tool = found("systemd-analyze")
    result = subprocess.run(
        [tool, "security", "--offline=true", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    match = re.search(r"exposure level for \S+: ([0-9.]+)", result.stdout + result.stderr)
    if match is None:
        pytest.skip("this systemd-analyze cannot judge a file")
    assert float(match.group(1)) <= 2.5


def test_systemd_accepts_the_units() -> None:
    result = subprocess.run(
        [found("systemd-analyze"), "verify", *map(str, UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [
        line for line in result.stderr.splitlines() if "edgectl-" in line and "not executable" not in line
    ]
    assert complaints == []


def test_keys_are_readable_by_their_service_alone(tmp_path: Path) -> None:
    users, files = found("systemd-sysusers"), found("systemd-tmpfiles")
    if os.getuid() != 0:
        pytest.skip("only root may give files to other users")
    secrets = [
        "etc/edgectl/device.key",
        "etc/edgectl/agent.toml",
        "etc/edgectl-controller/controller.key",
        "etc/edgectl-controller/keys/online.pem",
        "etc/edgectl-controller/keys/director.pem",
    ]
    for name in secrets:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o644)
    for tool, conf in ((users, "sysusers.d"), (files, "tmpfiles.d")):
        command = [
            tool,
            f"--root={tmp_path}",
            *(["--create"] if tool == files else []),
            str(SYSTEMD / conf / "edgectl.conf"),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    groups = {
        g.split(":")[0]: int(g.split(":")[2]) for g in (tmp_path / "etc/group").read_text().splitlines()
    }
    for name in secrets:
        stat = (tmp_path / name).stat()
        owner = "edgectl-controller" if "controller" in name else "edgectl-agent"
        assert (stat.st_mode & 0o777, stat.st_uid, stat.st_gid) == (0o640, 0, groups[owner]), name
    for folder in ("etc/edgectl", "etc/edgectl-controller/keys"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("service", ["broker", "controller", "agent"])
def test_service_tells_systemd_how_it_is(service: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        process = subprocess.Popen(command_of(service, tmp_path), env=environment, stderr=subprocess.DEVNULL)
        try:
            assert "READY=1" in heard(systemd, "READY=1")
            for _ in range(2):
                heard(systemd, "WATCHDOG=1")
            process.terminate()
            heard(systemd, "STOPPING=1")
            assert process.wait(20) in (0, 128 + signal.SIGTERM)
        finally:
            process.kill()
            process.wait(10)


def heard(systemd: socket.socket, wanted: str) -> list[str]:
    """The datagram that has the wanted line."""
    while wanted not in (lines := systemd.recv(4096).decode().split("\n")):
        continue
    return lines


def command_of(service: str, folder: Path) -> list[str]:
    """The service as its unit starts it, with files of its own. There need not be an MQTT broker for any
    of them to be ready."""
    port = free_port()
    if service == "broker":
        return [sys.executable, "-m", "edgectl.cli", "broker", "run", "--port", str(port)]
    root = init_keys(folder / "keys")
    if service == "controller":
        text = f'state_dir = "other"\nkeys = "keys"\n[broker]\nhost = "127.0.0.1"\nport = {port}\n[api]\nport = {free_port()}\n'
        (folder / "controller.toml").write_text(text)
        command = [
            sys.executable,
            "-m",
            "edgectl.cli",
            "controller",
            "run",
            "--config",
            str(folder / "controller.toml"),
        ]
        return [*command, "--state", str(folder / "state")]
    config = write_enrolment(
        folder, "gate-1", root=root.read_bytes(), fleet="home", broker={"host": "127.0.0.1", "port": port}
    )
    return [sys.executable, str(Path(__file__).parents[1] / "support" / "agent.py"), str(config)]


def found(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path
