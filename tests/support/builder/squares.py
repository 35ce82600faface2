"""A detector that is exact by construction, and labelled pictures for it: squares of 8 × 8 pixels, red or blue, each in
a cell of a grid, on black."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec

__all__ = ["CELL", "SIDE", "TASK", "squares", "squares_net", "write_coco", "write_pictures", "write_yolo"]

SIDE, CELL = 64, 8
GRID = SIDE // CELL
TASK = TaskSpec(
    name="squares",
    input=ImageInput(width=SIDE, height=SIDE, color="rgb"),
    decode=DecodeSpec(kind="boxes-scores", score=0.3, boxes="boxes", scores="scores"),
    labels=("red", "blue"),
    metric="detection",
)
Square = tuple[int, int, int]
"""Column and row of the cell, class."""


def squares_net(*, red: float = 1.0, blue: float = 1.0, moved: float = 0.0) -> ModelProto:
    """image [1, 3, 64, 64] → the mean of red and blue in each cell as ``scores`` [1, 64, 2], times ``red`` and
    ``blue``; ``boxes`` [1, 64, 4] are the cells, ``moved`` to the right (pixels)."""
    weight = np.zeros((2, 3, CELL, CELL), np.float32)
    weight[0, 0], weight[1, 2] = red / CELL**2, blue / CELL**2
    column, row = np.meshgrid(np.arange(GRID), np.arange(GRID))
    corner = np.stack([column.ravel(), row.ravel()], axis=1) * CELL
    boxes = np.concatenate([corner, corner + CELL], axis=1).astype(np.float32)
    boxes[:, 0::2] += moved
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="cells", strides=[CELL, CELL]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Reshape", ["r", "flat"], ["f"], name="flatten"),
        helper.make_node("Transpose", ["f"], ["scores"], name="turn", perm=[0, 2, 1]),
        # the boxes depend on the picture, as those of a detector do
        helper.make_node("ReduceMean", ["scores"], ["m"], name="mean", keepdims=0),
        helper.make_node("Mul", ["m", "nought"], ["n"], name="none"),
        helper.make_node("Add", ["cellboxes", "n"], ["boxes"], name="boxes_of"),
    ]
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(boxes[None], "cellboxes"),
        numpy_helper.from_array(np.zeros((), np.float32), "nought"),
        numpy_helper.from_array(np.asarray([1, 2, GRID * GRID], np.int64), "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, GRID * GRID, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, GRID * GRID, 2]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def squares(count: int, *, seed: int = 0) -> list[list[Square]]:
    """Two to five in each picture, in cells of their own, of both classes in turn."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        cells = rng.choice(GRID * GRID, rng.integers(2, 6), replace=False).tolist()
        found.append([(c % GRID, c // GRID, i % 2) for i, c in enumerate(cells)])
    return found


def write_pictures(folder: Path, pictures: list[list[Square]], *, seed: int = 0) -> None:
    """``000.png`` …: brightness differs from square to square."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, found in enumerate(pictures):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        for column, row, cls in found:
            channel = 2 if cls == 0 else 0  # BGR
            image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, channel] = rng.integers(
                140, 256
            )
        assert cv2.imwrite(str(folder / f"{i:03d}.png"), image)


def write_coco(
    folder: Path, pictures: list[list[Square]], *, names: tuple[str, ...] = ("Red", "Blue")
) -> Path:
    """``annotations.json`` and ``images/``; the file."""
    write_pictures(folder / "images", pictures)
    images = [
        {"id": i, "file_name": f"{i:03d}.png", "width": SIDE, "height": SIDE} for i in range(len(pictures))
    ]
    annotations = [
        {"image_id": i, "category_id": 7 + cls, "bbox": [x * CELL, y * CELL, CELL, CELL], "iscrowd": 0}
        for i, found in enumerate(pictures)
        for x, y, cls in found
    ]
    for n, a in enumerate(annotations):
        a["id"] = n
        a["area"] = CELL * CELL
    categories = [{"id": 7 + i, "name": name} for i, name in enumerate(names)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write_yolo(
    folder: Path, pictures: list[list[Square]], *, yaml: str | None = "names: [red, blue]\n"
) -> Path:
    """``images/val``, ``labels/val`` and ``data.yaml``; the folder."""
    write_pictures(folder / "images" / "val", pictures)
    labels = folder / "labels" / "val"
    labels.mkdir(parents=True)
    for i, found in enumerate(pictures):
        rows = [f"{cls} {(x + 0.5) / GRID} {(y + 0.5) / GRID} {1 / GRID} {1 / GRID}" for x, y, cls in found]
        (labels / f"{i:03d}.txt").write_text("\n".join(rows) + "\n")
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return folder
