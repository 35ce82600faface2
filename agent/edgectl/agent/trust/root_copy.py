"""The root metadata that a device was enrolled with, and the copy of them that outlives theirs."""

from __future__ import annotations

import logging
from pathlib import Path

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import ENROLLED, TrustStore
from edgectl.core.errors import TrustError
from edgectl.core.wire import Failure

__all__ = ["open_trust"]

log = logging.getLogger(__name__)


def open_trust(
    folder: Path, root: Path, journal: Journal, profile: str | None
) -> tuple[TrustStore, Failure | None]:
    """Root metadata that have rotted since a start before must not cost the device its agent: a copy was kept in
    ``folder`` then. Returns why that is used, where it is. Raises :class:`TrustError`."""
    try:
        return TrustStore(folder, root.read_bytes(), journal, profile=profile), None
    except OSError as e:
        hint = "`edgectl device enroll NAME` writes it"
        why = TrustError(f"cannot read {root}: {e.strerror}", hint=hint)
    except TrustError as e:
        why = e
    try:
        store = TrustStore(folder, (folder / ENROLLED).read_bytes(), journal, profile=profile)
    except (OSError, TrustError):
        raise why from None
    notice = Failure(code="trust", detail=f"{why.message[:800]}; the copy of it in the state folder is used")
    log.error("%s", notice.detail)
    return store, notice
