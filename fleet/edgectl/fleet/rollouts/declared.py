"""What bundles declare of their accuracy by labels, one beside the other. Pure.

Known before anything is sent, and to nobody else: a device has no labels. It is the word of whoever built the bundle. Only
figures of as many pictures and objects are compared: where the labels are others, their numbers mostly are, too.
"""

from __future__ import annotations

from edgectl.core.bundle import Variant

__all__ = ["declared_loss"]

_FLOAT = "float_"
"""``float_ap50`` beside ``ap50``: of a build with labels."""
_POINT = 0.01
"""A metric that falls by more is told."""
_ERROR = "_error"
"""``word_error``: less is better."""


def declared_loss(new: Variant, old: Variant) -> str | None:
    """In words, of the metric that falls most; None: none falls by more than a point, or they cannot be compared."""
    a, b = new.config.accuracy, old.config.accuracy
    counted = [(figures.get("samples"), figures.get("objects")) for figures in (a, b)]
    if counted[0] != counted[1] or counted[0][0] is None:
        return None
    lost = {
        name: (now - was if name.endswith(_ERROR) else was - now, was, now)
        for name, now in a.items()
        if _FLOAT + name in a and _FLOAT + name in b and (was := b.get(name)) is not None
    }
    if not lost:
        return None
    name = max(lost, key=lambda n: lost[n][0])
    points, was, now = lost[name]
    if points <= _POINT:
        return None
    c = new.config
    return f"{c.profile}/{c.variant} declares {name} {now:.3f} by labels, {was:.3f} was that of {old.config.version}"
