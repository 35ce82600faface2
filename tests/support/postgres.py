"""A real PostgreSQL server of our own, by the binaries that Debian installs. It forgets all when it is stopped."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

__all__ = ["Postgres", "binaries", "postgres", "store_url"]

_UNPRIVILEGED = ("postgres", "nobody")
"""Whom it runs as where we are root, which it refuses to be."""


def binaries() -> Path | None:
    """The folder with the newest ``initdb`` and ``postgres``."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Postgres:
    """Listens on a socket in its own folder; whoever may open that folder is let in."""

    def __init__(self, bin_folder: Path, *, fsync: bool = False) -> None:
        """``fsync``: it outlives a power cut, and is as slow as one that does."""
        self._bin = bin_folder
        self._fsync = "on" if fsync else "off"
        self._user = next((u for u in _UNPRIVILEGED if _is_user(u)), None) if os.getuid() == 0 else None
        # Not with the folders of the tests: the other user could not get there.
        self.folder = Path(tempfile.mkdtemp(prefix="edgectl-pg-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        make = ["-U", "edgectl", "--auth", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"]
        self._run("initdb", "-D", str(self.folder / "data"), *make)
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://edgectl@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"t{secrets.token_hex(6)}"
        with self._connect() as db:
            db.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Returns once it answers."""
        options = {"listen_addresses": "", "fsync": self._fsync, "max_connections": "40"}
        settings = [arg for name, value in options.items() for arg in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
            )
        deadline_s = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """At once, as a crash: who is connected is cut off."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.folder), user="edgectl", dbname="postgres", autocommit=True)

    def _run(self, program: str, *args: str) -> None:
        subprocess.run(
            [self._bin / program, *args],
            check=True,
            capture_output=True,
            cwd=self.folder,
            user=self._user,
            timeout=120,
        )


def _is_user(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process; each takes a database of its own."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    server = Postgres(found)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """Of an empty store: None is SQLite in the state folder."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
