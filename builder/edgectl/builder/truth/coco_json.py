"""Annotations as COCO has them: one JSON file with ``images``, ``annotations`` and ``categories``, pictures beside it.

https://cocodataset.org/#format-data. Objects only: captions and stuff are something else.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.builder.truth.labelled import BODY_OF_BOX, LabelledItem, LabelledSet, TrueObjects, TruthKind
from edgectl.builder.truth.names import match_names, refuse_unknown
from edgectl.builder.truth.places import inside, read_at_most, refuse_missing, too_many
from edgectl.builder.truth.shapes import TrueShape, read_polygons, read_runs
from edgectl.core.errors import DataError

__all__ = ["MAX_JSON_BYTES", "read_coco"]

MAX_JSON_BYTES = 256 << 20
"""COCO's own val2017 has 20 MB; parsed, JSON takes about ten times its bytes."""
_MOST_OBJECTS = 2_000_000
_MOST_SIDE = 1 << 16
_LAYOUT = "COCO JSON"
_FOLDERS = ("", "images", "data", "../images", "..")
"""Where pictures lie, seen from the file."""


@dataclass
class _Objects:
    """Of one picture, as they are read."""

    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    cls: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    keypoints: list[list[float]] = field(default_factory=list)
    shapes: list[TrueShape | None] = field(default_factory=list)

    def whole(self, kind: TruthKind, points: int) -> TrueObjects:
        return TrueObjects(
            np.asarray(self.boxes, np.float64).reshape(-1, 4),
            np.asarray(self.cls, np.int32),
            np.asarray(self.crowd, bool),
            np.asarray(self.areas, np.float64),
            np.asarray(self.keypoints, np.float64).reshape(-1, points, 3) if kind == "keypoints" else None,
            tuple(self.shapes) if kind == "masks" else None,
        )


@dataclass(frozen=True)
class _Picture:
    name: str
    width: int
    height: int


def read_coco(
    path: Path,
    labels: Sequence[str],
    kind: TruthKind,
    *,
    pictures: Path | None = None,
    known_only: bool = False,
) -> LabelledSet:
    """``labels``: of the model. ``kind``: what the model finds, and is judged by. ``pictures``: the folder that
    ``file_name`` is relative to; None: it is looked for beside ``path``. ``known_only``: classes that the model does
    not have are left out.

    Raises :class:`DataError`, which names the entry that is wrong.
    """
    document = _document(path)
    images = _images(document, path)
    names = _categories(document, path)
    found: dict[Any, _Objects] = {i: _Objects() for i in images}
    used: Counter[Any] = Counter()
    raw = _list(document, "annotations", path)
    too_many(len(raw), f"annotations in {path.name}", _MOST_OBJECTS)
    matched = match_names(names, labels)
    at, ids = f"{path.name}: annotations", set()
    points = 0
    for n, entry in enumerate(raw):
        where = f"{at}[{n}]"
        a = _object(entry, where)
        number = a.get("id")
        if number is not None:
            if not isinstance(number, int | str) or number in ids:
                raise DataError(
                    f"{where}: id {number!r} is there twice, or no id", hint="number the annotations"
                )
            ids.add(number)
        image, category = _id(a, "image_id", where), _id(a, "category_id", where)
        if image not in images:
            raise DataError(f"{where}: image_id {image!r} is none of images", hint="take the annotation out")
        if category not in names:
            raise DataError(
                f"{where}: category_id {category!r} is none of categories", hint="mend the labels"
            )
        used[category] += 1
        picture, into = images[image], found[image]
        box = _box(a, picture, where)
        keypoints = _keypoints(a, where) if kind == "keypoints" else []
        if keypoints and points not in (0, len(keypoints) // 3):
            raise DataError(
                f"{where}: it has {len(keypoints) // 3} keypoints, others {points}",
                hint="all must mark the same points: leave out those of another kind",
            )
        points = points or len(keypoints) // 3
        shape = _shape(a, picture, where) if kind == "masks" else None
        if category not in matched.to:
            continue
        area = a.get("area")
        into.boxes.append(box)
        into.cls.append(matched.to[category])
        into.crowd.append(_flag(a, "iscrowd", where))
        whole = (box[2] - box[0]) * (box[3] - box[1]) * (BODY_OF_BOX if kind == "keypoints" else 1.0)
        into.areas.append(_number(area, "area", where) if area is not None else whole)
        into.keypoints.append(keypoints)
        into.shapes.append(shape)
    unknown = [name for c, name in matched.unknown.items() if used[c]]
    left = sum(bool(o.cls) for o in found.values())
    if (unknown and not known_only) or not left:
        if unknown:
            raise refuse_unknown(unknown, labels, left=left, of=len(images))
        raise DataError(f"{path.name} has no annotations to judge by", hint="give one with objects in it")
    if kind == "keypoints" and any(not k for o in found.values() for k in o.keypoints):
        raise DataError(
            f"{path.name}: some annotations have no keypoints, by which this model is judged",
            hint="give the keypoint annotations (of COCO: person_keypoints_*.json)",
        )
    folder = _folder(path, images, pictures)
    files = {i: inside(folder, p.name, f"{path.name}: images") for i, p in images.items()}
    refuse_missing(
        (f for f in files.values() if not f.is_file()),
        len(files),
        folder,
        "say where they are: --validation-images FOLDER",
    )
    items = tuple(
        LabelledItem(files[i], found[i].whole(kind, points), (p.width, p.height)) for i, p in images.items()
    )
    notes = (
        [f"labels of classes that the model does not have were left out: {', '.join(unknown)}"]
        if unknown
        else []
    )
    return LabelledSet(
        _LAYOUT, kind, items, tuple(sorted({c for o in found.values() for c in o.cls})), tuple(notes)
    )


def _document(path: Path) -> dict[str, Any]:
    data = read_at_most(
        path,
        MAX_JSON_BYTES,
        unreadable="check the path of --validation",
        too_large="give a part of the set",
    )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        what = "too deeply nested" if isinstance(e, RecursionError) else str(e).splitlines()[0][:120]
        raise DataError(f"{path.name} is not valid JSON: {what}", hint="export the labels again") from e
    if not isinstance(document, dict) or "annotations" not in document or "images" not in document:
        raise DataError(
            f"{path.name} has no images and annotations, as labels of COCO do",
            hint="give the annotations, not results of a detector",
        )
    return document


def _images(document: Mapping[str, Any], path: Path) -> dict[Any, _Picture]:
    found: dict[Any, _Picture] = {}
    names: set[str] = set()
    raw = _list(document, "images", path)
    too_many(len(raw), f"images in {path.name}")
    for n, entry in enumerate(raw):
        where = f"{path.name}: images[{n}]"
        image = _object(entry, where)
        number = _id(image, "id", where)
        name = image.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where}: file_name is no text", hint="mend the labels")
        if number in found or name in names:
            raise DataError(
                f"{where}: {'id' if number in found else 'file_name'} {number if number in found else name!r} is there twice",
                hint="take one of them out",
            )
        width, height = (_number(image.get(k), k, where) for k in ("width", "height"))
        if not (1 <= width <= _MOST_SIDE and 1 <= height <= _MOST_SIDE):
            raise DataError(f"{where}: a picture of {width:g}x{height:g} cannot be", hint="mend the labels")
        names.add(name)
        found[number] = _Picture(name, int(width), int(height))
    if not found:
        raise DataError(f"{path.name} names no pictures", hint="give labels of some")
    return found


def _categories(document: Mapping[str, Any], path: Path) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for n, entry in enumerate(_list(document, "categories", path)):
        where = f"{path.name}: categories[{n}]"
        category = _object(entry, where)
        number, name = _id(category, "id", where), category.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{where}: it has no name", hint="labels are matched with the model's by their name"
            )
        if number in found:
            raise DataError(f"{where}: id {number!r} is there twice", hint="number the categories")
        found[number] = name
    return found


def _folder(path: Path, images: Mapping[Any, _Picture], given: Path | None) -> Path:
    """Where the pictures lie: the first of the usual places that has one of the first few."""
    if given is not None:
        if not given.is_dir():
            raise DataError(f"there is no folder {given}", hint="check --validation-images")
        return given
    split = path.stem.rpartition("_")[2]
    places = [
        path.parent / p
        for p in (*_FOLDERS, path.stem, split, f"../{split}", f"../images/{split}", f"images/{split}")
    ]
    first = [p.name for p in list(images.values())[:8]]
    for place in places:
        if any(inside(place, name, f"{path.name}: images").is_file() for name in first):
            return place
    raise DataError(
        f"none of the pictures of {path.name} was found beside it, in images/ or in {split}/; the first is {first[0]}",
        hint="say where they are: --validation-images FOLDER",
    )


def _box(a: Mapping[str, Any], picture: _Picture, where: str) -> tuple[float, float, float, float]:
    raw = a.get("bbox")
    if not isinstance(raw, list) or len(raw) != 4:
        raise DataError(f"{where}: bbox is no list of x, y, width, height", hint="mend the labels")
    x, y, w, h = (_number(v, "bbox", where) for v in raw)
    if w <= 0 or h <= 0:
        raise DataError(f"{where}: bbox has no area ({w:g}x{h:g})", hint="take the annotation out")
    if x >= picture.width or y >= picture.height or x + w <= 0 or y + h <= 0:
        raise DataError(
            f"{where}: bbox lies outside of {picture.name}, which has {picture.width}x{picture.height} pixels",
            hint="bbox is x, y, width, height in pixels",
        )
    return x, y, x + w, y + h


def _keypoints(a: Mapping[str, Any], where: str) -> list[float]:
    raw = a.get("keypoints")
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) % 3 or not 3 <= len(raw) <= 3 * 1024:
        raise DataError(f"{where}: keypoints is no list of x, y, visibility", hint="mend the labels")
    return [_number(v, "keypoints", where) for v in raw]


def _shape(a: Mapping[str, Any], picture: _Picture, where: str) -> TrueShape:
    raw = a.get("segmentation")
    try:
        if isinstance(raw, list):
            return read_polygons(raw, (picture.width, picture.height))
        return read_runs(raw, picture.width, picture.height)
    except ValueError as e:
        raise DataError(f"{where}: {e}", hint="this model finds masks: each object needs one") from e


def _list(document: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise DataError(
            f"{path.name}: {key} is no list", hint="labels of COCO have images, annotations and categories"
        )
    return value


def _object(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: it is no object", hint="mend the labels")
    return entry


def _id(entry: Mapping[str, Any], key: str, where: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {key} is no number", hint="mend the labels")
    return value


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {key} holds something that is no number", hint="mend the labels")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where}: {key} is not finite", hint="mend the labels")
    return number


def _flag(entry: Mapping[str, Any], key: str, where: str) -> bool:
    value = entry.get(key, 0)
    if value not in (0, 1):
        raise DataError(f"{where}: {key} is neither 0 nor 1", hint="mend the labels")
    return bool(value)
