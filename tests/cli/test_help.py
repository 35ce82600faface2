"""Help is made of the declarations alone: no level of it loads what only a command's body needs."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import edgectl.cli
from edgectl.cli._nouns import NOUNS
from edgectl.cli.main import app

EVERY_HELP = """
import contextlib, io, sys
from typer.main import get_command
from edgectl.cli.main import app, main

HEAVY = {"numpy", "cv2", "av", "pydantic", "paho", "onnxruntime", "onnx", "rich", "tuf", "cryptography", "yaml"}
LIGHT = ("edgectl.cli", *(f"edgectl.core.{m}" for m in ("errors", "uri", "clock", "durations", "privacy", "lazy")))
TABLES = {"edgectl.pipelines.kinds", "edgectl.pipelines.registry"}  # names without what they name

def helped(path):
    sys.argv = ["edgectl", *path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main()
    assert said.getvalue().startswith("Usage: " + " ".join(("edgectl", *path)) + " "), (path, said.getvalue())
    heavy = HEAVY & set(sys.modules)
    heavy |= {m for m in sys.modules if m.count(".") > 1 and m.startswith("edgectl.") and not m.startswith(LIGHT)} - TABLES
    assert not heavy, (path, sorted(heavy))

def walk(command, path):
    helped(path)
    count = 1
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        count += walk(command.get_command(None, name), (*path, name))
    return count

print(walk(get_command(app), ()))
"""


def test_no_help_loads_what_only_a_command_needs() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_every_file_is_a_noun_of_the_table() -> None:
    files = {m.name for m in pkgutil.iter_modules(edgectl.cli.__path__) if not m.name.startswith("_")}
    assert files == {*NOUNS, "main", "views"}


def test_a_noun_is_listed_without_loading_it_and_a_summary_is_not_cut() -> None:
    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for name, line in NOUNS.items():
        assert f"{name} {line}" in said
    said = " ".join(CliRunner().invoke(app, ["device", "--help"]).output.split())
    assert "If the controller can be reached, rollouts leave the device out." in said


@pytest.mark.parametrize(("words", "meant"), [("devise", "device"), ("device lokc", "lock")])
def test_a_misspelt_name_is_told_what_it_may_mean(words: str, meant: str) -> None:
    said = CliRunner().invoke(app, words.split())
    assert said.exit_code == 2
    assert f"'{meant}'" in said.output


def test_demo_alone_is_the_whole_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_demo(folder: object, out: object, *, stay: bool) -> dict[str, str]:
        asked.append(str(folder) + " and stay" * stay)
        return {"ran": str(folder)}

    monkeypatch.setattr("edgectl.cli.demo.whole.run_demo", run_demo)
    for words in (["--json"], ["-o", "here", "--json"], ["whole", "--stay", "--json"]):
        assert '"ran"' in CliRunner().invoke(app, ["demo", *words]).stdout
    assert asked == ["edgectl-demo", "here", "edgectl-demo and stay"]
    assert CliRunner().invoke(app, ["demo", "flying"]).exit_code == 2


def test_the_shell_completes_the_commands_of_a_noun_that_means_one_of_them_without_a_name() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'edgectl'; from edgectl.cli.main import main; main()",
        ],
        env={
            **os.environ,
            "_EDGECTL_COMPLETE": "complete_bash",
            "COMP_WORDS": "edgectl demo ",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["whole", "surveillance", "driving", "speech"], done.stderr
