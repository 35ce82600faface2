from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.engines.conftest import small_model

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.engines.finalise.open import open_model

X = np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_engine_says_what_it_takes_and_gives(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    file = tmp_path / "m.onnx"
    file.write_bytes(small_model())
    for source in (file, file.read_bytes()):
        engine = open_model(source, SessionSettings(threads=1), runtime=runtime)
        assert [(i.name, i.shape, i.dtype) for i in engine.inputs] == [("x", (1, 3, 8, 8), "float32")]
        assert [(o.name, o.shape) for o in engine.outputs] == [("y", (1, 4, 6, 6))]
        assert engine.runtime.startswith(runtime)
        assert engine.run({"x": X})["y"].shape == (1, 4, 6, 6)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.run({"x": X})


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "takes inputs x; got none"),
        ({"z": X}, "takes inputs x; got z"),
        ({"x": X[:, :, :4]}, r"takes float32\[1, 3, 8, 8\]; got float32\[1, 3, 4, 8\]"),
        ({"x": X[0]}, "got float32"),
        ({"x": X.astype(np.float64)}, "got float64"),
    ],
)
def test_wrong_feeds_are_named(runtime: str, feeds: dict[str, np.ndarray], says: str) -> None:
    pytest.importorskip(runtime)
    engine = open_model(small_model(), SessionSettings(), runtime=runtime)
    with pytest.raises(EngineError, match=says):
        engine.run(feeds)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_outputs_stay_as_they_are_when_the_feeds_are_written_over(runtime: str) -> None:
    """A pipeline's buffer holds the next frame soon; an output may be an input of the graph."""
    pytest.importorskip(runtime)
    model = onnx.load_from_string(small_model())
    model.graph.output.append(model.graph.input[0])
    engine = open_model(model.SerializeToString(), SessionSettings(), runtime=runtime)
    feed = np.full_like(X, 3.0)
    first = engine.run({"x": feed})
    y = first["y"].copy()
    feed[:] = 5.0
    engine.run({"x": feed})
    np.testing.assert_array_equal(first["x"], np.full_like(X, 3.0))
    np.testing.assert_array_equal(first["y"], y)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_input_that_nothing_reads_is_still_one_from_a_file_and_from_bytes(
    runtime: str, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    model = onnx.load_from_string(small_model())
    model.graph.input.append(onnx.helper.make_tensor_value_info("unused", onnx.TensorProto.FLOAT, [1, 5]))
    file = tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString())
    for source in (file, file.read_bytes()):
        engine = open_model(source, SessionSettings(), runtime=runtime)
        assert [i.name for i in engine.inputs] == ["x", "unused"]
        assert engine.run({"x": X, "unused": np.zeros((1, 5), np.float32)})["y"].shape == (1, 4, 6, 6)


def test_openvino_says_what_it_cannot_convert_and_not_where_its_own_sources_are() -> None:
    pytest.importorskip("openvino")
    model = onnx.load_from_string(small_model())
    model.graph.node.append(onnx.helper.make_node("SplitToSequence", ["y"], ["s"], axis=1))
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None))
    with pytest.raises(EngineError, match="Sequence") as e:
        open_model(model.SerializeToString(), SessionSettings(), runtime="openvino")
    assert ".cpp" not in e.value.message
    assert "\n" not in e.value.message


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_bytes_that_are_no_model_are_one_error(runtime: str) -> None:
    pytest.importorskip(runtime)
    with pytest.raises(EngineError, match="cannot open the model"):
        open_model(b"not a model", SessionSettings(), runtime=runtime)


def test_cuda_that_is_not_there_is_an_error_and_no_quiet_cpu() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        open_model(small_model(), SessionSettings(provider="cuda"))


def test_openvino_outputs_stay_what_they_were_at_the_next_run() -> None:
    pytest.importorskip("openvino")
    engine = open_model(small_model(), SessionSettings(), runtime="openvino")
    first = engine.run({"x": X + 1})["y"]
    copy = first.copy()
    engine.run({"x": X - 1})
    np.testing.assert_array_equal(first, copy)
