"""Every command answers --help, takes --json, and the README's commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edgectl.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(command: Any, path: tuple[str, ...]) -> None:
        if not hasattr(command, "list_commands"):
            found.append(path)
            return
        for name in command.list_commands(None):
            walk(command.get_command(None, name), (*path, name))

    walk(get_command(app), ())
    return found


def test_the_nouns_of_the_design_are_there() -> None:
    wanted = {
        "build",
        "finalise",
        "cameras discover",
        "bundle inspect",
        "bundle verify",
        "bench",
        "profiles list",
        "profiles show",
        "profiles probe",
        "run",
        "broker run",
        "device enroll",
        "device renew",
        "device revoke",
        "device lock",
        "device unlock",
        "device hold",
        "device release",
        "device force",
        "device cancel",
        "device rollback",
        "device probe",
        "device logs",
        "device health",
        "fleet events",
        "broker ca",
        "broker config",
        "keys init",
        "keys rotate",
        "keys sign",
        "keys status",
        "keys renew",
        "fleet status",
        "agent run",
        "controller run",
        "release publish",
        "rollout start",
        "rollout status",
        "rollout pause",
        "rollout resume",
        "rollout abort",
        "fleet devices",
        "fleet watch",
        "models list",
        "models pull",
        "doctor",
        "demo surveillance",
        "demo driving",
        "demo speech",
    }
    assert wanted <= {" ".join(c) for c in commands()}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_and_json(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_commands_of_the_readme_exist() -> None:
    known = {" ".join(c) for c in commands()} | {"demo"}
    lines = [
        line.split("#")[0]
        for page in ("README.md", "docs/security.md", "docs/device.md")
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text().replace("\\\n", ""), re.S)
        for line in block.splitlines()
    ]
    used = [shlex.split(line.strip().rstrip("&")) for line in lines if line.strip().startswith("edgectl ")]
    assert used
    for words in used:
        assert " ".join(words[1:3]) in known or words[1] in known, " ".join(words)


@pytest.mark.parametrize(
    "command",
    [
        ("profiles", "list"),
        ("profiles", "probe"),
        ("models", "list"),
        ("profiles", "show", "jetson-orin"),
        ("doctor",),
    ],
)
def test_json_of_commands_that_need_nothing(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)


def test_accuracy_of_reference_models_is_told_label_by_label() -> None:
    said = CliRunner().invoke(app, ["models", "list"], env={"COLUMNS": "200"}).stdout
    assert re.search(r"ap50 person 0\.\d+, vehicle 0\.\d+", said)
    assert re.search(r"top1 0\.\d+", said)


DEVICE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"onnx", "onnxslim", "sqlalchemy", "starlette", "uvicorn", "httpx", "amqtt", "torch", "openvino"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from edgectl.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("build", "m.onnx", "--task", "tensor", "--profile", "cpu"), "builder"),
        (("fleet", "devices"), "fleet"),
        (("demo",), "builder"),
        (("profiles", "probe"), None),
        (("models", "list"), None),
        (("run", "surveillance", "--help"), None),
        (("agent", "run", "--help"), None),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else str(v),
)
def test_a_device_without_the_extras_runs_what_it_needs_and_names_what_it_lacks(
    command: tuple[str, ...], extra: str | None, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DEVICE, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "EDGECTL_TOKEN": "t"},
    )
    if extra is None:
        assert run.returncode == 0, run.stderr
    else:
        assert run.returncode == 2, run.stderr
        assert f"edgectl[{extra}]" in run.stderr
        assert "Traceback" not in run.stderr
