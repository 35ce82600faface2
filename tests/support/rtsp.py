"""A real RTSP server, GStreamer's, where the machine has it."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("rtsp_program.py")
_NEEDS = """
import gi
for name in ("Gst", "GstRtspServer"):
    gi.require_version(name, "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
raise SystemExit(0 if all(map(Gst.ElementFactory.find, ("videotestsrc", "jpegenc", "rtpjpegpay"))) else 1)
"""


@functools.cache
def python_with_gstreamer() -> str:
    """The Python that has GStreamer's server; the test is skipped without one."""
    for python in ("python3", "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([python, "-c", _NEEDS], capture_output=True, timeout=60).returncode == 0:
                return python
    pytest.skip("no GStreamer RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0")


def camera(port: int, *, encoder: str = "jpeg", login: str = "") -> subprocess.Popen[bytes]:
    """A server at ``rtsp://127.0.0.1:port/test`` that listens."""
    process = subprocess.Popen(
        [python_with_gstreamer(), str(PROGRAM), str(port), encoder, login],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:
        process.wait()


@contextlib.contextmanager
def secured(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """The port of a door with TLS before the server at ``port``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    door = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    open_sockets: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for s in (source, target):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = door.accept()
                try:
                    outer = context.wrap_socket(plain, server_side=True)
                except OSError:
                    plain.close()
                    continue
                inner = socket.create_connection(("127.0.0.1", port))
                open_sockets.extend((outer, inner))
                for pair in ((outer, inner), (inner, outer)):
                    threads.append(threading.Thread(target=pump, args=pair))
                    threads[-1].start()

    listener = threading.Thread(target=serve)
    listener.start()
    try:
        yield door.getsockname()[1]
    finally:
        door.shutdown(socket.SHUT_RDWR)
        listener.join()
        for s in open_sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for s in (door, *open_sockets):
            s.close()
