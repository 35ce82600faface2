"""Takes over a TensorRT plan that another device compiled, before an engine is warmed up, if signed metadata
name the plan.

It is used where signed targets name it for the key under which this device would file its own, and once it
has passed the check that a plan compiled here passes. Whatever is wrong, the plan is compiled here as ever:
nothing fails because of a shared one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.outcomes import failure
from edgectl.agent.transfer.download import Cancelled, FetchProgress
from edgectl.core.bundle import Descriptor
from edgectl.core.errors import EdgectlError
from edgectl.core.plan import MEDIA_PLAN
from edgectl.core.wire import Failure
from edgectl.engines.finalise.shared_plan import adopt, missing

__all__ = ["take_shared_plan"]

log = logging.getLogger(__name__)

_PATIENCE_S = 600.0
"""For the download; then compiling is no slower."""


def take_shared_plan(
    c: DeployerDependencies,
    manifest: str,
    cancelled: Callable[[], bool],
    progress: Callable[[FetchProgress], None],
) -> Failure | None:
    """Put the fleet's plan for an installed variant into the engine cache, if there is one and it is needed.

    Returns why one that there is was not taken. Raises :class:`Cancelled`.
    """
    if c.engine_cache is None:
        return None
    try:
        key = missing(c.store.blobs, manifest, c.engine_cache)
        plan = c.trust.plan(key) if key is not None else None
        if plan is None:
            return None
        until = c.clock() + _PATIENCE_S
        blob = Descriptor(mediaType=MEDIA_PLAN, digest=plan.digest, size=plan.size)
        while not c.disk.acquire(timeout=0.5):
            if cancelled():
                raise Cancelled
        try:
            c.fetcher.fetch_blob(blob, lambda: cancelled() or c.clock() > until, progress)
            adopt(c.store.blobs, manifest, c.engine_cache, c.store.path(plan.digest), plan)
        finally:
            c.disk.release()
    except Cancelled:
        if cancelled():
            raise
        return Failure(
            code="link", detail="the shared plan did not come in time; it is compiled here", retryable=True
        )
    except EdgectlError as e:
        log.warning("the shared plan is not used: %s", e.message)
        return failure(e, retryable=True)
    log.info("%s runs a plan of the fleet, %d bytes", manifest[:19], plan.size)
    return None
