"""``edgectl bundle accept``: every graph that a device compiles with TensorRT, one row each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net
from typer.testing import CliRunner

from edgectl.builder.build import build_bundle
from edgectl.cli.main import app
from edgectl.core.acceptance import Acceptance
from edgectl.engines.finalise import rtx

REFUSED = Acceptance(
    compiler="TensorRT-RTX 1.7", sm=("8.6",), accepted=False, sentence="\x1b[2Jno such layer", node="relu1"
)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: object) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())  # type: ignore[attr-defined]
        return path

    return write


@pytest.fixture
def bundle(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as m:
        # as on a machine without the compiler: nothing of it is in the bundle
        m.setattr("edgectl.builder.variants.acceptance.has_compiler", lambda: False)
        build_bundle(
            save(residual_net()),
            profiles="jetson-orin",
            task="tensor",
            random_calibration=True,
            minutes=0.05,
            out=tmp_path / "out",
        )
    return tmp_path / "out"


@pytest.mark.skipif(not rtx.has_compiler(), reason="NVIDIA's compiler is for x86-64 alone")
def test_it_asks_about_each_graph_of_a_bundle(bundle: Path) -> None:
    result = CliRunner().invoke(
        app, ["bundle", "accept", str(bundle), "--sm", "8.6", "--sm", "8.9", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["refused"] == 0
    assert len(told["variants"]) >= 1
    for name, verdict in told["variants"].items():
        assert name.startswith("jetson-orin/tensorrt-")
        assert (verdict["accepted"], verdict["sm"]) == (True, ["8.6", "8.9"])
        assert verdict["engine_bytes"] > 0


def test_one_that_is_refused_ends_with_1_and_its_words(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "need_compiler", lambda: None)
    monkeypatch.setattr(rtx, "accept", lambda path, sms: REFUSED)
    result = CliRunner().invoke(app, ["bundle", "accept", str(bundle)], env={"COLUMNS": "140"})
    assert result.exit_code == 1
    assert "refused at relu1" in result.stdout
    assert "no such layer" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_bundle_without_such_graphs_is_told_what_to_do(save: Save, tmp_path: Path) -> None:
    build_bundle(
        save(residual_net()),
        profiles="cpu",
        task="tensor",
        random_calibration=True,
        minutes=0.02,
        out=tmp_path / "out",
    )
    result = CliRunner().invoke(app, ["bundle", "accept", str(tmp_path / "out")])
    assert result.exit_code != 0
    if rtx.has_compiler():
        assert "nothing that a device compiles with TensorRT" in str(result.exception)
