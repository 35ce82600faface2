"""A graph without its large weights: what every pass can work on although no protobuf message holds the whole.

Two forms of one graph. *Hollow*: a large weight is an initializer whose values lie elsewhere; whoever counts weights sees
it. *Open*: it is an input of the graph; whoever folds constants leaves it alone, and ONNX's own tools read the graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.graph import all_graphs
from edgectl.builder.ingest.read import (
    ExternalTensor,
    checked_model,
    external_tensors,
    malformed,
    parse_model,
    weight_files,
)
from edgectl.builder.large.weights import StoredWeight
from edgectl.builder.passes.names import rename_reads
from edgectl.core.errors import ModelError
from edgectl.core.files import storage

__all__ = ["MAX_LARGE_BYTES", "HollowModel", "closed", "opened", "read_hollow", "weights_beside"]

MAX_LARGE_BYTES = 16 << 30
"""Of weights in files of their own."""
SMALL_BYTES = 64 << 10
"""A weight of fewer stays in the graph: sizes, scales, norms, which passes read."""
_MAX_INSIDE = 64 << 20
"""Of weights that are no initializers of the graph itself, and of small ones."""


@dataclass(frozen=True)
class HollowModel:
    """``graph``: hollow. ``files``: see :func:`~edgectl.builder.ingest.read.weight_files`."""

    graph: ModelProto
    weights: dict[str, StoredWeight]
    files: dict[str, str]


def weights_beside(path: Path) -> int:
    """Bytes of weights that an ONNX file has in others. Raises :class:`ModelError`."""
    return sum(e.length for e in external_tensors(parse_model(path), path))


def read_hollow(path: Path, folder: Path) -> HollowModel:
    """Read and check an ONNX file as :func:`~edgectl.builder.ingest.read.read_model` does, its weights left where they are.
    Large ones inside it go to a file of ``folder``. Raises :class:`ModelError` and :class:`StorageError`."""
    model = parse_model(path)
    external = external_tensors(model, path)
    total = sum(e.length for e in external)
    if total > MAX_LARGE_BYTES:
        raise ModelError(
            f"{path.name} has {total >> 20} MiB of external weights; at most {MAX_LARGE_BYTES >> 20} MiB are read",
            hint="split the model, or export it in float16",
        )
    outside = {id(e.tensor): e for e in external}
    taken = {n for g in all_graphs(model.graph) for node in g.node for n in (*node.input, *node.output)}
    weights: dict[str, StoredWeight] = {}
    names: dict[str, str] = {}
    small = 0
    inside = folder / "inside.bin"
    with storage(str(inside)), inside.open("wb") as spill:
        for t in model.graph.initializer:
            found = outside.pop(id(t), None)
            with malformed(path.name):
                weight = _stored(t, found) if found is not None else None
                if found is None and len(t.raw_data) >= SMALL_BYTES:
                    weight = StoredWeight(inside, spill.tell(), t.data_type, tuple(t.dims))
                    if weight.nbytes != len(t.raw_data):
                        raise ValueError(
                            f"tensor {t.name[:80]} has {len(t.raw_data)} bytes, not {weight.nbytes}"
                        )
                    spill.write(t.raw_data)
            if weight is None:
                continue
            if weight.nbytes < SMALL_BYTES:
                small += weight.nbytes
                if small > _MAX_INSIDE:
                    raise ModelError(
                        f"{path.name} has more than {_MAX_INSIDE >> 20} MiB of weights of less than {SMALL_BYTES >> 10} KiB each",
                        hint="export it with larger layers",
                    )
                _take_in(t, path)
                continue
            name = next(n for i in range(len(taken) + 1) if (n := f"large{len(weights) + i}") not in taken)
            taken.add(name)
            names[t.name], weights[name] = name, weight
            t.name = name
            _hollow(t)
    if (left := sum(e.length for e in outside.values())) > _MAX_INSIDE:
        raise ModelError(
            f"{path.name} keeps {left >> 20} MiB of weights in nodes or in bodies of loops; of a model this large at most "
            f"{_MAX_INSIDE >> 20} MiB are read from there",
            hint="export it with its weights as initializers of the graph",
        )
    for e in outside.values():
        _take_in(e.tensor, path)
    rename_reads(model.graph, names)
    # old exporters list initializers among the inputs
    inputs = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for o in model.graph.output:
        if o.name in names:
            raise ModelError(
                f"output {o.name} of {path.name} is a weight", hint="export the model without it"
            )
    with malformed(path.name):
        checked = checked_model(opened(model, weights), path.name)
    return HollowModel(closed(checked, weights), weights, weight_files(external, path))


def opened(model: ModelProto, weights: Iterable[str]) -> ModelProto:
    """A copy in which the large weights are inputs, after the real ones."""
    names = set(weights)
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    large = [t for t in graph.initializer if t.name in names]
    kept = [t for t in graph.initializer if t.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large)
    return copy


def closed(model: ModelProto, weights: Iterable[str]) -> ModelProto:
    """A copy in which the large weights that something reads are hollow initializers, of the type that the inputs had."""
    names = set(weights)
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    read = {i for g in all_graphs(graph) for n in g.node for i in n.input}
    for i in [i for i in graph.input if i.name in names]:
        kind = i.type.tensor_type
        if i.name in read:
            t = graph.initializer.add(
                name=i.name, data_type=kind.elem_type, dims=[d.dim_value for d in kind.shape.dim]
            )
            _hollow(t)
        graph.input.remove(i)
    return copy


def _stored(t: TensorProto, found: ExternalTensor) -> StoredWeight:
    """Raises ValueError where the file has more or fewer bytes for it than its shape says."""
    written = found.file.stat().st_mtime_ns
    weight = StoredWeight(found.file, found.offset, t.data_type, tuple(t.dims), written)
    if any(d < 0 for d in t.dims) or weight.nbytes != found.length:
        raise ValueError(
            f"tensor {t.name[:80]} has {found.length} bytes in {found.file.name}, not what its shape says"
        )
    return weight


def _hollow(t: TensorProto) -> None:
    t.ClearField("raw_data")
    del t.external_data[:]
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value="elsewhere")


def _take_in(t: TensorProto, path: Path) -> None:
    with malformed(path.name):
        onnx.external_data_helper.load_external_data_for_tensor(t, str(path.parent.resolve()))
    t.data_location = TensorProto.DEFAULT
    del t.external_data[:]
