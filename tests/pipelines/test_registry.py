"""A table that other packages add to: lazy, ours come first, and a broken package is one sentence about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgectl.core.errors import EdgectlError, EngineError, ModelError, UsageError
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.rules import RULES
from edgectl.pipelines.sinks import SINKS
from edgectl.pipelines.sources import SOURCES


@dataclass(frozen=True)
class Tool:
    does: str


HAMMER = Tool("hits")
Install = Callable[..., None]


@pytest.fixture
def tools() -> Registry[Tool]:
    return Registry(
        "tool", "edgectl.test_tools", Tool, {"hammer": f"{__name__}:HAMMER", "saw": "no.such:SAW"}
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A package with a module of that name, as ``pip install --target`` leaves it behind."""

    def write(name: str, code: str, points: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name}-0.3.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text("[edgectl.test_tools]\n" + points)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


PLIERS = f"from {__name__} import Tool\nTHING = Tool('grips')\n"


def test_ours_are_imported_when_they_are_asked_for(tools: Registry[Tool]) -> None:
    assert tools.names() == ("hammer", "saw")
    assert tools.get("hammer") is HAMMER
    with pytest.raises(ModuleNotFoundError):  # our own table is wrong: no fault of the user's
        tools.get("saw")


def test_another_package_adds_one(tools: Registry[Tool], install: Install) -> None:
    install("acme_tools", PLIERS, "pliers = acme_tools:THING\n")
    assert "pliers" in tools
    assert tools.names() == ("hammer", "saw", "pliers")
    assert "acme_tools" not in sys.modules
    assert tools.get("pliers").does == "grips"


def test_a_name_of_ours_cannot_be_taken(tools: Registry[Tool], install: Install) -> None:
    install("acme_tools", PLIERS, "hammer = acme_tools:THING\n")
    assert tools.get("hammer") is HAMMER
    assert tools.names() == ("hammer", "saw")


def test_two_packages_with_one_name_are_both_named(tools: Registry[Tool], install: Install) -> None:
    install("acme_tools", PLIERS, "pliers = acme_tools:THING\n")
    install("other_tools", PLIERS, "pliers = other_tools:THING\n")
    with pytest.raises(UsageError, match=r"several packages: acme_tools 0\.3, other_tools 0\.3"):
        tools.get("pliers")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("from edgectl.core.errors import ModelError\nraise ModelError('too old')", "too old"),
        ("THING = 3", "acme_tools:THING is a int, not a Tool"),
        ("", "AttributeError"),
        ("def", "SyntaxError"),
    ],
)
def test_a_broken_package_is_one_sentence_that_names_it(
    tools: Registry[Tool], install: Install, code: str, words: str
) -> None:
    install("acme_tools", code, "pliers = acme_tools:THING\n")
    assert "pliers" in tools.names()
    assert tools.get("hammer") is HAMMER
    with pytest.raises(UsageError, match=r"'pliers' of the package acme_tools 0\.3 cannot be used") as caught:
        tools.get("pliers")
    assert words in caught.value.message
    assert caught.value.hint is not None


def test_an_unknown_name_is_answered_with_those_there_are(tools: Registry[Tool]) -> None:
    with pytest.raises(UsageError, match="there is no tool 'hamer'") as caught:
        tools.get("hamer")
    assert caught.value.hint == "did you mean 'hammer'?"
    with pytest.raises(UsageError) as caught:
        tools.get("drill")
    assert caught.value.hint == "there are: hammer, saw"


@pytest.mark.parametrize(
    ("error", "becomes"), [(ValueError("odd"), EngineError), (ModelError("odd"), ModelError)]
)
def test_what_fails_in_use_names_the_thing(
    tools: Registry[Tool], error: Exception, becomes: type[EdgectlError]
) -> None:
    with pytest.raises(becomes, match="odd") as caught, tools.using("hammer"):
        raise error
    assert ("tool 'hammer' failed: ValueError" in str(caught.value)) == isinstance(error, ValueError)


@pytest.mark.parametrize("table", [KINDS, DECODERS, RULES, SINKS, SOURCES], ids=lambda t: t.group)
def test_everything_that_our_tables_name_is_there(table: Registry[object]) -> None:
    assert all(table.get(name) is not None for name in table.own)
