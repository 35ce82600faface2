"""What a second stage says of a tracked object."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Attribute"]


class Attribute(NamedTuple):
    value: str
    """A label of the second model (``helmet``), or the text that it read."""
    score: float
    """0..1: what the votes for it add up to, a vote that all others agree with and that is sure being 1."""
