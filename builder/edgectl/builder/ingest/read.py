"""Read an ONNX file that nobody vouches for.

Refused in one sentence each: not ONNX, truncated, operators or domains that no runtime here has, external
data outside the model's folder, more nodes or bytes than a sane model has, layers in training mode. Written
anew: functions, sparse constants, node names that occur twice (:mod:`edgectl.builder.ingest.repair`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto
from onnx.defs import SchemaError, get_schema

from edgectl.builder.graph import all_graphs, all_nodes, attribute, subgraphs
from edgectl.builder.ingest.repair import check_size, repaired
from edgectl.core.errors import ModelError

__all__ = ["read_model"]

MAX_MODEL_BYTES = 1 << 30
MAX_NODES = 50_000
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""``com.microsoft`` for fused operators that ONNX Runtime's own tools write; whether it knows them shows
when it opens the file."""

_OTHERS = (
    (4, b"TFL3", "a TFLite model", "call it FILE.tflite: edgectl converts it"),
    (
        0,
        b"PK\x03\x04",
        "a PyTorch file",
        "call it by its own name (.pt2, .pt): docs/convert.md says which are converted",
    ),
    (0, b"ftrt", "a TensorRT engine", "give the ONNX file that it was made of"),
)
"""Place and bytes by which the files of others are known, what they are, what to do."""


def read_model(path: Path) -> ModelProto:
    """Read and check an ONNX file, external data included. Raises :class:`ModelError` in one sentence."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(
                f"{path.name} has {size >> 20} MiB; at most {MAX_MODEL_BYTES >> 20} MiB are read"
            )
        data = path.read_bytes()
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", hint="check the path of the model") from e
    for place, magic, what, hint in _OTHERS:
        if data.startswith(magic, place):
            raise ModelError(f"{path.name} is not an ONNX file but {what}", hint=hint)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as e:
        raise ModelError(
            f"{path.name} is not an ONNX file, or it is truncated", hint="export or download it again"
        ) from e
    if not model.ir_version or not model.opset_import or not (model.graph.node or model.graph.output):
        raise ModelError(
            f"{path.name} is not an ONNX file: it has no graph", hint="export the model to ONNX first"
        )
    if not model.graph.node:
        raise ModelError(
            f"the graph of {path.name} has no nodes: there is nothing to run", hint="export the model again"
        )
    try:
        check_size(model, path.name, MAX_NODES)
        _check_operators(model, path.name)
        _load_external(model, path)
        _check(model)
        _check_training(model)
        return repaired(model, path.name)
    # TypeError: protobuf hands a name that is no UTF-8 over as bytes; OverflowError: an absurd opset
    except (onnx.checker.ValidationError, ValueError, TypeError, OverflowError, RuntimeError) as e:
        raise ModelError(
            f"{path.name} is not a valid ONNX model: {(str(e).strip() or 'malformed').splitlines()[0][:200]}"
        ) from e


def _check_operators(model: ModelProto, name: str) -> None:
    """Every operator must be known: to the ONNX standard at the model's opset (its function's), or a
    function of the model's own."""
    own = {(f.domain, f.name) for f in model.functions}
    versions = _versions(model.opset_import)
    found = [(n, versions) for n in all_nodes(model.graph)]
    for f in model.functions:
        theirs = {**versions, **_versions(f.opset_import)}
        found += [
            (n, theirs)
            for node in f.node
            for n in (node, *(i for sub in subgraphs(node) for i in all_nodes(sub)))
        ]
    unknown = set()
    for node, versions in found:
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in _DOMAINS:
            unknown.add(f"{node.domain}::{node.op_type}")
        elif node.domain in ("", "ai.onnx"):
            try:
                get_schema(node.op_type, versions.get("", 1), "")
            except SchemaError:
                unknown.add(node.op_type)
    if unknown:
        raise ModelError(
            f"{name} uses unknown operators: {', '.join(sorted(unknown)[:5])}",
            hint="export without custom operators, or replace them by standard ones",
        )


def _check(model: ModelProto) -> None:
    """The ONNX checker, but for inputs and outputs without a shape: it wants one, and runtimes do not."""
    bare = [
        i.type.tensor_type
        for i in (*model.graph.input, *model.graph.output)
        if i.type.HasField("tensor_type")
    ]
    bare = [t for t in bare if not t.HasField("shape")]
    for t in bare:
        t.shape.SetInParent()
    # before, each initializer had to be listed among the inputs
    model.ir_version = max(model.ir_version, 4)
    onnx.checker.check_model(model)
    for t in bare:
        t.ClearField("shape")


def _check_training(model: ModelProto) -> None:
    """A layer in training mode answers differently each time, or by the statistics of the very picture."""
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        n.output[0]: a.t
        for n in model.graph.node
        if n.op_type == "Constant"
        for a in n.attribute
        if a.name == "value"
    }
    for n in all_nodes(model.graph):
        mode = constants.get(n.input[2]) if n.op_type == "Dropout" and len(n.input) > 2 else None
        trains = n.op_type == "BatchNormalization" and attribute(n, "training_mode")
        if trains or (mode is not None and bool(onnx.numpy_helper.to_array(mode).any())):
            raise ModelError(
                f"{_called(n)} is in training mode",
                hint="export the model in evaluation mode (in PyTorch: call model.eval() first)",
            )


def _called(n: NodeProto) -> str:
    return f"node {n.name} ({n.op_type})" if n.name else f"a node {n.op_type} that makes {n.output[0]}"


def _versions(opsets: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in opsets}


def _load_external(model: ModelProto, path: Path) -> None:
    """Load tensors that lie in other files, if those lie in the model's own folder and are not too large."""
    folder = path.parent.resolve()
    external = [t for t in _all_tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    total = 0
    for t in external:
        location = next((e.value for e in t.external_data if e.key == "location"), "")
        file = folder / location
        if not location or os.path.isabs(location) or not file.resolve().is_relative_to(folder):
            raise ModelError(
                f"{path.name} wants to read {location[:80]!r}, outside its own folder",
                hint="export it again with its weights beside it",
            )
        if not file.is_file():
            raise ModelError(
                f"{path.name} needs its weights in {location}, which is not there",
                hint="copy it beside the model",
            )
        length = next(
            (int(e.value) for e in t.external_data if e.key == "length" and e.value.isdecimal()),
            file.stat().st_size,
        )
        total += length
    if total > MAX_MODEL_BYTES:
        raise ModelError(
            f"{path.name} has {total >> 20} MiB of external weights; at most {MAX_MODEL_BYTES >> 20} MiB are read"
        )
    try:
        for t in external:
            onnx.external_data_helper.load_external_data_for_tensor(t, str(folder))
            t.data_location = TensorProto.DEFAULT
            del t.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(
            f"the external weights of {path.name} cannot be read: {e}",
            hint="copy them again: they are another file, or cut short",
        ) from e


def _all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for one in all_graphs(graph):
        yield from one.initializer
        for n in one.node:
            for a in n.attribute:
                if a.HasField("t"):
                    yield a.t
                yield from a.tensors
