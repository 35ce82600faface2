"""A camera's password is in nothing that the product says: real commands, a camera that refuses it, and
every output searched for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from edgectl.cli._argv import hidden
from edgectl.core.errors import LinkError
from edgectl.core.wire import Failure
from edgectl.link.mqtt import BrokerOptions
from edgectl.models import reference

SECRET = "h4nter2Qx"
SPELLINGS = [
    "rtsp://admin:{s}@{host}/sub",
    "rtsp://admin:pa/{s}@{host}/sub",
    "rtsp://admin:pa?{s}#1@{host}/sub",
    "rtsp://admin:{q}@{host}/sub",
    "rtsp://{host}/sub?user=admin&password={s}",
    "rtsp://{host}/user=admin_password={s}_channel=1_stream=0.sdp?real_stream",
    "rtsp:/admin:{s}@{host}/sub",
    "rtsp:admin:{s}@{host}/sub",
    "admin:{s}@{host}/sub",
    "http://admin:{s}@{host}/video.mjpg",
    "nonsense://admin:{s}@{host}/",
    "rtsp://admin:{s} with blanks@{host}/sub",
]


class RefusingCamera:
    """An RTSP server that asks for a password and takes none. ``asked`` is set once a client is there, who
    waits for ``answer``."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._refuse, args=(client,), daemon=True).start()

    def _refuse(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while request := client.recv(65536):
                self.asked.set()
                self.answer.wait(60)
                number = next(
                    (
                        line.split(b":")[1].strip()
                        for line in request.splitlines()
                        if line.startswith(b"CSeq")
                    ),
                    b"1",
                )
                client.sendall(
                    b'RTSP/1.0 401 Unauthorized\r\nCSeq: %s\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n'
                    % number
                )

    def close(self) -> None:
        self.answer.set()
        self._listener.close()


@pytest.fixture
def camera() -> Iterator[RefusingCamera]:
    camera = RefusingCamera()
    yield camera
    camera.close()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgectl.cli", *map(str, arguments)]


def assert_silent(run: subprocess.CompletedProcess[str], folder: Path) -> None:
    """Neither the outputs nor any file that the command left has the password, as it is or
    percent-encoded."""
    assert run.returncode not in (0, 1), run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    written = [p for p in folder.rglob("*") if p.is_file()]
    for said in (run.stdout, run.stderr, *(p.read_bytes().decode(errors="replace") for p in written)):
        assert SECRET not in said
        assert quote(SECRET[0]) + SECRET[1:] not in said
        assert "%68%34" not in said


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_run_whose_camera_refuses(
    spelling: str, form: str, camera: RefusingCamera, bundle: Path, tmp_path: Path
) -> None:
    camera.answer.set()
    every_character = "".join(f"%{b:02x}" for b in SECRET.encode())
    uri = spelling.format(s=SECRET, q=every_character, host=camera.host)
    arguments = [
        "run",
        "surveillance",
        "-b",
        bundle,
        "--source",
        uri,
        # one that hangs up is waited for
        "--seconds",
        "2",
        "--out",
        "out",
        *(["--json"] if form == "json" else []),
    ]
    run = subprocess.run(
        command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert_silent(run, tmp_path)


def test_a_mistyped_command_line_that_has_a_source(tmp_path: Path) -> None:
    uri = f"rtsp://admin:{SECRET}@cam7/sub"
    for arguments in (
        ["run", uri],
        ["run", "surveillance", uri],
        ["run", "surveillance", "--sauce", uri],
        ["device", "enroll", "gate-1", "--stream", f"survey={uri}"],
        ["device", "enroll", "gate-1", "--stream", uri],
        ["build", uri, "--task", "tensor", "--profile", "cpu"],
        [
            "build",
            reference("yard-detector").model,
            "--task",
            reference("yard-detector").task,
            "--profile",
            "cpu",
            "-c",
            f"{uri[:20]}\0",
        ],
    ):
        arguments = [str(a).replace("\0", "/") for a in arguments]
        run = subprocess.run(
            command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert_silent(run, tmp_path)


def test_a_calibration_camera_that_refuses(camera: RefusingCamera, tmp_path: Path) -> None:
    camera.answer.set()
    ours = reference("yard-detector")
    uri = f"rtsp://admin:{SECRET}@{camera.host}/sub"
    arguments = command(
        "build", ours.model, "--task", ours.task, "--profile", "cpu", "-c", uri, "--out", "out/y"
    )
    assert_silent(
        subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False),
        tmp_path,
    )


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the arguments of a process are hidden on Linux"
)
def test_ps_does_not_show_it(camera: RefusingCamera, bundle: Path, tmp_path: Path) -> None:
    uri = f"rtsp://admin:{SECRET}@{camera.host}/sub"
    process = subprocess.Popen(
        command("run", "surveillance", "-b", bundle, f"--source={uri}"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert camera.asked.wait(60)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        lines = [" ".join(p.cmdline()) for p in family]
    finally:
        camera.answer.set()
        output, _ = process.communicate(timeout=60)
    assert camera.host in lines[0]
    assert all(SECRET not in line for line in lines)
    assert SECRET not in output.decode()


def test_the_arguments_are_written_over_in_just_as_many_bytes() -> None:
    before = b"\0".join(
        [b"edgectl", b"run", b"--source=rtsp://a:%s@cam" % SECRET.encode(), b"x@\xff\xfe", b""]
    )
    after = hidden(before)
    assert len(after) == len(before)
    assert after.split(b"\0")[:4] == [b"edgectl", b"run", b"--source=rtsp://cam", b"x@\xff\xfe"]


@pytest.mark.parametrize(
    "argument",
    ["rtsp://admin:1 {s}@cam/sub", "--source=rtsp://admin:a {s}@cam/sub", "day=rtsp://{s} b@cam/sub"],
)
def test_an_argument_is_one_uri_whatever_blanks_it_has(argument: str) -> None:
    shown = hidden(argument.format(s=SECRET).encode() + b"\0")
    assert SECRET.encode() not in shown
    assert b"rtsp://cam/sub" in shown


def test_a_source_in_the_environment_needs_no_argument(
    camera: RefusingCamera, bundle: Path, tmp_path: Path
) -> None:
    camera.answer.set()
    environment = {**os.environ, "EDGECTL_SOURCE": f"rtsp://admin:{SECRET}@{camera.host}/sub"}
    run = subprocess.run(
        command("run", "surveillance", "-b", bundle),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert camera.asked.is_set()
    assert_silent(run, tmp_path)


def test_what_a_device_reports_of_a_failure_has_none() -> None:
    failure = Failure(code="source", detail=f"cannot open rtsp://admin:{SECRET}@cam/sub: refused")
    assert failure.detail == "cannot open rtsp://cam/sub: refused"


def test_a_broker_password_is_in_no_representation() -> None:
    broker = BrokerOptions("broker.lan", 8883, "gate-1", SECRET)
    assert SECRET not in f"{broker} {broker!r} {LinkError(repr(broker))}"


@pytest.mark.parametrize("form", ["--view-token\0{s}", "--view-token={s}"])
def test_the_token_of_the_live_page_is_not_in_the_arguments(form: str) -> None:
    given = f"edgectl\0run\0--view\0{form}\0--seconds\x005\0".format(s="open-sesame-open-sesame").encode()
    shown = hidden(given)
    assert b"sesame" not in shown
    assert b"--seconds\x005" in shown
    assert len(shown) == len(given)
