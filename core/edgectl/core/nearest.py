"""What was probably meant by a name that is not there.

>>> did_you_mean("perso", ["person", "vehicle"])
"did you mean 'person'?"
>>> did_you_mean("dog", ["person", "vehicle"])
'there are: person, vehicle'
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]

_CUTOFF = 0.6
"""Below that two names have nothing to do with each other."""
_MOST = 20
"""Names in a sentence."""


def nearest(name: str, known: Iterable[str], *, most: int = 2) -> list[str]:
    """The most similar ones, the best first, whatever the case; those that are about as good as the best."""
    # imported by who made a mistake: it costs the others milliseconds
    from difflib import SequenceMatcher, get_close_matches

    by_folded = {one.casefold(): one for one in known}
    folded = name[:256].casefold()
    near = get_close_matches(folded, by_folded, n=most, cutoff=_CUTOFF)
    if not near:
        return []
    share = {one: SequenceMatcher(None, one, folded).ratio() for one in near}
    return [by_folded[one] for one in near if share[one] >= share[near[0]] - 0.1]


def did_you_mean(name: str, known: Iterable[str], *, there_are: str = "there are: ") -> str:
    """``did you mean 'a' or 'b'?``, or, of nothing that is similar, ``there are: a, b``."""
    names = list(known)
    if near := nearest(name, names):
        return f"did you mean {' or '.join(map(repr, near))}?"
    more = " …" if len(names) > _MOST else ""
    return there_are + (", ".join(names[:_MOST]) + more if names else "none")
