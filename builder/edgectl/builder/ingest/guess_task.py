"""The task of a model that came without one: from its metadata, the shapes and names of its outputs, and their
values on one random picture.

A guess is made where one family of models fits and its labels are known; otherwise the candidates are named. What
is not seen in a file is never guessed: labels that no metadata has, other than those of COCO by their number.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex, real_inputs
from edgectl.builder.ingest.bind_size import size_input
from edgectl.builder.passes.shapes import Shape, model_dims
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError, UsageError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.pipelines.tasks import load_task, usable_tasks
from edgectl.pipelines.video.keypoints import COCO_NAMES

__all__ = ["Seen", "guess_task", "judge_seen", "look_at"]

_USUAL_SIDE = 640
_MOST_KEYPOINTS = 64
_READ = ("detect", "pose", "segment", "classify", "semantic")
"""The tasks of Ultralytics that a decoder reads."""


@dataclass(frozen=True)
class Seen:
    """What tells the family of a model. ``outputs``: on a random picture; empty for what takes none."""

    inputs: Mapping[str, tuple[int | None, ...]]
    output_dims: Mapping[str, tuple[int | None, ...]]
    outputs: Outputs = field(default_factory=dict)
    width: int = 0
    height: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    counted: int | None = None
    """Classes, where the graph only puts out their numbers: by its arithmetic."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Labels by the metadata; None if it has none, or none that can be read."""
        try:
            found = ast.literal_eval(self.metadata.get("names", ""))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if isinstance(found, dict) and set(found) == set(range(len(found))):
            found = [found[i] for i in range(len(found))]
        return tuple(map(str, found)) if isinstance(found, list | tuple) and found else None

    def cells(self, *strides: int) -> int:
        return sum(-(-self.height // s) * -(-self.width // s) for s in strides)


@dataclass(frozen=True)
class _TaskFit:
    """A family that fits. ``classes``: that the outputs speak of; None where they do not tell."""

    task: str
    why: str
    classes: int | None = None
    decode: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)


def guess_task(model: ModelProto, shapes: Mapping[str, Shape]) -> tuple[TaskSpec, str]:
    """The task of a model, and one line that says what was guessed and why. Raises :class:`UsageError` with the
    candidates where no task fits, or several do."""
    return judge_seen(look_at(model, shapes))


def look_at(model: ModelProto, shapes: Mapping[str, Shape]) -> Seen:
    """Run the model on a random picture, if it takes one. Raises :class:`UsageError` where it does not run."""
    inputs = {i.name: model_dims(model, i.name, shapes) for i in real_inputs(model)}
    seen = Seen(
        inputs,
        {o.name: _dims(o) for o in model.graph.output},
        metadata={p.key: p.value for p in model.metadata_props},
        counted=_counted(model),
    )
    sized = size_input(model)
    pictures = [n for n, dims in inputs.items() if len(dims) == 4 and 3 in (dims[1], dims[3])]
    if len(pictures) != 1 or set(inputs) - {sized, pictures[0]}:
        return seen
    dims = inputs[pictures[0]]
    first = dims[1] == 3
    height, width = (dims[2], dims[3]) if first else (dims[1], dims[2])
    rows, columns = _picture_size(seen.metadata)
    height, width = height or rows, width or columns
    shape = (dims[0] or 1, 3, height, width) if first else (dims[0] or 1, height, width, 3)
    kind = next(i for i in model.graph.input if i.name == pictures[0]).type.tensor_type.elem_type
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    picture = pixels.astype(np.uint8) if kind == TensorProto.UINT8 else pixels / 255
    feeds: dict[str, NDArray[Any]] = {pictures[0]: picture.astype(helper.tensor_dtype_to_np_dtype(kind))}
    if sized is not None:
        feeds[sized] = np.ones((shape[0], 2), np.int64)
    try:
        engine = open_model(model.SerializeToString(), SessionSettings())
        outputs = engine.run(feeds)
        engine.close()
    except EngineError as e:
        raise UsageError(
            f"the task cannot be guessed: the model does not run on a picture of {width}x{height}: {e.message}",
            hint=f"give --task; there are {', '.join(usable_tasks())}, or a TOML file",
        ) from e
    return Seen(inputs, seen.output_dims, outputs, width, height, seen.metadata, seen.counted)


def judge_seen(seen: Seen) -> tuple[TaskSpec, str]:
    """:func:`guess_task`, without a run. Raises :class:`UsageError`."""
    theirs = seen.metadata.get("task", _READ[0])
    if theirs not in _READ:
        raise UsageError(
            f"the model's metadata says that its task is {theirs!r}, which no decoder reads",
            hint="--task tensor builds it all the same, and decodes nothing",
        )
    fits = [f for family in _FAMILIES for f in family(seen)]
    if not fits:
        raise UsageError(
            f"the task cannot be guessed: no family of models has the outputs {_shown(seen)}",
            hint=f"give --task: {', '.join(usable_tasks())}, or a TOML file; --task tensor takes any model and decodes nothing",
        )
    named = [(f, labels) for f in fits if (labels := _labels(f, seen)) is not None]
    if len(named) == 1:
        return _made(*named[0], seen)
    candidates = [f for f, _ in named] or fits
    if len(candidates) == 1:
        fit = candidates[0]
        many = "its" if fit.classes is None else f"its {fit.classes}"
        raise UsageError(
            f"the model looks like {fit.task} ({fit.why}), and nothing in it names {many} classes",
            hint=f'write them into a task file: inherits = "{fit.task}", name = "…", labels = ["…", …], and give it with --task',
        )
    raise UsageError(
        f"the task cannot be guessed: {_shown(seen)} fits "
        + ", ".join(f"{f.task} ({f.why})" for f in candidates),
        hint="give one of them with --task, or a TOML file that inherits it and has the labels",
    )


def _made(fit: _TaskFit, labels: tuple[str, ...], seen: Seen) -> tuple[TaskSpec, str]:
    task = load_task(fit.task, labels)
    update: dict[str, Any] = {"labels": labels}
    if fit.decode:
        update["decode"] = task.decode.model_copy(update=dict(fit.decode))
    size = ""
    if isinstance(task.input, ImageInput):
        update["input"] = task.input.model_copy(
            update={"width": seen.width, "height": seen.height, **fit.input}
        )
        size = f", picture {seen.width}x{seen.height}"
    whose = "the metadata's" if seen.names == labels and labels else "COCO's"
    said = f", {whose} {len(labels)} labels" if labels and isinstance(task.input, ImageInput) else ""
    return task.model_copy(update=update), f"--task {fit.task} was guessed: {fit.why}{said}{size}"


def _labels(fit: _TaskFit, seen: Seen) -> tuple[str, ...] | None:
    """Labels of a fit; None where nothing says them, or they are not as many as the classes."""
    base = fit.task not in usable_tasks()
    own = () if base else load_task(fit.task).labels
    if seen.names is not None:
        return seen.names if fit.classes in (None, len(seen.names)) else None
    if not own and not base and fit.classes is None:
        return own
    return own if fit.classes == len(own) else None


def _picture_size(metadata: Mapping[str, str]) -> tuple[int, int]:
    """Height and width for a model that leaves them open, as Ultralytics writes them."""
    try:
        found = ast.literal_eval(metadata.get("imgsz", ""))
        height, width = (int(n) for n in (found if isinstance(found, list | tuple) else (found, found)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _USUAL_SIDE, _USUAL_SIDE
    fine = 8 <= height <= 8192 and 8 <= width <= 8192
    return (height, width) if fine else (_USUAL_SIDE, _USUAL_SIDE)


def _counted(model: ModelProto) -> int | None:
    """The number of classes of a graph that takes the class from an index over queries × classes: what the index
    is divided by, on the way to the output ``labels``."""
    index, found, todo = GraphIndex(model), Counter[int](), ["labels"]
    for _ in range(16):
        made = index.producer.get(todo.pop(0)) if todo else None
        if made is None:
            continue
        for name in made.input:
            value = _scalar(index, name)
            if value is not None and made.op_type in ("Mod", "Div", "Mul") and value > 1:
                found[value] += 1
            todo.append(name)
    return found.most_common(1)[0][0] if found else None


def _dims(info: ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)


def _scalar(index: GraphIndex, name: str) -> int | None:
    value = index.weights(name)
    made = index.producer.get(name)
    if value is None and made is not None and made.op_type == "Constant" and made.attribute:
        value = numpy_helper.to_array(made.attribute[0].t) if made.attribute[0].HasField("t") else None
    return int(value.item()) if value is not None and value.size == 1 and value.dtype.kind in "iu" else None


def _shown(seen: Seen) -> str:
    if not seen.outputs:
        return ", ".join(seen.output_dims)
    return ", ".join(f"{n} {_size(o)}" for n, o in seen.outputs.items())


def _size(array: NDArray[Any]) -> str:
    return "x".join(map(str, array.shape))


# ---- families ---------------------------------------------------------------------------------------------


def _ultralytics(seen: Seen) -> Iterator[_TaskFit]:
    """Ultralytics says itself what it is; its YOLOv5 repository only has names and strides."""
    names, kind = seen.names, seen.metadata.get("task", "")
    found = [o for o in seen.outputs.values() if o.ndim == 3]
    if names is None or "stride" not in seen.metadata or len(found) != 1:
        return
    (out,) = found
    says = seen.metadata.get("description") or "its metadata"
    why = f"{says.strip()}; output {_size(out)}"
    n, columns = len(names), out.shape[2]
    if not kind:
        if columns == 5 + n:
            yield _TaskFit("yolov5", why, n)
        return
    if kind == "pose":
        yield from _pose(seen, out, why, n)
        return
    if kind == "segment":
        yield from _segment(seen, out, why, n)
        return
    detr = "RTDETR" in seen.metadata.get("head", "") or "rt-detr" in says.lower() or "rtdetr" in says.lower()
    if columns == 6 and detr:
        yield _TaskFit("rtdetr-ultralytics", why, n)
    elif columns == 6 and out.shape[1] != 4 + n:
        yield _TaskFit("yolo26", why, n)
    elif 4 + n in out.shape[1:] and not detr:
        yield _TaskFit("yolov8", why, n)


def _pose(seen: Seen, out: NDArray[Any], why: str, n: int) -> Iterator[_TaskFit]:
    """Keypoints by the metadata: how many, how many numbers each has and, in newer files, their names."""
    try:
        points, numbers = (int(v) for v in ast.literal_eval(seen.metadata.get("kpt_shape", "")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return
    if not 1 <= points <= _MOST_KEYPOINTS or numbers not in (2, 3):
        return
    options: dict[str, Any] = {} if numbers == 3 else {"confidence": False}
    names = _keypoint_names(seen, points)
    if names is None and points != len(COCO_NAMES):
        names = tuple(f"point_{i}" for i in range(points))
    if names is not None and names != COCO_NAMES:
        options |= {"keypoints": names, "skeleton": ()}
    else:
        why += ", COCO's"
    extra = points * numbers
    why += f", {points} keypoints" if options.get("keypoints") else f" {points} keypoints"
    if out.shape[2] == 6 + extra and out.shape[1] != 4 + n + extra:
        yield _TaskFit("yolo26-pose", why, n, options)
    elif 4 + n + extra in out.shape[1:]:
        yield _TaskFit("yolov8-pose", why, n, options)


def _keypoint_names(seen: Seen, points: int) -> tuple[str, ...] | None:
    """Names of the keypoints, as newer files of Ultralytics have them: by class, all of one shape."""
    try:
        by_class = ast.literal_eval(seen.metadata.get("kpt_names", ""))
        names = tuple(str(name)[:64] for name in next(iter(by_class.values())))
    except (ValueError, SyntaxError, TypeError, AttributeError, StopIteration, MemoryError, RecursionError):
        return None
    return names if len(names) == points == len({n for n in names if n}) else None


def _segment(seen: Seen, out: NDArray[Any], why: str, n: int) -> Iterator[_TaskFit]:
    """As many mask coefficients behind the classes as there are prototypes."""
    maps = [o for o in seen.outputs.values() if o.ndim == 4]
    if len(maps) != 1:
        return
    masks = int(maps[0].shape[1])
    why += f", masks of {masks} prototypes {_size(maps[0])}"
    if out.shape[2] == 6 + masks and out.shape[1] != 4 + n + masks:
        yield _TaskFit("yolo26-seg", why, n)
    elif 4 + n + masks in out.shape[1:]:
        yield _TaskFit("yolov8-seg", why, n)


def _grids(seen: Seen) -> Iterator[_TaskFit]:
    """One output with a row for each cell of the grids of 8, 16 and 32 pixels (and 64)."""
    out = _only(seen)
    if out is None or out.ndim != 3 or "stride" in seen.metadata:
        return
    n = seen.cells(8, 16, 32)
    rows, columns = out.shape[1:]
    what = f"output {_size(out)}"
    if columns == n and 4 < rows != n:
        yield _TaskFit("yolov8", f"{what}: 4+C rows for {n} cells", rows - 4)
    if rows == n and columns > 4:
        yield _TaskFit("yolov8", f"{what}: 4+C columns for {n} cells", columns - 4)
    if rows == n and columns > 5:
        # boxes lie all over the picture, offsets near zero
        decoded = bool(np.median(np.abs(out[..., :2])) > 0.1 * min(seen.width, seen.height))
        kind = "boxes" if decoded else "raw grid"
        yield _TaskFit(
            "yolox", f"{what}: 5+C columns for {n} cells, {kind}", columns - 5, {"decoded": decoded}
        )
    if rows == 3 * n and columns > 5:
        yield _TaskFit("yolov5", f"{what}: 5+C columns for 3 anchors in {n} cells", columns - 5)
    if rows == n and columns > 32:
        old = {"strides": (8, 16, 32), "centre": 0.5}
        yield _TaskFit("nanodet", f"{what}: C+32 columns for {n} cells", columns - 32, old)
    more = seen.cells(8, 16, 32, 64)
    if rows == more and columns > 32:
        yield _TaskFit("nanodet", f"{what}: C+32 columns for {more} cells", columns - 32)


def _fastestdet(seen: Seen) -> Iterator[_TaskFit]:
    out = _only(seen)
    grid = (seen.height // 16, seen.width // 16)
    if out is not None and out.ndim == 4 and out.shape[2:] == grid and out.shape[1] > 5:
        yield _TaskFit("fastestdet", f"output {_size(out)}: 5+C maps of cells of 16 pixels", out.shape[1] - 5)


def _end2end(seen: Seen) -> Iterator[_TaskFit]:
    out = _only(seen)
    if out is not None and out.ndim == 3 and out.shape[2] == 6 and "stride" not in seen.metadata:
        yield _TaskFit("yolo26", f"output {_size(out)}: box, score, class")


def _detr(seen: Seen) -> Iterator[_TaskFit]:
    for task, logits, boxes in (("rtdetr-raw", "logits", "pred_boxes"), ("rfdetr", "labels", "dets")):
        found = [seen.outputs.get(n) for n in (logits, boxes)]
        scores, at = found
        if scores is not None and at is not None and scores.ndim == at.ndim == 3 and at.shape[2] == 4:
            yield _TaskFit(
                task,
                f"outputs {logits} {_size(scores)} and {boxes} {_size(at)}",
                scores.shape[2],
                {"boxes": boxes, "scores": logits},
            )


def _deployed_detr(seen: Seen) -> Iterator[_TaskFit]:
    if {"labels", "boxes", "scores"} <= set(seen.outputs):
        boxes = seen.outputs["boxes"]
        if boxes.ndim == 3 and boxes.shape[2] == 4 and seen.outputs["scores"].ndim == 2:
            yield _TaskFit("rtdetr", f"outputs labels, boxes {_size(boxes)}, scores", seen.counted)


def _silero(seen: Seen) -> Iterator[_TaskFit]:
    if {"input", "state"} <= set(seen.inputs) and {"output", "stateN"} <= set(seen.output_dims):
        yield _TaskFit("silero-vad", "inputs input and state, outputs output and stateN")


def _keyword(seen: Seen) -> Iterator[_TaskFit]:
    if len(seen.inputs) == len(seen.output_dims) == 1:
        ((name, dims),) = seen.inputs.items()
        ((_, out),) = seen.output_dims.items()
        if dims[1:] in ((49, 10, 1), (49, 10)) and len(out) == 2:
            yield _TaskFit("keyword", f"input {name}: 49 frames of 10 coefficients", out[1])


def _classifier(seen: Seen) -> Iterator[_TaskFit]:
    """One score a class: probabilities, or logits."""
    out = _only(seen)
    if (
        out is None
        or out.shape[:1] != (1,)
        or out.size != out.shape[-3 if out.ndim == 4 else -1]
        or out.size < 2
    ):
        return
    if out.ndim not in (2, 4) or not seen.width:
        return
    sure = bool(out.min() >= 0 and abs(float(out.sum()) - 1) < 1e-3)
    kind = "probabilities" if sure else "logits"
    # its own say what they train with; others do as torchvision
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} if "stride" in seen.metadata else {}
    yield _TaskFit(
        "classifier",
        f"output {_size(out)}: {kind} of {out.size} classes",
        out.size,
        {"softmax": not sure},
        plain,
    )


def _semantic(seen: Seen) -> Iterator[_TaskFit]:
    """A score of each class, or the class, of each pixel or of cells of at most 8."""
    out = _only(seen)
    theirs = seen.metadata.get("task") == "semantic"
    if out is None or out.ndim not in (3, 4) or out.shape[0] != 1 or not seen.width:
        return
    fine = seen.height / 8 <= out.shape[-2] <= seen.height and seen.width / 8 <= out.shape[-1] <= seen.width
    whole = out.dtype.kind in "iu"
    if not fine or (out.ndim == 3) != whole or (out.ndim == 4 and out.shape[1] < 2 and not theirs):
        return
    what = "the class" if whole else f"scores of {out.shape[1]} classes"
    yield _TaskFit(
        "semantic",
        f"output {_size(out)}: {what} of each pixel",
        None if whole or out.shape[1] == 1 else out.shape[1],
        input={"fit": "letterbox"} if theirs else {},
    )


_FAMILIES: tuple[Callable[[Seen], Iterator[_TaskFit]], ...] = (
    _ultralytics,
    _grids,
    _fastestdet,
    _end2end,
    _detr,
    _deployed_detr,
    _classifier,
    _semantic,
    _silero,
    _keyword,
)


def _only(seen: Seen) -> NDArray[Any] | None:
    return next(iter(seen.outputs.values())) if len(seen.outputs) == 1 else None
