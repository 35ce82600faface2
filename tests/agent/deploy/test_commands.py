"""What an operator may ask of a device, with a real deployer and journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent import Machine
from support.device import SLOT, Catalogue, Device

from edgectl.agent.deploy.commands import Commands
from edgectl.core.errors import UsageError
from edgectl.core.wire import Command


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    device = Device(tmp_path / "state", Catalogue(tmp_path)).boot()
    events = [{"kind": "entered"}]
    slots = {SLOT: device.deployer}
    yield Commands(
        tmp_path,
        Machine(),
        device.journal,
        device.leases,
        slots,
        events,
        lambda order: {"session": order.session},
    )
    device.off()


def obey(commands: Commands, op: str, **more: Any) -> dict[str, object]:
    return commands.obey(Command.model_validate({"id": "7", "op": op, "seq": 1, "deadline_s": 1.0, **more}))


def test_device_says_what_it_is(commands: Commands) -> None:
    assert obey(commands, "probe") == {
        "facts": ["arch:test", "runtime:onnxruntime"],
        "runtimes": ["onnxruntime"],
    }


def test_who_overrode_the_fleet_and_why_is_kept(commands: Commands) -> None:
    assert obey(commands, "hold", owner="anna", reason="look first") == {"slots": [SLOT]}
    logs = obey(commands, "logs")
    assert logs["events"] == [{"kind": "entered"}]
    assert [what for _, what in logs["audit"]] == ["anna: hold of gate: look first"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("op", "more", "words"),
    [
        ("hold", {"slot": "porch"}, "no slot porch; it has gate"),
        ("force", {}, r"force is not possible now \(gate: idle\)"),
        ("lock", {"owner": "anna"}, "a lease needs ttl_s"),
        ("unlock", {"owner": "anna"}, "anna holds no lease; who does: nobody"),
    ],
)
def test_command_that_is_not_possible_says_why_and_leaves_no_trace(
    commands: Commands, op: str, more: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        obey(commands, op, **more)
    assert obey(commands, "logs")["audit"] == []


def test_builder_that_begins_to_measure_is_written_down_once(commands: Commands) -> None:
    for act in ("open", "look", "close"):
        order = {"act": act, "session": "build-7"}
        assert obey(commands, "measure", owner="anna", measure=order) == {"session": "build-7"}
    audit = obey(commands, "logs")["audit"]
    assert [what for _, what in audit] == ["anna: measures candidates of a build here"]  # type: ignore[attr-defined]
