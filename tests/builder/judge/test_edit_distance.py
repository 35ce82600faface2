"""Edits between texts: by definition, and as others count word error."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.builder.judge.edit_distance import edits

WORDS = st.lists(st.sampled_from(["turn", "left", "the", "light", "off"]), max_size=6)


def by_definition(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    @functools.cache
    def d(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@given(WORDS, WORDS, WORDS)
def test_it_is_the_least_number_of_edits_and_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edits(a, b) == by_definition(tuple(a), tuple(b)) == edits(b, a)
    assert edits(a, a) == 0
    assert edits(a, c) <= edits(a, b) + edits(b, c)
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))


@given(st.lists(st.tuples(WORDS, WORDS.filter(len)), min_size=1, max_size=5))
def test_word_error_is_jiwers(pairs: list[tuple[list[str], list[str]]]) -> None:
    jiwer = pytest.importorskip("jiwer")
    ours = sum(edits(got, want) for got, want in pairs) / sum(len(want) for _, want in pairs)
    theirs = jiwer.wer([" ".join(want) for _, want in pairs], [" ".join(got) for got, _ in pairs])
    assert ours == pytest.approx(theirs, abs=1e-12)
