"""A named task takes from the model what the model itself says: the size, layout and type of its input, and
where its background class is.

What a user's file says stays as it is and must fit. Left out: labels, colours and thresholds, which no graph
tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from pydantic import ValidationError

from edgectl.builder.graph import real_inputs
from edgectl.builder.passes.shapes import Shape, model_dims
from edgectl.core.errors import UsageError
from edgectl.core.schema import first_problem
from edgectl.core.task import AudioInput, FeatureSpec, ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import decoder_options
from edgectl.pipelines.video.decode.boxes_scores import BoxesScoresOptions, boxes_and_scores

__all__ = ["fit_background", "fit_input"]

_BACKGROUND = ("background", "__background__", "bg", "no object", "no-object", "no_object", "none", "n/a")
_MOSTLY = 0.9
"""Of all boxes of a picture: what the background class wins in a detector that looks at real pictures."""
# how near to 1 the scores of a box sum up to behind a softmax
_SURE = 1e-3


def fit_input(task: TaskSpec, model: ModelProto, shapes: Mapping[str, Shape]) -> TaskSpec:
    """The task with the size that the model (or the user, ``shapes``) says, if the task leaves that to it.

    Raises :class:`UsageError` for a size that no pipeline takes.
    """
    spec = task.input
    if not isinstance(spec, ImageInput | AudioInput) or not spec.adapts:
        return task
    names = [i.name for i in real_inputs(model)]
    name = spec.tensor or (names[0] if len(names) == 1 else "")
    if name not in names:
        # what is wrong with it is said where shapes are resolved
        return task
    dims = model_dims(model, name, shapes)
    kind = next(i.type.tensor_type.elem_type for i in model.graph.input if i.name == name)
    update = _picture(spec, dims, kind) if isinstance(spec, ImageInput) else _sound(spec, dims)
    try:
        fitted = type(spec).model_validate({**spec.model_dump(), **update})
    except ValidationError as e:
        raise UsageError(
            f"input {name} has a size that task {task.name} cannot fill: {first_problem(e)}",
            hint="give --task a TOML file whose input is what the model takes, or --task tensor with an .npz",
        ) from e
    return task.model_copy(update={"input": fitted})


def fit_background(task: TaskSpec, outputs: Sequence[Outputs]) -> tuple[TaskSpec, str]:
    """The task with ``decode.background``, where the float model's ``outputs`` on some pictures leave no
    doubt, and a note about it.

    Only where the scores have one column more than there are labels, or a label is a name for background.
    Raises :class:`UsageError` where there must be a background class and nothing tells which end it is at,
    :class:`ModelError` for outputs that are not those of the decoder.
    """
    if task.decode.kind != "boxes-scores":
        return task, ""
    options = decoder_options(BoxesScoresOptions, task)
    if options.background != "none":
        return task, ""
    named = [
        i
        for i, label in enumerate(task.labels)
        if label.strip().lower() in _BACKGROUND or label in task.background
    ]
    scores = [np.asarray(boxes_and_scores(o, options)[1], np.float64) for o in outputs]
    columns = scores[0].shape[-1] if scores and scores[0].ndim == 3 else 0
    if columns == len(task.labels) and named in ([0], [columns - 1]):
        end = "first" if named == [0] else "last"
        labels = task.labels[1:] if end == "first" else task.labels[:-1]
        if not labels:
            return task, ""
        never = tuple(label for label in task.background if label in labels)
        decode = task.decode.model_copy(update={"background": end})
        fitted = task.model_copy(update={"decode": decode, "labels": labels, "background": never})
        return fitted, f"class {end} ({task.labels[named[0]]}) is the background: it is no detection"
    if columns != len(task.labels) + 1:
        return task, ""  # the decoder says what does not fit
    end = _end(np.concatenate([s.reshape(-1, columns) for s in scores]))
    if not end:
        raise UsageError(
            f"the model scores {columns} classes, the task has {len(task.labels)} labels; the one more may be a background class, and the "
            "scores do not tell which",
            hint='set background = "first" or "last" under [decode] in the task, or give all labels',
        )
    return (
        task.model_copy(update={"decode": task.decode.model_copy(update={"background": end})}),
        f"the {end} of {columns} scores is a background class: most boxes belong to it, and it is no detection",
    )


def _end(scores: NDArray[np.float64]) -> str:
    """``first`` or ``last``, where the scores of each box sum up to 1 and nearly every box is of that
    class; empty otherwise."""
    if not len(scores) or np.abs(scores.sum(axis=1) - 1).max() > _SURE:
        return ""
    won = scores.argmax(axis=1)
    for end, column in (("first", 0), ("last", scores.shape[1] - 1)):
        if float(np.mean(won == column)) >= _MOSTLY:
            return end
    return ""


def _picture(spec: ImageInput, dims: Sequence[int | None], kind: int) -> dict[str, object]:
    if len(dims) != 4:
        return {}
    layout = spec.layout
    if dims[1] == 3 != dims[3]:
        layout = "NCHW"
    elif dims[3] == 3 != dims[1]:
        layout = "NHWC"
    height, width = dims[2:] if layout == "NCHW" else dims[1:3]
    dtype = "uint8" if kind == TensorProto.UINT8 else spec.dtype
    return {"layout": layout, "height": height or spec.height, "width": width or spec.width, "dtype": dtype}


def _sound(spec: AudioInput, dims: Sequence[int | None]) -> dict[str, object]:
    """The same values in another shape, or more or fewer frames of the same features."""
    fixed = [1 if d is None and i == 0 else d for i, d in enumerate(dims)]
    shape = tuple(d for d in fixed if d is not None)
    if not shape or len(shape) < len(fixed):
        return {}
    f = spec.features
    bins = {"waveform": 0, "log_mel": f.mels, "mfcc": f.coefficients}[f.kind]
    if f.kind == "waveform":
        return {"shape": shape} if math.prod(shape) == f.context + f.window else {}
    if math.prod(shape) == f.frames * bins:
        return {"shape": shape}
    frames, rest = divmod(math.prod(shape), bins)
    sizes = [d for d in shape if d != 1]
    if rest or (sizes and sizes[-1] != bins):
        return {}
    return {
        "shape": shape,
        "features": FeatureSpec.model_validate({**f.model_dump(), "frames": frames}).model_dump(),
    }
