"""Builds that are judged by labels, end to end; and those that end before any long work."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support.builder.squares import TASK, squares, squares_net, write_coco, write_pictures
from typer.testing import CliRunner

from edgectl.builder.build import build_bundle
from edgectl.builder.pack.html import render
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.pack.report import CandidateReport
from edgectl.cli.main import app
from edgectl.core.bundle import Bundle
from edgectl.core.errors import DataError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "squares.onnx"
    onnx.save(squares_net(), path)
    return path


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "calibration", squares(16, seed=9), seed=9)
    return tmp_path / "calibration"


def test_every_variant_carries_what_labels_say_of_it_and_of_float(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = build_bundle(
        model,
        profiles=["cpu"],
        task=TASK,
        calibration=calibration,
        validation=write_coco(tmp_path / "set", squares(12)),
        out=out,
        minutes=0.02,
        max_drop=0.3,
    )
    assert report.labels is not None
    assert (report.labels.layout, report.labels.pictures, report.labels.given) == ("COCO JSON", 12, 12)
    assert report.labels.objects == sum(map(len, squares(12)))
    assert report.labels.values == {"ap50": 1.0, "ap": 1.0}
    bundle = Bundle(out)
    judged = [v.config for v in bundle.variants if v.config.runtime in ("onnxruntime", "openvino")]
    assert judged
    for config in judged:
        a = config.accuracy
        assert (a["float_ap50"], a["samples"]) == (1.0, 12)
        assert a["objects"] == report.labels.objects
        assert a["ap50"] >= 0.7
        assert a["drop"] == pytest.approx(max(0.0, 1 - a["ap"], 1 - a["ap50"]), abs=1e-5)
    info = inspect_bundle(out)
    assert info.report is not None
    assert info.report.labels is not None
    assert info.report.labels.values == report.labels.values
    page = render(info)
    assert "<h2>By labels</h2>" in page
    assert "COCO JSON: 12 labelled" in page
    lossy = CandidateReport(
        name="lossy/onnxruntime/1",
        recipe="lossy",
        runtime="onnxruntime",
        precision="int8",
        threads=1,
        drop=0.25,
        drop_interval=(-0.1, 0.4),
        accuracy={"ap50": 0.75, "float_ap50": 1.0},
        rejected="labels: loses 0.2500",
    )
    told = info.report.model_copy(update={"groups": {"here": (lossy, lossy)}})
    page = render(replace(info, report=told))
    assert page.count("lossy/onnxruntime, does not ship") == 1
    section = page.partition("<h2>By labels</h2>")[2].partition("</section>")[0]
    assert "0.2500 [-0.1000, 0.4000]" in section
    for plot in re.findall(r"<svg.*?</svg>", section, re.S):
        ElementTree.fromstring(plot)
    shown = CliRunner().invoke(app, ["bundle", "inspect", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "judged by labels (COCO JSON): 12 labelled" in " ".join(shown.output.split())
    assert "by the labels" in shown.output


def test_labels_that_do_not_match_end_a_build_before_any_long_work(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    out, steps = tmp_path / "out", []
    labels = write_coco(tmp_path / "set", squares(12), names=("red", "green"))
    with pytest.raises(DataError, match="'green'"):
        build_bundle(
            model,
            profiles=["cpu"],
            task=TASK,
            calibration=calibration,
            validation=labels,
            out=out,
            progress=lambda p: steps.append(p.step),
        )
    assert set(steps) == {"ingest"}
    assert not out.exists()
    assert list(tmp_path.glob("*.tuning.jsonl")) == []


def test_a_float_model_that_knows_nothing_of_its_labels_ends_a_build(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(DataError, match="; with the colours in the order rgb it is better"):
        build_bundle(
            model,
            profiles=["cpu"],
            task=TASK.model_copy(update={"input": TASK.input.model_copy(update={"color": "bgr"})}),
            calibration=calibration,
            validation=write_coco(tmp_path / "set", squares(12)),
            out=tmp_path / "out",
            progress=lambda p: steps.append(p.step),
        )
    assert "quantize" not in steps
    assert not (tmp_path / "out").exists()


def test_labels_need_real_calibration_and_its_companions_need_labels(model: Path, tmp_path: Path) -> None:
    labels = write_coco(tmp_path / "set", squares(12))
    common = {"profiles": ["cpu"], "task": TASK, "out": tmp_path / "out", "random_calibration": True}
    with pytest.raises(UsageError, match="calibrated with real data"):
        build_bundle(model, validation=labels, **common)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="which is not there"):
        build_bundle(model, known_labels_only=True, **common)  # type: ignore[arg-type]


def test_the_command_takes_labels_and_refuses_bad_ones(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    task = tmp_path / "task.toml"
    task.write_text(
        'name = "squares"\nmetric = "detection"\nlabels = ["red", "blue"]\n[input]\nkind = "image"\nwidth = 64\n'
        'height = 64\n[decode]\nkind = "boxes-scores"\nscore = 0.3\nboxes = "boxes"\nscores = "scores"\n'
    )
    labels = write_coco(tmp_path / "set", squares(12))
    document = json.loads(labels.read_text())
    document["images"][0]["file_name"] = "../../escape.png"
    labels.write_text(json.dumps(document))
    result = CliRunner().invoke(
        app,
        [
            *("build", str(model), "--profile", "cpu", "--task", str(task), "--out", str(tmp_path / "out")),
            *("--calibration", str(calibration), "--validation", str(labels)),
        ],
    )
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 4
    assert "leads out of" in result.exception.message
    assert not (tmp_path / "out").exists()
