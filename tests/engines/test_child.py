"""A child ends with whoever started it, at whatever moment that one dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.fleet import wait_until

from edgectl.core.errors import EngineError
from edgectl.engines.child import run_child

IMPORTS_FOR_LONG = """
import os, sys, time
from pathlib import Path
from edgectl.engines.child import answer
folder = Path(sys.argv[1])
(folder / "pid.new").write_text(str(os.getpid()))
(folder / "pid.new").rename(folder / "pid")
while not (folder / "imported").exists():
    time.sleep(0.01)
def work():
    (folder / "worked").touch()
    return {}
sys.exit(answer(work))
"""
STARTS_IT = "import sys; from edgectl.engines.child import run_child; run_child('importsforlong', sys.argv[1:], timeout_s=300, what='it')"


@pytest.mark.parametrize("killed", [True, False])
def test_child_whose_parent_dies_before_it_could_ask_for_the_signal_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    (tmp_path / "importsforlong.py").write_text(IMPORTS_FOR_LONG)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    parent = subprocess.Popen([sys.executable, "-c", STARTS_IT, str(tmp_path)])
    try:
        wait_until((tmp_path / "pid").exists, "the child imports", 60)
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        if killed:
            parent.kill()
            parent.wait()
        (tmp_path / "imported").touch()
        assert not psutil.wait_procs([child], timeout=60)[1]
        assert (tmp_path / "worked").exists() is not killed
    finally:
        parent.kill()
        parent.wait()


HANGS = "import time; time.sleep(600)"
FAILS = {
    "dies": "import os; os.kill(os.getpid(), 9)",
    "hangs": HANGS,
    "takes memory": f"x = bytearray(300 << 20); {HANGS}",
    "says nothing": "",
    "gives no hint": """print('{"ok": false, "error": "no"}')""",
}


@pytest.mark.parametrize("how", FAILS)
def test_whoever_starts_a_child_says_what_to_do_when_it_fails_without_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert _hint(FAILS[how], tmp_path, monkeypatch, how, advice="build again") == "build again"


def test_hint_that_a_child_gives_itself_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """print('{"ok": false, "error": "no", "hint": "free the disk"}')"""
    assert _hint(body, tmp_path, monkeypatch, advice="build again") == "free the disk"


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ("dies", "take the fallback variant"),
        ("hangs", "take the fallback variant, or allow more time"),
        ("takes memory", "take the fallback variant, or stop other engines and allow more memory"),
        ("says nothing", None),
    ],
)
def test_without_advice_the_hint_is_for_whoever_runs_a_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, hint: str | None
) -> None:
    assert _hint(FAILS[how], tmp_path, monkeypatch, how) == hint


def _hint(
    body: str, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str = "", *, advice: str | None = None
) -> str | None:
    (folder / "fails.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    timeout_s, memory_mb = (1.0 if how == "hangs" else 60.0), (100 if how == "takes memory" else None)
    with pytest.raises(EngineError) as e:
        run_child("fails", [], timeout_s=timeout_s, what="it", memory_mb=memory_mb, advice=advice)
    return e.value.hint
