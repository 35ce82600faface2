"""A release as its page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundle import make_bundle
from support.dashboard import OLD, many_devices

from edgectl.core.bundle import Bundle, VariantConfig
from edgectl.core.measured import Conditions, Measured
from edgectl.fleet.web.device_rows import row_of
from edgectl.fleet.web.release_view import by_profile, drops, provenance_of, running, variant_line


@pytest.fixture
def config(tmp_path: Path) -> VariantConfig:
    return Bundle(make_bundle(tmp_path / "b", licence="MIT")).variants[0].config


def measured(config: VariantConfig, p50_ms: float, precision: str, **accuracy: float) -> VariantConfig:
    m = Measured(
        p10_ms=1,
        p50_ms=p50_ms,
        n=9,
        ratio_to_float=0.5,
        machine="a box",
        threads=1,
        runtime_version="1",
        conditions=Conditions(load=0),
    )
    recipe = config.recipe.model_copy(update={"precision": precision})
    return config.model_copy(
        update={"variant": precision, "measured": m, "accuracy": accuracy, "recipe": recipe}
    )


def test_a_variant_says_what_was_measured_and_where(config: VariantConfig) -> None:
    line = variant_line(measured(config, 4.2, "int8", drop=0.004, ap50=0.9), 1234)
    assert (line.p50_ms, line.ratio, line.drop, line.machine) == (4.2, 0.5, 0.004, "a box")
    assert (line.accuracy, line.licence, line.bytes) == ("ap50 0.9, drop 0.004", "MIT", 1234)


def test_only_what_was_measured_is_drawn(config: VariantConfig) -> None:
    lines = [
        variant_line(c, 0)
        for c in (
            measured(config, 10.0, "float32"),
            measured(config, 4.0, "int8", drop=0.004),
            measured(config, 5.0, "float16"),
            config,
        )
    ]
    s = drops(lines)
    assert s is not None
    assert [(p.label, p.kind) for p in s.points] == [("cpu/float32", "float32"), ("cpu/int8", "int8")]
    assert drops([variant_line(config, 0)]) is None


def test_provenance_names_builder_parameters_and_what_it_was_made_of() -> None:
    statement = {
        "predicate": {
            "buildDefinition": {
                "externalParameters": {"profile": "cpu", "recipe": {"family": "float"}},
                "resolvedDependencies": [{"name": "model", "digest": {"sha256": "ab"}}],
            },
            "runDetails": {"builder": {"id": "urn:edgectl:builder", "version": {"onnx": "1.17"}}},
        }
    }
    p = provenance_of(statement)
    assert p.builder == "urn:edgectl:builder: onnx 1.17"
    assert p.parameters == (("profile", "cpu"), ("recipe", "{'family': 'float'}"))
    assert p.materials == (("model", "ab"),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "predicate",
                    "buildDefinition",
                    "externalParameters",
                    "runDetails",
                    "builder",
                    "version",
                    "id",
                    "resolvedDependencies",
                    "digest",
                    "name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=40,
)


@given(st.dictionaries(st.just("predicate"), JSON))
def test_a_document_of_anybody_is_read_without_a_traceback(statement: dict[str, Any]) -> None:
    p = provenance_of(statement)
    assert len(p.builder) <= 300


def test_where_it_runs_is_where_a_slot_has_it_active() -> None:
    rows = [row_of(d) for d in many_devices(30)]
    assert running(rows, OLD) == rows
    assert running(rows, "sha256:" + "c" * 64) == []
    assert by_profile(rows) == [("cpu", 10), ("jetson-nano", 10), ("jetson-orin", 10)]
