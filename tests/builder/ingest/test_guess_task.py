"""What a model's file tells of its task: families by their heads, Ultralytics' metadata, and when nothing is
guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.bind_size import bind_size
from edgectl.builder.ingest.guess_task import guess_task
from edgectl.builder.ingest.model import ingest_model
from edgectl.builder.ingest.read import read_model
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.errors import UsageError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.finalise.open import open_model
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.keypoints import COCO_NAMES
from edgectl.pipelines.video.preprocess import LetterboxMeta

NAMES = {0: "person", 1: "helmet", 2: "vest"}
N = 2100  # cells of 8, 16 and 32 pixels in a picture of 320 x 320


def head(
    *,
    dims: tuple[int | str, ...] = (1, 3, 320, 320),
    metadata: dict[str, Any] | None = None,
    dtype: int = TensorProto.FLOAT,
    **outputs: tuple[int, ...] | NDArray[Any],
) -> ModelProto:
    """A model that takes a picture and puts out what it is told, whatever the picture."""
    nodes = [
        helper.make_node("Cast", ["images"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["as_float"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    infos = []
    for name, value in outputs.items():
        array = value if isinstance(value, np.ndarray) else np.random.default_rng(0).random(value, np.float32)
        constants.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_value"))
        nodes.append(helper.make_node("Add", [f"{name}_value", "nothing"], [name]))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    graph = helper.make_graph(
        nodes, "head", [helper.make_tensor_value_info("images", dtype, dims)], infos, constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {k: str(v) for k, v in (metadata or {}).items()})
    return model


def ultralytics(**more: Any) -> dict[str, Any]:
    return {
        "description": "Ultralytics YOLO11n model trained on site.yaml",
        "task": "detect",
        "stride": 32,
        "imgsz": [320, 320],
        "names": NAMES,
        **more,
    }


def size(task: TaskSpec) -> tuple[int, int]:
    assert isinstance(task.input, ImageInput)
    return task.input.width, task.input.height


def raw_grid(columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (1, N, columns)).astype(np.float32)


def spread_boxes(n: int, columns: int) -> NDArray[np.float32]:
    out = np.random.default_rng(0).random((1, n, columns), np.float32)
    out[..., :4] *= 320
    return out


@pytest.mark.parametrize(
    ("outputs", "task", "classes"),
    [
        ({"output0": (1, 84, N)}, "yolov8", 80),
        ({"output0": (1, N, 84)}, "yolov8", 80),
        ({"output": raw_grid(85)}, "yolox", 80),
        ({"output": spread_boxes(3 * N, 85)}, "yolov5", 80),
        ({"output": (1, N + 25, 112)}, "nanodet", 80),
        ({"o": (1, 85, 20, 20)}, "fastestdet", 80),
        ({"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, "rtdetr-raw", 80),
        ({"dets": (1, 300, 4), "labels": (1, 300, 91)}, "rfdetr", 91),
    ],
)
def test_a_family_is_known_by_its_head(outputs: dict[str, Any], task: str, classes: int) -> None:
    spec, why = guess_task(head(**outputs), {})
    assert spec.name == task
    assert spec.labels == load_task(task).labels
    assert size(spec) == (320, 320)
    assert why.startswith(f"--task {task} was guessed: output")
    assert f"COCO's {classes} labels, picture 320x320" in why
    assert "\n" not in why


def test_a_yolox_tells_its_grid_from_its_boxes() -> None:
    assert guess_task(head(o=raw_grid(85)), {})[0].decode.options["decoded"] is False
    spec, why = guess_task(head(o=spread_boxes(N, 85)), {})
    assert spec.decode.options["decoded"] is True
    assert "boxes" in why


def test_a_picture_that_is_no_square_has_as_many_cells() -> None:
    cells = 80 * 40 + 40 * 20 + 20 * 10
    spec, _ = guess_task(head(dims=(1, 3, 320, 640), o=(1, 84, cells)), {})
    assert (spec.name, size(spec)) == ("yolov8", (640, 320))


def test_ultralytics_metadata_say_labels_and_family() -> None:
    spec, why = guess_task(head(metadata=ultralytics(), output0=(1, 7, 777)), {})
    assert spec.name == "yolov8"
    assert spec.labels == ("person", "helmet", "vest")
    assert "Ultralytics YOLO11n model trained on site.yaml; output 1x7x777, the metadata's 3 labels" in why


def test_names_without_anything_else_are_labels_where_they_are_as_many_as_the_classes() -> None:
    spec, why = guess_task(head(metadata={"names": NAMES}, output0=(1, 7, N)), {})
    assert (spec.name, spec.labels) == ("yolov8", ("person", "helmet", "vest"))
    assert "the metadata's 3 labels" in why
    with pytest.raises(UsageError, match="names its 80 classes"):
        guess_task(head(metadata={"names": NAMES}, output0=(1, 84, N)), {})


def test_ultralytics_metadata_say_the_size_that_the_model_leaves_open() -> None:
    model = head(dims=("N", 3, "H", "W"), metadata=ultralytics(imgsz=[192, 320]), output0=(1, 7, 777))
    spec, _ = guess_task(model, {})
    assert size(spec) == (320, 192)
    assert size(guess_task(model, {"images": (1, 3, 256, 224)})[0]) == (224, 256)


@pytest.mark.parametrize(
    ("metadata", "output", "task"),
    [
        (ultralytics(end2end=True), (1, 300, 6), "yolo26"),
        (ultralytics(head="RTDETRDecoder"), (1, 300, 6), "rtdetr-ultralytics"),
        ({"stride": 32, "names": NAMES}, (1, 6300, 8), "yolov5"),
        (ultralytics(names={0: "person", 1: "car"}), (1, 6, 2100), "yolov8"),
    ],
)
def test_ultralytics_models_of_other_kinds(
    metadata: dict[str, Any], output: tuple[int, ...], task: str
) -> None:
    assert guess_task(head(metadata=metadata, output0=output), {})[0].name == task


@pytest.mark.parametrize(
    ("output", "task"), [((1, 39, N), "yolov8-seg"), ((1, N, 39), "yolov8-seg"), ((1, 300, 38), "yolo26-seg")]
)
def test_a_segmentation_model_is_known_by_its_prototypes(output: tuple[int, ...], task: str) -> None:
    outputs = {"o": output, "protos": (1, 32, 80, 80)}
    spec, why = guess_task(head(metadata=ultralytics(task="segment"), **outputs), {})
    assert (spec.name, spec.labels) == (task, ("person", "helmet", "vest"))
    assert "masks of 32 prototypes 1x32x80x80" in why
    empty = {name: np.zeros(shape, np.float32) for name, shape in outputs.items()}
    assert make_decoder(spec)(empty, LetterboxMeta(1, 1, 0, 0, 320, 320, 320, 320)).masks is not None


def test_a_segmentation_model_without_prototypes_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="cannot be guessed"):
        guess_task(head(metadata=ultralytics(task="segment"), o=(1, 39, N)), {})


@pytest.mark.parametrize(
    ("output", "task"),
    [((1, 58, N), "yolov8-pose"), ((1, N, 58), "yolov8-pose"), ((1, 300, 57), "yolo26-pose")],
)
def test_a_pose_model_has_the_keypoints_of_coco(output: tuple[int, ...], task: str) -> None:
    spec, why = guess_task(head(metadata=ultralytics(task="pose", kpt_shape=[17, 3]), o=output), {})
    assert (spec.name, spec.labels) == (task, ("person", "helmet", "vest"))
    assert spec.decode.options.get("keypoints", COCO_NAMES) == COCO_NAMES
    assert "COCO's 17 keypoints" in why
    make_decoder(spec)({"o": np.zeros(output, np.float32)}, LetterboxMeta(1, 1, 0, 0, 320, 320, 320, 320))


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"kpt_names": {0: ["nw", "ne", "se", "sw"]}}, ("nw", "ne", "se", "sw")),
        ({}, ("point_0", "point_1", "point_2", "point_3")),
        ({"kpt_names": {0: ["a", "a", "b", "c"]}}, ("point_0", "point_1", "point_2", "point_3")),
        ({"kpt_names": "7"}, ("point_0", "point_1", "point_2", "point_3")),
    ],
)
def test_other_keypoints_have_the_names_of_the_metadata_or_numbers(
    said: dict[str, Any], names: tuple[str, ...]
) -> None:
    metadata = ultralytics(task="pose", kpt_shape=[4, 2], **said)
    spec, why = guess_task(head(metadata=metadata, o=(1, 15, N)), {})
    assert (spec.name, spec.decode.options["keypoints"]) == ("yolov8-pose", names)
    assert "4 keypoints" in why
    decoder = make_decoder(spec)
    decoder({"o": np.zeros((1, 15, N), np.float32)}, LetterboxMeta(1, 1, 0, 0, 320, 320, 320, 320))


@pytest.mark.parametrize("points", ["", "[17]", "17", "x", "[0, 3]", "[17, 4]", "[100000, 3]"])
def test_a_pose_model_that_does_not_say_its_points_is_not_guessed(points: str) -> None:
    with pytest.raises(UsageError, match="cannot be guessed"):
        guess_task(head(metadata=ultralytics(task="pose", kpt_shape=points), o=(1, 58, N)), {})


@pytest.mark.parametrize(
    ("output", "softmax", "kind"),
    [
        (np.float32([[0.1, 0.7, 0.2]]), False, "probabilities"),
        (np.float32([[0.1, 7, -2]]), True, "logits"),
        (np.float32([[[[0.1]], [[7]], [[-2]]]]), True, "logits"),
    ],
)
def test_a_classifier_is_known_by_one_score_a_class(
    output: NDArray[np.float32], softmax: bool, kind: str
) -> None:
    spec, why = guess_task(head(metadata=ultralytics(task="classify"), o=output), {})
    assert (spec.name, spec.labels, spec.metric) == ("classifier", ("person", "helmet", "vest"), "top1")
    assert spec.decode.options["softmax"] is softmax
    assert f"{kind} of 3 classes, the metadata's 3 labels" in why
    assert isinstance(spec.input, ImageInput)
    # Ultralytics takes pixels as they are, others what torchvision takes
    assert spec.input.mean == (0, 0, 0)
    other, _ = guess_task(head(metadata={"names": NAMES}, o=output), {})
    assert isinstance(other.input, ImageInput)
    assert other.input.mean[0] == pytest.approx(0.485)


def test_a_classifier_whose_classes_nobody_names_is_asked_for_them() -> None:
    with pytest.raises(UsageError, match=r"looks like classifier .* names its 5 classes") as caught:
        guess_task(head(o=(1, 5)), {})
    assert 'inherits = "classifier"' in str(caught.value.hint)


def test_a_model_that_says_what_each_pixel_is_is_known_by_its_size() -> None:
    spec, why = guess_task(head(metadata={"names": NAMES}, o=(1, 3, 320, 320)), {})
    assert (spec.name, spec.labels, spec.metric) == ("semantic", ("person", "helmet", "vest"), "pixels")
    assert "scores of 3 classes of each pixel, the metadata's 3 labels" in why
    with pytest.raises(UsageError, match=r"looks like semantic .* names its 3 classes"):
        guess_task(head(o=(1, 3, 320, 320)), {})
    with pytest.raises(UsageError, match="cannot be guessed"):
        guess_task(head(metadata={"names": NAMES}, o=(1, 3, 10, 10)), {})


def test_a_task_of_ultralytics_that_nothing_here_reads_is_said() -> None:
    with pytest.raises(UsageError, match="its task is 'obb', which no decoder reads"):
        guess_task(head(metadata=ultralytics(task="obb"), output0=(1, 8, N)), {})


@pytest.mark.parametrize("names", ["{0: 'a'", "{3: 'a'}", "[]", "__import__('os')", "{0: 'a', 1: 'b'}", "7"])
def test_metadata_that_do_not_fit_are_not_believed(names: str) -> None:
    with pytest.raises(UsageError):
        guess_task(head(metadata=ultralytics(names=names), output0=(1, 7, N)), {})


def test_classes_that_nobody_names_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"looks like yolov8 .* names its 3 classes") as caught:
        guess_task(head(output0=(1, 7, N)), {})
    assert 'inherits = "yolov8"' in str(caught.value.hint)
    with pytest.raises(UsageError, match="looks like yolo26"):
        guess_task(head(output0=(1, 300, 6)), {})


def test_where_two_families_fit_both_are_named() -> None:
    with pytest.raises(UsageError, match=r"fits yolov8 \(.*\), yolox \(") as caught:
        guess_task(head(output0=(1, N, 8)), {})
    assert "give one of them with --task" in str(caught.value.hint)


def test_where_none_fits_the_tasks_are_named() -> None:
    with pytest.raises(UsageError, match=r"no family of models has the outputs da 1x2x320x320, ll") as caught:
        guess_task(head(da=(1, 2, 320, 320), ll=(1, 2, 320, 320)), {})
    assert "yolox" in str(caught.value.hint)
    assert "--task tensor" in str(caught.value.hint)
    assert "edge-detector" not in str(caught.value.hint)  # a base that nobody can use as it is


def test_a_model_that_takes_no_picture_is_not_run() -> None:
    with pytest.raises(UsageError, match="no family of models has the outputs output0"):
        guess_task(head(dims=(1, 640), output0=(1, 640)), {})


def deployed_detr(classes: int) -> ModelProto:
    """The end of RT-DETR's export: the best pairs of query and class, boxes in units of a size that is given."""
    k = 50
    rng = np.random.default_rng(0)
    constants = {
        "logits_value": rng.normal(-1, 1, (1, 60, classes)).astype(np.float32),
        "boxes_value": rng.uniform((0, 0, 0.5, 0.5), (0.4, 0.4, 1, 1), (1, 60, 4)).astype(np.float32),
        "zero": np.float32(0),
        "k": np.array([k], np.int64),
        "flat": np.array([1, -1], np.int64),
        "classes": np.array(classes, np.int64),
        "twice": np.array([1, 2], np.int64),
        "axis": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "four": np.array([1, 1, 4], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["images"], ["mean"], keepdims=0),
        node("Mul", ["mean", "zero"], ["nothing"]),
        node("Add", ["logits_value", "nothing"], ["logits"]),
        node("Sigmoid", ["logits"], ["p"]),
        node("Reshape", ["p", "flat"], ["pairs"]),
        node("TopK", ["pairs", "k"], ["scores", "index"]),
        node("Div", ["index", "classes"], ["query"]),
        node("Mul", ["query", "classes"], ["before"]),
        node("Sub", ["index", "before"], ["labels"]),
        node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
        node("Tile", ["size", "twice"], ["sizes"]),
        node("Unsqueeze", ["sizes", "axis"], ["by"]),
        node("Mul", ["boxes_value", "by"], ["pixels"]),
        node("Unsqueeze", ["query", "last"], ["rows"]),
        node("Tile", ["rows", "four"], ["picked"]),
        node("GatherElements", ["pixels", "picked"], ["boxes"], axis=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detr",
        [
            info("images", TensorProto.FLOAT, ("N", 3, 64, 64)),
            info("orig_target_sizes", TensorProto.INT64, ("N", 2)),
        ],
        [
            info("labels", TensorProto.INT64, (1, k)),
            info("boxes", TensorProto.FLOAT, (1, k, 4)),
            info("scores", TensorProto.FLOAT, (1, k)),
        ],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_detr_with_its_post_processing_tells_its_classes_by_its_arithmetic() -> None:
    spec, why = guess_task(deployed_detr(80), {})
    assert (spec.name, size(spec)) == ("rtdetr", (64, 64))
    assert "COCO's 80 labels" in why
    with pytest.raises(UsageError, match="names its 7 classes"):
        guess_task(deployed_detr(7), {})


def test_the_size_that_a_detr_asks_for_is_bound_and_its_boxes_stay_where_they_are() -> None:
    model = deployed_detr(80)
    task, _ = guess_task(model, {})
    bound, task, was_bound = bind_size(model, task)
    assert was_bound
    assert [i.name for i in bound.graph.input] == ["images"]
    picture = np.zeros((1, 3, 64, 64), np.float32)
    size_64 = np.array([[64, 64]], np.int64)
    theirs = open_model(model.SerializeToString()).run({"images": picture, "orig_target_sizes": size_64})
    ours = open_model(bound.SerializeToString()).run({"images": picture})
    meta = LetterboxMeta(1, 1, 0, 0, 64, 64, 64, 64)
    found = make_decoder(task)(ours, meta)
    sure = theirs["scores"][0] >= task.decode.score
    assert len(found) == sure.sum() > 5
    np.testing.assert_allclose(found.xyxy, theirs["boxes"][0][sure], atol=1e-3)


def test_a_build_without_a_task_says_what_it_guessed(tmp_path: Path) -> None:
    path = tmp_path / "site.onnx"
    path.write_bytes(head(metadata=ultralytics(), output0=(1, 7, 777)).SerializeToString())
    monitor = BuildMonitor(Budget(60.0), None)
    ingested = ingest_model(path, None, monitor, shapes={}, calibration=None)
    assert ingested.task.labels == ("person", "helmet", "vest")
    assert any(note.startswith("--task yolov8 was guessed: Ultralytics YOLO11n") for note in monitor.notes)


def test_other_models_keep_their_inputs() -> None:
    model = head(output0=(1, 84, N))
    assert bind_size(model, load_task("yolov8")) == (model, load_task("yolov8"), False)


@pytest.mark.parametrize(
    ("file", "task"),
    [("fastestdet-352", "fastestdet"), ("yolox-nano-416", "yolox"), ("silero-vad-16k", "silero-vad")],
)
def test_the_real_models_are_known(shared: Path, file: str, task: str) -> None:
    assert guess_task(read_model(shared / f"models/{file}.onnx"), {})[0].name == task


def test_the_real_lane_model_is_nobody_s(shared: Path) -> None:
    with pytest.raises(UsageError, match="no family of models has the outputs da 1x2x360x640"):
        guess_task(read_model(shared / "models/twinlitenet-360x640.onnx"), {})
