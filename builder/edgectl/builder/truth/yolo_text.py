"""Labels of the YOLO family: a text file for each picture, an object a line: ``class cx cy width height``, 0..1 of the
picture. With ``images/`` and ``labels/`` side by side, text files beside the pictures, or a ``data.yaml``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.builder.truth.labelled import BODY_OF_BOX, LabelledItem, LabelledSet, TrueObjects, TruthKind
from edgectl.builder.truth.names import match_names, refuse_unknown
from edgectl.builder.truth.places import MOST_ITEMS, inside, too_many
from edgectl.builder.truth.shapes import Polygons, TrueShape, shape_bounds
from edgectl.core.config_file import read_bounded_text, read_yaml
from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES

__all__ = ["is_yolo", "read_yolo"]

_LAYOUT = "YOLO text files"
_MOST_BYTES = 4 << 20
_MOST_LINES = 10_000
_SPLITS = ("val", "test", "train")
_SLACK = 1e-3
"""So far beyond 0..1 a coordinate may lie: exporters round."""

Row = tuple[int, tuple[float, float, float, float], list[float], TrueShape | None]


def is_yolo(folder: Path) -> bool:
    """Whether a folder is laid out so, or has pictures with text files beside them."""
    if (folder / "labels").is_dir() and (folder / "images").is_dir():
        return True
    return any(
        f.suffix.lower() in IMAGE_SUFFIXES and f.with_suffix(".txt").is_file() for f in folder.iterdir()
    )


def read_yolo(path: Path, labels: Sequence[str], kind: TruthKind, *, known_only: bool = False) -> LabelledSet:
    """``path``: a ``data.yaml`` or the folder. ``labels``: of the model. Raises :class:`DataError`, which names file and
    line."""
    root, names, folders = _described(path)
    pictures = [p for f in folders for p in _pictures(f)]
    too_many(len(pictures), "pictures")
    if not pictures:
        raise DataError(f"there are no pictures in {', '.join(map(str, folders))}", hint="check --validation")
    rows = {p: _rows(text, kind) if (text := _text_of(p, root)).is_file() else [] for p in pictures}
    if not any(rows.values()):
        raise DataError(
            f"no picture of {root} has a text file with objects, as {_text_of(pictures[0], root)}",
            hint="labels/ has the same folders and names as images/",
        )
    used = sorted({r[0] for found in rows.values() for r in found})
    notes: list[str] = []
    if names is None:
        if used[-1] >= len(labels):
            raise DataError(
                f"the labels have class {used[-1]}, and the model {len(labels)} labels, from 0 on",
                hint="give a data.yaml or classes.txt that names the classes",
            )
        to = {c: c for c in used}
        notes.append(
            "the labels have no names: their classes were taken for the model's labels in their order"
        )
    else:
        if used[-1] >= len(names):
            raise DataError(
                f"the labels have class {used[-1]}, and {len(names)} names, from 0 on",
                hint="give each class a name, in data.yaml or classes.txt",
            )
        matched = match_names({c: names[c] for c in used}, labels)
        to = dict(matched.to)
        left = sum(any(r[0] in to for r in found) for found in rows.values())
        if matched.unknown and (not known_only or not left):
            raise refuse_unknown(list(matched.unknown.values()), labels, left=left, of=len(pictures))
        if matched.unknown:
            notes.append(
                f"labels of classes that the model does not have were left out: {', '.join(matched.unknown.values())}"
            )
    points = _points({len(r[2]) for found in rows.values() for r in found}) if kind == "keypoints" else 0
    items = tuple(LabelledItem(p, _objects(found, to, kind, points)) for p, found in rows.items())
    return LabelledSet(_LAYOUT, kind, items, tuple(sorted(set(to.values()))), tuple(notes))


def _objects(rows: Sequence[Row], to: dict[int, int], kind: TruthKind, points: int) -> TrueObjects:
    kept = [r for r in rows if r[0] in to]
    boxes = TrueObjects.of_boxes([(*box, to[c]) for c, box, _, _ in kept], relative=True)
    keypoints = (
        np.asarray([r[2] for r in kept], np.float64).reshape(-1, points, 3) if kind == "keypoints" else None
    )
    return TrueObjects(
        boxes.boxes,
        boxes.cls,
        boxes.crowd,
        boxes.areas * BODY_OF_BOX if kind == "keypoints" else boxes.areas,
        keypoints,
        tuple(r[3] for r in kept) if kind == "masks" else None,
        relative=True,
    )


def _points(counts: set[int]) -> int:
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            "some objects have no keypoints, or not as many as others", hint="a line is class, box, points"
        )
    return counts.pop() // 3


def _described(path: Path) -> tuple[Path, list[str] | None, list[Path]]:
    """The folder of the set, the names of its classes, and the folders of its pictures."""
    if path.is_dir():
        described = next((f for f in (path / "data.yaml", path / "dataset.yaml") if f.is_file()), None)
        if described is None:
            listed = path / "classes.txt"
            if not listed.is_file():
                listed = path / "labels" / "classes.txt"
            names = _lines(listed) if listed.is_file() else None
            folder = path / "images" if (path / "images").is_dir() else path
            return path, names, [folder]
        path = described
    values = _yaml(path)
    root = path.parent
    if (base := values.get("path")) is not None:
        if not isinstance(base, str):
            raise DataError(f"{path.name}: path is no text", hint="mend it")
        root = inside(root, base, f"{path.name}: path")
    split = next((s for s in _SPLITS if values.get(s)), None)
    names = _names(values, path)
    if split is None:
        return root, names, [root / "images" if (root / "images").is_dir() else root]
    wanted = values[split] if isinstance(values[split], list) else [values[split]]
    folders = []
    for entry in wanted:
        if not isinstance(entry, str):
            raise DataError(f"{path.name}: {split} names no folder", hint="mend it")
        if (
            (own := entry.removeprefix("../")) != entry
            and (root / own).is_dir()
            and ".." not in Path(own).parts
        ):
            # exports of Roboflow say so, and mean the folder of the yaml
            entry = own
        folder = inside(root, entry, f"{path.name}: {split}")
        if not folder.is_dir():
            raise DataError(
                f"{path.name}: {split} is {entry!r}, and there is no such folder in {root}",
                hint="give --validation the folder with images/ and labels/ itself",
            )
        folders.append(folder)
    return root, names, folders


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(read_yaml(path).values)
    except UsageError as e:
        raise DataError(e.message, hint=e.hint or "mend the description of the set") from e


def _names(values: dict[str, Any], path: Path) -> list[str] | None:
    found = values.get("names")
    if found is None:
        return None
    if isinstance(found, dict):
        keys = {
            k
            if isinstance(k, int)
            else int(k)
            if isinstance(k, str) and k.isdecimal() and len(k) < 6
            else -1: v
            for k, v in found.items()
        }
        if set(keys) != set(range(len(keys))) or len(keys) != len(found):
            raise DataError(f"{path.name}: names does not number the classes from 0 on", hint="mend it")
        found = [keys[i] for i in range(len(keys))]
    if not isinstance(found, list) or not all(isinstance(n, str | int | float) for n in found):
        raise DataError(f"{path.name}: names is no list of names", hint="mend it")
    return [str(n) for n in found]


def _pictures(folder: Path) -> list[Path]:
    found: list[Path] = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
            found.append(file)
            too_many(len(found), f"pictures in {folder}", MOST_ITEMS)
    return found


def _text_of(picture: Path, root: Path) -> Path:
    """The last ``images`` on the way from ``root`` becomes ``labels``, as Ultralytics does."""
    parts = list(picture.relative_to(root).parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _rows(text: Path, kind: TruthKind) -> list[Row]:
    lines = _lines(text)
    if len(lines) > _MOST_LINES:
        raise DataError(f"{text.name} has more than {_MOST_LINES} lines", hint="that is no picture's labels")
    return [_row(line.split(), f"{text.name}:{n}", kind) for n, line in enumerate(lines, 1) if line.strip()]


def _row(columns: list[str], where: str, kind: TruthKind) -> Row:
    n = len(columns)
    if n < 5 or n == 6:
        what = "those are detections, with a score" if n == 6 else "class cx cy width height are needed"
        raise DataError(f"{where}: it has {n} columns; {what}", hint="mend the labels")
    try:
        values = [float(c) for c in columns]
    except ValueError as e:
        raise DataError(f"{where}: {str(e)[:80]}", hint="a line is numbers") from e
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}: a number is not finite", hint="mend the labels")
    number = values[0]
    if number < 0 or number != int(number) or number > 1e6:
        raise DataError(f"{where}: {columns[0][:20]} is no class", hint="classes count from 0")
    points = values[5:]
    polygon = n > 5 and n % 2 == 1 and not (kind == "keypoints" and len(points) % 3 == 0)
    if n > 5 and not polygon and len(points) % 3:
        raise DataError(
            f"{where}: {n} columns are neither box, polygon nor keypoints", hint="mend the labels"
        )
    seen = values[1:] if polygon else values[1:5]
    if not all(-_SLACK <= v <= 1 + _SLACK for v in seen):
        raise DataError(
            f"{where}: {next(v for v in seen if not -_SLACK <= v <= 1 + _SLACK):g} is not within 0..1 of the picture",
            hint="coordinates are parts of the width and height, not pixels",
        )
    shape: TrueShape | None = None
    if polygon:
        shape = Polygons((np.asarray(values[1:], np.float64).reshape(-1, 2),))
        x1, y1, x2, y2 = shape_bounds(shape)
    else:
        cx, cy, w, h = values[1:5]
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{where}: the box has no area", hint="take the line out")
    if kind == "masks" and shape is None:
        raise DataError(
            f"{where}: it has no polygon, and this model finds masks", hint="give labels with polygons"
        )
    return int(number), (x1, y1, x2, y2), [] if polygon else points, shape


def _lines(path: Path) -> list[str]:
    try:
        return read_bounded_text(path, max_bytes=_MOST_BYTES).splitlines()
    except UsageError as e:
        raise DataError(e.message, hint="mend the labels") from e
