"""Decoders: boxes where the format says they are, shapes checked, broken numbers refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from support.pipelines import BoxEngine, OrtEngine, box_task, make_variant

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.sources import open_source
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.decode.boxes_scores import BoxesScores
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor

META = LetterboxMeta(1.0, 1.0, 0, 0, 64, 64, 64, 64)
HALF = LetterboxMeta(0.5, 0.5, 0, 8, 128, 96, 64, 64)


def task(kind: str, **decode: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": 64, "height": 64},
            "decode": {"kind": kind, **decode},
            "labels": ["a", "b", "c"],
        }
    )


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def fastestdet() -> NDArray[np.float32]:
    out = np.zeros((1, 8, 8, 8), np.float32)
    out[0, :, 2, 5] = [0.9, np.arctanh(0.5), np.arctanh(-0.25), logit(0.25), logit(0.5), 0.1, 0.8, 0.1]
    return out


def yolov8() -> NDArray[np.float32]:
    out = np.zeros((1, 7, 20), np.float32)
    out[0, :, 7] = [44, 14, 16, 32, 0.1, 0.86, 0]
    out[0, :, 8] = [44, 15, 16, 32, 0.1, 0.80, 0]  # the same object, less sure
    out[0, :, 9] = [44, 15, 16, 32, 0.7, 0.1, 0]  # another class in the same place
    return out


def yolox() -> NDArray[np.float32]:
    out = np.zeros((1, 84, 8), np.float32)  # 8x8 + 4x4 + 2x2 cells
    out[0, 2 * 8 + 5] = [0.5, -0.25, np.log(2), np.log(4), 0.9, 0.1, 0.95, 0.1]
    return out


def near(found: Detections, box: tuple[float, ...], score: float, cls: int) -> None:
    np.testing.assert_allclose(found.xyxy[0], box, atol=0.02)
    assert float(found.score[0]) == pytest.approx(score, abs=1e-3)
    assert int(found.cls[0]) == cls


def test_fastestdet_reads_tanh_offsets_and_mixed_scores() -> None:
    found = make_decoder(task("fastestdet"))({"o": fastestdet()}, META)
    assert len(found) == 1
    near(found, (36, -0.0, 52, 30), 0.9**0.6 * 0.8**0.4, 1)


def test_yolov8_suppresses_within_a_class_only() -> None:
    found = make_decoder(task("yolov8"))({"o": yolov8()}, META)
    assert found.cls.tolist() == [1, 0]
    near(found, (36, 0, 52, 30), 0.86, 1)


@pytest.mark.parametrize("far", np.linspace(40, 90, 26).tolist())
def test_what_sticks_out_of_the_picture_suppresses_no_other_class(far: float) -> None:
    """To tell classes apart boxes are moved; one that reaches out to the left must not land on another class."""
    out = np.zeros((1, 7, 20), np.float32)
    out[0, :, 7] = [32, 32, 64, 64, 0.8, 0, 0]
    out[0, :, 8] = [32 - far, 32 - far, 64, 64, 0, 0.9, 0]
    found = make_decoder(task("yolov8"))({"o": out}, META)
    assert 0 in found.cls


def test_yolox_multiplies_strides_and_scores() -> None:
    found = make_decoder(task("yolox"))({"o": yolox()}, META)
    near(found, (36, 0, 52, 30), 0.855, 1)


@pytest.mark.parametrize("fmt", ["xyxy", "cxcywh"])
@pytest.mark.parametrize("unit", ["pixel", "relative"])
def test_boxes_and_scores_in_every_convention(fmt: str, unit: str) -> None:
    box = np.array([36, 2, 52, 30], np.float32)
    if fmt == "cxcywh":
        box = np.array([44, 16, 16, 28], np.float32)
    boxes = np.zeros((1, 5, 4), np.float32)
    boxes[0, 3] = box / 64 if unit == "relative" else box
    scores = np.zeros((1, 5, 3), np.float32)
    scores[0, 3, 2] = 0.77
    found = make_decoder(task("boxes-scores", box_format=fmt, box_unit=unit))({"s": scores, "b": boxes}, META)
    near(found, (36, 2, 52, 30), 0.77, 2)


@pytest.mark.parametrize(("end", "column"), [("first", 0), ("last", 3)])
def test_a_background_class_is_never_a_detection_and_takes_no_place(end: str, column: int) -> None:
    """Softmax over background and three classes, far more boxes of nothing than may be detected, and two
    objects."""
    boxes = np.zeros((1, 500, 4), np.float32)
    boxes[0, :, :2] = np.random.default_rng(0).uniform(0, 50, (500, 2))
    boxes[0, :, 2:] = boxes[0, :, :2] + 8
    scores = np.full((1, 500, 4), 0.02, np.float32)
    scores[0, :, column] = 0.94
    classes = [c for c in range(4) if c != column]
    for box, label in ((17, 1), (401, 2)):
        scores[0, box] = 0.1
        scores[0, box, classes[label]] = 0.7
    found = make_decoder(task("boxes-scores", background=end, max_detections=10))(
        {"boxes": boxes, "scores": scores}, META
    )
    assert sorted(found.cls.tolist()) == [1, 2]
    assert found.score == pytest.approx([0.7, 0.7])
    with pytest.raises(ModelError, match="1x500x4, it has 1x500x3"):
        make_decoder(task("boxes-scores", background=end))({"boxes": boxes, "scores": scores[:, :, :3]}, META)


def test_boxes_come_back_into_the_frame() -> None:
    found = make_decoder(task("yolov8"))({"o": yolov8()}, HALF)
    near(found, (72, 0, 104, 44), 0.86, 1)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("fastestdet", (1, 9, 8, 8), "1x8x\\?x\\?, it has 1x9x8x8"),
        ("yolov8", (1, 8, 20), "1x7x\\?, it has 1x8x20"),
        ("yolox", (1, 80, 8), "1x84x8, it has 1x80x8"),
    ],
)
def test_a_wrong_shape_says_what_was_expected_and_what_came(
    kind: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        make_decoder(task(kind))({"o": np.zeros(shape, np.float32)}, META)


def test_named_outputs_that_are_not_there_are_named() -> None:
    decoder = make_decoder(task("boxes-scores", boxes="dets", scores="cls"))
    with pytest.raises(ModelError, match="'dets' and 'cls' are not both among b, s"):
        decoder({"b": np.zeros((1, 5, 4)), "s": np.zeros((1, 5, 3))}, META)


@pytest.mark.parametrize(
    ("kind", "good"), [("fastestdet", fastestdet()), ("yolov8", yolov8()), ("yolox", yolox())]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_numbers_are_an_error_and_not_an_empty_scene(
    kind: str, good: NDArray[np.float32], bad: float
) -> None:
    out = np.full_like(good, bad)
    with pytest.raises(EngineError, match="not finite"):
        make_decoder(task(kind))({"o": out}, META)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (1, 8, 4, 4), elements=st.floats(-8, 8, width=32)))
def test_any_finite_output_gives_boxes_inside_the_frame_best_first(raw: NDArray[np.float32]) -> None:
    raw[:, 0] = np.abs(raw[:, 0]) / 8
    raw[:, 5:] = np.abs(raw[:, 5:]) / 8
    found = make_decoder(task("fastestdet", max_detections=5))({"o": raw}, HALF)
    assert len(found) <= 5
    assert (np.diff(found.score) <= 1e-6).all()
    assert ((found.xyxy >= 0) & (found.xyxy <= [128, 96, 128, 96])).all()
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_suppression_leaves_no_overlap_within_a_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    out = np.zeros((1, 7, 60), np.float32)
    out[0, :2] = rng.uniform(16, 48, (2, 60))
    out[0, 2:4] = rng.uniform(8, 20, (2, 60))
    out[0, 4:] = rng.uniform(0, 1, (3, 60))
    found = make_decoder(task("yolov8", iou=0.4))({"o": out}, META)
    for i in range(len(found)):
        for j in range(i):
            if found.cls[i] == found.cls[j]:
                a, b = found.xyxy[i], found.xyxy[j]
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
                assert shared / union <= 0.4 + 1e-4


def test_a_flood_of_boxes_is_bounded() -> None:
    out = np.random.default_rng(0).uniform(0.5, 1, (1, 7, 50_000)).astype(np.float32)
    out[0, :4] = np.random.default_rng(1).uniform(1, 60, (4, 50_000))
    assert len(make_decoder(task("yolov8", max_detections=100))({"o": out}, META)) <= 100


def test_a_task_without_boxes_has_no_decoder() -> None:
    with pytest.raises(ModelError, match="task tensor is not for the part detector"):
        make_decoder(load_task("tensor"))


def test_the_real_fastestdet_finds_the_person(shared: Path) -> None:
    spec = load_task("fastestdet")
    engine = OrtEngine(shared / "models/fastestdet-352.onnx")
    preprocess, decode = Preprocessor(spec.input), make_decoder(spec)  # type: ignore[arg-type]
    source = open_source(str(shared / "media/one-by-one-person-detection.mp4"))
    source.open()
    frame = None
    for _ in range(151):
        frame = source.read(5)
    assert frame is not None
    tensor, meta = preprocess(frame)
    found = decode(engine.run({engine.inputs[0].name: tensor}), meta)
    source.close()
    assert spec.labels[int(found.cls[0])] == "person"
    assert found.score[0] > 0.8
    np.testing.assert_allclose(found.xyxy[0], [379, 7, 522, 377], atol=25)


def test_a_decoder_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another package's. What it fails with is an engine's failure, never an empty scene."""

    def fail(self: object, outputs: object, meta: object) -> None:
        raise ZeroDivisionError("no scores")

    monkeypatch.setattr(BoxesScores, "__call__", fail)
    slot = PartVariant(make_variant(tmp_path, box_task()))
    engine = BoxEngine(lambda _: [])
    pool = EnginePool()
    with pytest.raises(EngineError, match="the decoder 'boxes-scores' failed: ZeroDivisionError: no scores"):
        Detector(slot, pool.join(slot.variant, lambda _: engine))
    assert engine.closed.is_set()
