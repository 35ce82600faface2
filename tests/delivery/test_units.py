"""The systemd units say what they must; systemd itself checks them where it is installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


def load(path: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.stem)
def test_unit_is_hardened_and_restarts(path: Path) -> None:
    unit = load(path)
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "DynamicUser", "LockPersonality", "RestrictSUIDSGID"):
        assert unit[key] == "yes", key
    assert unit["ProtectSystem"] == "strict"
    assert unit["CapabilityBoundingSet"] == ""
    assert unit["Restart"] == "on-failure"


def test_agent_keeps_cameras_sound_and_gpu() -> None:
    unit = load(next(p for p in UNITS if p.stem == "edgectl-agent"))
    assert unit["Type"] == "notify"
    assert "WatchdogSec" in unit
    for trap in ("PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute"):
        assert trap not in unit, f"{trap} breaks cameras or inference runtimes"
    assert {"video", "render", "audio"} <= set(unit["SupplementaryGroups"].split())


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    result = subprocess.run([tool, "verify", *map(str, UNITS)], capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in result.stderr.splitlines() if "edgectl-" in line and "not executable" not in line]
    assert complaints == []
