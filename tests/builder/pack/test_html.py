"""The HTML report: it fetches nothing, escapes everything, and shows what the bundle holds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net
from typer.testing import CliRunner

from edgectl.builder.build import build_bundle
from edgectl.builder.compress.options import parse_options
from edgectl.builder.pack.html import _causes, _compression, _either, render
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.pack.report import CauseReport, SearchReport
from edgectl.builder.pack.svg import Bar, Dot, Interval, bars, ranges, scatter
from edgectl.cli.main import app
from edgectl.core.bundle import LAYER_REPORT, Bundle
from edgectl.core.task import TaskSpec, TensorInput

EVIL = "<script>alert('x')</script>&\"</svg>"


def test_the_page_of_a_measured_bundle_is_whole_and_fetches_nothing(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    build_bundle(
        save(residual_net(channels=32)),
        profiles=["cpu", "jetson-orin"],
        task=TaskSpec(name=EVIL[:20], input=TensorInput()),
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.2,
        minutes=0.02,
        name="net",
        compression=parse_options(["magnitude:0.3"], cluster=64),
    )
    page_file = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["bundle", "inspect", str(tmp_path / "out"), "--html", str(page_file)])
    assert result.exit_code == 0, result.output
    page = page_file.read_text()
    assert page == render(inspect_bundle(tmp_path / "out"))
    assert not re.search(r"(?:src|href)=|https?://(?!in-toto\.io|slsa\.dev)|url\(|@import|<script", page)
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) >= 2
    assert "Layers kept in float: jetson-orin/tensorrt-int8" in page  # whatever was faster on the processor
    for plot in plots:
        ET.fromstring(plot)
    report = inspect_bundle(tmp_path / "out").report
    assert report is not None
    assert [row["step"] for row in report.compression] == ["magnitude:0.3", "cluster:64"]
    assert report.compression[-1]["drop"] > 0
    # judged against the model as it came, on the confirmation slice
    for v in inspect_bundle(tmp_path / "out").variants:
        assert v.accuracy["drop"] > 0
        assert v.accuracy["compression_drop"] > 0
        if v.recipe["precision"] == "float32":
            assert v.accuracy["drop"] == v.accuracy["compression_drop"]
    for v in Bundle(tmp_path / "out").variants:
        if v.config.profile == "cpu":
            assert v.config.memory is not None
            assert v.config.memory.told() in page
        elif v.config.runtime == "onnxruntime":
            assert v.config.memory is None, "an arm64 machine has not run it"
    [candidates] = report.groups.values()
    assert sum(c.chosen for c in candidates) == 1
    for c in candidates:
        assert c.name in page


def test_a_bundle_without_measurements_has_no_report_layer_and_still_a_page(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    build_bundle(
        save(residual_net()),
        profiles=["jetson-orin"],
        task=TaskSpec(name="tensor", input=TensorInput()),
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.5,
        minutes=0.02,
    )
    assert all(v.layer(LAYER_REPORT) is None for v in Bundle(tmp_path / "out").variants)
    assert "Nothing in this bundle was measured" in render(inspect_bundle(tmp_path / "out"))


@pytest.mark.parametrize("value", [1e-6, 0.5, 1.0, 3.0, 1e4])
def test_plots_are_well_formed_for_any_scale_and_any_text(value: float) -> None:
    made = [
        ranges([Interval(EVIL, value, value * 0.9, value * 1.1, "a", EVIL, EVIL)], axis=EVIL, reference=1.0),
        bars([Bar(EVIL, value, "a", EVIL), Bar("none", None, "b", "kept")], axis=EVIL),
        scatter([Dot(value, 0.0, "a", EVIL, EVIL), Dot(value * 2, 0.1, "c", "", EVIL)], x=EVIL, y=EVIL),
    ]
    for plot in made:
        root = ET.fromstring(plot)
        assert "script" not in {e.tag for e in root.iter()}
        numbers = [
            float(v)
            for e in root.iter()
            for k, v in e.attrib.items()
            if k in ("x", "x1", "x2", "cx", "y", "cy", "width")
        ]
        assert numbers
        assert all(-100 <= n <= 1100 for n in numbers)


def test_a_variant_without_calibrated_scales_and_one_without_layer_errors_have_a_page(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    build_bundle(
        save(residual_net()),
        profiles=["jetson-orin"],
        task=TaskSpec(name="tensor", input=TensorInput()),
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.5,
        minutes=0.02,
    )
    info = inspect_bundle(tmp_path / "out")
    plain = info.variants[0]
    dynamic = {
        **{k: x for k, x in plain.recipe.items() if k != "method"},
        "activations": "uint8",
        "weights": "int8",
        "samples": 0,
    }
    layers = tuple(r.model_copy(update={"sqnr_db": None, "precision": "int8"}) for r in plain.layers)
    page = render(replace(info, variants=(replace(plain, recipe=dynamic, layers=layers),)))
    assert "activations uint8, weights int8, no calibrated scales" in page
    assert "Error per layer" not in page


def test_what_compression_did_is_shown_in_the_words_of_the_build() -> None:
    step = {
        "step": "cluster:64",
        "drop": 0.01,
        "macs_ratio": 1.0,
        "latency_ratio": 0.5,
        "latency_low": 0.4,
        "latency_high": 0.6,
        "bytes": 452836.0,
        "packed_bytes": 117072.0,
        "seconds": 1.23,
        "note": EVIL,
    }
    page = _compression([step])
    assert "0.500 [0.400, 0.600]" in page
    assert "452,836" in page
    assert "macs_ratio" not in page
    assert EVIL not in page


def test_a_group_is_named_once_and_what_was_left_out_for_time_is_told_once() -> None:
    late = CauseReport(
        cause="out-of-time", sentence="the minute ran out: half, whole left out", next="allow more"
    )
    lossy = CauseReport(cause="over-budget", sentence="int8 loses too much", next="allow more")
    page = _causes(SearchReport(causes={"the group": (lossy, late)}, left_out=("half", "whole")))
    assert (page.count("the group"), page.count("half, whole")) == (1, 1)
    page = _causes(SearchReport(causes={"the group": (lossy,)}, left_out=("half", "whole")))
    assert page.count("half, whole") == 1


def test_the_kind_of_a_requirement_is_named_once() -> None:
    assert _either("sm:7.5|sm:8.6|sm:12.0") == "sm:7.5 or 8.6 or 12.0"
    assert _either("isa:avx512_vnni|isa:avx_vnni") == "isa:avx512_vnni or avx_vnni"
    assert _either("trt:10|runtime:tensorrt-rtx") == "trt:10 or runtime:tensorrt-rtx"
