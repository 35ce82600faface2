"""Forms of ONNX that some tool refuses: functions, sparse constants, names that occur twice, the long name
of the operator domain."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support.builder.nets import Save, images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest import repair
from edgectl.builder.ingest.canonical import canonical, prepare
from edgectl.builder.ingest.read import read_model
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model

TENSOR = TaskSpec(name="tensor", input=TensorInput())
OPSET = [helper.make_opsetid("", 17)]


def run(model: ModelProto) -> np.ndarray:
    return next(iter(open_model(model.SerializeToString(), SessionSettings()).run(images(1)[0]).values()))


def net(nodes: list[NodeProto], functions: list[FunctionProto] = [], **weights: np.ndarray) -> ModelProto:  # noqa: B006
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [*OPSET, *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def weight(seed: int = 0, shape: tuple[int, ...] = (8, 3, 1, 1)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv_relu(name: str = "Block") -> FunctionProto:
    """A convolution and a leaky Relu whose slope is an attribute of the function."""
    leaky = helper.make_node("LeakyRelu", ["c"], ["y"])
    leaky.attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    return helper.make_function(
        "own", name, ["x", "w"], ["y"], [helper.make_node("Conv", ["x", "w"], ["c"]), leaky], OPSET, ["slope"]
    )


def test_functions_are_inlined_with_their_attributes_and_their_layers_are_seen(save: Save) -> None:
    twice = helper.make_function(
        "own",
        "Twice",
        ["x", "w", "v"],
        ["y"],
        [
            helper.make_node("Block", ["x", "w"], ["a"], domain="own", slope=0.5),
            helper.make_node("Block", ["a", "v"], ["y"], domain="own", slope=0.25),
        ],
        [*OPSET, helper.make_opsetid("own", 1)],
    )
    model = net(
        [helper.make_node("Twice", ["image", "w", "v"], ["out"], domain="own")],
        [conv_relu(), twice],
        w=weight(),
        v=weight(1, (4, 8, 1, 1)),
    )
    want = run(model)
    graph, _, _ = prepare(save(model), TENSOR)
    assert not graph.functions
    assert [n.op_type for n in graph.graph.node] == ["Conv", "LeakyRelu", "Conv", "LeakyRelu"]
    assert len(weighted_nodes(GraphIndex(graph))) == 2
    np.testing.assert_allclose(run(graph), want, rtol=1e-5, atol=1e-5)


def test_functions_called_in_a_branch_are_inlined(save: Save) -> None:
    branch = [
        helper.make_graph(
            [helper.make_node("Block", ["image", "w"], [o], domain="own", slope=s)],
            o,
            [],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None)],
        )
        for o, s in (("then", 0.5), ("else", 0.25))
    ]
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "half"], ["bright"]),
        helper.make_node("If", ["bright"], ["out"], then_branch=branch[0], else_branch=branch[1]),
    ]
    model = net(nodes, [conv_relu()], w=weight(), half=np.asarray(0.5, np.float32))
    want = run(model)
    graph, _, _ = prepare(save(model), TENSOR)
    np.testing.assert_allclose(run(graph), want, rtol=1e-5, atol=1e-5)


def test_a_function_that_calls_itself_or_grows_without_bound_is_refused(save: Save) -> None:
    call = helper.make_node("F0", ["x"], ["y"], domain="own")
    opsets = [*OPSET, helper.make_opsetid("own", 1)]
    loop = helper.make_function("own", "F0", ["x"], ["y"], [call], opsets)
    with pytest.raises(ModelError, match=r"function F0 of model\.onnx calls itself"):
        read_model(save(net([helper.make_node("F0", ["image"], ["out"], domain="own")], [loop])))
    bomb = [helper.make_function("own", "F0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)]
    for level in range(1, 12):
        names = ["x", *(f"a{i}" for i in range(9)), "y"]
        calls = [
            helper.make_node(f"F{level - 1}", [a], [b], domain="own") for a, b in itertools.pairwise(names)
        ]
        bomb.append(helper.make_function("own", f"F{level}", ["x"], ["y"], calls, opsets))
    with pytest.raises(ModelError, match="more than 50000 nodes"):
        read_model(save(net([helper.make_node("F11", ["image"], ["out"], domain="own")], bomb)))


def test_an_unknown_operator_in_a_function_is_named(save: Save) -> None:
    odd = helper.make_function(
        "own", "F", ["x"], ["y"], [helper.make_node("Frobnicate", ["x"], ["y"])], OPSET
    )
    with pytest.raises(ModelError, match="unknown operators: Frobnicate"):
        read_model(save(net([helper.make_node("F", ["image"], ["out"], domain="own")], [odd])))


def sparse(name: str, dense: np.ndarray, *, coordinates: bool) -> onnx.SparseTensorProto:
    places = np.argwhere(dense) if coordinates else np.flatnonzero(dense)
    values = numpy_helper.from_array(dense[dense != 0], name)
    return helper.make_sparse_tensor(
        values, numpy_helper.from_array(places.astype(np.int64), f"{name}_indices"), list(dense.shape)
    )


@pytest.mark.parametrize("coordinates", [True, False])
def test_sparse_weights_are_made_dense(save: Save, coordinates: bool) -> None:
    full = weight(2)
    full[np.abs(full) < 0.5] = 0
    conv = helper.make_node("Conv", ["image", "w"], ["out"], name="conv")
    model = net([conv])
    model.graph.sparse_initializer.append(sparse("w", full, coordinates=coordinates))
    graph, _, _ = prepare(save(model), TENSOR)
    assert not graph.graph.sparse_initializer
    assert [n.name for n in weighted_nodes(GraphIndex(graph))] == ["conv"]
    np.testing.assert_allclose(run(graph), run(net([conv], w=full)), rtol=1e-5, atol=1e-5)


def test_a_sparse_constant_node_is_made_dense(save: Save) -> None:
    full = np.zeros((1, 3, 1, 1), np.float32)
    full[0, 1] = 2.0
    constant = helper.make_node(
        "Constant", [], ["k"], name="k", sparse_value=sparse("k", full, coordinates=True)
    )
    graph, _, _ = prepare(
        save(net([constant, helper.make_node("Add", ["image", "k"], ["out"], name="add")])), TENSOR
    )
    np.testing.assert_allclose(run(graph), images(1)[0]["image"] + full)


def test_a_sparse_constant_that_would_fill_the_memory_is_refused_with_the_true_cause(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "MAX_DENSE_BYTES", 1 << 20)
    huge = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"),
        [1 << 20, 1 << 10],
    )
    model = net([helper.make_node("Add", ["image", "w"], ["out"])])
    model.graph.sparse_initializer.append(huge)
    with pytest.raises(ModelError, match="sparse constant w has 1073741824 values"):
        read_model(save(model))


def test_nodes_of_one_name_get_names_of_their_own(save: Save) -> None:
    model = residual_net()
    want = run(model)
    for node in model.graph.node:
        node.name = "n"
    model.graph.node[3].name = "n_2"  # what a careless renaming would take
    graph, _, _ = prepare(save(model), TENSOR)
    names = [n.name for n in graph.graph.node]
    assert len(set(names)) == len(names)
    assert "n" in names
    np.testing.assert_allclose(run(graph), want, rtol=1e-5, atol=1e-5)


def test_the_long_name_of_the_operator_domain_is_the_short_one() -> None:
    model = residual_net()
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    graph, _, _ = canonical(repair.repaired(model, "m.onnx"), TENSOR)
    assert {n.domain for n in graph.graph.node} == {""}
    np.testing.assert_allclose(run(graph), run(residual_net()), rtol=1e-5, atol=1e-5)


def _counting_loop(last: NodeProto) -> ModelProto:
    """Three turns of s + x, without a condition; ``last`` makes ``go`` of ``may``, the one that a turn gets."""
    kinds = {"turn": (TensorProto.INT64, []), "may": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [4])}
    kinds |= {"go": (TensorProto.BOOL, []), "t": (TensorProto.FLOAT, [4])}
    info = {n: helper.make_tensor_value_info(n, *k) for n, k in kinds.items()}
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), last],
        "body",
        [info["turn"], info["may"], info["s"]],
        [info["go"], info["t"]],
    )
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "always")]
    constants = [
        numpy_helper.from_array(np.asarray(3), "turns"),
        numpy_helper.from_array(np.zeros(4, np.float32), "none"),
    ]
    loop = helper.make_node("Loop", ["turns", "", "none"], ["always"], body=body)
    graph = helper.make_graph([loop], "counts", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_loop_that_only_counts_gets_the_condition_that_tensorrt_wants(save: Save) -> None:
    model = read_model(save(_counting_loop(helper.make_node("Identity", ["may"], ["go"]))))
    loop = model.graph.node[0]
    (condition,) = (t for t in model.graph.initializer if t.name == loop.input[1])
    assert condition.name != "always"
    assert numpy_helper.to_array(condition)
    x = np.arange(4, dtype=np.float32)
    got = open_model(model.SerializeToString(), SessionSettings()).run({"x": x})
    assert np.array_equal(got["always"], 3 * x)


def test_a_loop_whose_turns_say_whether_to_go_on_is_left_as_it_is(save: Save) -> None:
    model = read_model(save(_counting_loop(helper.make_node("Not", ["may"], ["go"]))))
    assert not model.graph.node[0].input[1]


def test_a_spectrum_has_half_the_bins_unless_the_model_says_otherwise(save: Save) -> None:
    """A front end in the graph: frames of 64 samples, 33 bins, 8 bands."""
    constants = {
        "hop": np.asarray(32),
        "length": np.asarray(64),
        "window": np.hanning(64).astype(np.float32),
        "bands": np.ones((33, 8), np.float32),
        "last": np.asarray([-1]),
    }
    nodes = [
        helper.make_node("STFT", ["x", "hop", "window", "length"], ["s"], name="stft"),
        helper.make_node("ReduceSum", ["s", "last"], ["p"], name="sum", keepdims=0),
        helper.make_node("MatMul", ["p", "bands"], ["y"], name="bands"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 320, 1]), ("y", None))
    ]
    stored = [numpy_helper.from_array(w, n) for n, w in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found, _, _ = prepare(save(model), TaskSpec(name="tensor", input=TensorInput()))
    assert GraphIndex(found).shape("y") == (1, 9, 8)
