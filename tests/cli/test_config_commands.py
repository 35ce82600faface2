"""What an operator types to publish and compare configurations, at a real controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until
from support.pipelines import box_task
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.bundle import Bundle
from edgectl.core.errors import ConfigError, EdgectlError, RolloutError, TrustError, UsageError
from edgectl.core.files import hex_of

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


@pytest.fixture
def parts(fleet: Fleet) -> Fleet:
    """A detector of persons and vehicles, and one of speech, are published."""
    fleet.publish(make_bundle(fleet.folder / "det", version="2.0.0", task=box_task()))
    fleet.publish(make_bundle(fleet.folder / "arm", name="arm", version="1.0.0", profile="jetson-orin"))
    return fleet


SET = ("--part", "detector=gate-detector@2.0.0")


def test_set_is_signed_with_the_digests_of_its_parts_and_told_as_one(parts: Fleet) -> None:
    fleet = parts
    publish(fleet, LINE, "1")
    found = json.loads(publish(fleet, LINE, "2", *SET, "--json").output)
    detector = Bundle(fleet.folder / "det").digest
    assert found["parts"] == {"detector": {"release": "gate-detector@2.0.0", "digest": detector}}
    assert fleet.cli("config", "show", "gate-rules@2").output == (
        f"# part detector: gate-detector@2.0.0 {detector}\n{LINE}"
    )
    lines = fleet.cli("config", "diff", "gate-rules@1", "gate-rules@2").output.splitlines()
    assert f"+# part detector: gate-detector@2.0.0 {detector}" in lines
    listed = {r["release"]: r["type"] for r in json.loads(fleet.cli("release", "list", "--json").output)}
    assert listed == {
        "gate-detector@2.0.0": "engine",
        "arm@1.0.0": "engine",
        "gate-rules@1": "config",
        "gate-rules@2": "set",
    }


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        (LINE, ("detector",), "--part detector is not PART=NAME@VERSION"),
        (LINE, ("detector=gate-detector@3",), "part detector: gate-detector@3 is not published, or was"),
        (
            LINE,
            ("plates=gate-detector@2.0.0",),
            "a surveillance pipeline with this configuration has no part",
        ),
        (LINE.replace("}", ", classes: [cat]}"), SET[1:], "names class 'cat', which the model does not know"),
        ("classes: [cat]\n", SET[1:], "1.yaml:1: classes.0: classes names 'cat'"),
        (
            LINE + "second_stage: [{part: gear}]\n",
            ("gear=gate-detector@2.0.0", "detector=gate-rules@0"),
            "part detector: gate-rules@0 is a config and no bundle of engines",
        ),
        (
            "scene: [{part: gear, region: [0, 0, 1, 1]}]\n",
            ("gear=arm@1.0.0", "detector=gate-detector@2.0.0"),
            "no device profile has engines for all parts of gate-rules@1: gear for jetson-orin; detector for cpu",
        ),
    ],
)
def test_set_whose_parts_do_not_fit_is_refused(
    parts: Fleet, text: str, more: tuple[str, ...], why: str
) -> None:
    publish(parts, LINE, "0")
    words = [word for one in more for word in ("--part", one)]
    # what stands in a line of the file is told with it
    ends = ConfigError if "cat" in text else UsageError
    found = publish(parts, text, "1", *words, ends=ends)
    assert why in found.exception.message
    assert "gate-rules@1" not in {r["release"] for r in parts.client.releases()}


def test_release_that_a_set_needs_is_withdrawn_only_by_who_insists(parts: Fleet) -> None:
    fleet = parts
    publish(fleet, LINE, "1", *SET)
    words = ("release", "withdraw", "gate-detector@2.0.0", "--keys", fleet.keys)
    found = fleet.cli(*words, ends=RolloutError)
    assert found.exception.message == (
        "gate-detector@2.0.0 is not withdrawn: the set gate-rules@1 needs it, which no device could install any more"
    )
    fleet.cli(*words, "--yes")
    assert "gate-detector@2.0.0" not in {r["release"] for r in fleet.client.releases()}
    blobs = fleet.config.state_dir / "blobs"
    there = {hex_of(d.digest) for d in Bundle(fleet.folder / "det").variants[0].descriptors()}
    assert there <= {path.name for path in blobs.iterdir()}, "the set still names them"
    fleet.cli("release", "withdraw", "gate-rules@1", "--keys", fleet.keys)
    wait_until(lambda: not there & {path.name for path in blobs.iterdir()}, "nothing names them any more")
