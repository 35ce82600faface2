"""Where a build works: a folder for its samples, and the file of what it measured beside the bundle."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from threadpoolctl import threadpool_limits

__all__ = ["workplace"]

_SAMPLES_FOLDER = "edgectl-samples-"


@contextlib.contextmanager
def workplace(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder for samples, and the file of measurements beside the bundle."""
    with contextlib.ExitStack() as stack:
        # The products are small: BLAS threads wait for each other longer than they multiply.
        stack.enter_context(threadpool_limits(1, "blas"))
        folder = stack.enter_context(_samples_folder())
        tuning = stack.enter_context(_tuning_log(out.with_name(f"{out.name}.tuning.jsonl")))
        yield folder, tuning


@contextlib.contextmanager
def _samples_folder() -> Iterator[Path]:
    """A folder for samples (hundreds of MiB), and the end of those that killed builds left."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SAMPLES_FOLDER}*-*"):
        pid = left.name.removeprefix(_SAMPLES_FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SAMPLES_FOLDER}{os.getpid()}-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _tuning_log(path: Path) -> Iterator[Path]:
    """Gone when the build ends, whole or with an error. A kill or Ctrl-C leaves it for the next try."""
    try:
        yield path
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
