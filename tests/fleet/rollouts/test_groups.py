"""Groups of devices: a name for a list or a query."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from edgectl.fleet.rollouts.groups import DeviceGroup, asks_for, groups_with, unknown_group
from edgectl.fleet.rollouts.selection import groups_in, parse_query
from edgectl.fleet.rollouts.values import DeviceView

CAM = DeviceView("cam-7", True, 0.0, frozenset({"gate"}), {"site": "north"}, {}, {})
BETA = DeviceGroup(name="beta", devices=frozenset({"cam-7", "cam-9"}))
NORTH = DeviceGroup(name="north", select="label.site = north")
SOUTH = DeviceGroup(name="south", select="label.site = south")


def test_device_is_in_lists_that_name_it_and_in_queries_that_mean_it() -> None:
    assert groups_with(CAM, (BETA, NORTH, SOUTH)) == {"beta", "north"}
    moved = replace(CAM, name="cam-8", labels={"site": "south"})
    assert groups_with(moved, (BETA, NORTH, SOUTH)) == {"south"}


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("group = beta", True),
        ("group in (beta, south)", True),
        ("group != beta", False),
        ("group not in (south, other)", True),
        ("group ~ nor*", True),
        ("group", True),
        ("group = north and not group = beta", False),
    ],
)
def test_query_asks_for_groups(query: str, holds: bool) -> None:
    view = replace(CAM, groups=groups_with(CAM, (BETA, NORTH, SOUTH)))
    assert parse_query(query)(view) == holds
    assert not parse_query("group")(CAM)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", set()),
        ("label.site = beta", set()),
        ("group = a or not (group in (b, c) and group != d)", {"a", "b", "c", "d"}),
        ("group not in (e)", {"e"}),
        ("group ~ nor*", {"nor*"}),
        ("group", {"*"}),
    ],
)
def test_groups_that_a_query_names(query: str, named: set[str]) -> None:
    assert groups_in(query) == named


def test_group_that_there_is_not_is_told() -> None:
    known = ["beta", "north"]
    assert unknown_group("group = beta and label.site = x", known) is None
    assert unknown_group("group ~ n*th", known) is None
    assert unknown_group("group in (beta, betta)", known) == "betta"
    assert unknown_group("group ~ lab-*", known) == "lab-*"
    assert unknown_group("group", []) == "*"


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"name": "x"}, "has devices or a query, one of them"),
        ({"name": "x", "select": "  "}, "has devices or a query, one of them"),
        ({"name": "x", "select": "name = a", "devices": ["a"]}, "has devices or a query, one of them"),
        ({"name": "x", "select": "group = beta"}, "asks for a group"),
        ({"name": "x", "select": "label.site ="}, "column 13"),
        ({"name": "no name", "devices": ["a"]}, "name"),
    ],
)
def test_group_that_makes_no_sense_says_why(terms: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        DeviceGroup.model_validate(terms)


def test_group_of_named_devices_means_only_these() -> None:
    group = DeviceGroup.model_validate({"name": "x", "devices": ["a"], "select": " \n"})
    assert groups_with(CAM, [group]) == frozenset()
    assert groups_with(replace(CAM, name="a"), [group]) == {"x"}


@pytest.mark.parametrize(
    "query", ["group = beta", "not group ~ 'be*'", "group", "name = a or group in (x, beta)"]
)
def test_query_asks_for_a_group_by_its_name_or_a_pattern(query: str) -> None:
    assert asks_for(query, "beta")
    assert asks_for(query, "gamma") == (query == "group")
