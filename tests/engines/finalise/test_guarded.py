"""A runtime that dies of a graph ends a child process, and the graph is refused like any other."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.engines.conftest import small_model

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.engines.finalise import guarded
from edgectl.engines.finalise.guarded import guarded_openings, open_guarded


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Process ids of the children, a line for each question."""
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(guarded, "_MODULE", "support.dying_runtime")
    monkeypatch.setattr(guarded, "_GUARDED", ("onnxruntime",))
    return tmp_path / "asked"


def deadly(what: str = "it dies of this one") -> bytes:
    model = onnx.load_from_string(small_model())
    model.doc_string = what
    return model.SerializeToString()


def opened(model: bytes, **settings: object) -> None:
    open_guarded(model, SessionSettings.model_validate(settings), runtime="onnxruntime").close()


def test_a_crash_is_an_error_with_a_next_step_and_the_next_graph_opens(asked: Path) -> None:
    with guarded_openings():
        opened(small_model())
        with pytest.raises(EngineError, match="opening it in onnxruntime died by SIGSEGV") as e:
            opened(deadly())
        assert e.value.hint == "take another runtime, and report it to its makers with the model"
        other = onnx.load_from_string(small_model())
        other.producer_version = "2"
        opened(other.SerializeToString())
    first, died, last = asked.read_text().split()
    assert first == died != last


def test_what_the_kernel_ends_for_its_memory_is_told_so_and_not_to_its_makers(asked: Path) -> None:
    with guarded_openings():
        for _ in range(2):
            with pytest.raises(EngineError, match="opening it in onnxruntime died by SIGKILL") as e:
                opened(deadly("it is too large"))
            assert e.value.hint == "take another runtime, or give it more memory"
    assert len(asked.read_text().split()) == 1


def test_what_is_known_of_a_graph_keeps_nothing_alive_that_refused_it(asked: Path) -> None:
    class Held:
        pass

    def refused() -> weakref.ref[Held]:
        held = Held()
        with pytest.raises(EngineError):
            opened(deadly())
        return weakref.ref(held)

    with guarded_openings():
        for _ in range(2):
            held = refused()
            gc.collect()
            assert held() is None


def test_one_child_opens_all_and_no_graph_twice_whatever_does_not_change_what_is_compiled(
    asked: Path,
) -> None:
    with guarded_openings():
        for threads in (1, 2):
            opened(small_model(), threads=threads)
        opened(small_model(), precision_hint="bf16")
    pids = asked.read_text().split()
    assert len(pids) == 2
    assert len(set(pids)) == 1
    assert not psutil.pid_exists(int(pids[0]))


def test_a_graph_that_it_died_of_is_not_tried_again_and_a_file_counts_like_its_bytes(
    asked: Path, tmp_path: Path
) -> None:
    (tmp_path / "deadly.onnx").write_bytes(deadly())
    with guarded_openings():
        for model in (deadly(), deadly(), tmp_path / "deadly.onnx"):
            with pytest.raises(EngineError, match="died by SIGSEGV"):
                open_guarded(model, SessionSettings(), runtime="onnxruntime")
    assert len(asked.read_text().split()) == 1


def test_alone_it_has_a_child_of_its_own_that_ends_with_it(asked: Path) -> None:
    opened(small_model())
    with pytest.raises(EngineError, match="SIGSEGV"):
        opened(deadly())
    pids = asked.read_text().split()
    assert len(set(pids)) == 2
    assert not any(psutil.pid_exists(int(p)) for p in pids)


def test_a_runtime_that_does_not_die_of_graphs_is_opened_at_once(asked: Path) -> None:
    pytest.importorskip("openvino")
    open_guarded(small_model(), SessionSettings(), runtime="openvino").close()
    assert not asked.exists()


def test_what_openvino_says_against_a_graph_is_told_in_its_own_words_and_a_good_one_runs() -> None:
    pytest.importorskip("openvino")
    with guarded_openings():
        with pytest.raises(EngineError, match="OpenVINO cannot open the model"):
            open_guarded(b"no model", SessionSettings(), runtime="openvino")
        engine = open_guarded(small_model(), SessionSettings(), runtime="openvino")
        [spec] = engine.inputs
        assert all(
            np.isfinite(o).all() for o in engine.run({spec.name: np.zeros(spec.shape, np.float32)}).values()
        )
        engine.close()


def concat_quantized_twice() -> bytes:
    """Three Conv in a row, the first and the last joined, and quantized twice, first with a zero point: OpenVINO 2026.4 dies of it."""
    rng = np.random.default_rng(0)
    stored: dict[str, object] = {
        "sa": np.float32(0.05),
        "sb": np.float32(0.04),
        "za": np.uint8(117),
        "zb": np.uint8(0),
    }
    nodes = []
    for name, source, inside, outside in (("a", "x", 3, 64), ("b", "a", 64, 128), ("c", "b", 128, 32)):
        stored[f"{name}_w"] = rng.integers(-127, 128, (outside, inside, 1, 1)).astype(np.int8)
        stored[f"{name}_s"] = np.full(outside, 0.01, np.float32)
        stored[f"{name}_z"] = np.zeros(outside, np.int8)
        nodes += [
            helper.make_node(
                "DequantizeLinear", [f"{name}_w", f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=0
            ),
            helper.make_node("Conv", [source, f"{name}_d"], [name]),
        ]
    nodes += [
        helper.make_node("Concat", ["a", "c"], ["joined"], axis=1),
        helper.make_node("QuantizeLinear", ["joined", "sa", "za"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "sa", "za"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "sb", "zb"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "joined",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 96, 16, 16])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def test_a_graph_that_openvino_dies_of_runs_or_is_refused_and_this_process_lives() -> None:
    pytest.importorskip("openvino")
    died = ""
    try:
        open_guarded(concat_quantized_twice(), SessionSettings(), runtime="openvino").close()
    except EngineError as e:
        died = e.message
    assert "died by SIG" in died or not died
