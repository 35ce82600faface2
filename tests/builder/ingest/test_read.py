"""Files that nobody vouches for: one sentence each, and no harm."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import Save, images, residual_net
from support.builder.older_runtime import OLDER_RUNTIME

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest import read
from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.read import read_model
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.lint import lint
from edgectl.builder.int8.placement import plain_matmul
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.passes.base import FloatReference, run_passes
from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.builder.passes.shapes import StaticShapes, check_sizes, resolve_inputs
from edgectl.builder.passes.upgrade import Upgrade
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model

TENSOR = TaskSpec(name="tensor", input=TensorInput())


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as e:
        read_model(path)
    assert "\n" not in e.value.message
    return e.value.message


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    for name, data in {
        "text.onnx": b"hello, this is no model",
        "empty.onnx": b"",
        "zip.onnx": b"PK\x03\x04" + bytes(64),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert "is not an ONNX file" in refused(tmp_path / name)
    assert "cannot read" in refused(tmp_path / "missing.onnx")
    assert "cannot read" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("model.tflite", b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TFLite model"),
        ("model.pt", b"PK\x03\x04\0\0", "a PyTorch file"),
        ("model.engine", b"ftrt\0\0\0\0", "a TensorRT engine"),
    ],
)
def test_the_files_of_others_are_called_by_name(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert refused(tmp_path / name) == f"{name} is not an ONNX file but {what}"


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    whole = residual_net().SerializeToString()
    path = tmp_path / "cut.onnx"
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(residual_net(channels=2).SerializeToString())
    data[at % len(data)] ^= flip
    path = tmp_path_factory.mktemp("flip") / "m.onnx"
    path.write_bytes(data)
    with contextlib.suppress(ModelError):
        read_model(path)


def change(edit: Callable[[ModelProto], None]) -> ModelProto:
    model = residual_net()
    edit(model)
    return model


def test_unknown_operators_are_named(save: Save) -> None:
    def frobnicate(m: ModelProto) -> None:
        m.graph.node[1].op_type = "Frobnicate"

    def custom(m: ModelProto) -> None:
        m.graph.node[1].domain = "my.company"
        m.opset_import.append(helper.make_opsetid("my.company", 1))

    assert "unknown operators: Frobnicate" in refused(save(change(frobnicate)))
    assert "my.company::Relu" in refused(save(change(custom)))


def test_sizes_are_bounded(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(residual_net())
    monkeypatch.setattr(read, "MAX_NODES", 5)
    assert "more than 5 nodes" in refused(path)
    monkeypatch.setattr(read, "MAX_MODEL_BYTES", 100)
    assert "at most" in refused(path)


def prepared(model: ModelProto, task: TaskSpec = TENSOR) -> ModelProto:
    inputs = resolve_inputs(model, task)
    reference = FloatReference.record(model.SerializeToString(), images(1)[0])
    return run_passes(model, [Upgrade(), StaticShapes(inputs), Canonicalise()], reference)[0]


def test_an_old_opset_a_dynamic_batch_and_listed_initializers_are_brought_up(save: Save) -> None:
    model = residual_net(opset=11, batch="N")
    for t in model.graph.initializer:  # as exporters before IR version 4 did
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    for node in model.graph.node:
        node.name = ""
    done = prepared(read_model(save(model)))
    assert done.opset_import[0].version == 17
    assert [i.name for i in done.graph.input] == ["image"]
    assert [d.dim_value for d in done.graph.output[0].type.tensor_type.shape.dim] == [1, 8, 16, 16]
    assert all(n.name for n in done.graph.node)


def test_passes_are_deterministic() -> None:
    assert prepared(residual_net()).SerializeToString(deterministic=True) == prepared(
        residual_net()
    ).SerializeToString(deterministic=True)


def test_stored_weights_become_float_and_long_names_short() -> None:
    model = residual_net()
    codes = np.random.default_rng(0).integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
    scale = np.linspace(0.001, 0.01, 16).astype(np.float32)
    long = "functional/" * 30
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(codes, "w2q"),
            numpy_helper.from_array(scale, "s"),
            numpy_helper.from_array(np.zeros(16, np.int8), "z"),
        ]
    )
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w2q", "s", "z"], [long], axis=0))
    next(n for n in model.graph.node if n.name == "point").input[1] = long
    done = prepared(model)
    assert "DequantizeLinear" not in {n.op_type for n in done.graph.node}
    assert max(len(o) for n in done.graph.node for o in n.output) <= 64
    stored = [numpy_helper.to_array(t) for t in done.graph.initializer if tuple(t.dims) == (16, 16, 1, 1)]
    np.testing.assert_allclose(stored[0], codes * scale[:, None, None, None], rtol=1e-6)


def test_a_pass_that_changes_what_is_computed_is_caught_and_named() -> None:
    class Spoil(Upgrade):
        name = "spoil"

        def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
            copy = ModelProto()
            copy.CopyFrom(model)
            w = numpy_helper.to_array(copy.graph.initializer[0]).copy()
            w[0] *= 1.01
            copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, copy.graph.initializer[0].name))
            return copy, True

    model = residual_net()
    reference = FloatReference.record(model.SerializeToString(), images(1)[0])
    with pytest.raises(
        ModelError, match=r"pass spoil \(after upgrade\): output out is no longer what it was"
    ):
        run_passes(model, [Upgrade(), Spoil()], reference)


def test_a_task_that_does_not_fit_the_model_is_a_usage_error() -> None:
    wrong = TaskSpec(name="t", input=ImageInput(width=64, height=64))
    with pytest.raises(
        UsageError, match=r"makes \[1, 3, 64, 64\] for input image; the model takes \[1, 3, 32, 32\]"
    ):
        resolve_inputs(residual_net(), wrong)
    named = TaskSpec(name="t", input=ImageInput(width=32, height=32, tensor="photo"))
    with pytest.raises(UsageError, match="feeds input photo; the model has image"):
        resolve_inputs(residual_net(), named)


def test_a_small_file_that_asks_for_terabytes_is_refused_before_anything_is_allocated(save: Save) -> None:
    model = residual_net()
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1 << 20, 1 << 20], np.int64), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["bomb"], name="bomb"))
    model.graph.output.append(helper.make_tensor_value_info("bomb", TensorProto.FLOAT, ["a", "b"]))
    with pytest.raises(ModelError, match="tensor bomb would have 1099511627776 elements"):
        check_sizes(read_model(save(model)))
    check_sizes(residual_net(batch="N"))


def test_upsample_of_an_old_opset_becomes_a_resize_that_quantizes(save: Save) -> None:
    model = residual_net(opset=9)
    del model.graph.value_info[:]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"))
    pool = next(i for i, n in enumerate(model.graph.node) if n.name == "pool")
    model.graph.node.insert(
        pool, helper.make_node("Upsample", ["cat", "twice"], ["large"], name="up", mode="nearest")
    )
    model.graph.node[pool + 1].CopyFrom(
        helper.make_node("MaxPool", ["large"], ["p"], kernel_shape=[4, 4], strides=[4, 4])
    )
    graph, _, _ = prepare(save(model), TENSOR)
    assert graph.opset_import[0].version == 17
    assert "Resize" in {n.op_type for n in graph.graph.node}
    q = quantize(graph, calibrate(graph, images(4), data_digest="sha256:" + "0" * 64), FAMILIES["x86-vnni"])
    assert lint(q.model, q.family) == []


def test_a_graph_without_nodes_is_refused_as_that(save: Save) -> None:
    assert "has no nodes" in refused(save(change(lambda m: m.graph.ClearField("node"))))


def test_outputs_without_a_shape_are_no_fault(save: Save) -> None:
    def forget(m: ModelProto) -> None:
        m.graph.output[0].type.tensor_type.ClearField("shape")

    assert prepare(save(change(forget)), TENSOR)[0].graph.output[0].name == "out"


@pytest.mark.parametrize("op", ["BatchNormalization", "Dropout"])
def test_a_layer_in_training_mode_is_named(save: Save, op: str) -> None:
    def train(m: ModelProto) -> None:
        m.graph.node[-1].output[0] = "head"
        if op == "Dropout":
            m.graph.initializer.append(numpy_helper.from_array(np.asarray(0.5, np.float32), "ratio"))
            m.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "mode"))
            m.graph.node.append(helper.make_node(op, ["head", "ratio", "mode"], ["out"], name="late"))
            return
        for name in ("scale", "shift", "mean", "var"):
            m.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), name))
        inputs = ["head", "scale", "shift", "mean", "var"]
        m.graph.node.append(helper.make_node(op, inputs, ["out", "m", "v"], name="late", training_mode=1))

    assert refused(save(change(train))) == f"node late ({op}) is in training mode"


def test_a_model_that_answers_differently_each_time_is_refused_with_its_node(save: Save) -> None:
    def shake(m: ModelProto) -> None:
        m.graph.node[-1].output[0] = "head"
        m.graph.node.append(helper.make_node("RandomNormalLike", ["head"], ["noise"], name="dice"))
        m.graph.node.append(helper.make_node("Add", ["head", "noise"], ["out"], name="add"))

    with pytest.raises(
        ModelError, match=r"answers differently each time \(output out\): node dice \(RandomNormalLike\)"
    ):
        prepare(save(change(shake)), TENSOR)


def with_output(m: ModelProto, nodes: list[onnx.NodeProto], name: str, kind: onnx.TypeProto) -> ModelProto:
    m.graph.node.extend(nodes)
    m.graph.output.append(helper.make_value_info(name, kind))
    return m


def test_outputs_that_are_no_tensors_of_numbers_are_left_out_of_every_comparison(save: Save) -> None:
    model = residual_net()
    with_output(
        model,
        [helper.make_node("Cast", ["out"], ["text"], name="say", to=TensorProto.STRING)],
        "text",
        helper.make_tensor_type_proto(TensorProto.STRING, [1, 8, 16, 16]),
    )
    with_output(
        model,
        [helper.make_node("SplitToSequence", ["out"], ["parts"], name="parts", axis=1)],
        "parts",
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)),
    )
    graph, _, _ = prepare(save(model), TENSOR)
    assert [o.name for o in graph.graph.output] == ["out", "text", "parts"]
    engine = open_model(graph.SerializeToString(), SessionSettings())
    assert [o.name for o in engine.outputs] == ["out"]
    assert engine.run(images(1)[0]).keys() == {"out"}


def test_a_model_of_strings_alone_is_refused_with_its_output(save: Save) -> None:
    model = residual_net()
    model.graph.node[-1].output[0] = "head"
    model.graph.node.append(helper.make_node("Cast", ["head"], ["out"], name="say", to=TensorProto.STRING))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match=r"no output that is a tensor of numbers: out \(tensor\(string\)\)"):
        prepare(save(model), TENSOR)


def test_an_input_that_nobody_reads_stays_an_input(save: Save) -> None:
    def add(m: ModelProto) -> None:
        m.graph.input.insert(0, helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1, 2]))

    graph, inputs, _ = prepare(save(change(add)), TENSOR)
    assert [i.name for i in inputs] == [i.name for i in graph.graph.input] == ["unused", "image"]


def test_a_graph_that_cannot_be_simplified_is_used_as_it_is(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxslim

    def wrong(model: ModelProto) -> ModelProto:
        model.graph.node[0].attribute.remove(model.graph.node[0].attribute[0])
        return model

    def broken(model: ModelProto) -> ModelProto:
        raise KeyError("subg_1")

    for slim in (wrong, broken):
        monkeypatch.setattr(onnxslim, "slim", slim)
        graph, _, log = prepare(save(residual_net()), TENSOR)
        assert [n.op_type for n in graph.graph.node] == [n.op_type for n in residual_net().graph.node]
        assert any("without being simplified" in note for note in log.notes)


def test_every_opset_from_7_on_is_read(save: Save) -> None:
    want = open_model(residual_net().SerializeToString(), SessionSettings()).run(images(1)[0])["out"]
    for opset in range(7, 24 if OLDER_RUNTIME else 27):
        graph, _, _ = prepare(save(residual_net(opset=opset)), TENSOR)
        got = open_model(graph.SerializeToString(), SessionSettings()).run(images(1)[0])["out"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_model_without_inputs_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["w"], ["y"])],
        "net",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    with pytest.raises(ModelError, match="the model has no inputs"):
        resolve_inputs(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), TENSOR
        )


def test_outputs_whose_size_only_a_run_tells_get_it_and_those_that_depend_on_the_data_stay_open(
    save: Save,
) -> None:
    def more(m: ModelProto) -> None:
        del m.graph.value_info[:]
        m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        m.graph.initializer.append(numpy_helper.from_array(np.ones((16, 4), np.float32), "wm"))
        m.graph.node.append(
            helper.make_node(
                "FusedMatMul", ["out", "wm"], ["product"], name="product", domain="com.microsoft"
            )
        )
        m.graph.node.append(helper.make_node("NonZero", ["r1"], ["places"], name="places"))
        m.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, None))
        m.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, None))

    graph, _, _ = prepare(save(change(more)), TENSOR)
    onnx.checker.check_model(graph)
    index = GraphIndex(graph)
    assert index.shape("product") == (1, 8, 16, 4)
    assert index.shape("places") is None


@pytest.mark.parametrize(
    ("op", "opset", "scales"),
    [("Upsample", 7, (2, 3)), ("Upsample", 9, (2, 3)), ("Resize", 10, (2, 3)), ("Resize", 10, (0.5, 0.5))],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_what_was_resized_by_the_rule_of_an_old_opset_still_is(
    tmp_path: Path, op: str, opset: int, scales: tuple[float, float], mode: str
) -> None:
    factors = np.array([1, 1, *scales], np.float32)
    inputs, given = (["image"], {"scales": factors.tolist()}) if opset < 9 else (["image", "scales"], {})
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["out"], mode=mode, **given)],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [] if given else [numpy_helper.from_array(factors, "scales")],
    )
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4), path)
    model = read_model(path)
    before = open_model(model.SerializeToString(), SessionSettings()).run(images(1)[0])["out"]
    ingested, _, _ = prepare(path, TENSOR)
    after = open_model(ingested.SerializeToString(), SessionSettings()).run(images(1)[0])["out"]
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_an_old_operator_that_becomes_another_is_refused_with_what_to_do(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Hardmax", ["image"], ["out"], axis=1)],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4), path)
    with pytest.raises(ModelError) as e:
        prepare(path, TENSOR)
    assert e.value.hint == "export the model with opset 17"


def test_the_factors_of_a_product_go_into_its_constants_and_it_may_be_int8(save: Save) -> None:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["image", "w", "b"], ["a"], name="first", alpha=0.5, beta=3.0, transB=1),
            helper.make_node("Gemm", ["a", "w"], ["out"], name="second", alpha=2.0),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [4, 64])],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 64]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]),
        ],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in {"w": (64, 64), "b": (64,)}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # which checks that it computes the same, the weight that is an output, too
    folded, _, _ = prepare(save(model), TENSOR)
    index = GraphIndex(folded)
    products = [n for n in folded.graph.node if n.op_type == "Gemm"]
    assert len(products) == 2
    assert [plain_matmul(n, np.asarray(index.weights(n.input[1]))) for n in products] == ["", ""]
