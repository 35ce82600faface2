"""Float and variants judged by labels: figures, drop, interval, and what is said when nothing fits."""

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import ModelProto
from support.builder.squares import SIDE, TASK, squares, squares_net, write_coco

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.labelled_samples import LabelledSamples
from edgectl.builder.ingest.samples import Slices
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.judges import Judges
from edgectl.builder.judge.labelled import FloatByLabels, LabelledJudge
from edgectl.builder.judge.labelled_scores import scorer_for
from edgectl.builder.judge.significance import (
    BudgetVerdict,
    broken_budget,
    budget_verdict,
    labels_needed,
    labels_tell,
)
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.truth.labelled import LabelledItem, LabelledSet, TrueObjects
from edgectl.builder.truth.layouts import read_labels
from edgectl.builder.truth.shapes import read_polygons
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import DataError, UsageError
from edgectl.core.task import AudioInput, DecodeSpec, FeatureSpec, ImageInput, TaskSpec, TensorInput
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model
from edgectl.pipelines.video.decode.base import Detections
from edgectl.pipelines.video.masks import InstanceMasks, MaskGrid
from edgectl.pipelines.video.preprocess import LetterboxMeta

NOTHING = Slices([], [], [], "sha256:" + "0" * 64)
INPUTS = (TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32"),)


@contextmanager
def opened(model: ModelProto) -> Iterator[Engine]:
    engine = open_model(model.SerializeToString(), SessionSettings())
    try:
        yield engine
    finally:
        engine.close()


def labelled(folder: Path, count: int = 24, task: TaskSpec = TASK) -> LabelledSamples:
    found = read_labels(str(write_coco(folder, squares(count))), task)
    assert found is not None
    return LabelledSamples(found, task, INPUTS)


def truth(samples: LabelledSamples, **more: object) -> FloatByLabels:
    with opened(squares_net()) as engine:
        return FloatByLabels(TASK, samples, engine, **more)  # type: ignore[arg-type]


def judged(of: FloatByLabels, model: ModelProto, limit: float | None = None) -> Accuracy:
    with opened(model) as engine:
        return LabelledJudge(of).judge(engine, limit=limit)


def test_a_variant_loses_what_it_does_not_find(tmp_path: Path) -> None:
    of = truth(labelled(tmp_path))
    assert of.about.values == {"ap50": 1.0, "ap": 1.0}
    assert (of.about.pictures, of.about.objects) == (24, sum(map(len, squares(24))))
    same = judged(of, squares_net())
    assert (same.drop, same.samples, same.labelled) == (0.0, 24, True)
    # nothing was lost on 24 pictures, which does not say that nothing can be
    assert (same.low, same.high) == (0.0, pytest.approx(3 / 24))
    # one of the two classes is gone
    blind = judged(of, squares_net(blue=0.0))
    assert blind.values == {"ap50": 0.5, "ap": 0.5, "float_ap50": 1.0, "float_ap": 1.0}
    assert (blind.drop, blind.low > 0.3, blind.high >= 0.5) == (0.5, True, True)
    # boxes that are off by 1.5 of 8 pixels, IoU 0.68: lost above that, and the larger loss counts
    off = judged(of, squares_net(moved=1.5))
    assert off.values["ap50"] == 1.0
    assert 0.55 < off.drop <= 0.6  # at the right edge a box is cut, and fits better


def test_a_hopeless_variant_is_given_up_early(tmp_path: Path) -> None:
    of = truth(labelled(tmp_path, 200))
    lost = judged(of, squares_net(blue=0.0), limit=0.01)
    assert lost.samples == 50
    assert lost.low > 0.01


def test_calibration_pictures_do_not_judge(tmp_path: Path) -> None:
    samples = labelled(tmp_path)
    seen = [samples[i].sample for i in (0, 5, 7)]
    of = truth(samples, seen=seen)
    assert of.seen_before == 3
    assert of.about.pictures == 21
    assert of.about.given == 24
    with pytest.raises(
        DataError, match="20 of the 24 labelled pictures are calibration data, too: 4 are left"
    ):
        truth(samples, seen=[samples[i].sample for i in range(20)])


def test_time_bounds_how_many_pictures_judge(tmp_path: Path) -> None:
    of = truth(labelled(tmp_path, 80), enough=lambda left: True)
    assert of.about.pictures == 64


def wrong(folder: Path, net: ModelProto, task: TaskSpec) -> str:
    """What a build says of a float model that knows nothing of its labels."""
    samples = labelled(folder, 16, task)
    judges = Judges(task, NOTHING, net, BuildMonitor(Budget()), labelled=samples)
    with pytest.raises(DataError) as e:
        _ = judges.labels
    return f"{e.value.message}; {e.value.hint}"


def test_a_float_model_that_knows_nothing_is_told_why(tmp_path: Path) -> None:
    bgr = TASK.model_copy(update={"input": TASK.input.model_copy(update={"color": "bgr"})})
    said = wrong(tmp_path / "a", squares_net(), bgr)
    assert "only ap50 0.000" in said
    assert "; with the colours in the order rgb it is better" in said
    said = wrong(tmp_path / "b", squares_net(red=1 / 2550, blue=1 / 2550), TASK)
    assert "pixels as 0..255 it is better" in said
    said = wrong(tmp_path / "c", squares_net(red=0.0, blue=0.0), TASK)
    assert "check the order of colours" in said
    assert "16 labelled pictures" in said


def test_labels_that_are_one_too_many_are_told(tmp_path: Path) -> None:
    found = read_labels(str(write_coco(tmp_path, squares(16))), TASK)
    assert found is not None
    # red squares alone, which the model calls class 0 and the labels class 1
    items = []
    for item in found.items:
        t = item.truth
        assert isinstance(t, TrueObjects)
        red = t.cls == 0
        moved = TrueObjects(t.boxes[red], t.cls[red] + 1, t.crowd[red], t.areas[red])
        items.append(LabelledItem(item.path, moved, item.size))
    samples = LabelledSamples(LabelledSet("COCO JSON", "boxes", tuple(items), (1,)), TASK, INPUTS)
    judges = Judges(TASK, NOTHING, squares_net(blue=0.0), BuildMonitor(Budget()), labelled=samples)
    with pytest.raises(DataError, match="moved by -1 it is better: the task's labels are one too many"):
        _ = judges.labels


def test_a_picture_that_is_not_as_large_as_its_labels_say(tmp_path: Path) -> None:
    samples = labelled(tmp_path)
    path = samples.labelled.items[0].path
    assert cv2.imwrite(str(path), np.zeros((SIDE // 2, SIDE, 3), np.uint8))
    with pytest.raises(DataError, match=r"000\.png has 64x32 pixels, the labels say 64x64"):
        list(samples)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000\.png cannot be decoded"):
        list(samples)


def test_too_few_labels_and_models_that_take_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 7 pictures or recordings; at least 8"):
        labelled(tmp_path / "few", 7)
    found = read_labels(str(write_coco(tmp_path / "set", squares(9))), TASK)
    assert found is not None
    two = (*INPUTS, TensorSpec(name="state", shape=(1, 4), dtype="float32"))
    with pytest.raises(UsageError, match="input state is fed by neither"):
        LabelledSamples(found, TASK, two)


CLASSES = TaskSpec(
    name="c",
    input=ImageInput(width=SIDE, height=SIDE),
    decode=DecodeSpec(kind="classify"),
    labels=tuple("abcdefg"),
    metric="top1",
)


def test_top1_and_top5() -> None:
    scorer = scorer_for("class", CLASSES, ())
    scores = np.asarray([[0.1, 0.9, 0.5, 0.4, 0.3, 0.2, 0.0]], np.float32)
    rows = [scorer.row({"y": scores}, None, truth) for truth in (1, 5, 6)]
    assert scorer.names == ("top1", "top5")
    assert scorer.measured(rows)(np.ones(3)).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert scorer.measured(rows)(np.asarray([2.0, 0, 0])).tolist() == [1, 1]
    rows = [scorer.row({"y": scores}, None, truth) for truth in (2, 3, 4)]
    assert scorer.measured(rows)(np.ones(3)).tolist() == [0, 1]
    assert scorer_for("class", CLASSES.model_copy(update={"labels": tuple("abc")}), ()).names == ("top1",)
    with pytest.raises(DataError, match="puts out 8 scores, and its task has 7 labels"):
        scorer.row({"y": np.zeros((1, 8), np.float32)}, None, 0)


def test_of_a_task_without_labels_the_scores_say_how_many_classes_there_are() -> None:
    scorer = scorer_for("class", CLASSES.model_copy(update={"labels": ()}), ())
    rows = [scorer.row({"y": np.eye(1000, dtype=np.float32)[:1]}, None, truth) for truth in (0, 0, 1, 1, 1)]
    figures = scorer.measured(rows)(np.ones(5))
    assert figures[0] == pytest.approx(0.4)
    assert not scorer.is_nothing(figures), "four tenths of a thousand classes is much"
    assert scorer_for("class", CLASSES.model_copy(update={"labels": ("a", "b")}), ()).is_nothing(figures)


def test_word_and_character_error() -> None:
    task = TaskSpec(name="p", input=TensorInput(), decode=DecodeSpec(kind="ctc"), labels=tuple("AB "))
    scorer = scorer_for("text", task, ())

    def read(text: str) -> np.ndarray:
        steps = [0 if c == "-" else 1 + "AB ".index(c) for c in text]
        return np.eye(4, dtype=np.float32)[steps][None] * 9

    rows = [scorer.row({"y": read(t)}, None, w) for t, w in (("AB -A", "AB A"), ("A-A", "AB"), ("B", "B"))]
    # one of four words, one of seven characters
    assert scorer.measured(rows)(np.ones(3)).tolist() == pytest.approx([1 / 4, 1 / 7])
    assert (scorer.sign, scorer.decides) == (-1, 1)


def test_keypoints_are_judged_by_oks() -> None:
    pose = TaskSpec(
        name="pose",
        input=ImageInput(width=64, height=64),
        decode=DecodeSpec(kind="yolov8-pose", score=0.3),
        labels=("person",),
        metric="detection",
    )
    scorer = scorer_for("keypoints", pose, (0,))
    rng = np.random.default_rng(0)
    points = np.concatenate([20 + 20 * rng.random((17, 2)), np.full((17, 1), 2.0)], axis=1)
    wanted = TrueObjects(
        np.asarray([[16.0, 16, 48, 48]]),
        np.zeros(1, np.int32),
        np.zeros(1, bool),
        np.asarray([600.0]),
        points[None],
    )
    meta = LetterboxMeta(1, 1, 0, 0, 64, 64, 64, 64)

    def found(off: float) -> dict[str, np.ndarray]:
        row = np.zeros((56, 84), np.float32)
        row[:5, 0] = [32, 32, 32, 32, 0.9]
        row[5:, 0] = np.concatenate([points[:, :2] + [off, 0], np.ones((17, 1))], axis=1).ravel()
        return {"y": row[None]}

    figures = [scorer.measured([scorer.row(found(off), meta, wanted)])(np.ones(1)) for off in (0.0, 30.0)]
    assert scorer.names == ("oks_ap50", "oks_ap")
    assert np.asarray(figures) == pytest.approx(np.asarray([[1.0, 1.0], [0.0, 0.0]]))
    # COCO: exp(-d² / (2 s² k²)), the mean over the points
    sigmas = np.asarray([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    oks = float(np.exp(-9.0 / (2 * 600.0 * (2 * sigmas) ** 2)).mean())
    near = scorer.measured([scorer.row(found(3.0), meta, wanted)])(np.ones(1))
    assert near[1] == pytest.approx(np.mean(oks >= np.linspace(0.5, 0.95, 10)))
    assert 0 < near[1] < 1


def test_masks_are_judged_by_their_own_iou(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASK.model_copy(update={"decode": DecodeSpec(kind="yolov8-seg", score=0.3)})
    scorer = scorer_for("masks", task, (0,))
    square = np.asarray([[16.0, 16, 48, 48]], np.float32)
    # an 8 × 8 map of cells of 4 pixels: the whole square
    whole = InstanceMasks(
        (np.full((8, 8), 5, np.float16),), np.asarray([[4, 4]]), square, (MaskGrid(0, 0, 4, 4),)
    )
    found = Detections(square, np.asarray([0.9], np.float32), np.zeros(1, np.int32), masks=whole)
    monkeypatch.setattr(scorer, "_decode", lambda outputs, meta: found)
    meta = LetterboxMeta(1, 1, 0, 0, 64, 64, 64, 64)

    def ap(*corners: float) -> float:
        shape = read_polygons([list(corners)])
        wanted = TrueObjects(
            square.astype(np.float64),
            np.zeros(1, np.int32),
            np.zeros(1, bool),
            np.asarray([1024.0]),
            shapes=(shape,),
        )
        return float(scorer.measured([scorer.row({}, meta, wanted)])(np.ones(1))[1])

    assert scorer.names == ("mask_ap50", "mask_ap")
    assert ap(16, 16, 48, 16, 48, 48, 16, 48) == pytest.approx(1.0)
    # the same box, and 24 of 32 columns: IoU 0.75, six of ten thresholds
    assert ap(16, 16, 40, 16, 40, 48, 16, 48) == pytest.approx(0.6)
    assert ap(16, 16, 30, 16, 30, 48, 16, 48) == 0.0


def by_labels(drop: float, low: float, high: float, n: int = 84) -> Accuracy:
    return Accuracy(drop, {}, low, high, n, objects=200, labelled=True)


def test_labels_decide_where_they_can_and_float_where_they_cannot() -> None:
    budget = 0.01
    near, far = Accuracy(0.004, {}), Accuracy(0.03, {})
    for searched in (near, far):
        # surely inside, surely outside, surely worse than float
        assert broken_budget(searched, by_labels(0.0, -0.004, 0.008, 900), budget) is None
        for out in (by_labels(0.05, 0.02, 0.08), by_labels(0.02, 0.004, 0.04)):
            assert broken_budget(searched, out, budget) == ("labels", out)
    for unknown in (by_labels(0.002, -0.01, 0.036), by_labels(0.02, -0.01, 0.05)):
        assert not labels_tell(unknown, budget)
        assert broken_budget(near, unknown, budget) is None
        broken = broken_budget(far, unknown, budget)
        assert broken is not None
        assert broken[1] is far
    assert budget_verdict(by_labels(0.02, -0.01, 0.05), budget) is BudgetVerdict.UNDECIDED


def test_how_many_labels_would_decide() -> None:
    # 84 pictures with an interval of ± 0.047: 22 times as many for ± 0.01
    assert labels_needed(by_labels(0.0, -0.047, 0.047), 0.01) == 1900
    # never fewer than tell a loss of one in a hundred at all
    assert labels_needed(by_labels(0.0, 0.0, 0.012, 250), 0.01) == 300


def test_of_a_recording_the_middle_is_heard(tmp_path: Path) -> None:
    spec = AudioInput(features=FeatureSpec(kind="waveform", window=1600, hop=1600))
    task = TaskSpec(
        name="k", input=spec, decode=DecodeSpec(kind="keyword"), labels=("yes", "no"), metric="top1"
    )
    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
        for n in range(4):
            # long: a tone between silences; short: a tone alone
            tone = np.full(1600 if n % 2 else 800, 8000, np.int16)
            around = np.zeros(4000 if n % 2 else 0, np.int16)
            with wave.open(str(tmp_path / name / f"{n}.wav"), "wb") as f:
                f.setparams((1, 2, 16000, 0, "NONE", ""))
                f.writeframes(np.concatenate([around, tone, around]).tobytes())
    found = read_labels(str(tmp_path), task)
    assert found is not None
    inputs = (
        TensorSpec(name="audio", shape=(1, 1600), dtype="float32"),
        TensorSpec(name="rate", shape=(), dtype="int64"),
    )
    samples = LabelledSamples(found, task, inputs)
    assert len(samples) == 8
    loud = sorted(int((np.abs(s.sample.feeds["audio"]) > 0.1).sum()) for s in samples)
    assert loud == [800] * 4 + [1600] * 4
    assert {int(s.sample.feeds["rate"]) for s in samples} == {16000}
    assert sorted(str(s.truth) for s in samples) == ["0"] * 4 + ["1"] * 4
