"""NonMaxSuppression cut off a graph: the decoder finds in the new outputs what the graph itself selected."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.ingest.split import split_post
from edgectl.core.errors import ModelError
from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.preprocess import LetterboxMeta

TASK = TaskSpec(
    name="t",
    input=ImageInput(width=64, height=64),
    labels=("a", "b"),
    metric="detection",
    decode=DecodeSpec(kind="boxes-scores", score=0.3, iou=0.5),
)
N, CLASSES = 24, 2


def detector(*, turned: bool) -> ModelProto:
    """boxes and logits in, sigmoid scores, NMS, selected indices out. ``turned``: scores are transposed in
    the graph."""
    nodes = [helper.make_node("Sigmoid", ["logits"], ["probability"], name="sigmoid")]
    if turned:
        nodes.append(helper.make_node("Transpose", ["probability"], ["classes"], name="turn", perm=[0, 2, 1]))
    nodes += [
        helper.make_node("Identity", ["raw"], ["corners"], name="same"),
        helper.make_node(
            "NonMaxSuppression",
            ["corners", "classes" if turned else "probability", "many", "iou", "score"],
            ["picked"],
            name="nms",
        ),
        helper.make_node("Cast", ["picked"], ["out"], name="cast", to=TensorProto.FLOAT),
    ]
    shape = [1, N, CLASSES] if turned else [1, CLASSES, N]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("raw", TensorProto.FLOAT, [1, N, 4]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["k", 3])],
        [
            numpy_helper.from_array(np.asarray([100], np.int64), "many"),
            numpy_helper.from_array(np.asarray([0.5], np.float32), "iou"),
            numpy_helper.from_array(np.asarray([0.3], np.float32), "score"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def feeds(turned: bool, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.random((1, N, 2)) * 40
    boxes = np.concatenate([corner, corner + 4 + rng.random((1, N, 2)) * 16], axis=2)
    # one class a box: the decoder keeps a box's best class only, the graph selects per class
    logits = np.full((1, N, CLASSES), -6.0)
    logits[0, np.arange(N), rng.integers(0, CLASSES, N)] = rng.standard_normal(N) * 2
    return {
        "raw": boxes.astype(np.float32),
        "logits": (logits if turned else logits.transpose(0, 2, 1)).astype(np.float32),
    }


@pytest.mark.parametrize("turned", [True, False])
def test_the_decoder_finds_what_the_graph_selected(turned: bool) -> None:
    model = detector(turned=turned)
    cut, task, changed = split_post(model, TASK)
    assert changed
    onnx.checker.check_model(cut)
    assert not {"NonMaxSuppression", "Cast"} & {n.op_type for n in cut.graph.node}
    assert not cut.graph.initializer
    decode = make_decoder(task)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (model, cut)
    )
    whole = LetterboxMeta(1, 1, 0, 0, 64, 64, 64, 64)
    for seed in range(5):
        x = feeds(turned, seed)
        picked = before.run(None, x)[0].astype(int)  # (batch, class, box)
        names = [o.name for o in after.get_outputs()]
        found = decode(dict(zip(names, after.run(None, x), strict=True)), whole)
        wanted = {(int(b), int(c)) for _, c, b in picked}
        boxes = x["raw"][0]
        got = {
            (int(np.abs(boxes - box).sum(axis=1).argmin()), int(k))
            for box, k in zip(found.xyxy, found.cls, strict=True)
        }
        assert got == wanted


def test_other_models_and_tasks_come_back_as_they_are() -> None:
    model = detector(turned=True)
    other = TASK.model_copy(update={"decode": DecodeSpec(kind="yolov8")})
    assert split_post(model, other) == (model, other, False)
    cut, task, _ = split_post(model, TASK)
    assert split_post(cut, task) == (cut, task, False)


def test_two_selections_are_refused_with_the_way_out() -> None:
    model = detector(turned=True)
    again = model.graph.node.add()
    again.CopyFrom(next(n for n in model.graph.node if n.op_type == "NonMaxSuppression"))
    again.output[0], again.name = "more", "nms2"
    with pytest.raises(ModelError, match="several NonMaxSuppression") as e:
        split_post(model, TASK)
    assert "without NMS" in (e.value.hint or "")
