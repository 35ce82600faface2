"""Queries over devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.rollouts.selection import MAX_QUERY, check_field, parse_query, values_of
from edgectl.fleet.rollouts.values import DeviceView

ORIN = DeviceView(
    name="cam-7",
    online=True,
    seen_s=0.0,
    slots=frozenset({"gate", "voice"}),
    labels={"site": "north", "line": "3 b"},
    desired={},
    reported={},
    profile="jetson-orin",
    facts=frozenset(
        {"arch:aarch64", "sm:8.7", "isa:neon", "isa:dotprod", "runtime:tensorrt", "runtime:onnxruntime"}
    ),
    streams={"yard": "surveillance", "mic": "speech"},
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = cam-7",
        "name ~ cam-*",
        "name ~ 'cam-[0-9]'",
        "label.site in (north, south) and fact.sm >= 8.7",
        'label.line = "3 b"',
        "label.line",
        "label.site != south",
        "label.colour != red",
        "label.colour not in (red, blue)",
        "not label.colour",
        "fact.sm < 8.10",
        "fact.sm <= 8.7.0",
        "fact.sm > 8",
        "fact.isa = neon and fact.isa = dotprod",
        "profile = jetson-orin and slot = voice and kind = speech and stream = yard",
        "name = nobody or name = cam-7 and profile = jetson-orin",
        "(name = nobody or name = cam-7) and not (profile = desktop-gpu or kind = driving)",
    ],
)
def test_query_means_the_device(text: str) -> None:
    assert parse_query(text)(ORIN)


@pytest.mark.parametrize(
    "text",
    [
        "name = cam",
        "name ~ CAM-*",
        "label.colour = red",
        "label.colour in (red)",
        "label.colour < 3",
        "label.site > 3",
        "fact.sm >= 8.10",
        "fact.isa = avx2",
        "not name = cam-7",
        "label.site not in (north)",
        "name = cam-7 and name = nobody or kind = driving",
        "kind in (driving, sound)",
    ],
)
def test_query_does_not_mean_the_device(text: str) -> None:
    assert not parse_query(text)(ORIN)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "site = north",
            r"column 1: there is no field 'site': name, profile, slot, stream, kind, group, label.KEY, fact.KEY",
        ),
        ("label. = north", "column 1: there is no field 'label.'"),
        ("name = ", "column 8: the query ends where a value is expected"),
        ("name =", "column 7: the query ends where a value is expected"),
        ("name in north", r"column 9: 'north' stands where '\(' and a list"),
        ("name in (north", r"column 15: the query ends where ',' or '\)' is expected"),
        ("(name = a", r"column 10: the query ends where '\)' is expected"),
        ("name = a name = b", "column 10: 'name' stands where 'and', 'or' or the end is expected"),
        ("fact.sm >= new", "column 12: >= compares numbers like 8.7, and 'new' is none"),
        ("name = 'a", 'column 8: "\'a" makes no sense here'),
        ("and name", "column 1: 'and' stands where a field"),
        ("(" * 40 + "name" + ")" * 40, "nested deeper than 32"),
        ("not " * 40 + "name", "nested deeper than 32"),
        ("name" * MAX_QUERY, "more than 4096 characters"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_column(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_query(text)


def test_number_that_is_absurdly_long_is_none() -> None:
    mad = replace(ORIN, labels={"build": "9" * 5000, "version": ".".join("1" * 20)})
    assert not parse_query("label.build > 3")(mad)
    assert not parse_query("label.version > 0")(mad)
    with pytest.raises(ValueError, match="compares numbers like"):
        parse_query("label.build > " + "9" * 19)


@given(st.text(alphabet=st.sampled_from("name= (),'~<>!.andornotinlabel.site\"7 \u00e9"), max_size=60))
def test_any_text_is_a_query_or_one_error_that_says_something(text: str) -> None:
    why = None
    try:
        holds = parse_query(text)(ORIN)
    except ValueError as e:
        why = str(e)
    assert why is None or why.startswith(("column ", "the query "))
    assert why is not None or holds in (True, False)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["north", "south", "east"])), min_size=1, max_size=5),
    st.data(),
)
def test_and_or_not_are_those_of_logic(parts: list[tuple[bool, str]], data: Any) -> None:
    joined = [data.draw(st.sampled_from(["and", "or"])) for _ in parts[1:]]
    text, logic = "", ""
    for i, (denied, site) in enumerate(parts):
        word = f" {joined[i - 1]} " if i else ""
        text += f"{word}{'not ' if denied else ''}label.site = {site}"
        logic += f"{word}{'not ' if denied else ''}{site == 'north'}"
    assert parse_query(text)(ORIN) == eval(logic)


def test_values_are_sorted_and_what_is_lacking_is_empty() -> None:
    assert values_of(ORIN, "fact.isa") == ("dotprod", "neon")
    assert values_of(ORIN, "kind") == ("speech", "surveillance")
    assert values_of(replace(ORIN, profile=None), "profile") == ()
    assert values_of(ORIN, "label.colour") == ()


def test_field_that_there_is_not_is_told_with_those_that_there_are() -> None:
    assert check_field("label.site") == "label.site"
    with pytest.raises(ValueError, match="there is no field 'site'"):
        check_field("site")
