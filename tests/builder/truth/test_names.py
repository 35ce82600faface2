"""Which label of a model a name of the labels means."""

import pytest

from edgectl.builder.truth.names import match_names
from edgectl.core.errors import DataError


@pytest.mark.parametrize(
    ("labels", "names", "to"),
    [
        (("A", "a"), ("a", "A"), [1, 0]),
        (("sofa", "couch"), ("couch", "Couch", "sofa"), [1, 1, 0]),
        (("traffic-light", "Traffic Light"), ("traffic light",), [1]),
        (("tv", "couch"), ("TV monitor", "Sofa"), [0, 1]),
        (("x", "y", "x"), ("x", "X"), [0, 0]),
    ],
)
def test_the_strictest_way_in_which_a_name_is_known_counts(
    labels: tuple[str, ...], names: tuple[str, ...], to: list[int]
) -> None:
    assert list(match_names(dict(enumerate(names)), labels).to.values()) == to


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (("Cup", "CUP"), "cup"),
        (("traffic-light", "traffic_light"), "trafficlight"),
        (("tv monitor", "television"), "tv"),
    ],
)
def test_a_name_that_two_labels_share_is_refused_with_both(labels: tuple[str, ...], name: str) -> None:
    with pytest.raises(DataError, match=f"{name!r} may be {labels[0]!r} or {labels[1]!r}"):
        match_names({1: name}, labels)
