"""``edgectl controller backup`` and ``restore``, as docs/store.md has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import UsageError
from edgectl.fleet.rollouts.values import RolloutProgress, RolloutSpec
from edgectl.fleet.store.inventory import Device, Inventory


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    edgectl("controller init")
    inventory = Inventory(tmp_path / "controller")
    inventory.save_device(Device("gate-1"))
    spec = RolloutSpec(id="gate-1", release="m@1", digest="sha256:" + "a" * 64, slot="gate")
    inventory.save_rollout(spec, RolloutProgress())
    inventory.close()


def edgectl(line: str) -> Any:
    """The JSON of a command; its error is raised."""
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def text(line: str) -> str:
    result = CliRunner().invoke(app, line.split())
    assert result.exception is None, result.exception
    return str(result.output)


def test_fleet_that_was_backed_up_comes_back_on_another_machine(tmp_path: Path) -> None:
    made = edgectl("controller backup b.tar")
    assert (made["fleet"], made["rows"]["devices"]) == ("home", 1)
    (tmp_path / "controller").rename(tmp_path / "gone")
    found = edgectl("controller restore b.tar")
    assert (found["rows"]["devices"], found["paused"]) == (1, ["gate-1"])
    inventory = Inventory(tmp_path / "controller")
    assert set(inventory.devices()) == {"gate-1"}
    inventory.close()


def test_whoever_backs_up_and_restores_is_told_what_that_does_and_does_not() -> None:
    said = text("controller backup b.tar")
    assert "1 devices, 1 rollouts" in said
    assert "not in it:" in said
    with pytest.raises(UsageError, match="not empty"):
        edgectl("controller restore b.tar")
    said = text("controller restore b.tar --replace")
    assert "devices keep what they have" in said
    assert "rollout resume" in said
