"""A lock on the state folder: two agents in one folder would deploy against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgectl.core.errors import UsageError
from edgectl.core.folder_lock import hold

__all__ = ["hold_folder", "is_free"]


@contextlib.contextmanager
def hold_folder(state_dir: Path) -> Iterator[None]:
    """Hold the state folder; the kernel lets go of it however the process ends. Raises :class:`UsageError`
    if somebody else does."""
    busy = UsageError(
        f"an agent is running on {state_dir}", hint="stop it first: systemctl stop edgectl-agent"
    )
    with hold(state_dir, "agent.lock", busy=busy):
        yield


def is_free(state_dir: Path) -> bool:
    """Whether nobody holds the state folder now."""
    try:
        with hold_folder(state_dir):
            return True
    except UsageError:
        return False
