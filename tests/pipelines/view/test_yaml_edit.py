"""Zones and lines in the text of a YAML file: what was drawn is in it, and the rest stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.config_file import YamlLoader
from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import yaml_values
from edgectl.pipelines.view.shapes import LineShape, Shapes, ZoneShape, put, shapes_in
from edgectl.pipelines.view.yaml_edit import EditedText, edit

SQUARE = (0.1, 0.1, 0.5, 0.1, 0.5, 0.5)
BLOCK = """\
# the yard behind the gate
zones:
  # where cars stand
  yard: {polygon: [0.1,0.45, 0.8,0.4, 0.9,0.95], classes: [person]}  # people only
  door:
    polygon:
      - 0.1
      - 0.1
      - 0.2
      - 0.1
      - 0.2
      - 0.3
    enter_s: 1   # slowly

rules:
- {id: gate-in, line: [0.5,1.0, 0.5,0.0], classes: [person, car]}   # the gate
- id: lurk      # who stays
  loiter: {zone: yard, seconds: 20}
snapshots: {on: [gate-in, yard]}
# the end
"""
FLOW = "{zones: {yard: {polygon: [0, 0, 1, 0, 1, 1]}}, rules: [{id: gate-in, line: [0, 0, 1, 1]}]}"


def edited(text: str, shapes: Shapes) -> EditedText:
    return edit(text, shapes, yaml_values, YamlLoader)


def now(text: str) -> Shapes:
    return shapes_in(yaml_values(text) or {})


def changed(shapes: Shapes, which: str, **values: Any) -> Shapes:
    zones = [z.model_copy(update=values) if z.name == which else z for z in shapes.zones]
    lines = [n.model_copy(update=values) if n.id == which else n for n in shapes.lines]
    return Shapes(zones=tuple(zones), lines=tuple(lines))


def lines_that_differ(a: str, b: str) -> list[str]:
    return [line for line in b.splitlines() if line not in a.splitlines()]


def test_nothing_drawn_changes_nothing() -> None:
    assert edited(BLOCK, now(BLOCK)) == EditedText(BLOCK, True)


def test_a_corner_that_moved_changes_its_line_alone() -> None:
    new = edited(BLOCK, changed(now(BLOCK), "yard", polygon=SQUARE))
    assert new.comments_kept
    assert lines_that_differ(BLOCK, new.text) == [
        "  yard: {polygon: [0.1, 0.1, 0.5, 0.1, 0.5, 0.5], classes: [person]}  # people only"
    ]
    door = edited(BLOCK, changed(now(BLOCK), "door", polygon=SQUARE))
    assert "enter_s: 1   # slowly" in door.text
    assert yaml_values(door.text)["zones"]["door"] == {"polygon": list(SQUARE), "enter_s": 1}


def test_a_zone_that_is_renamed_is_renamed_wherever_it_is_named() -> None:
    new = edited(BLOCK, changed(now(BLOCK), "yard", name="on"))
    assert new.comments_kept
    values = yaml_values(new.text)
    assert list(values["zones"]) == ["on", "door"]
    assert values["rules"][1]["loiter"]["zone"] == "on"
    assert values["snapshots"]["on"] == ["gate-in", "on"]
    assert "# where cars stand" in new.text


def test_lines_are_renamed_moved_taken_out_and_added() -> None:
    new = edited(BLOCK, changed(now(BLOCK), "gate-in", id="in", line=(0.0, 0.5, 1.0, 0.5)))
    assert new.comments_kept
    values = yaml_values(new.text)
    assert values["rules"][0] == {"id": "in", "line": [0, 0.5, 1, 0.5], "classes": ["person", "car"]}
    assert values["snapshots"]["on"] == ["in", "yard"]
    shapes = now(BLOCK)
    less = edited(BLOCK, Shapes(zones=shapes.zones, lines=(LineShape(id="new", line=(0, 0, 1, 1)),)))
    assert less.comments_kept
    assert [r["id"] for r in yaml_values(less.text)["rules"]] == ["lurk", "new"]
    assert "# who stays" in less.text
    assert "# the gate" not in less.text


@pytest.mark.parametrize("text", [BLOCK, FLOW, "", "zones: {}\n", "flow: {mode: latest}", "rules: []\n# end"])
def test_new_ones_are_added_to_any_file(text: str) -> None:
    shapes = now(text)
    more = Shapes(
        zones=(*shapes.zones, ZoneShape(name="1st", polygon=SQUARE)),
        lines=(*shapes.lines, LineShape(id="no", line=(0.25, 0, 0.25, 1))),
    )
    new = edited(text, more)
    assert new.comments_kept
    values = yaml_values(new.text)
    assert values["zones"]["1st"] == {"polygon": list(SQUARE)}
    assert values["rules"][-1] == {"id": "no", "line": [0.25, 0, 0.25, 1]}
    assert {k for k in values if k not in ("zones", "rules")} == {
        k for k in (yaml_values(text) or {}) if k not in ("zones", "rules")
    }
    assert [line for line in text.splitlines() if "#" in line] == [
        line for line in new.text.splitlines() if "#" in line
    ]


@pytest.mark.parametrize("text", [BLOCK, FLOW])
def test_all_can_be_taken_out(text: str) -> None:
    new = edited(text, Shapes())
    assert yaml_values(new.text)["zones"] == {}
    assert not [r for r in yaml_values(new.text)["rules"] if "line" in r]


def test_a_file_with_anchors_is_written_anew_and_that_is_told() -> None:
    text = "# mine\nzones:\n  a: {polygon: &p [0, 0, 1, 0, 1, 1]}\n  b: {polygon: *p}\n"
    new = edited(text, changed(now(text), "b", polygon=SQUARE))
    assert not new.comments_kept
    assert yaml_values(new.text)["zones"] == {
        "a": {"polygon": [0, 0, 1, 0, 1, 1]},
        "b": {"polygon": list(SQUARE)},
    }


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two zones are called 'yard'"):
        edited(BLOCK, changed(now(BLOCK), "door", name="yard"))


numbers = st.integers(0, 1000).map(lambda n: n / 1000)
names = st.sampled_from(["yard", "door", "a", "on", "no", "1", "null", "0x1", "it's", "a: b", "x#y", "~"])
zones = st.lists(
    st.builds(
        lambda name, was, polygon: ZoneShape(name=name, was=was, polygon=polygon),
        names,
        st.sampled_from([None, "yard", "door", "gone"]),
        st.lists(numbers, min_size=6, max_size=8).filter(lambda n: len(n) % 2 == 0).map(tuple),
    ),
    max_size=4,
    unique_by=(lambda z: z.name, lambda z: z.was or z.name + "*"),
)
line_shapes = st.lists(
    st.builds(
        lambda name, was, line: LineShape(id=name, was=was, line=line),
        names,
        st.sampled_from([None, "gate-in", "gone"]),
        st.tuples(numbers, numbers, numbers, numbers),
    ),
    max_size=3,
    unique_by=(lambda n: n.id, lambda n: n.was or n.id + "*"),
)


@given(
    text=st.sampled_from(
        [
            BLOCK,
            FLOW,
            "",
            BLOCK.rstrip(),
            BLOCK.replace("\n- ", "\n  - ").replace("\n  loiter", "\n    loiter"),
        ]
    ),
    z=zones,
    n=line_shapes,
)
def test_the_text_says_what_was_drawn_whatever_it_was(
    text: str, z: list[ZoneShape], n: list[LineShape]
) -> None:
    values = yaml_values(text) or {}
    shapes = Shapes(zones=tuple(z), lines=tuple(n))
    new = edited(text, shapes)
    assert (yaml_values(new.text) or {}) == put(values, shapes)
    assert new.comments_kept
    if "lurk" in text:
        assert "# who stays" in new.text
        assert new.text.startswith("# the yard behind the gate\n")
    assert isinstance(yaml.safe_load(new.text) or {}, dict)
