"""A page of a list. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["PER_PAGE", "Page", "number_of", "page_of"]

PER_PAGE = 100
_MOST_DIGITS = 7

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    items: Sequence[T]
    number: int
    """From 1."""
    pages: int
    total: int
    """Items on all pages."""
    first: int
    """The place of its first item, from 1; 0 where there is none."""

    @property
    def last(self) -> int:
        return self.first + len(self.items) - 1 if self.items else 0


def page_of(items: Sequence[T], number: int, per_page: int = PER_PAGE) -> Page[T]:
    """Page ``number``, or the last one that there is."""
    pages = max(1, -(-len(items) // per_page))
    number = min(max(1, number), pages)
    start = (number - 1) * per_page
    found = items[start : start + per_page]
    return Page(found, number, pages, len(items), start + 1 if found else 0)


def number_of(text: str) -> int:
    """A page's number out of an address; what is none means the first."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 1
