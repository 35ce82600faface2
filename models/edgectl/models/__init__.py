"""Models by name: our own small reference models as package data, and public ones by pinned URL, sha256 and
licence.

Our own were trained on synthetic scenes by the scripts in ``models/`` of the repository; what they reach
there says nothing about real pictures or people.
"""

from edgectl.models.catalogue import Entry, ReferenceModel, entries, pull, reference, references

__all__ = ["Entry", "ReferenceModel", "entries", "pull", "reference", "references"]
