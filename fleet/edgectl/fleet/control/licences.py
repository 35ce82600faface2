"""Whether a fleet delivers a bundle, by the licence of its weights: asked before an upload, and again by the
controller."""

from __future__ import annotations

from collections.abc import Iterable

from edgectl.core.bundle import VariantConfig
from edgectl.core.errors import UsageError
from edgectl.core.licence import LicencePolicy

__all__ = ["check_licences"]


def check_licences(policy: LicencePolicy, configs: Iterable[VariantConfig]) -> None:
    """Raises :class:`UsageError` for the first variant that the policy does not take."""
    for c in configs:
        why = policy.why_not(c.licence)
        if why is not None:
            tells = (
                "`edgectl build --licence SPDX` tells it"
                if c.licence is None
                else f"the bundle says {c.licence}: build it with --licence if these weights are yours under another one, or ask who keeps controller.toml"
            )
            raise UsageError(
                f"this fleet does not deliver {c.name}@{c.version}: {why} ([licences])", hint=tells
            )
