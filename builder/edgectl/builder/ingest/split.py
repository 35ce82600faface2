"""Post-processing cut off: what NonMaxSuppression would read becomes the outputs, and the device's decoder
does the rest.

Selection has open shapes, no int8 form and no place on an accelerator; the decoder of ``boxes-scores`` does
the same on the few boxes above the score. Thresholds are the task's.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from edgectl.builder.graph import GraphIndex, reads, subgraphs
from edgectl.core.errors import ModelError
from edgectl.core.task import TaskSpec

__all__ = ["split_post"]

_BOXES, _SCORES = "boxes", "scores"


def split_post(model: ModelProto, task: TaskSpec) -> tuple[ModelProto, TaskSpec, bool]:
    """The model up to its NonMaxSuppression, with outputs ``boxes [1, N, 4]`` and ``scores [1, N, C]``, the
    task that reads them, and whether anything was cut. Models without one, and other decoders, come back as
    they are.

    Raises :class:`ModelError` if there are several, or one in a subgraph: what they select from is not one
    list of boxes.
    """
    selections = [n for n in model.graph.node if n.op_type == "NonMaxSuppression"]
    if task.decode.kind != "boxes-scores" or not (selections or _hidden(model)):
        return model, task, False
    if len(selections) != 1 or _hidden(model):
        raise ModelError(
            "the model has several NonMaxSuppression nodes, or one in a loop: they cannot be cut off",
            hint="export the model without NMS; the decoder of the task suppresses",
        )
    cut = ModelProto()
    cut.CopyFrom(model)
    boxes, scores = selections[0].input[:2]
    made = GraphIndex(cut).producer.get(scores)
    if (
        made is not None
        and made.op_type == "Transpose"
        and list(made.attribute[0].ints if made.attribute else ()) == [0, 2, 1]
    ):
        # NonMaxSuppression wants classes first; before the transpose they are last
        scores = made.input[0]
        turned = []
    else:
        turned = [
            helper.make_node(
                "Transpose", [scores], [_fresh(cut, _SCORES)], name="scores_Transpose", perm=[0, 2, 1]
            )
        ]
        scores = turned[0].output[0]
    cut.graph.node.extend(turned)
    del cut.graph.output[:]
    for name, last in ((boxes, 4), (scores, "classes")):
        cut.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "boxes", last]))
    _prune(cut)
    decode = task.decode.model_copy(update={"boxes": boxes, "scores": scores})
    return cut, task.model_copy(update={"decode": decode}), True


def _hidden(model: ModelProto) -> bool:
    """A NonMaxSuppression inside a Loop or an If."""
    graphs = [g for n in model.graph.node for g in subgraphs(n)]
    while graphs:
        graph = graphs.pop()
        for n in graph.node:
            if n.op_type == "NonMaxSuppression":
                return True
            graphs.extend(subgraphs(n))
    return False


def _fresh(model: ModelProto, name: str) -> str:
    taken = {o for n in model.graph.node for o in n.output} | {t.name for t in model.graph.initializer}
    while name in taken:
        name += "_"
    return name


def _prune(model: ModelProto) -> None:
    """Drop what no output needs any more."""
    index = GraphIndex(model)
    needed: set[str] = set()
    todo = [*index.outputs]
    while todo:
        made = index.producer.get(todo.pop())
        if made is not None and made.output[0] not in needed:
            needed.update(made.output)
            todo.extend(reads(made))
    kept = [n for n in model.graph.node if needed.intersection(n.output)]
    read = {i for n in kept for i in reads(n)}
    constants = [t for t in model.graph.initializer if t.name in read]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants)
