"""What the files of PyTorch have in common: a module and inputs in, ONNX and a signature out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgectl.builder.convert.inside.shape import Answers, Arithmetic, Job, Refused, Signature

__all__ = ["PIP", "answers_of", "arithmetic_of", "example_inputs", "export_module", "flat", "parameters_of"]

PIP = "pip install 'edgectl[convert]'"
_OPSET = 18
_MOST_OUTPUTS = 64


def parameters_of(module: Any) -> list[str]:
    """Names of what ``forward`` must be given."""
    kinds = inspect.Parameter
    try:
        found = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in found
        if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) and p.default is kinds.empty
    ]


def example_inputs(
    job: Job, names: Sequence[str], run: Callable[[tuple[Any, ...]], Any], dtype: Any
) -> tuple[list[str], tuple[Any, ...]]:
    """Names and values of the inputs: their shapes from ``--shape``, then from the calibration data, to whose samples a batch axis of
    1 is added unless the module takes them as they are.

    ``dtype``: of inputs that no data describes. Raises :class:`Refused` where nothing says a shape.
    """
    import torch

    given = [n for n in job.shapes if n not in names]
    if given and len(names) == 1 and len(job.shapes) == 1:
        raise Refused(f"it has no input {given[0]}, but {names[0]}", f"write --shape {names[0]}=…")
    if given:
        raise Refused(f"it has no input {given[0]}", f"its inputs are {', '.join(names)}")
    # what forward may be given beyond what it must, if the data have it
    wanted = [n for n in names if n in job.shapes or n in job.data] or list(names)
    missing = [n for n in names if n not in wanted]
    if missing or any(n not in job.shapes and n not in job.data for n in wanted):
        unknown = missing or [n for n in wanted if n not in job.shapes and n not in job.data]
        raise Refused(
            f"nothing says the shape of input {unknown[0]}",
            " ".join(f"--shape {n}=1,3,224,224" for n in unknown[:4]) + " (with the sizes that it takes)",
        )
    tried: list[BaseException] = []
    for batch in ((1,), ()):
        values = []
        for name in wanted:
            shape = job.shapes.get(name) or (*batch, *job.data[name][0])
            kind = getattr(torch, job.data[name][1]) if name in job.data else dtype
            if kind == torch.float64:
                kind = dtype
            values.append(
                torch.ones(shape, dtype=kind) if not kind.is_floating_point else torch.rand(shape).to(kind)
            )
        try:
            run(tuple(values))
        except Exception as e:
            tried.append(e)
            continue
        return wanted, tuple(values)
    raise tried[0]


def export_module(
    job: Job, program: Any, args: tuple[Any, ...], names: Sequence[str] | None, *, dynamo: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write ``job.onnx``; the names of its inputs and outputs."""
    import onnx
    import torch

    with torch.no_grad():
        torch.onnx.export(
            program,
            args,
            str(job.onnx),
            input_names=None if names is None else list(names),
            dynamo=dynamo,
            opset_version=_OPSET if dynamo else 17,
            verbose=False,
            **({"external_data": True} if dynamo else {}),
        )
    graph = onnx.load(str(job.onnx), load_external_data=False).graph
    inside = {t.name for t in graph.initializer}
    return tuple(i.name for i in graph.input if i.name not in inside), tuple(o.name for o in graph.output)


def signature_of(
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    arithmetic: Arithmetic,
    *,
    notes: Mapping[str, Any] | None = None,
) -> Signature:
    """Of what :func:`export_module` wrote."""
    import torch

    if not inputs:
        raise Refused("the exported graph has no inputs: its answer does not depend on them")
    return Signature(
        inputs,
        outputs,
        f"torch.onnx {torch.__version__}",
        f"PyTorch {torch.__version__}",
        arithmetic,
        notes or {},
    )


def arithmetic_of(tensors: Sequence[Any]) -> Arithmetic:
    """What most weights compute in. ``tensors``: parameters and buffers."""
    import torch

    half = sum(t.numel() for t in tensors if t.dtype in (torch.float16, torch.bfloat16))
    return "float16" if 2 * half > sum(t.numel() for t in tensors if t.is_floating_point()) else "float32"


def answers_of(run: Callable[[tuple[Any, ...]], Any], inputs: Sequence[str]) -> Answers:
    """A module as a function of arrays."""
    import torch

    def answers(feeds: Mapping[str, Any]) -> list[Any]:
        with torch.no_grad():
            out = flat(run(tuple(torch.from_numpy(feeds[n].copy()) for n in inputs)))
        return [t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy() for t in out]

    return answers


def flat(value: Any) -> list[Any]:
    """The tensors of whatever a module returns, in the order in which exporters list them."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in flat(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in flat(v)]
    if isinstance(value, int | float | bool):
        return [torch.tensor(value)]
    return []
