"""What ``bench/arm64.py`` and ``bench/units.py`` share: what is missing, and what did not hold, is said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "bench/debian.py"


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("debian", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "debian", module)
    spec.loader.exec_module(module)
    return module


def test_missing_packages_are_named_and_not_installed_unasked(
    debian: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(debian, "run", lambda command, *_, **__: started.append(command))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    programs = {"no-such-program": "its-package", "sh": "dash"}
    with pytest.raises(debian.Trouble, match=r"lacks its-package: .*--install"):
        debian.need(programs, install=False)
    assert started == []
    debian.need(programs, install=True)
    assert [command[:2] for command in started] == [["apt-get", "update"], ["apt-get", "install"]]
    assert started[1][-1] == "its-package"


def test_without_root_nothing_is_begun(debian: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(debian.Trouble, match="needs root"):
        debian.need({}, install=True)


def test_a_row_that_did_not_hold_is_the_exit_code(
    debian: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = debian.Row("a", True, "as it\nshould"), debian.Row("b", False, "broken")
    assert debian.report([good], tmp_path / "good.json") == 0
    assert debian.report([good, bad], None) == 1
    out = capsys.readouterr().out
    assert "a  held      as it should" in out
    assert "b  NOT HELD  broken" in out
    assert json.loads((tmp_path / "good.json").read_text())[0]["held"] is True
