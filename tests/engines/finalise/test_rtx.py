"""NVIDIA's real compiler on this host without a GPU: what it says, and that nothing it does hurts us."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import residual_net

from edgectl.core.errors import EngineError, UsageError
from edgectl.engines.finalise import rtx
from edgectl.engines.finalise.rtx import accept, has_compiler, need_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="NVIDIA's compiler is for x86-64 alone")


def saved(tmp_path: Path, model: ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_codes(zero: int, dtype: type[np.generic]) -> ModelProto:
    """x → QuantizeLinear → DequantizeLinear → Relu."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="into"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="back"),
        helper.make_node("Relu", ["d"], ["y"], name="relu"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, 8, 8]) for n in "xy")
    constants = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(dtype(zero), "z")]
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@needs_compiler
def test_a_graph_that_it_takes_has_sizes_and_an_engine(tmp_path: Path) -> None:
    model, engine = saved(tmp_path, residual_net()), tmp_path / "model.engine"
    verdict = accept(model, ("8.6", "8.9"), engine=engine)
    assert verdict.accepted
    assert verdict.told() == f"accepted by {verdict.compiler} for SM 8.6, 8.9"
    assert verdict.compiler.startswith("TensorRT-RTX 1.")
    assert engine.stat().st_size == verdict.engine_bytes > 10_000
    assert verdict.layers >= 9
    assert verdict.weight_bytes > 0
    assert accept(model, ("8.6", "8.9")) == verdict


@needs_compiler
@pytest.mark.parametrize(
    ("zero", "dtype", "taken"), [(0, np.int8, True), (3, np.int8, False), (128, np.uint8, False)]
)
def test_codes_with_a_zero_point_are_refused_with_the_place(
    tmp_path: Path, zero: int, dtype: type[np.generic], taken: bool
) -> None:
    verdict = accept(saved(tmp_path, with_codes(zero, dtype)))
    assert verdict.accepted is taken
    if not taken:
        assert verdict.node in ("into", "back")
        assert verdict.sentence
        assert "/_src/" not in verdict.sentence
        assert f"refused by {verdict.compiler} for SM 8.6 at {verdict.node}: " in verdict.told()


@needs_compiler
def test_an_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    model = with_codes(0, np.int8)
    model.graph.node[2].op_type, model.graph.node[2].domain = "Frobnicate", "example.org"
    model.opset_import.append(helper.make_opsetid("example.org", 1))
    verdict = accept(saved(tmp_path, model))
    assert not verdict.accepted
    assert "Frobnicate" in verdict.sentence


@needs_compiler
@pytest.mark.parametrize("data", [b"", b"no model at all", residual_net().SerializeToString()[:2000]])
def test_what_is_no_model_is_refused_with_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    verdict = accept(tmp_path / "x.onnx")
    assert not verdict.accepted
    assert len(verdict.sentence) > 10


@needs_compiler
def test_a_compute_capability_that_it_does_not_have_says_nothing_of_the_graph(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"does not compile for SM 8\.7 ahead of time") as caught:
        accept(saved(tmp_path, residual_net()), ("8.7",))
    assert "8.6" in (caught.value.hint or "")


@needs_compiler
def test_one_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"more than 0\.05 s"):
        accept(saved(tmp_path, residual_net()), timeout_s=0.05)


def test_where_it_is_not_installed_the_next_step_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_compiler()
    with pytest.raises(UsageError, match="not installed") as caught:
        need_compiler()
    assert "edgectl[rtx]" in (caught.value.hint or "")


def test_an_answer_that_makes_no_sense_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rtx, "run_child", lambda *a, **k: {"ok": True, "accepted": "perhaps"})
    with pytest.raises(EngineError, match="makes no sense"):
        accept(tmp_path / "x.onnx")
