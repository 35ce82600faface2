"""A transition table as Mermaid's text."""

from __future__ import annotations

from enum import Enum

from edgectl.core.state_diagram import state_diagram


class Light(Enum):
    RED = "red"
    GREEN = "green"


class Seen(Enum):
    TIMER = "timer"
    BUTTON = "button"


TABLE = {
    (Light.RED, Seen.TIMER): Light.GREEN,
    (Light.RED, Seen.BUTTON): Light.GREEN,
    (Light.GREEN, Seen.TIMER): Light.RED,
}


def test_events_between_the_same_two_states_share_an_arrow() -> None:
    assert state_diagram(TABLE, Light.RED).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> red",
        "    red --> green: timer, button",
        "    green --> red: timer",
    ]


def test_an_end_is_drawn_where_there_is_one() -> None:
    assert state_diagram(TABLE, Light.RED, Light.GREEN).splitlines()[-1] == "    green --> [*]"
