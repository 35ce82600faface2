"""A table of things of one sort (kinds, decoders, rules, sources, sinks), which other packages can add to.

The table names a thing and where it is (``module:ATTRIBUTE``). Nothing is imported before it is asked for, so
reading a table's names costs nothing. A name that the table does not have is looked up among the entry points of
the installed packages; entry points are read only then, and when all names are listed. A name of ours cannot
be taken by another package.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from edgectl.core.errors import EdgectlError, EngineError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """``RULES.get("line")`` imports :mod:`edgectl.pipelines.rules.line` and returns its ``RULE``."""

    def __init__(self, noun: str, group: str, type_: type[T], own: Mapping[str, str]) -> None:
        """``noun``: what messages call one of them. ``group``: of the entry points. ``own``: ours, name →
        ``module:ATTRIBUTE``."""
        self.own = tuple(own)
        """Names of those that come with edgectl, in the order of the table."""
        self.group = group
        self._noun = noun
        self._type = type_
        self._targets = dict(own)
        self._loaded: dict[str, T] = {}

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name. What it is made of is not looked at."""
        return name in self._targets or any(e.name == name for e in self._offers())

    def names(self) -> tuple[str, ...]:
        """Ours in the order of the table, then those of other packages in alphabetical order."""
        others = {e.name for e in self._offers()} - set(self.own)
        return (*self.own, *sorted(others))

    def get(self, name: str) -> T:
        """Raises :class:`UsageError` for a name that nobody has, and for one whose package is broken."""
        if name not in self._loaded:
            self._loaded[name] = self._own(name) if name in self._targets else self._of_others(name)
        return self._loaded[name]

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[T]:
        """For calling what :meth:`get` gives: an error that is not one of ours names the thing it came from."""
        found = self.get(name)
        try:
            yield found
        except EdgectlError:
            raise
        except Exception as e:
            raise EngineError(f"the {self._noun} {name!r} failed: {type(e).__name__}: {e}") from e

    def _own(self, name: str) -> T:
        module, _, attribute = self._targets[name].partition(":")
        found: T = getattr(importlib.import_module(module), attribute)
        return found

    def _of_others(self, name: str) -> T:
        offers = [e for e in self._offers() if e.name == name]
        if not offers:
            from edgectl.core.nearest import did_you_mean

            raise UsageError(f"there is no {self._noun} {name[:64]!r}", hint=did_you_mean(name, self.names()))
        if len(offers) > 1:
            raise UsageError(
                f"the {self._noun} {name!r} is in several packages: {', '.join(sorted(map(_package, offers)))}",
                hint="uninstall all but one of them",
            )
        return self._load(offers[0])

    def _offers(self) -> tuple[EntryPoint, ...]:
        """Of the installed packages. The import is heavy, and most runs never come here."""
        from importlib.metadata import entry_points

        return tuple(entry_points(group=self.group))

    def _load(self, offer: EntryPoint) -> T:
        broken = f"the {self._noun} {offer.name!r} of the package {_package(offer)} cannot be used"
        hint = "update that package or uninstall it"
        try:
            found = offer.load()
        except EdgectlError as e:
            raise UsageError(f"{broken}: {e.message}", hint=e.hint or hint) from e
        except (Exception, SystemExit) as e:
            raise UsageError(f"{broken}: {type(e).__name__}: {e}", hint=hint) from e
        if not isinstance(found, self._type):
            raise UsageError(
                f"{broken}: {offer.value} is a {type(found).__name__}, not a {self._type.__name__}", hint=hint
            )
        return found


def _package(offer: EntryPoint) -> str:
    return "?" if offer.dist is None else f"{offer.dist.name} {offer.dist.version}"
