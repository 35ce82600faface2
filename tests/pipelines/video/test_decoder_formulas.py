"""Each decoder beside its formula as the paper or the authors' documentation writes it: one box at a time, no
vector in sight, suppression by the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.preprocess import LetterboxMeta

WIDTH, HEIGHT, CLASSES = 64, 32, 3
META = LetterboxMeta(1.0, 1.0, 0, 0, WIDTH, HEIGHT, WIDTH, HEIGHT)
SCORE, IOU = 0.3, 0.45

Outputs = dict[str, NDArray[np.float32]]
Row = tuple[tuple[float, float, float, float], float, int]
"""Box xyxy in pixels, score, class."""


def task(kind: str, **decode: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": WIDTH, "height": HEIGHT},
            "decode": {"kind": kind, "score": SCORE, "iou": IOU, **decode},
            "labels": [f"c{i}" for i in range(CLASSES)],
        }
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(values: NDArray[np.float32]) -> list[float]:
    e = [math.exp(float(v) - float(values.max())) for v in values]
    return [v / sum(e) for v in e]


def around(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def clipped(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return min(max(x1, 0), WIDTH), min(max(y1, 0), HEIGHT), min(max(x2, 0), WIDTH), min(max(y2, 0), HEIGHT)


def iou(a: Row, b: Row) -> float:
    w = min(a[0][2], b[0][2]) - max(a[0][0], b[0][0])
    h = min(a[0][3], b[0][3]) - max(a[0][1], b[0][1])
    shared = max(w, 0) * max(h, 0)
    area = [(r[0][2] - r[0][0]) * (r[0][3] - r[0][1]) for r in (a, b)]
    return shared / max(sum(area) - shared, 1e-12)


def suppressed(rows: list[Row], by: str) -> list[Row]:
    kept: list[Row] = []
    for row in sorted(rows, key=lambda r: -r[1]):
        if all(iou(row, k) <= IOU or (by == "class" and row[2] != k[2]) for k in kept):
            kept.append(row)
    return kept


def boxes(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """cx, cy, w, h in pixels, (N, 4); some reach out of the picture."""
    low, high = (0, 0, 4, 4), (WIDTH, HEIGHT, 30, 20)
    return rng.uniform(low, high, (n, 4)).astype(np.float32)


def chances(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.uniform(0, 1, shape).astype(np.float32)


def of_yolov5(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    out = np.concatenate([boxes(rng, 40), chances(rng, 40, 1 + CLASSES)], axis=1)
    rows = [(around(*r[:4]), float(r[4] * max(r[5:])), int(np.argmax(r[5:]))) for r in out]
    return {"o": out[None]}, rows


def of_yolov8(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    out = np.concatenate([boxes(rng, 40), chances(rng, 40, CLASSES)], axis=1)
    rows = [(around(*r[:4]), float(max(r[4:])), int(np.argmax(r[4:]))) for r in out]
    return {"o": out.T[None]}, rows


def of_yolov8_turned(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    outputs, rows = of_yolov8(rng)
    return {"o": outputs["o"].transpose(0, 2, 1)}, rows


def of_end2end(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    xyxy = np.array([around(*b) for b in boxes(rng, 20)], np.float32)
    score, cls = chances(rng, 20, 1), rng.integers(0, CLASSES, (20, 1)).astype(np.float32)
    out = np.concatenate([xyxy, score, cls], axis=1)
    return {"o": out[None]}, [(tuple(map(float, r[:4])), float(r[4]), int(r[5])) for r in out]


def of_yolov8_segment(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    """Coefficients above any score beside the classes, and prototypes beside the boxes."""
    outputs, rows = of_yolov8(rng)
    out = np.concatenate([outputs["o"], np.full((1, 32, 40), 2, np.float32)], axis=1)
    return {"o": out, "protos": np.ones((1, 32, 8, 8), np.float32)}, rows


def of_end2end_pose(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    outputs, rows = of_end2end(rng)
    return {"o": np.concatenate([outputs["o"], chances(rng, 1, 20, 51)], axis=2)}, rows


def of_yolov8_pose(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    """Numbers above any score behind the classes."""
    outputs, rows = of_yolov8(rng)
    return {"o": np.concatenate([outputs["o"], 2 * chances(rng, 1, 51, 40)], axis=1)}, rows


def cells(strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [
        (x, y, s) for s in strides for y in range(math.ceil(HEIGHT / s)) for x in range(math.ceil(WIDTH / s))
    ]


def of_yolox(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    grid = cells((8, 16, 32))
    out = np.concatenate(
        [rng.normal(0, 0.6, (len(grid), 4)), chances(rng, len(grid), 1 + CLASSES)], axis=1
    ).astype(np.float32)
    rows = [
        (
            around((r[0] + x) * s, (r[1] + y) * s, math.exp(r[2]) * s, math.exp(r[3]) * s),
            float(r[4] * max(r[5:])),
            int(np.argmax(r[5:])),
        )
        for r, (x, y, s) in zip(out, grid, strict=True)
    ]
    return {"o": out[None]}, rows


def of_nanodet(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    grid, rows = cells((8, 16, 32, 64)), []
    out = np.concatenate(
        [chances(rng, len(grid), CLASSES) ** 2, rng.normal(0, 2, (len(grid), 32))], axis=1
    ).astype(np.float32)
    for r, (x, y, s) in zip(out, grid, strict=True):
        left, top, right, bottom = (
            s * sum(k * p for k, p in enumerate(softmax(side))) for side in r[CLASSES:].reshape(4, 8)
        )
        box = clipped((x * s - left, y * s - top, x * s + right, y * s + bottom))
        rows += [(box, float(r[c]), c) for c in range(CLASSES)]
    return {"o": out[None]}, rows


def of_fastestdet(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    out = rng.normal(0, 1, (1, 5 + CLASSES, 4, 8)).astype(np.float32)
    out[0, 0], out[0, 5:] = chances(rng, 4, 8), chances(rng, CLASSES, 4, 8)
    rows = []
    for y in range(4):
        for x in range(8):
            obj, dx, dy, w, h, *classes = (float(v) for v in out[0, :, y, x])
            cx, cy = (x + math.tanh(dx)) / 8 * WIDTH, (y + math.tanh(dy)) / 4 * HEIGHT
            box = around(cx, cy, sigmoid(w) * WIDTH, sigmoid(h) * HEIGHT)
            rows.append((box, obj**0.6 * max(classes) ** 0.4, int(np.argmax(classes))))
    return {"o": out}, rows


def of_detr(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    at, logits = boxes(rng, 20), rng.normal(-1, 1.5, (20, CLASSES)).astype(np.float32)
    relative = at / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    rows = [
        (around(*b), sigmoid(float(q[c])), c) for b, q in zip(at, logits, strict=True) for c in range(CLASSES)
    ]
    return {"logits": logits[None], "pred_boxes": relative[None]}, rows


def of_softmax_detr(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    at, logits = boxes(rng, 20), rng.normal(0, 2, (20, CLASSES + 1)).astype(np.float32)
    relative = at / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    rows = []
    for b, q in zip(at, logits, strict=True):
        p = softmax(q)[:-1]
        rows.append((around(*b), max(p), int(np.argmax(p))))
    return {"logits": logits[None], "pred_boxes": relative[None]}, rows


SSD = {
    "grids": [4, 2],
    "scales": [0.2, 0.5, 0.9],
    "aspect_ratios": [[2], [2, 3]],
    "steps": [],
}


def of_ssd(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    default = []
    for k, n in enumerate((4, 2)):
        s, further, ratios = SSD["scales"][k], SSD["scales"][k + 1], SSD["aspect_ratios"][k]
        shapes = [(s, s), (math.sqrt(s * further),) * 2]
        for a in ratios:
            shapes += [(s * math.sqrt(a), s / math.sqrt(a)), (s / math.sqrt(a), s * math.sqrt(a))]
        for y in range(n):
            for x in range(n):
                default += [((x + 0.5) / n, (y + 0.5) / n, w, h) for w, h in shapes]
    by = rng.normal(0, 1, (len(default), 4)).astype(np.float32)
    logits = rng.normal(0, 2, (len(default), CLASSES + 1)).astype(np.float32)
    rows = []
    for (cx, cy, w, h), d, q in zip(default, by, logits, strict=True):
        at = around(
            (cx + d[0] * 0.1 * w) * WIDTH,
            (cy + d[1] * 0.1 * h) * HEIGHT,
            w * math.exp(d[2] * 0.2) * WIDTH,
            h * math.exp(d[3] * 0.2) * HEIGHT,
        )
        rows += [(clipped(at), softmax(q)[1 + c], c) for c in range(CLASSES)]
    return {"offsets": by[None], "logits": logits[None]}, rows


def of_boxes_labels(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    outputs, rows = of_end2end(rng)
    out = outputs["o"]
    yxyx = out[..., [1, 0, 3, 2]] / np.array([HEIGHT, WIDTH] * 2, np.float32)
    count = np.array([20], np.float32)
    return {"n": count, "detection_boxes": yxyx, "s": out[..., 4], "c": out[..., 5] + 1}, rows


def of_boxes_scores(rng: np.random.Generator) -> tuple[Outputs, list[Row]]:
    at, logits = boxes(rng, 40), rng.normal(0, 2, (40, CLASSES + 1)).astype(np.float32)
    rows = []
    for b, q in zip(at, logits, strict=True):
        p = softmax(q)[1:]
        rows.append((around(*b), max(p), int(np.argmax(p))))
    return {"s": logits[None], "b": at[None]}, rows


CASES: dict[str, tuple[str, dict[str, Any], str, Callable[..., tuple[Outputs, list[Row]]]]] = {
    "yolov5": ("yolov5", {}, "class", of_yolov5),
    "yolov5 agnostic": ("yolov5", {"nms": "agnostic"}, "agnostic", of_yolov5),
    "yolov8": ("yolov8", {}, "class", of_yolov8),
    "yolov8 agnostic": ("yolov8", {"nms": "agnostic"}, "agnostic", of_yolov8),
    "yolov8 without nms": ("yolov8", {"nms": "none"}, "none", of_yolov8),
    "yolov8 turned": ("yolov8", {}, "class", of_yolov8_turned),
    "yolov8 of a segmentation model": ("yolov8", {"extra": 32}, "class", of_yolov8_segment),
    "end2end of a pose model": ("end2end", {"extra": 51}, "none", of_end2end_pose),
    "yolov8-pose": ("yolov8-pose", {}, "class", of_yolov8_pose),
    "end2end-pose": ("end2end-pose", {}, "none", of_end2end_pose),
    "end2end": ("end2end", {}, "none", of_end2end),
    "end2end suppressed all the same": ("end2end", {"nms": "class"}, "class", of_end2end),
    "yolox": ("yolox", {}, "class", of_yolox),
    "nanodet": ("nanodet", {}, "class", of_nanodet),
    "fastestdet": ("fastestdet", {}, "class", of_fastestdet),
    "detr": ("detr", {}, "none", of_detr),
    "detr with softmax": ("detr", {"activation": "softmax"}, "none", of_softmax_detr),
    "ssd": ("ssd", SSD, "class", of_ssd),
    "boxes-labels": (
        "boxes-labels",
        {
            "boxes": "detection_boxes",
            "scores": "s",
            "classes": "c",
            "first_class": 1,
            "box_format": "yxyx",
            "box_unit": "relative",
        },
        "none",
        of_boxes_labels,
    ),
    "boxes-scores": (
        "boxes-scores",
        {"boxes": "b", "box_format": "cxcywh", "activation": "softmax", "background": "first"},
        "class",
        of_boxes_scores,
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_decoder_says_what_its_formula_says(name: str, seed: int) -> None:
    kind, decode, by, make = CASES[name]
    outputs, rows = make(np.random.default_rng(seed))
    # a row that stands on a threshold may fall on either side
    sure = [r for r in rows if abs(r[1] - SCORE) > 1e-5]
    if len(sure) < len(rows) or near_the_limit(rows):
        return
    wanted = [r for r in suppressed_or_all([r for r in rows if r[1] >= SCORE], by) if has_size(r)]
    found = make_decoder(task(kind, **decode))(outputs, META)
    assert len(found) == len(wanted)
    assert (np.diff(found.score) <= 0).all()
    for box, score, cls in wanted:
        match = (found.cls == cls) & (np.abs(found.score - score) < 1e-5)
        match &= (np.abs(found.xyxy - clipped(box)) < 1e-3).all(axis=1)
        assert match.any(), (box, score, cls)


def suppressed_or_all(rows: list[Row], by: str) -> list[Row]:
    return rows if by == "none" else suppressed(rows, by)


def near_the_limit(rows: list[Row]) -> bool:
    over = [r for r in rows if r[1] >= SCORE]
    return any(abs(iou(a, b) - IOU) < 1e-5 for i, a in enumerate(over) for b in over[:i])


def has_size(row: Row) -> bool:
    x1, y1, x2, y2 = clipped(row[0])
    return x2 > x1 and y2 > y1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_numbers_are_refused_by_every_decoder(name: str, bad: float) -> None:
    kind, decode, _, make = CASES[name]
    outputs, _ = make(np.random.default_rng(0))
    broken = {key: np.full_like(value, bad) for key, value in outputs.items()}
    with pytest.raises(EngineError, match="not finite"):
        make_decoder(task(kind, **decode))(broken, META)


@pytest.mark.parametrize("name", CASES)
def test_another_number_of_classes_is_refused_by_every_decoder(name: str) -> None:
    kind, decode, _, make = CASES[name]
    outputs, _ = make(np.random.default_rng(0))
    spec = task(kind, **decode).model_copy(update={"labels": ("one",)})
    with pytest.raises((ModelError, EngineError), match=r"should have shape|has 1 labels"):
        make_decoder(spec)(outputs, META)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_scene_has_no_detection_in_any_format(name: str) -> None:
    kind, decode, _, make = CASES[name]
    outputs, _ = make(np.random.default_rng(0))
    found = make_decoder(task(kind, **{**decode, "score": 1.0}))(outputs, META)
    assert len(found) == len(Detections.none())


def test_the_boxes_of_yolox_may_come_decoded() -> None:
    outputs, _ = of_yolov5(np.random.default_rng(3))
    n = len(cells((8, 16, 32)))
    out = np.zeros((1, n, 5 + CLASSES), np.float32)
    out[0, :30] = outputs["o"][0, :30]
    found = make_decoder(task("yolox", decoded=True))({"o": out}, META)
    same = make_decoder(task("yolov5"))({"o": out}, META)
    np.testing.assert_array_equal(found.xyxy, same.xyxy)
    assert len(found) > 3


def test_scores_of_four_classes_are_not_taken_for_boxes() -> None:
    outputs, _ = of_boxes_scores(np.random.default_rng(0))
    decode = {"box_format": "cxcywh", "activation": "softmax", "background": "first"}
    with pytest.raises(ModelError, match="not both among s, b") as caught:
        make_decoder(task("boxes-scores", **decode))(outputs, META)
    assert "decode.boxes" in str(caught.value.hint)


def test_options_that_do_not_fit_each_other_are_one_sentence() -> None:
    with pytest.raises(ModelError, match="scales one more"):
        make_decoder(task("ssd", **{**SSD, "scales": [0.2, 0.5]}))
