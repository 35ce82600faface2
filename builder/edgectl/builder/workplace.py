"""Where a build works: a folder for its samples, and the file of what it measured beside the bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits

from edgectl.builder.scratch import scratch_folder

__all__ = ["workplace"]


@contextlib.contextmanager
def workplace(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder for samples, and the file of measurements beside the bundle."""
    with contextlib.ExitStack() as stack:
        # The products are small: BLAS threads wait for each other longer than they multiply.
        stack.enter_context(threadpool_limits(1, "blas"))
        folder = stack.enter_context(scratch_folder("edgectl-samples-"))
        tuning = stack.enter_context(_tuning_log(out.with_name(f"{out.name}.tuning.jsonl")))
        yield folder, tuning


@contextlib.contextmanager
def _tuning_log(path: Path) -> Iterator[Path]:
    """Gone when the build ends, whole or with an error. A kill or Ctrl-C leaves it for the next try."""
    try:
        yield path
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
