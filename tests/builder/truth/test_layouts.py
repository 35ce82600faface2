"""Labels in each layout are read as what they are, and what is wrong with them is said in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.builder.squares import CELL, SIDE, TASK, squares, write_coco, write_pictures, write_yolo

from edgectl.builder.truth import coco_json
from edgectl.builder.truth.coco_json import read_coco
from edgectl.builder.truth.labelled import LabelledSet, TrueObjects
from edgectl.builder.truth.layouts import read_labels, truth_kind
from edgectl.builder.truth.yolo_text import read_yolo
from edgectl.core.errors import DataError, UsageError
from edgectl.core.task import AudioInput, DecodeSpec, FeatureSpec, ImageInput, TaskSpec

PICTURES = squares(9)
PETS = TaskSpec(
    name="pets",
    input=ImageInput(width=32, height=32),
    decode=DecodeSpec(kind="classify"),
    labels=("cat", "Hot Dog"),
    metric="top1",
)
LINES = TaskSpec(
    name="plates",
    input=ImageInput(width=64, height=16),
    decode=DecodeSpec(kind="ctc"),
    labels=tuple("AB1"),
)


def read(path: Path, task: TaskSpec = TASK, **more: Any) -> LabelledSet:
    found = read_labels(str(path), task, **more)
    assert found is not None
    return found


def objects(found: LabelledSet) -> list[list[tuple[float, ...]]]:
    rows = []
    for item in found.items:
        assert isinstance(item.truth, TrueObjects)
        t = item.truth.in_pixels(SIDE, SIDE)
        rows.append(sorted((*box, float(c)) for box, c in zip(t.boxes.tolist(), t.cls.tolist(), strict=True)))
    return rows


WANTED = [
    sorted(
        (float(x * CELL), float(y * CELL), float((x + 1) * CELL), float((y + 1) * CELL), float(c))
        for x, y, c in p
    )
    for p in PICTURES
]


def test_coco_json_and_yolo_text_say_the_same(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "coco", PICTURES)
    write_yolo(tmp_path / "yolo", PICTURES, yaml="path: .\nval: images/val\nnames: {0: RED, 1: blue}\n")
    for path in (file, file.parent, tmp_path / "yolo", tmp_path / "yolo" / "data.yaml"):
        found = read(path)
        assert np.asarray(objects(found)[0]) == pytest.approx(np.asarray(WANTED[0]))
        assert [len(o) for o in objects(found)] == [len(o) for o in WANTED]
        assert (found.kind, found.classes) == ("boxes", (0, 1))
        assert found.objects == sum(map(len, PICTURES))


def test_the_pictures_of_coco_json_may_lie_elsewhere(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "set" / "annotations", PICTURES)
    named = file.rename(file.with_name("instances_val2017.json"))
    pictures = (named.parent / "images").rename(tmp_path / "set" / "val2017")
    assert read(named).items[0].path.parent.resolve() == pictures
    elsewhere = pictures.rename(tmp_path / "else")
    with pytest.raises(DataError, match="none of the pictures") as e:
        read(named)
    assert "--validation-images" in str(e.value.hint)
    assert read(named, pictures=elsewhere).items[0].path.parent == elsewhere
    (elsewhere / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 of 9 pictures .* the first is 003\.png"):
        read(named, pictures=elsewhere)


def change(file: Path, how: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    how(document)
    file.write_text(json.dumps(document))


def first(document: dict[str, Any], key: str = "annotations") -> dict[str, Any]:
    found: dict[str, Any] = document[key][0]
    return found


COCO_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no list": (lambda d: d.update(images={}), "images is no list"),
    "results": (lambda d: d.pop("images"), "no images and annotations"),
    "unknown picture": (lambda d: first(d).update(image_id=99), r"annotations\[0\]: image_id 99"),
    "unknown category": (lambda d: first(d).update(category_id=99), "category_id 99"),
    "box of text": (lambda d: first(d).update(bbox=["0", 0, 1, 1]), "bbox holds something that is no number"),
    "box of three": (lambda d: first(d).update(bbox=[0, 0, 1]), "bbox is no list"),
    "infinite": (lambda d: first(d).update(bbox=[0, 0, 1e999, 1]), "bbox is not finite"),
    "huge whole number": (lambda d: first(d).update(bbox=[0, 0, 10**400, 1]), "bbox is not finite"),
    "no area": (lambda d: first(d).update(bbox=[0, 0, 0, 5]), r"bbox has no area \(0x5\)"),
    "outside": (lambda d: first(d).update(bbox=[900, 0, 5, 5]), r"bbox lies outside of 000\.png"),
    "same id": (lambda d: d["annotations"][1].update(id=0), "id 0 is there twice"),
    "same picture": (lambda d: d["images"][1].update(id=0), "id 0 is there twice"),
    "same file": (lambda d: d["images"][1].update(file_name="000.png"), "'000.png' is there twice"),
    "leaves": (lambda d: first(d, "images").update(file_name="../../etc/passwd"), "leads out of"),
    "absolute": (lambda d: first(d, "images").update(file_name="/etc/passwd"), "leads out of"),
    "size": (lambda d: first(d, "images").update(width=1 << 30), "cannot be"),
    "nameless": (lambda d: first(d, "categories").pop("name"), "it has no name"),
    "crowd": (lambda d: first(d).update(iscrowd="yes"), "iscrowd is neither 0 nor 1"),
    "empty": (lambda d: d.update(annotations=[]), "no annotations to judge by"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_what_is_wrong_with_coco_json_is_said(fault: str, tmp_path: Path) -> None:
    how, sentence = COCO_FAULTS[fault]
    file = write_coco(tmp_path, PICTURES)
    change(file, how)
    with pytest.raises(DataError, match=sentence):
        read(file)


def test_json_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_coco(tmp_path, PICTURES)
    file.write_text("[" * 200_000)
    with pytest.raises(DataError, match="not valid JSON"):
        read(file)
    monkeypatch.setattr(coco_json, "MAX_JSON_BYTES", 1 << 20)
    file.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(DataError, match="more than 1 MiB"):
        read(file)


def test_classes_that_the_model_does_not_have_are_named(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "a", PICTURES, names=("red", "sedan"))
    with pytest.raises(DataError, match="name 1 classes that the model does not have: 'sedan'") as e:
        read(file)
    assert "9 of 9 pictures" in str(e.value.hint)
    kept = read(file, known_only=True)
    assert kept.classes == (0,)
    assert "sedan" in kept.notes[0]
    file = write_coco(tmp_path / "b", PICTURES, names=("lorry", "sedan"))
    for known_only in (False, True):
        with pytest.raises(DataError, match="only classes that the model does not have"):
            read(file, known_only=known_only)


def test_names_are_matched_whatever_their_spelling(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"labels": ("traffic light", "motorcycle")})
    file = write_coco(tmp_path, PICTURES, names=("Traffic_Light", "motorbike"))
    assert objects(read(file, task)) == WANTED


def test_a_description_that_means_its_own_folder(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, PICTURES, yaml="val: ../images/val\nnames: [red, blue]\n")
    assert len(read(folder).items) == len(PICTURES)


YOLO_FAULTS = {
    "four columns": ("0 0.5 0.5 0.1\n", r"000\.txt:1: it has 4 columns"),
    "with a score": ("0 0.5 0.5 0.1 0.1 0.9\n", "with a score"),
    "class beyond": ("2 0.5 0.5 0.1 0.1\n", "have class 2, and 2 names"),
    "negative": ("-1 0.5 0.5 0.1 0.1\n", "is no class"),
    "half": ("0.5 0.5 0.5 0.1 0.1\n", "is no class"),
    "pixels": ("0 32 32 8 8\n", r"32 is not within 0\.\.1"),
    "no area": ("0 0.5 0.5 0 0.1\n", "no area"),
    "text": ("0 a b c d\n", "could not convert"),
    "nan": ("0 nan 0.5 0.1 0.1\n", "not finite"),
    "binary": ("\udcff", "not UTF-8"),
}


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_what_is_wrong_with_yolo_text_is_said(fault: str, tmp_path: Path) -> None:
    text, sentence = YOLO_FAULTS[fault]
    folder = write_yolo(tmp_path, PICTURES)
    (folder / "labels" / "val" / "000.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=sentence):
        read(folder)


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("path: ../other\nnames: [red, blue]\n", "leads out of"),
        ("val: ../elsewhere\nnames: [red, blue]\n", "leads out of"),
        ("val: images/test\nnames: [red, blue]\n", "there is no such folder"),
        ("names: {0: red, 2: blue}\n", "does not number the classes"),
        ("names: 5\n", "names is no list"),
        ("names: [\n", "data.yaml"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(yaml: str, sentence: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, PICTURES, yaml=yaml)
    with pytest.raises(DataError, match=sentence):
        read(folder)


def test_yolo_text_without_names_is_taken_by_number_and_said_so(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, PICTURES, yaml=None)
    found = read(folder)
    assert "no names" in found.notes[0]
    assert found.classes == (0, 1)
    few = TASK.model_copy(update={"labels": ("red",)})
    with pytest.raises(DataError, match="class 1, and the model 1 labels"):
        read(folder, few)


def test_polygons_become_boxes(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, PICTURES)
    (folder / "labels" / "val" / "000.txt").write_text("1 0.125 0.25 0.5 0.25 0.5 0.75 0.125 0.75\n")
    assert objects(read(folder))[0] == [(8.0, 16.0, 32.0, 48.0, 1.0)]


def pets(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for n in range(5):
            assert cv2.imwrite(str(folder / name / f"{n}.png"), np.full((8, 8, 3), 30 * i, np.uint8))
    return folder


def test_class_folders_by_name_and_by_number(tmp_path: Path) -> None:
    found = read(pets(tmp_path / "names", "Cat", "hot-dog"), PETS)
    assert [i.truth for i in found.items] == [0] * 5 + [1] * 5
    found = read(pets(tmp_path / "numbers", "0", "1"), PETS)
    assert [i.truth for i in found.items] == [0] * 5 + [1] * 5
    assert "numbers" in found.notes[0]
    with pytest.raises(DataError, match="'bird'") as e:
        read(pets(tmp_path / "more", "cat", "bird"), PETS)
    assert "5 of 10 files" in str(e.value.hint)
    with pytest.raises(DataError, match="no place in the model's 2 labels"):
        read(pets(tmp_path / "beyond", "0", "2"), PETS)


def test_class_folders_of_sound(tmp_path: Path) -> None:
    task = TaskSpec(
        name="k",
        input=AudioInput(features=FeatureSpec(kind="log_mel", window=400, hop=160)),
        decode=DecodeSpec(kind="keyword"),
        labels=("yes", "_unknown_"),
        metric="top1",
    )
    for name in ("yes", "_unknown_"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(b"RIFF")
    # of whoever packed it
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "a.wav").write_bytes(b"RIFF")
    assert sorted(str(i.truth) for i in read(tmp_path, task).items) == ["0", "1"]


def test_lines_of_text(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", squares(3))
    table = tmp_path / "in" / "plates.tsv"
    table.write_text("000.png\tAB 1\n001.png\tB\n")
    assert [i.truth for i in read(table, LINES).items] == ["AB 1", "B"]
    for text, sentence in (
        ("000.png AB\n", "no tab"),
        ("000.png\tA\n000.png\tB\n", "twice"),
        ("../x.png\tA\n", "leads out of"),
        ("9.png\tA\n", "1 of 1 pictures"),
        ("000.png\t \n", "no text"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=sentence):
            read(table, LINES)
    table.unlink()
    for n in range(3):
        (tmp_path / "in" / f"{n:03d}.txt").write_text("A1\n")
    assert [i.truth for i in read(tmp_path / "in", LINES).items] == ["A1"] * 3


def test_data_without_labels_is_data(tmp_path: Path) -> None:
    write_pictures(tmp_path / "plain", squares(2))
    assert read_labels(str(tmp_path / "plain"), TASK) is None
    assert read_labels(str(tmp_path / "clip.mp4"), TASK) is None
    with pytest.raises(UsageError, match="has no labels"):
        read_labels(str(tmp_path / "plain"), TASK, known_only=True)
    with pytest.raises(DataError, match="there is no file"):
        read_labels(str(tmp_path / "none.json"), TASK)


def test_labels_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder for each class, and task squares is judged by boxes"):
        read_labels(str(pets(tmp_path / "pets", "red", "blue")), TASK)
    with pytest.raises(UsageError, match="annotations of COCO, and task pets is judged by classes"):
        read_labels(str(write_coco(tmp_path / "coco", PICTURES)), PETS)
    tensor = TASK.model_copy(update={"metric": "sqnr", "decode": DecodeSpec()})
    assert truth_kind(tensor) is None
    with pytest.raises(UsageError, match="nothing is known"):
        read_labels(str(tmp_path / "coco" / "annotations.json"), tensor)


def test_of_keypoints_without_a_stated_area_a_part_of_the_box_counts(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", PICTURES[:1])
    (tmp_path / "labels").mkdir()
    points = " ".join(["0.5 0.5 2"] * 17)
    (tmp_path / "labels" / "000.txt").write_text(f"0 0.5 0.5 0.5 0.25 {points}")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10]}
    annotations = [
        annotation | {"keypoints": [5, 5, 2] * 17},
        annotation | {"keypoints": [5, 5, 2] * 17, "id": 2, "area": 150},
    ]
    document = {
        "images": [{"id": 1, "file_name": "000.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    (tmp_path / "images" / "coco.json").write_text(json.dumps(document))

    def areas(found: LabelledSet) -> list[float]:
        truth = found.items[0].truth
        assert isinstance(truth, TrueObjects)
        return [float(a) for a in truth.areas]

    assert areas(read_yolo(tmp_path, ("person",), "keypoints")) == pytest.approx([0.53 * 0.5 * 0.25])
    assert areas(read_yolo(tmp_path, ("person",), "boxes")) == pytest.approx([0.5 * 0.25])
    coco = tmp_path / "images" / "coco.json"
    assert areas(read_coco(coco, ("person",), "keypoints")) == pytest.approx([0.53 * 200, 150])
    assert areas(read_coco(coco, ("person",), "boxes")) == pytest.approx([200, 150])
