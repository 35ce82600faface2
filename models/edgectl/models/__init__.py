"""Models by name: our own small reference models as package data, and public ones by pinned URL, sha256 and
licence.

Our own were trained on synthetic scenes by the scripts in ``models/`` of the repository; what they reach
there says nothing about real pictures or people.
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "Entry",
    "ReferenceModel",
    "entries",
    "pull",
    "reference",
    "references",
]

if TYPE_CHECKING:
    from edgectl.models.catalogue import Entry, ReferenceModel, entries, pull, reference, references
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.models.catalogue": (
                "Entry",
                "ReferenceModel",
                "entries",
                "pull",
                "reference",
                "references",
            ),
        },
    )
