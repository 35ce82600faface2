"""Groups of devices on the command line; the controller is a double."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError

GROUPS: list[dict[str, Any]] = [
    {"name": "beta", "select": "", "devices": ["cam-1", "cam-9"], "members": ["cam-1"]},
    {
        "name": "north",
        "select": "label.site = north",
        "devices": [],
        "members": [f"cam-{i}" for i in range(7)],
    },
]


class Controller:
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def groups(self) -> list[dict[str, Any]]:
        return GROUPS

    def set_group(self, name: str, **terms: Any) -> dict[str, Any]:
        self.told.append((name, terms))
        return {"name": name, **terms, "members": ["cam-1"]}

    def drop_group(self, name: str) -> None:
        self.told.append((name, None))


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller()
    monkeypatch.setattr(_controller, "client", lambda url, token_file: made)
    return made


def run(*words: str) -> str:
    told = CliRunner().invoke(app, ["fleet", "groups", *words], env={"COLUMNS": "120"})
    if told.exception is not None:
        raise told.exception
    return told.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--device", "a", "--select", "name = a"], "one of --device, --select, --remove"),
        (["x", "--device", "a", "--remove"], "one of --device, --select, --remove"),
        (["--select", "name = a"], "which group"),
        (["gamma"], "there is no group gamma"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_changes_nothing(
    controller: Controller, words: list[str], said: str
) -> None:
    with pytest.raises(EdgectlError, match=said):
        run(*words)
    assert controller.told == []


@pytest.mark.usefixtures("controller")
def test_groups_are_listed_with_who_is_in_them() -> None:
    said = run()
    assert "2 named" in said
    assert "7: cam-0, cam-1, cam-2, cam-3, cam-4, …" in said
    assert json.loads(run("north", "--json")) == [GROUPS[1]]


def test_group_is_set_and_removed(controller: Controller) -> None:
    said = run("new", "--select", "label.site = north")
    assert said.startswith("group new has 1: cam-1\nnext: edgectl rollout start")
    run("old", "--device", "b", "--device", "a")
    assert run("beta", "--remove") == "group beta is removed\n"
    assert controller.told == [
        ("new", {"devices": (), "select": "label.site = north"}),
        ("old", {"devices": ["b", "a"], "select": ""}),
        ("beta", None),
    ]
