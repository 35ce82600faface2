"""Passphrases at a terminal, from a file, and where there is neither."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.cli import _passphrase
from edgectl.cli.main import app
from edgectl.core.errors import TrustError, UsageError

SECRET = "correct horse battery"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGECTL_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr("edgectl.fleet.keys.pkcs8.SCRYPT_N", 16)


def edgectl(line: str) -> Any:
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def text(line: str) -> str:
    result = CliRunner().invoke(app, line.split())
    assert result.exception is None, result.exception
    return " ".join(str(result.output).split())


@pytest.fixture
def passphrase_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("EDGECTL_PASSPHRASE_FILE", str(path))
    return path


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers at the terminal; returns the prompts."""

    def answer(*lines: str) -> list[str]:
        left, prompts = list(lines), []

        def getpass(prompt: str) -> str:
            prompts.append(prompt)
            return left.pop(0)

        monkeypatch.setattr("getpass.getpass", getpass)
        monkeypatch.setattr(_passphrase, "_has_terminal", lambda: True)
        return prompts

    return answer


def terminal(line: str, *answers: str) -> tuple[int, str]:
    """Run a command at a terminal of its own; each answer is typed once another prompt is there. Returns
    its exit code and the screen."""
    master, slave = pty.openpty()
    start = "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, sys.executable, "-m", "edgectl.cli", *line.split()],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen, typed = b"", 0
    while select.select([master], [], [], 60)[0]:
        try:
            screen += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if typed < len(answers) and screen.endswith(b": "):
            os.write(master, answers[typed].encode() + b"\n")
            typed += 1
    os.close(master)
    return process.wait(30), screen.decode().replace("\r\n", "\n")


def test_terminal_asks_without_showing_what_is_typed() -> None:
    code, screen = terminal("keys new ann.pem --passphrase", SECRET, SECRET)
    assert (code, screen) == (
        0,
        "New passphrase: \nAgain: \nann.pem stays with its owner; hand over ann.pub\n",
    )
    edgectl("keys init --root-keys 0 --root-key ann.pub")
    code, screen = terminal("keys sign keys/pending/1.root.json --key ann.pem", "wrong", SECRET)
    assert code == 0
    assert (
        "Passphrase of ann.pem (empty: do without this key): \nThat is not it. Passphrase of ann.pem"
        in screen
    )
    assert "in force here (root 1 of 1)" in screen
    assert SECRET not in screen


def test_nobody_to_ask_is_one_sentence(passphrase_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edgectl("keys init --passphrase")
    monkeypatch.delenv("EDGECTL_PASSPHRASE_FILE")
    command = [sys.executable, "-m", "edgectl.cli", "keys", "renew", "root"]
    told = subprocess.run(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 2
    assert told.stderr == (
        "error: keys/root.pem has a passphrase, and there is no terminal to ask at\n"
        "next: put it into a file and set EDGECTL_PASSPHRASE_FILE\n"
    )
    assert sorted(p.name for p in Path("keys").glob("*.json")) == ["1.root.json", "targets.json"]


def test_file_opens_keys_and_ca_for_automation(passphrase_file: Path) -> None:
    edgectl("keys init --passphrase")
    edgectl("broker ca --passphrase")
    assert edgectl("keys renew root")[0]["complete"]
    assert edgectl("keys delegate team --profile cpu --passphrase")[1]["complete"]
    edgectl("broker config mosquitto --host b")
    assert b"ENCRYPTED" in Path("keys/team.pem").read_bytes()
    assert b"ENCRYPTED" not in Path("broker/server.key").read_bytes()
    edgectl("keys passphrase ca/ca.key --remove")
    assert b"ENCRYPTED" not in Path("ca/ca.key").read_bytes()
    edgectl("keys passphrase ca/ca.key")
    assert b"ENCRYPTED" in Path("ca/ca.key").read_bytes()
    assert Path("ca/ca.key").stat().st_mode & 0o777 == 0o600
    assert not Path("ca/ca.pub").exists()
    passphrase_file.write_text("not the one that it was")
    with pytest.raises(TrustError, match=r"the passphrase in .*passphrase is not that of keys/root\.pem"):
        edgectl("keys renew root")
    with pytest.raises(TrustError, match=r"is not that of ca/ca\.key"):
        edgectl("controller init --ca ca --out c/controller.toml")
    assert edgectl("keys status")["roles"], "nobody needs a passphrase to look"
    assert edgectl("device certificates")


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (SECRET, 0o644, "is readable or writable for everybody"),
        (SECRET, 0o602, "is readable or writable for everybody"),
        ("", 0o600, "one passphrase on one line"),
        (f"{SECRET}\nand another\n", 0o600, "one passphrase on one line"),
        ("x" * 1001, 0o600, "at most 1000 bytes"),
        ("short", 0o600, "at least 8 characters"),
        (None, 0o600, "cannot read"),
    ],
)
def test_file_that_will_not_do_is_one_sentence(
    passphrase_file: Path, content: str | None, mode: int, says: str
) -> None:
    passphrase_file.unlink()
    if content is not None:
        passphrase_file.write_text(content)
        passphrase_file.chmod(mode)
    with pytest.raises(UsageError, match=says):
        edgectl("keys new ann.pem --passphrase")
    assert not Path("ann.pem").exists()


def test_what_a_passphrase_hides_or_lacks_is_said(passphrase_file: Path) -> None:
    edgectl("keys init --passphrase")
    Path("keys/root.pub").unlink()
    assert "root.pem has a passphrase and no root.pub beside it" in text("keys status")
    said = "keys here have passphrases, the new ones have none"
    assert said in text("keys rotate targets")
    assert said not in text("keys rotate targets --passphrase")
    assert said not in text("keys rotate online")


def test_new_passphrase_is_long_enough_and_typed_twice(typing: Callable[..., list[str]]) -> None:
    for answers, says in ((("short",), "at least 8"), ((SECRET, "something else"), "not the same")):
        typing(*answers)
        with pytest.raises(UsageError, match=says):
            edgectl("keys init --passphrase")
    assert not Path("keys").exists()
    assert typing(SECRET, SECRET) == []
    edgectl("keys init --passphrase")


def test_empty_answer_does_without_the_key(typing: Callable[..., list[str]]) -> None:
    typing(SECRET, SECRET)
    edgectl("keys init --passphrase")
    prompts = typing("")
    (proposal,) = edgectl("keys renew root")
    assert not proposal["complete"]
    assert prompts == ["Passphrase of keys/root.pem (empty: do without this key): "]
    prompts = typing("wrong", "wrong", "wrong")
    with pytest.raises(TrustError, match=r"that is not the passphrase of keys/root\.pem"):
        edgectl("keys renew root")
    assert len(prompts) == 3


def test_controller_is_told_by_a_file_or_does_not_start(
    passphrase_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edgectl("keys init")
    edgectl("keys passphrase keys/online.pem")
    edgectl("controller init --broker 127.0.0.1:1")
    monkeypatch.delenv("EDGECTL_PASSPHRASE_FILE")
    monkeypatch.setattr(_passphrase, "_typed", lambda *_: pytest.fail("a service asks nobody"))
    with pytest.raises(UsageError, match=r"keys/online\.pem has a passphrase") as e:
        edgectl("controller run --config controller.toml")
    assert "EDGECTL_PASSPHRASE_FILE" in (e.value.hint or "")
