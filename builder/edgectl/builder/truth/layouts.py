"""Which layout of labels a path is, by what lies there. What is none has no labels: it is data like calibration's."""

from __future__ import annotations

from pathlib import Path

from edgectl.builder.truth.class_folders import class_folders, read_class_folders
from edgectl.builder.truth.class_maps import has_class_maps, read_class_maps
from edgectl.builder.truth.coco_json import read_coco
from edgectl.builder.truth.labelled import LabelledSet, TruthKind
from edgectl.builder.truth.places import AUDIO_SUFFIXES
from edgectl.builder.truth.text_lines import (
    TABLE_SUFFIXES,
    has_text_lines,
    read_text_classes,
    read_text_lines,
)
from edgectl.builder.truth.yolo_text import is_yolo, read_yolo
from edgectl.core.errors import DataError, UsageError
from edgectl.core.task import AudioInput, ImageInput, TaskSpec
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES

__all__ = ["read_labels", "truth_kind"]

_COCO_NAMES = ("annotations.json", "_annotations.coco.json", "instances.json", "labels.json")


def read_labels(
    uri: str, task: TaskSpec, *, pictures: Path | None = None, known_only: bool = False
) -> LabelledSet | None:
    """The labels at ``uri``, for the classes of ``task``; None where there are none, only data.

    ``pictures``: the folder of the pictures that a COCO file or a table names. ``known_only``: classes that the model
    does not have are left out. Raises :class:`DataError` for labels that are wrong or do not match,
    :class:`UsageError` for those that say nothing that this task could be judged by.
    """
    path = Path(uri)
    layout = _layout(path, task, pictures)
    if layout is None:
        if pictures is not None or known_only:
            raise UsageError(
                f"{uri} has no labels that --validation-images or --known-labels-only could be for",
                hint="give --validation a COCO JSON file, a YOLO data set, class folders, class maps or a table of texts",
            )
        return None
    kind = truth_kind(task)
    if layout == "coco" and kind in ("boxes", "masks", "keypoints"):
        file = path if path.is_file() else _coco_of(path)
        assert file is not None
        return read_coco(file, task.labels, kind, pictures=pictures, known_only=known_only)
    if layout == "yolo" and kind in ("boxes", "masks", "keypoints"):
        return read_yolo(path, task.labels, kind, known_only=known_only)
    if layout == "classes" and kind == "class":
        suffixes = AUDIO_SUFFIXES if isinstance(task.input, AudioInput) else IMAGE_SUFFIXES
        return read_class_folders(class_folders(path, suffixes), task.labels, known_only=known_only)
    if layout == "text" and kind == "text":
        return read_text_lines(path, pictures=pictures)
    if layout == "text" and kind == "class":
        return read_text_classes(path, task.labels, pictures=pictures, known_only=known_only)
    if layout == "pixels" and kind == "pixels":
        return read_class_maps(path, task.labels, pictures=pictures, known_only=known_only)
    raise UsageError(
        f"{path} holds {_CALLED[layout]}, and task {task.name} is judged by {_WANTED[kind]}"
        if kind is not None
        else f"{path} holds {_CALLED[layout]}, and nothing is known that task {task.name} could be judged by",
        hint="without labels, a variant is judged against what float answers",
    )


def truth_kind(task: TaskSpec) -> TruthKind | None:
    """By what labels a task can be judged; None: by none."""
    kind = task.decode.kind
    if kind != "none" and DECODERS.get(kind).part == "reader":
        return "text"
    if task.metric == "top1":
        return "class"
    if kind != "none" and DECODERS.get(kind).part == "segmenter":
        return "pixels"
    if task.metric != "detection":
        return None
    return "keypoints" if kind.endswith("-pose") else "masks" if kind.endswith("-seg") else "boxes"


_CALLED = {
    "coco": "annotations of COCO",
    "yolo": "labels of boxes (YOLO)",
    "classes": "a folder for each class",
    "text": "texts",
    "pixels": "maps of classes",
}
_WANTED = {
    "boxes": "boxes: COCO JSON or a YOLO data set",
    "masks": "masks: COCO JSON, or a YOLO data set with polygons",
    "keypoints": "keypoints: COCO JSON or a YOLO data set",
    "class": "classes: a folder for each, or a table of file and class (.tsv, .csv, .jsonl)",
    "text": "texts: a table of file and text (.tsv, .csv, .jsonl), or x.txt beside x.png or x.wav",
    "pixels": "the class of each pixel: a folder with images/ and masks/ (PNG), or Cityscapes' folders",
}


def _layout(path: Path, task: TaskSpec, pictures: Path | None) -> str | None:
    try:
        if path.is_file():
            found = {
                ".json": "coco",
                ".yaml": "yolo",
                ".yml": "yolo",
                **dict.fromkeys(TABLE_SUFFIXES, "text"),
            }
            return found.get(path.suffix.lower())
        if not path.is_dir():
            if path.suffix.lower() in (".json", ".yaml", ".yml", *TABLE_SUFFIXES):
                raise DataError(f"there is no file {path}", hint="check the path of --validation")
            return None
        kind = truth_kind(task)
        if kind == "pixels":
            return "pixels" if pictures is not None or has_class_maps(path) else None
        if _coco_of(path) is not None:
            return "coco"
        if (path / "data.yaml").is_file() or (path / "dataset.yaml").is_file():
            return "yolo"
        heard = isinstance(task.input, AudioInput)
        if (kind == "text" or (kind == "class" and heard)) and has_text_lines(path):
            return "text"
        if is_yolo(path):
            return "yolo"
        if isinstance(task.input, ImageInput | AudioInput):
            suffixes = AUDIO_SUFFIXES if isinstance(task.input, AudioInput) else IMAGE_SUFFIXES
            return "classes" if class_folders(path, suffixes) else None
    except OSError as e:
        raise DataError(f"cannot read {e.filename or path}: {e.strerror}", hint="check --validation") from e
    return None


def _coco_of(folder: Path) -> Path | None:
    """The annotations of a folder, by their usual names; of an ``annotations/``, the only JSON."""
    for name in _COCO_NAMES:
        if (folder / name).is_file():
            return folder / name
    inner = folder / "annotations"
    files = sorted(inner.glob("*.json")) if inner.is_dir() else []
    if len(files) > 1:
        raise DataError(
            f"{inner} has {len(files)} JSON files", hint=f"name one of them: --validation {files[0]}"
        )
    return files[0] if files else None
