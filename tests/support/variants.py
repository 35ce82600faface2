"""Small real variants: an ONNX file, golden outputs, and the blobs around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgectl.core.bundle import (
    LAYER_ENGINE,
    LAYER_GOLDEN,
    MEDIA_CONFIG,
    Descriptor,
    GoldenSpec,
    Manifest,
    Recipe,
    TensorSpec,
    Tolerance,
    Variant,
    VariantConfig,
)
from edgectl.core.files import digest_of, hex_of
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.core.tensors import write_npz

MakeVariant = Callable[..., Variant]


def small_model(seed: int = 0) -> bytes:
    """x [1, 3, 8, 8] → Conv → Relu → y [1, 4, 6, 6]."""
    weight = np.random.default_rng(seed).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def variant_factory(folder: Path) -> MakeVariant:
    """``make_variant(runtime=…, shift=…, samples=…)``: a variant whose golden outputs are its own, plus
    ``shift``, and more ``layers``."""
    import onnxruntime

    def make(
        *,
        runtime: str = "onnxruntime",
        shift: float = 0.0,
        samples: int = 2,
        model: bytes | None = None,
        layers: tuple[tuple[str, bytes], ...] = (),
        **config: Any,
    ) -> Variant:
        data = small_model() if model is None else model
        rng = np.random.default_rng(1)
        arrays: dict[str, Any] = {}
        try:
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        except Exception:
            session = None
        for i in range(samples):
            x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
            arrays[f"in/{i}/x"] = x
            y = session.run(["y"], {"x": x})[0] if session else np.zeros((1, 4, 6, 6), np.float32)
            arrays[f"out/{i}/y"] = (y + shift).astype(np.float32)
        values = VariantConfig(
            version="1",
            profile="cpu",
            runtime=runtime,
            task=TaskSpec(name="t", input=TensorInput()),
            inputs=(TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),),
            outputs=(TensorSpec(name="y", shape=(1, 4, 6, 6), dtype="float32"),),
            golden=GoldenSpec(samples=samples, tolerances={"y": Tolerance(cosine=0.999, max_abs=0.01)}),
            **{"name": "small", "variant": "small", "recipe": Recipe(family="float"), **config},
        )
        blobs = folder / "blobs"
        blobs.mkdir(exist_ok=True)

        def put(media: str, content: bytes) -> Descriptor:
            digest = digest_of(content)
            (blobs / hex_of(digest)).write_bytes(content)
            return Descriptor(mediaType=media, digest=digest, size=len(content))

        whole = ((LAYER_ENGINE, data), (LAYER_GOLDEN, write_npz(arrays)), *layers)
        manifest = Manifest(
            config=put(MEDIA_CONFIG, values.model_dump_json().encode()),
            layers=tuple(put(media, content) for media, content in whole),
        )
        return Variant.open(blobs, put("manifest", manifest.encode()).digest)

    return make


def weighty_model(mib: int) -> bytes:
    """Like :func:`small_model`, with so many MiB of weights, all of which each run uses."""
    n = (mib << 20) // 4 // 192
    rows = np.random.default_rng(0).standard_normal((192, n), np.float32)
    kernel = np.ones((4, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("ReduceMean", ["m"], ["mean"], keepdims=0),
        helper.make_node("Add", ["c", "mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weighty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(rows, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
