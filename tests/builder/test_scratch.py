"""Temporary folders of builds: which of those that lie there are taken away."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgectl.builder.scratch import scratch_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(temporary: Path) -> Path:
    """Of a process that has ended, and was reaped."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    folder = temporary / f"edgectl-x-{ended.pid}-a"
    folder.mkdir()
    return folder


def test_the_folders_of_killed_builds_go_and_no_others(temporary: Path) -> None:
    dead = left_behind(temporary)
    strange = [f"edgectl-x-{n}-a" for n in ("9" * 30, "9" * 8, "\u0663", "-1", os.getpid())]
    for name in strange:
        (temporary / name).mkdir()
    with scratch_folder("edgectl-x-") as made:
        assert made.is_dir()
    assert not dead.exists()
    assert sorted(p.name for p in temporary.iterdir()) == sorted(strange)


def test_what_others_left_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = left_behind(temporary)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with scratch_folder("edgectl-x-"):
        pass
    assert dead.is_dir()


def test_beside_a_bundle_too_whatever_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    dead = tmp_path / f".a[1]*.large.{ended.pid}-x"
    other = tmp_path / f".a1b.large.{ended.pid}-x"
    dead.mkdir()
    other.mkdir()
    with scratch_folder(".a[1]*.large.", tmp_path) as made:
        assert made.parent == tmp_path
    assert not dead.exists()
    assert other.is_dir()
