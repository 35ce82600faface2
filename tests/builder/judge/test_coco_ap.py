"""Average precision against COCO's own evaluation, and by hand where that is not installed."""

import contextlib
import io

import numpy as np
import pytest

from edgectl.builder.judge.coco_ap import THRESHOLDS, ApCurves, ClassMatch, box_similarity, match_class


def curves(pictures: list[dict[int, ClassMatch]], classes: list[int]) -> np.ndarray:
    return ApCurves(pictures, classes).average_precision(np.ones(len(pictures)))


def one(
    found: list[tuple[float, float, float, float, float]],
    wanted: list[tuple[float, float, float, float]],
    crowd: list[bool] | None = None,
) -> ClassMatch:
    """(x1, y1, x2, y2, score) against (x1, y1, x2, y2)."""
    d, g = np.asarray(found, float).reshape(-1, 5), np.asarray(wanted, float).reshape(-1, 4)
    many = np.asarray(crowd or [False] * len(g), bool)
    return match_class(box_similarity(d[:, :4], g, many), d[:, 4], many, many)


def test_average_precision_by_hand() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert curves([{0: one([(*box, 0.9)], [box])}], [0]) == pytest.approx(np.ones(10))
    # IoU 0.8: found at 0.5 … 0.8, not above
    shifted = (0.0, 0.0, 8.0, 10.0, 0.9)
    assert curves([{0: one([shifted], [box])}], [0]) == pytest.approx([1.0] * 7 + [0.0] * 3)
    # one of two found, before a false one: precision 1 up to recall 0.5, which is 51 of 101 places
    two = one([(*box, 0.9), (50, 50, 60, 60, 0.8)], [box, (20, 20, 30, 30)])
    assert curves([{0: two}], [0])[0] == pytest.approx(51 / 101)
    # the false one first: precision 1/2 all along
    late = one([(*box, 0.7), (50, 50, 60, 60, 0.8)], [box])
    assert curves([{0: late}], [0])[0] == pytest.approx(0.5)
    # classes count alike, and one without objects does not count
    assert curves([{0: one([(*box, 0.9)], [box]), 1: one([], [box]), 2: one([(*box, 0.9)], [])}], [0, 1, 2])[
        0
    ] == pytest.approx(0.5)
    assert np.isnan(curves([{0: one([], [])}], [0])).all()


def test_a_crowd_is_neither_found_nor_missed() -> None:
    crowd = (0.0, 0.0, 100.0, 100.0)
    inside = [(10.0 * i, 0.0, 10.0 * i + 9, 9.0, 0.9 - i / 10) for i in range(3)]
    match = one([*inside, (200, 200, 210, 210, 0.1)], [crowd], [True])
    assert match.objects == 0
    assert match.ignored[0].tolist() == [True, True, True, False]
    assert not match.hits.any()


def test_an_object_is_found_once() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert one([(*box, 0.9), (*box, 0.8)], [box]).hits[0].tolist() == [True, False]


def test_a_picture_of_weight_two_counts_as_two_pictures() -> None:
    rng = np.random.default_rng(3)
    pictures = [{0: one(*random_boxes(rng)[0])} for _ in range(6)]
    weights = np.asarray([2.0, 0, 1, 3, 1, 0])
    repeated = [p for p, w in zip(pictures, weights.astype(int), strict=True) for _ in range(w)]
    assert ApCurves(pictures, [0]).average_precision(weights) == pytest.approx(curves(repeated, [0]))


def random_boxes(rng: np.random.Generator) -> tuple[tuple[list, list, list], None]:
    wanted = []
    for _ in range(rng.integers(0, 8)):
        x, y = rng.random(2) * 80
        w, h = 5 + rng.random(2) * 40
        wanted.append((x, y, x + w, y + h))
    crowd = [bool(rng.random() < 0.2) for _ in wanted]
    found = []
    for box in wanted:
        for _ in range(rng.integers(0, 3)):
            moved = np.asarray(box) + rng.standard_normal(4) * 4
            if moved[2] > moved[0] and moved[3] > moved[1]:
                found.append((*moved.tolist(), float(rng.random())))
    for _ in range(rng.integers(0, 5)):
        x, y = rng.random(2) * 90
        found.append((x, y, x + 12, y + 9, float(rng.random())))
    return (found, wanted, crowd), None


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_cocos_own_evaluation_says(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluate = pytest.importorskip("pycocotools.cocoeval").COCOeval
    rng = np.random.default_rng(seed)
    pictures: list[dict[int, ClassMatch]] = []
    truth: list[dict] = []
    results: list[dict] = []
    for image in range(12):
        row = {}
        for c in range(3):
            (found, wanted, crowd), _ = random_boxes(rng)
            if seed == 1:  # more detections than count
                found += [(*(rng.random(2) * 90), 95.0, 95.0, float(rng.random())) for _ in range(150)]
            row[c] = one(found, wanted, crowd)
            for box, many in zip(wanted, crowd, strict=True):
                x1, y1, x2, y2 = box
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": image,
                        "category_id": c,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(many),
                    }
                )
            for x1, y1, x2, y2, score in found:
                results.append(
                    {
                        "image_id": image,
                        "category_id": c,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": score,
                    }
                )
        pictures.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        labels = coco.COCO()
        labels.dataset = {
            "images": [{"id": i} for i in range(12)],
            "annotations": truth,
            "categories": [{"id": c} for c in range(3)],
        }
        labels.createIndex()
        evaluation = evaluate(labels, labels.loadRes(results), "bbox")
        evaluation.params.useCats = 1
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = curves(pictures, [0, 1, 2])
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    theirs = [float(p[p > -1].mean()) for p in precision]
    assert len(THRESHOLDS) == len(theirs)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert float(ours.mean()) == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert float(ours[0]) == pytest.approx(evaluation.stats[1], abs=1e-6)
