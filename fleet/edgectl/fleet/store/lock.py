"""A lock on the controller's state folder: a store that is replaced under a controller would be written over by
what that one still knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgectl.core.errors import UsageError
from edgectl.core.folder_lock import hold

__all__ = ["hold_store"]


@contextlib.contextmanager
def hold_store(state_dir: Path) -> Iterator[None]:
    """Raises :class:`UsageError` while another process holds it. With PostgreSQL that says nothing of a
    controller on another machine."""
    busy = UsageError(
        f"a controller is running on {state_dir}", hint="stop it first: systemctl stop edgectl-controller"
    )
    with hold(state_dir, "controller.lock", busy=busy):
        yield
