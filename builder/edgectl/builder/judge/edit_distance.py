"""How many edits make one text another: what word error and character error count. Pure.

>>> edits("the cat sat".split(), "the cat sat down".split())
1
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["edits"]


def edits(got: Sequence[str], wanted: Sequence[str]) -> int:
    """Levenshtein distance of two sequences: the least number of insertions, deletions and substitutions."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(got, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
