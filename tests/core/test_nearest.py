"""What was probably meant by a name that is not there."""

from __future__ import annotations

import pytest

from edgectl.core.nearest import did_you_mean, nearest

KNOWN = ["person", "bicycle", "car", "Fußgänger", "человек", "行人", "traffic light"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("perso", ["person"]),
        ("PERSON", ["person"]),
        ("fussgänger", ["Fußgänger"]),
        ("челавек", ["человек"]),
        ("traffic_light", ["traffic light"]),
        ("zebra", []),
        ("", []),
        ("x" * 100_000, []),
    ],
)
def test_the_nearest_name_is_found_in_any_script(name: str, found: list[str]) -> None:
    assert nearest(name, KNOWN) == found


def test_two_that_are_as_near_are_both_named_and_a_worse_one_is_not() -> None:
    assert nearest("gate-x", ["gate-a", "gate-b", "door"]) == ["gate-b", "gate-a"]
    assert nearest("polygn", ["polygon", "polygons_of_all"]) == ["polygon"]


def test_where_nothing_is_near_it_says_what_there_is() -> None:
    assert did_you_mean("perso", KNOWN) == "did you mean 'person'?"
    assert did_you_mean("zebra", ["a", "b"]) == "there are: a, b"
    assert did_you_mean("zebra", [], there_are="it knows ") == "it knows none"
    assert did_you_mean("zebra", map(str, range(30))).endswith("19 …")
