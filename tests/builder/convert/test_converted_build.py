"""A build from a model of another framework: compared before anything is quantized, and told where it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.builder.converting import TFLITE, converting
from support.builder.nets import residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.pack.html import render
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.pack.origin import conversion_rows
from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec, TensorInput

pytestmark = pytest.mark.slow

TENSOR = TaskSpec(name="tensor", input=TensorInput())


def build(tmp_path: Path, python: Path, npz: Path):  # type: ignore[no-untyped-def]
    model = tmp_path / "net.tflite"
    model.write_bytes(TFLITE)
    return build_bundle(
        model,
        profiles="jetson-orin",
        task=TENSOR,
        calibration=npz,
        max_drop=0.5,
        minutes=0.02,
        out=tmp_path / "out",
        convert=ConvertOptions(python),
    )


def test_what_it_was_made_of_is_in_the_bundle_and_the_report(tmp_path: Path, npz: Path) -> None:
    report = build(tmp_path, converting(tmp_path), npz)
    digest = "sha256:" + hashlib.sha256(TFLITE).hexdigest()
    assert report.source_bytes == len(TFLITE)
    compared = report.conversion.pop("compared")
    assert report.conversion == {
        "source": "net.tflite",
        "digest": digest,
        "format": "TFLite",
        "framework": "a framework 2",
        "converter": "double 1",
    }
    assert compared["samples"] >= 4
    assert compared["worst"] < 1e-5
    [note] = [n for n in report.notes if "was converted by" in n]
    assert digest[:19] in note
    assert f"on {compared['samples']} samples of what a framework 2 computes" in note
    for variant in inspect_bundle(tmp_path / "out").variants:
        definition = variant.provenance["predicate"]["buildDefinition"]
        assert definition["externalParameters"]["conversion"]["source"] == "net.tflite"
        made_of = {d["name"]: d["digest"]["sha256"] for d in definition["resolvedDependencies"]}
        assert made_of["source"] == digest.removeprefix("sha256:")
        assert made_of["model"] == hashlib.sha256(residual_net().SerializeToString()).hexdigest()
        assert str(tmp_path) not in json.dumps(variant.provenance)
    page = render(inspect_bundle(tmp_path / "out"))
    for text in ("net.tflite", digest.removeprefix("sha256:"), "double 1", "compared with a framework 2"):
        assert f"<td>{text}" in page


def test_one_that_computes_something_else_is_refused_with_the_figure(tmp_path: Path, npz: Path) -> None:
    python = converting(tmp_path, theirs=residual_net(seed=1))
    with pytest.raises(ModelError, match=r"output out .* is not what the framework computes: error .*%") as e:
        build(tmp_path, python, npz)
    assert e.value.hint
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.jsonl"))


def test_an_output_that_the_file_does_not_have_is_told(tmp_path: Path, npz: Path) -> None:
    with pytest.raises(ModelError, match="output other is of numbers in the framework alone"):
        build(tmp_path, converting(tmp_path, outputs=["other"]), npz)


def test_a_model_that_came_as_onnx_says_nothing_of_a_conversion(tmp_path: Path, npz: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(residual_net().SerializeToString())
    report = build_bundle(
        tmp_path / "net.onnx",
        profiles="jetson-orin",
        task=TENSOR,
        calibration=npz,
        max_drop=0.5,
        minutes=0.02,
        out=tmp_path / "out",
    )
    assert report.conversion is None
    [variant, *_] = inspect_bundle(tmp_path / "out").variants
    definition = variant.provenance["predicate"]["buildDefinition"]
    assert "conversion" not in definition["externalParameters"]
    assert "source" not in {d["name"] for d in definition["resolvedDependencies"]}


@pytest.mark.parametrize(
    "statement",
    [{}, {"predicate": 3}, {"predicate": {"buildDefinition": {"externalParameters": {"conversion": []}}}}],
)
def test_a_statement_of_somebody_else_has_no_rows(statement: dict[str, object]) -> None:
    assert conversion_rows(statement) == []
