"""The licence of a model's weights, as an SPDX expression (specification 3.0, annex B), and whether a policy takes it.

>>> LicencePolicy(refuse=("AGPL-*",)).why_not("MIT OR AGPL-3.0-only")
>>> LicencePolicy(refuse=("AGPL-*",)).why_not("MIT AND AGPL-3.0-only")
'AGPL-3.0-only is refused'
>>> LicencePolicy(unknown="refuse").why_not(None)
'the licence is not known'

Names of licences are not checked here: who builds does, who delivers compares.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgectl.core.schema import Config

__all__ = ["Licence", "LicencePolicy"]

_MOST = 500
_TOKEN = re.compile(r"[A-Za-z0-9.+:-]+|[()]")
_MOST_DEPTH = 20
_NOT_TOLD = ("NOASSERTION", "NONE")
"""SPDX's own words for it."""

_Tree = str | tuple[str, list["_Tree"]]
_Part = Callable[[list[str]], tuple[_Tree, list[str]]]


def _parsed(expression: str) -> _Tree:
    """``AND`` binds tighter than ``OR``; ``X WITH Y`` is one name. Raises :class:`ValueError`."""
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != re.sub(r"\s", "", expression):
        raise ValueError(f"{expression!r} is no SPDX expression")
    tree, rest = _either(tokens, 0)
    if rest:
        raise ValueError(f"{expression!r} is no SPDX expression: nothing may follow at {rest[0]!r}")
    return tree


def _either(tokens: list[str], depth: int) -> tuple[_Tree, list[str]]:
    return _joined(tokens, "OR", lambda t: _joined(t, "AND", lambda t: _one(t, depth)))


def _joined(tokens: list[str], word: str, part: _Part) -> tuple[_Tree, list[str]]:
    tree, rest = part(tokens)
    parts = [tree]
    while rest and rest[0].upper() == word:
        tree, rest = part(rest[1:])
        parts.append(tree)
    return (parts[0] if len(parts) == 1 else (word, parts)), rest


def _one(tokens: list[str], depth: int) -> tuple[_Tree, list[str]]:
    if depth > _MOST_DEPTH:
        raise ValueError("an SPDX expression has too many brackets")
    if tokens and tokens[0] == "(":
        tree, rest = _either(tokens[1:], depth + 1)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket of an SPDX expression is not closed")
        return tree, rest[1:]
    if not tokens or tokens[0] == ")" or tokens[0].upper() in ("AND", "OR", "WITH"):
        raise ValueError("an SPDX expression lacks a licence's name")
    if len(tokens) > 2 and tokens[1].upper() == "WITH":
        return f"{tokens[0]} WITH {tokens[2]}", tokens[3:]
    return tokens[0], tokens[1:]


def _checked(expression: str) -> str:
    _parsed(expression)
    return expression


Licence = Annotated[str, Field(min_length=1, max_length=_MOST), AfterValidator(_checked)]
"""An SPDX expression whose form is right: ``MIT``, ``Apache-2.0 OR MIT``, ``LicenseRef-Acme``."""


class LicencePolicy(Config):
    """``[licences]`` of a fleet: which weights it delivers. Patterns are compared with each licence's name, whatever the
    case; of ``A OR B`` one has to be fine, of ``A AND B`` both."""

    allow: tuple[str, ...] = ()
    """Only these (``MIT``, ``BSD-*``). Empty: all that is not refused."""
    refuse: tuple[str, ...] = ()
    """``AGPL-*``, ``GPL-*``, ``CC-BY-NC-*``."""
    unknown: Literal["allow", "refuse"] = "allow"
    """Weights whose licence the bundle does not tell."""

    def why_not(self, licence: str | None) -> str | None:
        """None: it is fine."""
        if licence is None or licence.upper() in _NOT_TOLD:
            return "the licence is not known" if self.unknown == "refuse" else None
        return self._against(_parsed(licence))

    def _against(self, tree: _Tree) -> str | None:
        if isinstance(tree, str):
            # an exception only permits more
            name = tree.split(" WITH ")[0]
            if _matches(name, self.refuse):
                return f"{name} is refused"
            if self.allow and not _matches(name, self.allow):
                return f"{name} is not among those that are allowed ({', '.join(self.allow)})"
            return None
        word, parts = tree
        found = [self._against(part) for part in parts]
        if word == "OR" and None in found:
            return None
        return next((why for why in found if why is not None), None)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.casefold(), p.casefold()) for p in patterns)
