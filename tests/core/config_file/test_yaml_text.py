"""Where each setting of a YAML text stands, and what is refused that PyYAML takes."""

from __future__ import annotations

import pytest

from edgectl.core.config_file import parse_yaml
from edgectl.core.errors import ConfigError
from edgectl.core.schema import Key

TEXT = """
base: &base
  enter_s: 1
  exit_s: 2
zones:
  yard:
    <<: *base
    polygon: [0, 0,
              1, 0]
  pavement: {<<: [*base], "polygon": [1]}
  again: *base
rules:
- id: a
  line:
    - 1
-
  id: b
- {id: c,
   on: off}
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("zones",), 5),
        (("zones", "yard", "polygon"), 8),
        (("zones", "yard", "polygon", 2), 9),
        (("zones", "yard", "exit_s"), 4),  # where it is written
        (("zones", "yard", "missing"), 6),
        (("zones", "pavement", "polygon"), 10),
        (("zones", "pavement", "enter_s"), 3),
        (("zones", "again"), 11),
        (("zones", "again", "enter_s"), 3),
        (("rules", 0, "line", 0), 15),
        (("rules", 1, "id"), 17),
        (("rules", 1), 17),
        (("rules", 2, "on"), 19),
        (("rules", 9, "on"), 12),
        (("rules", "tag", 2, "on"), 19),
        ((), None),
    ],
)
def test_every_setting_has_a_line(key: Key, line: int | None) -> None:
    assert parse_yaml(TEXT, name="t").line_of(key) == line


def test_a_merge_may_be_overridden_and_words_are_no_booleans() -> None:
    values = parse_yaml(
        "a: &a {x: 1, y: on}\nb: {<<: *a, x: 2}\nc: {<<: *a}\nd: {<<: *a}\ne: true", name="t"
    ).values
    assert values["b"] == {"x": 2, "y": "on"}
    assert values["c"] == values["d"] == {"x": 1, "y": "on"}
    assert values["e"] is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "t:3: this is not valid YAML: 'a' stands here twice, first in line 1"),
        ("x:\n- {id: 1,\n   id: 2}", "t:3: this is not valid YAML: 'id' stands here twice, first in line 2"),
        ("a: [1", "t:1: this is not valid YAML"),
        ("a: &a [*a]\nb: {<<: *b}", "t:2: this is not valid YAML"),
        ("a: 1979-99-99", "t: this is not valid YAML: month must be"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, name="t")
    assert caught.value.message.startswith(words)
