"""What pages are made from, read from the controller no more often than once a second, whoever looks, and the parts of
pages that have changed since.

All of it runs on one thread, so that nothing is made twice, and viewers cost the controller a bounded share of one core:
what takes long is made less often.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgectl.fleet.web.rendering import Part, environment

__all__ = ["MAX_STREAMS", "PERIOD_S", "PageView", "PartFeed", "Sparing", "render_parts"]

PERIOD_S = 1.0
"""Between two looks."""
MAX_STREAMS = 32
"""Pages that are kept current at once."""
_SHARE = 0.003
"""Of a core, that making one thing again and again may take."""
_LEAST_S = 0.5 * PERIOD_S
"""All who look at once, look at the same; who looks a period later sees what is then."""
_LONGEST_S = 0.8 * PERIOD_S
"""What a page is made from is never older, unless who makes it says so: it is read at every look, and with the wait for
the next one no change is older than two seconds."""
_MOST_PAGES = 64

T = TypeVar("T")


@dataclass(frozen=True)
class PageView:
    """A page: what stands around its parts, and the parts that are kept current."""

    title: str
    template: str
    parts: Mapping[str, tuple[str, Mapping[str, Any]]]
    """Id → template and what it is given."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """For the page's own template."""
    nav: str = ""
    """The address in the navigation that it belongs to."""


def render_parts(view: PageView) -> dict[str, Part]:
    found = {}
    for id_, (template, context) in view.parts.items():
        html = environment().get_template(template).render(**context)
        found[id_] = Part(html, hashlib.sha256(html.encode()).hexdigest()[:16])
    return found


class Sparing:
    """Things that are costly to make: each is kept for half a second, or for three hundred times what it took if that is
    longer, up to a bound."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[object, tuple[float, Any]] = OrderedDict()
        """Key → until when, and what."""

    def get(self, key: object, make: Callable[[], T], *, longest_s: float = _LONGEST_S) -> T:
        """What was made, at most ``longest_s`` ago."""
        now = self._clock()
        known = self._kept.get(key)
        if known is not None and now < known[0]:
            found: T = known[1]
            return found
        made = make()
        took = self._clock() - now
        self._kept[key] = (now + min(longest_s, max(_LEAST_S, took / _SHARE)), made)
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_PAGES:
            self._kept.popitem(last=False)
        return made

    def forget(self) -> None:
        """Something was done: whoever looks next wants to see it."""
        self._kept.clear()


class PartFeed:
    """Parts of pages by address, made once for all who look at it. One thread."""

    def __init__(self, sparing: Sparing) -> None:
        self.sparing = sparing

    def parts(self, address: str, make: Callable[[], PageView]) -> dict[str, Part]:
        return self.sparing.get(("page", address), lambda: render_parts(make()), longest_s=_LEAST_S)
