"""Option groups: a class whose fields are options, taken by a command as one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._options import OptionGroup, key_value, ungrouped
from edgectl.core.errors import UsageError


@dataclass(frozen=True)
class Where(ControllerOptions):
    """One more option than the group of another module, whose annotations name what is not imported here."""

    patience: Annotated[float, typer.Option("--timeout", min=1)] = 2.0


@dataclass(frozen=True)
class Why(OptionGroup):
    reason: Annotated[str, typer.Option(help="Why.")]
    tag: Annotated[list[str] | None, typer.Option()] = None


seen: list[tuple[str, Where, Why]] = []


def stop(device: str, *, where: Where, why: Why) -> None:
    """Stop a device."""
    seen.append((device, where, why))


app = typer.Typer()
app.command()(ungrouped(stop))


def run(*words: str, **environment: str) -> Any:
    seen.clear()
    return CliRunner().invoke(app, list(words), env=environment)


def test_a_command_gets_its_groups_filled_from_options_and_the_environment() -> None:
    said = run(
        "gate-1",
        "--reason",
        "night",
        "--timeout",
        "3",
        "--tag",
        "a",
        "--tag",
        "b",
        EDGECTL_CONTROLLER="http://c",
    )
    assert said.exit_code == 0, said.output
    [(device, where, why)] = seen
    assert (device, where.url, str(where.token_file), where.patience) == (
        "gate-1",
        "http://c",
        "controller/token",
        3.0,
    )
    assert why == Why("night", ["a", "b"])


def test_an_option_of_a_group_is_required_and_checked_as_any_other() -> None:
    assert "--reason" in run("gate-1").output
    assert run("gate-1", "--reason", "x", "--timeout", "0.5").exit_code == 2
    assert seen == []


def test_options_stand_where_their_group_stands() -> None:
    flags = [param.opts[-1] for param in get_command(app).params]
    assert flags[:6] == ["device", "--controller", "--token-file", "--timeout", "--reason", "--tag"]


def test_a_pair_is_told_apart_at_its_first_equals_sign() -> None:
    assert key_value("site=a=b", "--label") == ("site", "a=b")


@pytest.mark.parametrize("text", ["site", "site=", "=north", ""])
def test_what_is_no_pair_is_refused_with_the_name_of_its_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"--label '.*' is not KEY=VALUE"):
        key_value(text, "--label")
