"""Expressions of licences: what may be delivered, against a second way to work it out; and whatever text comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from edgectl.core.licence import Licence, LicencePolicy

NAMES = ("MIT", "Apache-2.0", "AGPL-3.0-only", "LicenseRef-Acme")
STRICT = LicencePolicy(allow=("mit", "apache-*", "gpl-*"), refuse=("AGPL-*", "GPL-3.0*"), unknown="refuse")


@pytest.mark.parametrize(
    ("licence", "why"),
    [
        ("MIT", None),
        ("mit OR AGPL-3.0-only", None),
        ("AGPL-3.0-only or MIT", None),
        ("AGPL-3.0", "AGPL-3.0 is refused"),
        ("MIT AND AGPL-3.0-only", "AGPL-3.0-only is refused"),
        ("(MIT OR AGPL-3.0) AND GPL-3.0-or-later", "GPL-3.0-or-later is refused"),
        ("MIT AND AGPL-3.0 OR Apache-2.0", None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", None),
        ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only is refused"),
        ("LicenseRef-Acme", "LicenseRef-Acme is not among those that are allowed (mit, apache-*, gpl-*)"),
        (None, "the licence is not known"),
        ("NOASSERTION", "the licence is not known"),
        ("none", "the licence is not known"),
    ],
)
def test_a_policy_takes_or_refuses(licence: str | None, why: str | None) -> None:
    assert STRICT.why_not(licence) == why


def test_without_a_policy_everything_goes() -> None:
    for licence in (*NAMES, None):
        assert LicencePolicy().why_not(licence) is None


TREES = st.recursive(
    st.sampled_from(NAMES),
    lambda t: st.tuples(st.sampled_from(["AND", "OR"]), st.lists(t, min_size=2, max_size=3)),
    max_leaves=12,
)


def written(tree: object) -> str:
    if isinstance(tree, str):
        return tree
    word, parts = tree  # type: ignore[misc]
    return "(" + f" {word} ".join(map(written, parts)) + ")"


def fine(tree: object, bad: set[str]) -> bool:
    if isinstance(tree, str):
        return tree not in bad
    word, parts = tree  # type: ignore[misc]
    return (all if word == "AND" else any)(fine(p, bad) for p in parts)


@given(TREES, st.sets(st.sampled_from(NAMES)))
def test_an_expression_is_fine_where_a_choice_of_licences_is(tree: object, bad: set[str]) -> None:
    policy = LicencePolicy(refuse=tuple(bad))
    assert (policy.why_not(written(tree)) is None) == fine(tree, bad)


@given(st.one_of(st.text(max_size=600), st.text("()ANDORWITH mit-+.", max_size=60)))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        licence = TypeAdapter(Licence).validate_python(text)
    except ValidationError:
        return
    # SPDX has words for "not told", which only `unknown` refuses
    assert LicencePolicy(refuse=("*",), unknown="refuse").why_not(licence) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "MIT AND",
        "MIT Apache-2.0",
        "(MIT",
        "MIT)",
        "A; rm",
        "WITH x",
        "MIT WITH",
        "(" * 100 + "MIT" + ")" * 100,
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Licence).validate_python(text)
