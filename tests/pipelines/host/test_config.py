"""Pipeline configuration: what a person writes, what is refused and with which words; labels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import detections

from edgectl.core.errors import ConfigError, UsageError
from edgectl.pipelines.host.config import load_config, parse_config, read_config
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.line import LineConfig
from edgectl.pipelines.rules.loiter import LoiterConfig
from edgectl.pipelines.video.labels import LabelMap

YAML = """
flow: {mode: latest, max_age_ms: 250, target_fps: 10}
track: {lost_s: 1.0, confirm_s: 0.15, high: 0.6, low: 0.1}
zones:
  yard: {polygon: [0.12,0.45, 0.78,0.40, 0.90,0.95, 0.05,0.98], anchor: bottom_center, enter_px: 6, enter_s: 0.2, classes: [person]}
rules:
  - {id: gate_in, line: [0.1,0.6, 0.9,0.6], band_px: 6, hold_s: 0.15, classes: [car, person]}
  - {id: lurk, loiter: {zone: yard, seconds: 20, gap_s: 1.5}}
  - {id: crowd, occupancy: {zone: yard, high: 5, low: 3}}
  - {id: fcw, collision: {min_px: 45, window_s: 0.5, warn_s: 2.7, alert_s: 1.6}}
  - {id: ldw, lane_departure: {v_min_mps: 16.7, ttlc_s: 0.7}}
snapshots: {on: [gate_in, lurk], quality: 80}
budget_ms: 120
annotate: {video: no_way_this_is_a_bool}
"""


def test_a_whole_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(YAML.replace("annotate: {video: no_way_this_is_a_bool}", "annotate: {video: false}"))
    c = load_config("driving", path)
    assert isinstance(c.rules[0], LineConfig)
    assert isinstance(c.rules[1], LoiterConfig)
    assert c.chosen()["snapshots"].on == ("gate_in", "lurk")  # YAML 1.1 would read the key "on" as true
    assert c.flow.target_fps == 10
    assert not c.chosen()["annotate"].video


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (YAML, r"annotate\.video"),
        ("zones: [", r"c\.yaml:1: this is not valid YAML"),
        ("- 1\n- 2", r"c\.yaml: it must be a mapping"),
        ("zones: {Yard!: {polygon: [0,0,1,0,1,1]}}", "not a name"),
        ("zones: {y: {polygon: [0,0,1,1]}}", "3 to 256 corners"),
        (
            "zones: {y: {polygon: [0,0,1,1,1,0,0,1]}}",
            "crosses itself: the side from corner 1 to 2 meets the side from corner 3 to 4 at 0.5, 0.5",
        ),
        ("zones: {y: {polygon: [0,0,5,1,1,0]}}", "polygon.2: 5 is not relative to the frame"),
        ("rules: [{id: a, line: [0,0,0,0]}]", "two different ends"),
        ("rules: [{id: a}]", r"rules\.0: a rule needs exactly one of.*lane_departure"),
        (
            "rules: [{id: a, loyter: {zone: z}}]",
            r"rules\.0\.loyter: there is no such rule: did you mean 'loiter'\?",
        ),
        (
            "rules: [{id: a, xyz: {zone: z}}]",
            r"rules\.0\.xyz: a rule needs exactly one of.*no rule 'xyz'",
        ),
        ("rules: [{id: a, line: [0,0,1,1]}, {line: [0,0,1,1]}]", r"rules\.1\.id: it is missing"),
        ("rules: {id: a, line: [0,0,1,1]}", "it must be a list; each rule begins with `- id:`"),
        ("rules: [{id: a, line: [0,0,1,1], loiter: {zone: z, seconds: 1}}]", "exactly one of"),
        ("rules: [{id: a, loiter: {zone: z, seconds: 1}}]", "zone 'z', which does not exist"),
        ("rules: [{id: a, line: [0,0,1,1]}, {id: a, line: [0,0,1,1]}]", "used twice"),
        ("rules: [{id: a, line: [0,0,1,1], hold: 3}]", "hold"),
        ("rules: 7", "a list"),
        ("rules: [7]", "a mapping"),
        ("snapshots: {on: [nothing]}", "no rule or zone"),
        ("budget_ms: .inf", "finite"),
        ("track: {lost_s: -1}", "track.lost_s"),
        ("colour: red", "colour: there is no such setting$"),
        ("clases: [person]", r"clases: there is no such setting: did you mean 'classes'\?"),
        ("restreem: rtsp://x/y", r"restreem: there is no such setting: did you mean 'restream'\?"),
        ("mqtt: {home_asistant: true}", r"mqtt.home_asistant: .*: did you mean 'home_assistant'\?"),
        ("rules: [{id: a, loiter: {zne: z}}]", r"rules.0.loiter.zne: .*: did you mean 'zone'\?"),
        (
            "zones: {yard: {polygon: [0,0,1,0,1,1]}}\nrules: [{id: a, loiter: {zone: yrad, seconds: 1}}]",
            r"zone 'yrad', which does not exist: did you mean 'yard'\?",
        ),
        (
            "zones: {yard: {polygon: [0,0,1,0,1,1]}}\nsnapshots: {on: [yord]}",
            r"'yord' is no rule or zone: did you mean 'yard'\?",
        ),
        (
            "zones: {y: {polygn: [0,0,1,0,1,1]}}",
            r"zones.y.polygn: there is no such setting: did you mean 'polygon'\?",
        ),
        ("classes: person", "classes: it must be a list"),
        ("speech: {treshold: 0.5}", "speech.treshold: there is no such setting"),
        ("\x00", "not valid YAML"),
        ("sinks: [events]", "sinks: there is no such setting"),
        ("sinks: [events]\nevents: true", "sinks: there is no such setting"),
        ("update_s: 2026-13-45", "not valid YAML: month must be in"),
        ("update_s: !!int zz", "not valid YAML"),
        ("update_s: !!bool zz", "not valid YAML"),
        ("update_s: !!timestamp zz", "not valid YAML"),
        (f"update_s: {'9' * 5000}", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_sentence_about_the_right_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_config("speech" if text.startswith("speech") else "driving", path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (YAML, "14: annotate.video: "),
        ("zones:\n  yard:\n    polygon:\n      [0,0, 1,1, 1,0,\n       0,1]\n", "3: zones.yard.polygon: "),
        ("zones:\n  yard: {polygon: [0,0, 1,0,\n     9,1]}\n", "3: zones.yard.polygon.4: "),
        ("rules:\n- id: a\n  loiter:\n    zone: z\n    seconds: 0\n", "5: rules.0.loiter.seconds: "),
        (
            "rules:\n- id: a\n  loiter:\n    zone: z\n    seconds: 1\n",
            "4: rules.0.loiter.zone: rule 'a' names",
        ),
        (
            "rules:\n- id: a\n  line: [0,0,1,1]\n- id: a\n  line: [0,0,1,1]\n",
            "4: rules.1.id: 'a' is used twice",
        ),
        (
            "# c\n\nrules:\n- {id: a, line: [0,0,1,1]}\nreview:\n  alert:\n  - a\n  - b\n",
            "8: review.alert.1: 'b' is",
        ),
        ("update_lock:\n  seconds: 3\n  on:\n  - night\n", "4: update_lock.on.0: 'night' is no rule or zone"),
        ("privacy:\n  blur:\n    zones:\n    - yard\n", "4: privacy.blur.zones.0: 'yard' is no zone"),
        ("clips:\n  on: []\n", "2: clips.on: it has too few entries"),
        (
            "flow:\n  mode: fifo\nupdate_s: 3\nflow: {mode: every}\n",
            "4: this is not valid YAML: 'flow' stands here twice, first in line 1",
        ),
        ("x: &x {mode: fifo}\nflow:\n  <<: *x\n  max_queue: 900\n", "1: x: there is no such setting"),
        ("speech:\n  threshold: loud\n", "2: speech.threshold: "),
        ("sinks: {}\nmqtt:\n  url: 3\n", "3: mqtt.url: "),
        ("budget_ms: 1\nspeling: 3\n", "2: speling: there is no such setting"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("speech" if text.startswith("speech") else "driving", path)
    assert caught.value.message.startswith(f"{path}:{told}")


def test_a_class_that_the_model_does_not_know_is_found_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "zones:\n  y:\n    polygon: [0,0,1,0,1,1]\nrules:\n- id: a\n  line: [0,0,1,1]\n  classes:\n  - person\n  - dragon\n"
    )
    config, file = read_config("surveillance", path)
    assert isinstance(config, RulesConfig)
    with pytest.raises(UsageError) as caught:
        RuleSet(config, ("person",))
    told = file.locate(caught.value)
    assert told.message.startswith(f"{path}:9: rules.0.classes.1: rule 'a' names class 'dragon'")


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("surveillance", {"rules": [{"id": "f", "collision": {}}]}, "lanes and speed, which this kind"),
        ("surveillance", {"camera": {}}, "camera: there is no such setting"),
        ("speech", {"zones": {}}, "zones: there is no such setting"),
        ("speech", {"annotate": {}}, "annotate: this kind of pipeline has no pictures"),
        ("driving", {"sinks": {"annotate": {}}}, "under its own name"),
        ("driving", {"snapshots": 7}, "snapshots: it must be a mapping"),
        ("driving", {"snapshots": {"quality": 7}}, r"snapshots\.quality"),
        ("cooking", {}, "no kind of pipeline 'cooking'"),
    ],
)
def test_what_a_kind_has_no_use_for_is_refused(kind: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_config(kind, values)


def test_sinks_are_chosen_by_name() -> None:
    assert list(parse_config("surveillance", {}).chosen()) == ["events", "annotate"]
    assert list(parse_config("speech", {}).chosen()) == ["events"]
    chosen = parse_config("driving", {"annotate": False, "tracklog": True, "events": False}).chosen()
    assert list(chosen) == ["tracklog"]


def test_an_empty_file_is_the_default_and_a_missing_one_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    assert load_config("speech", tmp_path / "c.yaml") == KINDS.get("speech").config()
    with pytest.raises(UsageError, match="cannot read"):
        load_config("speech", tmp_path / "none.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=8), c, max_size=4),
        max_leaves=12,
    )
)
def test_any_document_is_a_configuration_or_a_usage_error(value: Any) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_config("driving", value), PipelineConfig)


def test_a_configuration_survives_json() -> None:
    c = parse_config(
        "surveillance",
        {
            "zones": {"y": {"polygon": [0, 0, 1, 0, 1, 1]}},
            "rules": [{"id": "l", "line": [0, 0, 1, 1]}],
            "annotate": False,
            "tracklog": True,
            "snapshots": {"on": ["l"]},
        },
    )
    assert type(c).model_validate_json(c.model_dump_json()) == c


def test_labels_are_filtered_and_merged_and_doubles_go() -> None:
    config = parse_config(
        "surveillance", {"merge": {"vehicle": ["car", "truck"]}, "classes": ["vehicle", "person"]}
    )
    labels = LabelMap(config, ("person", "car", "cat", "truck"))
    assert labels.labels == ("person", "vehicle")
    found = labels(
        detections(
            (0, 0, 10, 10, 0.9, 1), (0, 0, 10, 11, 0.8, 3), (50, 0, 60, 10, 0.7, 2), (80, 0, 90, 10, 0.6, 0)
        )
    )
    assert found.cls.tolist() == [1, 0]
    np.testing.assert_allclose(found.score, [0.9, 0.6])


@pytest.mark.parametrize("bad", [{"classes": ["dragon"]}, {"merge": {"x": ["dragon"]}}])
def test_an_unknown_label_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="dragon"):
        LabelMap(parse_config("surveillance", bad), ("person", "car"))
