"""Fixtures for every component.

Real models and media lie beside the checkout in ``../shared`` (or ``$EDGECTL_SHARED``); tests that need them
are skipped, with the reason, where they are not there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGECTL_SHARED", ROOT.parent / "shared"))


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts what it puts in the background deaf to Ctrl-C, and so would be every child.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Child processes (workers, agents, the CLI) import the checkout under test, installed or not.
    components = [str(ROOT / c) for c in config.getini("pythonpath")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*components, os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: `make test-compress VENV=.venv-torch` runs this test")
    for marker in item.iter_markers("convert"):
        for module in marker.args:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed: edgectl[convert] brings it")


@pytest.fixture(scope="session", autouse=True)
def no_record_is_lost() -> Iterator[None]:
    """A log record that cannot be written raises where it was logged, instead of a notice on stderr."""

    def fail(_handler: logging.Handler, _record: logging.LogRecord) -> None:
        raise  # called while the error is handled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.Handler, "handleError", fail)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_state_is_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a stream without a folder keeps, lies with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A service that a test runs in this process sets logging up for the process: its handler writes to the
    stderr of that test, which is closed when the test ends."""
    loggers = logging.getLogger(), logging.getLogger("edgectl")
    levels = [logger.level for logger in loggers]
    kept = set(loggers[0].handlers)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in set(loggers[0].handlers) - kept:
        # those of pytest are of classes of its own
        if type(handler) is logging.StreamHandler:
            loggers[0].removeHandler(handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and media (SOURCES.md)."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"real models and media are not at {SHARED}; set EDGECTL_SHARED to run this test")
    return SHARED


@dataclass(frozen=True)
class Broker:
    host: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path


def free_port() -> int:
    """A port that nobody listens on, below the range from which outgoing connections take theirs: it stays
    free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def start_mosquitto(folder: Path, port: int, *, extra: str = "") -> Broker:
    """A real mosquitto on loopback, with the queue limits of ``edgectl broker config``. Returns once it accepts
    connections."""
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 20\nmax_queued_messages 256\n"
        f"persistence false\nlog_dest file {folder}/mosquitto.log\n{extra}"
    )
    process = subprocess.Popen(
        [binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            return Broker("127.0.0.1", port, process, folder)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = start_mosquitto(tmp_path_factory.mktemp("mosquitto"), free_port())
    yield broker
    broker.process.terminate()
    broker.process.wait(10)
