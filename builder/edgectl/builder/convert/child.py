"""Start the child that converts, watch its time, its memory and its disk, and read what it left: all of it within bounds."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.convert.orphans import without_orphans
from edgectl.core.errors import ModelError, StorageError, UsageError

__all__ = ["Limits", "regular_file", "run_inside"]

_log = logging.getLogger(__name__)
_MODULE = "edgectl.builder.convert.inside"
_LOOK_S = 0.1  # how often time, memory and disk are looked at
_MAX_ANSWER = 1 << 20
_MAX_SAID = 1 << 16  # characters of its output that are looked at
_MIB = 1 << 20
_KEPT = frozenset(
    (
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        # where weights lie that were downloaded before
        "XDG_CACHE_HOME",
        "TORCH_HOME",
        "HF_HOME",
        "KERAS_HOME",
    )
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "CUDA_")
_DEBUG = "--debug prints what the framework said; or export to ONNX with the framework's own tools and give that file"
_TOO_MUCH = "convert it on a larger machine with the framework's own tools and give the ONNX file, or allow more --minutes if it was time"


@dataclass(frozen=True)
class Limits:
    """Of a child with all that it starts. ``memory_mb``: resident MiB; ``disk_mb``: MiB in its folder."""

    timeout_s: float
    memory_mb: int
    disk_mb: int = 6144
    file_mb: int = 2048


def run_inside(
    folder: Path, step: str, job: Mapping[str, Any], what: str, options: ConvertOptions, limits: Limits
) -> dict[str, Any]:
    """Give the child in ``folder`` a job, and return its answer.

    Raises :class:`ModelError` in one sentence that begins with ``what``: it took too long, too much memory or too much disk and
    was killed, died, said something that makes no sense, or the framework raised; :class:`UsageError` where a module is missing
    or the source was refused; :class:`StorageError` if no process can be started.
    """
    asked = {**job, "memory": limits.memory_mb * _MIB, "file_bytes": limits.file_mb * _MIB}
    (folder / "job.json").write_text(json.dumps(asked))
    (folder / "answer.json").unlink(missing_ok=True)
    python = str(options.python or sys.executable)
    log = folder / "log.txt"
    with log.open("wb") as said, without_orphans(folder):
        try:
            process = subprocess.Popen(
                [python, "-m", _MODULE, str(folder), step, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                # nothing beside the source, or where the user stands, is taken for a module
                cwd=folder,
                env=_environment(folder),
            )
        except FileNotFoundError as e:
            raise UsageError(
                f"there is no Python at {python}", hint="give --convert-python PATH/TO/VENV/bin/python"
            ) from e
        except PermissionError as e:
            raise UsageError(
                f"{python} cannot be run: {e.strerror}", hint="give --convert-python an interpreter"
            ) from e
        except OSError as e:
            raise StorageError(
                f"{what}: no process can be started: {e.strerror}", hint="free memory or processes"
            ) from e
        try:
            stopped = _watched(process, folder, limits)
        finally:
            _kill(process)
    said_text = _tail(log)
    _log.debug("what the conversion printed:\n%s", said_text)
    if stopped is not None:
        raise ModelError(f"{what} {stopped} and was stopped", hint=_TOO_MUCH)
    return _reply(folder, process.returncode, said_text, what)


def regular_file(path: Path, most: int, what: str) -> int:
    """Bytes of a file that a child left. Raises :class:`ModelError` for a link, a folder, a device, or more than ``most``."""
    try:
        found = path.lstat()
    except OSError as e:
        raise ModelError(f"{what} left no {path.name}", hint=_DEBUG) from e
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{what} left a {path.name} that is no plain file", hint=_DEBUG)
    if found.st_size > most:
        raise ModelError(
            f"{what} left a {path.name} of {found.st_size / _MIB:.0f} MiB; at most {most / _MIB:.0f} are read",
            hint=_DEBUG,
        )
    return found.st_size


def _environment(folder: Path) -> dict[str, str]:
    """Of the user's, what interpreters and frameworks need, and no tokens; with every place for temporary files in the child's own folder, and our own part on the path of whatever
    interpreter it is: through a link, so that nothing else of ours comes along."""
    own = folder / "path" / "edgectl" / "builder"
    own.mkdir(parents=True, exist_ok=True)
    link = own / "convert"
    if not link.is_symlink():
        link.symlink_to(Path(__file__).resolve().parent, target_is_directory=True)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    # not the user's caches: weights that were downloaded before are read from there
    temporary = dict.fromkeys(("TMPDIR", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"), str(scratch))
    return {
        **{k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)},
        **temporary,
        "PYTHONPATH": os.pathsep.join([str(folder / "path"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "HF_HUB_OFFLINE": "1",
    }


def _watched(process: subprocess.Popen[bytes], folder: Path, limits: Limits) -> str | None:
    """Wait until it ends; or until it has had too much of something, and say of what."""
    deadline = time.monotonic() + limits.timeout_s
    while True:
        try:
            process.wait(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                return f"took more than {limits.timeout_s:.0f} s"
            if (used := _resident_mb(process.pid)) > limits.memory_mb:
                return f"took {used:.0f} MiB of memory, more than {limits.memory_mb},"
            if (used := _disk_mb(folder)) > limits.disk_mb:
                return f"wrote {used:.0f} MiB, more than {limits.disk_mb},"
        else:
            return None


def _resident_mb(pid: int) -> float:
    """Of a process and of all that it started."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total / _MIB


def _disk_mb(folder: Path) -> float:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total / _MIB


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And what it started: those that went into a group of their own, too."""
    others: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        others = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(psutil.Error):
            other.kill()
    process.wait()


def _tail(log: Path) -> str:
    with log.open("rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - _MAX_SAID))
        return f.read(_MAX_SAID).decode(errors="replace")


def _last_said(text: str) -> str:
    """The last line that a person would quote: not the lines of a traceback."""
    lines = [x.rstrip() for x in text.splitlines() if x.strip()]
    said = [
        x for x in lines if not x.startswith((" ", "\t", "Traceback", "WARNING", "I0000", "E0000", "W0000"))
    ]
    return " ".join((said or lines or [""])[-1].split())[:300]


def _reply(folder: Path, code: int, said: str, what: str) -> dict[str, Any]:
    last = _last_said(said)
    told = f": {last}" if last else ""
    if code < 0:
        raise ModelError(
            f"{what} died by {signal.Signals(-code).name}{told}",
            hint="convert it with the framework's own tools and give the ONNX file",
        )
    path = folder / "answer.json"
    if not os.path.lexists(path):
        if "No module named" in last:
            raise UsageError(
                f"{what}: this Python lacks what it needs{told}",
                hint="give --convert-python the interpreter of an environment that has the framework and NumPy",
            )
        raise ModelError(f"{what} ended with {code} and no answer{told}", hint=_DEBUG)
    regular_file(path, _MAX_ANSWER, what)
    try:
        reply = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{what} gave an answer that makes no sense", hint=_DEBUG) from e
    if not isinstance(reply, dict):
        raise ModelError(f"{what} gave an answer that makes no sense", hint=_DEBUG)
    if reply.get("ok") is True:
        return reply
    error, hint = str(reply.get("error", "no reason given"))[:500], reply.get("hint")
    if reply.get("kind") == "needs":
        raise UsageError(
            f"{what} needs what is not installed: {error}",
            hint=f"{hint}; or give --convert-python the interpreter of an environment that has it",
        )
    if reply.get("kind") == "refused":
        raise UsageError(f"{what}: {error}", hint=None if hint is None else str(hint)[:500])
    raise ModelError(f"{what} failed: {error}", hint=_DEBUG)
