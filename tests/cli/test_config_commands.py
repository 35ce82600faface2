"""What an operator types to publish and compare configurations, at a real controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError, TrustError, UsageError

LINE = "rules:\n  - {id: mid, line: [0.5, 1.0, 0.5, 0.0]}\n"


@pytest.fixture
def fleet(mosquitto: Broker, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, mosquitto.port, free_port())
    fleet.start_controller()
    yield fleet
    fleet.close()


def publish(
    fleet: Fleet, text: str, version: str, *more: object, ends: type[EdgectlError] | None = None
) -> Any:
    file = fleet.folder / f"{version}.yaml"
    file.write_text(text)
    words = (
        "config",
        "publish",
        file,
        "--name",
        "gate-rules",
        "--version",
        version,
        "--keys",
        fleet.keys,
        *more,
    )
    return fleet.cli(*words, ends=ends)


def test_published_configuration_is_listed_shown_and_compared(fleet: Fleet) -> None:
    assert "next: edgectl rollout start gate-rules@1 --slot SLOT" in publish(fleet, LINE, "1").output
    publish(fleet, LINE.replace("0.5", "0.4"), "2")
    assert fleet.cli("config", "show", "gate-rules@1").output == LINE
    lines = fleet.cli("config", "diff", "gate-rules@1", "gate-rules@2").output.splitlines()
    assert lines[-2:] == [
        "-  - {id: mid, line: [0.5, 1.0, 0.5, 0.0]}",
        "+  - {id: mid, line: [0.4, 1.0, 0.4, 0.0]}",
    ]
    assert (
        fleet.cli("config", "diff", "gate-rules@1", fleet.folder / "1.yaml").output == "they are the same\n"
    )
    found = json.loads(fleet.cli("release", "list", "--json").output)
    assert {r["release"] for r in found} == {"gate-rules@1", "gate-rules@2"}


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        ("rules:\n  - {id: mid, lin: [0, 0, 1, 1]}\n", (), "1.yaml:2: rules.0"),
        ("mqtt:\n  url: mqtt://cam:secret@nas\n", (), "1.yaml:2: it holds credentials"),
        (
            "webhook:\n  url: https://ha/api/hook\n  headers:\n    Authorization:\n      secret-of-mine\n",
            (),
            "1.yaml:2: webhook.url may hold credentials",
        ),
        (
            "webhook:\n  url: https://ha/api/webhook/secret\n",
            (),
            "1.yaml:2: webhook.url may hold credentials",
        ),
        ("", (), "1.yaml is empty"),
        ("{}\n# nothing\n", (), "1.yaml is empty"),
        (LINE + "# more\n" * 40_000, (), "a configuration that is published has 262144 at most"),
        (LINE, ("--kind", "surveilance"), "there is no kind of pipeline 'surveilance'"),
        (LINE, ("--kind", "speech"), "rules"),
    ],
)
def test_what_no_stream_should_get_is_refused_before_anything_is_signed(
    fleet: Fleet, text: str, more: tuple[str, ...], why: str
) -> None:
    before = (fleet.keys / "targets.json").read_bytes()
    file = fleet.folder / "1.yaml"
    file.write_text(text)
    words = ("config", "publish", file, "--name", "gate-rules", "--version", "1", "--keys", fleet.keys, *more)
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(result.exception, UsageError), result.output
    assert why in result.exception.message
    assert "secret" not in result.exception.message
    assert (fleet.keys / "targets.json").read_bytes() == before
    assert fleet.client.releases() == []


def test_version_is_published_once_and_engines_are_no_configuration(fleet: Fleet) -> None:
    publish(fleet, LINE, "1")
    publish(fleet, LINE, "1")
    publish(fleet, LINE + "# changed\n", "1", ends=TrustError)
    fleet.publish(make_bundle(fleet.folder / "b", version="9"))
    found = fleet.cli("config", "show", "gate-detector@9", ends=UsageError)
    assert found.exception.message == "gate-detector@9 is a bundle of engines"
    found = fleet.cli("config", "show", "gate-rules@7", ends=UsageError)
    assert found.exception.message == "gate-rules@7 is not published"
