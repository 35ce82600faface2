"""Read an ONNX file that nobody vouches for.

Refused in one sentence each: not ONNX, truncated, operators or domains that no runtime here has, external
data outside the model's folder, more nodes or bytes than a sane model has, layers in training mode. Written
anew: functions, sparse constants, node names that occur twice (:mod:`edgectl.builder.ingest.repair`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto
from onnx.defs import SchemaError, get_schema

from edgectl.builder.graph import all_graphs, all_nodes, attribute, subgraphs
from edgectl.builder.ingest.repair import check_size, repaired
from edgectl.core.errors import ModelError
from edgectl.core.files import file_digest

__all__ = [
    "MAX_MODEL_BYTES",
    "ExternalTensor",
    "checked_model",
    "external_tensors",
    "malformed",
    "parse_model",
    "read_model",
    "weight_files",
]

MAX_MODEL_BYTES = 1 << 30
MAX_NODES = 50_000
_DIGITS = 19
_AGAIN = "copy them again: they are another file, or cut short"
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


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor of a graph whose values lie in ``file``: ``length`` bytes from ``offset`` on, all of them inside it."""

    tensor: TensorProto
    file: Path
    offset: int
    length: int


def read_model(path: Path) -> ModelProto:
    """Read and check an ONNX file, external data included. Raises :class:`ModelError` in one sentence."""
    model = parse_model(path)
    with malformed(path.name):
        _check_graph(model, path.name)
        _load_external(model, path)
        return checked_model(model, path.name)


def parse_model(path: Path) -> ModelProto:
    """An ONNX file as it stands there, without what lies in other files; nothing of it is checked yet. Raises
    :class:`ModelError` for what is none."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(
                f"{path.name} has {size >> 20} MiB; at most {MAX_MODEL_BYTES >> 20} MiB are read",
                hint="save it with its weights beside it: onnx.save_model(…, save_as_external_data=True)",
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
    return model


def checked_model(model: ModelProto, name: str) -> ModelProto:
    """A copy of a model in the forms that every runtime reads. :func:`malformed` is around it. Raises
    :class:`ModelError`."""
    _check_graph(model, name)
    _check(model)
    _check_training(model)
    return repaired(model, name)


@contextlib.contextmanager
def malformed(name: str) -> Iterator[None]:
    """What ONNX's own checks and protobuf raise is a :class:`ModelError`."""
    try:
        yield
    # TypeError: protobuf hands a name that is no UTF-8 over as bytes; OverflowError: an absurd opset
    except (onnx.checker.ValidationError, ValueError, TypeError, OverflowError, RuntimeError) as e:
        raise ModelError(
            f"{name} is not a valid ONNX model: {(str(e).strip() or 'malformed').splitlines()[0][:200]}"
        ) from e


def external_tensors(model: ModelProto, path: Path) -> list[ExternalTensor]:
    """The tensors of ``model``, which ``path`` holds, that lie in other files. Raises :class:`ModelError` for a file outside
    the model's own folder, one that is not there, and for bytes that it does not have."""
    folder = path.parent.resolve()
    return [
        _external(t, path.name, folder)
        for t in _all_tensors(model.graph)
        if t.data_location == TensorProto.EXTERNAL
    ]


def weight_files(external: Iterable[ExternalTensor], path: Path) -> dict[str, str]:
    """Each file that weights of the model ``path`` lie in, as seen from its folder → its digest. Raises
    :class:`ModelError`."""
    folder = path.parent.resolve()
    found = {}
    for file in sorted({e.file.resolve() for e in external}):
        try:
            found[file.relative_to(folder).as_posix()] = file_digest(file)
        except OSError as e:
            raise ModelError(f"cannot read {file.name}: {e.strerror or e}", hint=_AGAIN) from e
    return found


def _external(t: TensorProto, name: str, folder: Path) -> ExternalTensor:
    said = {e.key: e.value for e in t.external_data}
    location = said.get("location", "")
    file, called = folder / location, repr(location[:80])
    try:
        within = bool(location) and not os.path.isabs(location) and file.resolve().is_relative_to(folder)
        size = file.stat().st_size if within and file.is_file() else None
    # a name too long, or with a NUL
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{name} cannot read its weights in {called}: that is no name of a file", hint=_AGAIN
        ) from e
    if not within:
        raise ModelError(
            f"{name} wants to read {called}, outside its own folder",
            hint="export it again with its weights beside it",
        )
    if size is None:
        raise ModelError(
            f"{name} needs its weights in {called}, which is not there", hint="copy it beside the model"
        )
    numbers = [said.get(key) for key in ("offset", "length")]
    if any(n is not None and not (n.isdecimal() and len(n) < _DIGITS) for n in numbers):
        raise ModelError(f"{name} does not say where tensor {t.name[:80]} lies in {called}", hint=_AGAIN)
    offset = int(numbers[0] or 0)
    length = size - offset if numbers[1] is None else int(numbers[1])
    if length < 0 or offset + length > size:
        raise ModelError(
            f"the external weights of {name} cannot be read: tensor {t.name[:80]} ends {offset + length - size} bytes "
            f"beyond {called}"
            if length >= 0
            else f"the external weights of {name} cannot be read: tensor {t.name[:80]} begins beyond {called}",
            hint=_AGAIN,
        )
    return ExternalTensor(t, file, offset, length)


def _check_graph(model: ModelProto, name: str) -> None:
    """What can be told before any weights are read."""
    check_size(model, name, MAX_NODES)
    _check_operators(model, name)


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
    external = external_tensors(model, path)
    if (total := sum(e.length for e in external)) > MAX_MODEL_BYTES:
        raise ModelError(
            f"{path.name} has {total >> 20} MiB of external weights; at most {MAX_MODEL_BYTES >> 20} MiB are read"
        )
    try:
        for t in (e.tensor for e in external):
            onnx.external_data_helper.load_external_data_for_tensor(t, str(folder))
            t.data_location = TensorProto.DEFAULT
            del t.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(
            f"the external weights of {path.name} cannot be read: {e}",
            hint=_AGAIN,
        ) from e


def _all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for one in all_graphs(graph):
        yield from one.initializer
        for n in one.node:
            for a in n.attribute:
                if a.HasField("t"):
                    yield a.t
                yield from a.tensors
