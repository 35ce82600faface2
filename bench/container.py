"""A Debian in a folder that boots with a systemd of its own (systemd-nspawn), driven from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from debian import Trouble

__all__ = ["Container", "until"]


class Container:
    """A Debian with systemd as its PID 1, driven from outside."""

    def __init__(self, tree: Path, log: Path) -> None:
        self._tree = tree
        self._log = log
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> float:
        """Seconds until systemd has started everything. Raises :class:`Trouble` if it does not."""
        command = ["setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "--boot", f"--directory={self._tree}"]
        command += ["--register=no", "--keep-unit", "--private-network", "--console=read-only"]
        command += ["--machine=edgectl-units", "--link-journal=no"]
        started = time.monotonic()
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")

        def up() -> bool:
            pids = children.read_text().split()
            if not pids or Path(f"/proc/{pids[-1]}/comm").read_text().strip() != "systemd":
                return False
            self._init = int(pids[-1])
            return self("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

        until(up, "systemd is up", 180)
        return time.monotonic() - started

    def _entered(self, command: Sequence[str], environment: dict[str, str]) -> list[str]:
        given = [f"{name}={value}" for name, value in environment.items()]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = ["nsenter", "--target", str(self._init), "--all", "--wd=/root"]
        return [*enter, "env", "-i", path, "HOME=/root", "LANG=C.UTF-8", "COLUMNS=200", *given, *command]

    def __call__(
        self, *command: str, timeout_s: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the container as root."""
        whole = self._entered(command, environment)
        try:
            return subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            said = f"not done after {timeout_s:.0f} s"
            return subprocess.CompletedProcess(whole, 124, stdout="", stderr=said)

    def must(self, *command: str, timeout_s: float = 120, **environment: str) -> str:
        """The same, for what everything after it rests on."""
        done = self(*command, timeout_s=timeout_s, **environment)
        if done.returncode:
            raise Trouble(
                f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout)[-1500:]}"
            )
        return done.stdout

    def listen(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python script in the container."""
        command = self._entered(["/opt/edgectl/bin/python", "-c", script, *arguments], {})
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def power_off(self) -> None:
        """In good order."""
        assert self._nspawn is not None
        self("systemctl", "poweroff")
        self._nspawn.wait(120)

    def cut(self) -> None:
        """As if its plug were pulled: all processes end at once."""
        assert self._nspawn is not None
        os.kill(self._init, signal.SIGKILL)
        self._nspawn.wait(60)

    def close(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init or self._nspawn.pid, signal.SIGKILL)
            try:
                self._nspawn.wait(30)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait(30)


def until(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """The first true value. Raises :class:`Trouble`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Trouble(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.1)
    return value
