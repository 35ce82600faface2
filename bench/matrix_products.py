"""Which low-bit form of a matrix product pays, by rows and runtime. One thread, interleaved, paired ratios to
ONNX Runtime float.

    python bench/matrix_products.py --width 1024 --rows 1 16 64

The graph is a stack of (MatMul, Relu, Gemm, residual Add), seeded weights: its cosine says how well a form
follows float, nothing of a trained model. ``blocks-4``/``blocks-8`` are the same weights as DequantizeLinear
in blocks of 32 (opset 21), for comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.builder.generated import mlp

from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.matmul import BLOCK, FORMS, rewrite_matmuls
from edgectl.builder.int8.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, load_1m, paired_ratio


def blocks(model: ModelProto, bits: int) -> ModelProto:
    """The standard operator's form of the weights."""
    changed = ModelProto()
    changed.CopyFrom(model)
    changed.opset_import[0].version, changed.ir_version = 21, 10
    index, top = GraphIndex(model), 7 if bits == 4 else 127
    dequantize = []
    for n in changed.graph.node:
        if n.op_type not in ("MatMul", "Gemm"):
            continue
        weight = np.asarray(index.weights(n.input[1]))
        axis = 1 if attribute(n, "transB") else 0
        parts = weight.reshape(
            *((-1, weight.shape[1] // BLOCK, BLOCK) if axis else (weight.shape[0] // BLOCK, BLOCK, -1))
        )
        scale = (np.abs(parts).max(axis=axis + 1) / top).astype(np.float32)
        codes = np.rint(parts / np.expand_dims(scale, axis + 1)).reshape(weight.shape).astype(np.int8)
        stored = (
            helper.make_tensor(f"{n.name}_q", TensorProto.INT4, codes.shape, codes.ravel())
            if bits == 4
            else numpy_helper.from_array(codes, f"{n.name}_q")
        )
        changed.graph.initializer.extend([stored, numpy_helper.from_array(scale, f"{n.name}_s")])
        dequantize.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{n.name}_q", f"{n.name}_s"],
                [f"{n.name}_w"],
                axis=axis,
                block_size=BLOCK,
            )
        )
        n.input[1] = f"{n.name}_w"
    nodes = [*dequantize, *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    read = {i for n in nodes for i in n.input}
    kept = [t for t in changed.graph.initializer if t.name in read]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0)
    a = parser.parse_args()
    print(f"{probe().summary}; load {load_1m()}")
    print(
        "| rows | form | bytes of float | runtime | p50 ms | speed-up [95 %] | cosine |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    family = FAMILIES["x86-vnni"]
    for rows in a.rows:
        model = mlp(rows, width=a.width, layers=a.layers)
        rng = np.random.default_rng(0)
        feeds = [{"x": rng.standard_normal((rows, a.width)).astype(np.float32)} for _ in range(4)]
        table = calibrate(model, feeds, data_digest="sha256:" + "0" * 64)
        forms = {"float": model, "static": quantize(model, table, family, ranges="mse").model}
        forms |= {f: rewrite_matmuls(model, f, family).model for f in FORMS} | {
            f"blocks-{b}": blocks(model, b) for b in (8, 4)
        }
        runs: dict[str, Callable[[], object]] = {}
        engines = {}
        for form, graph in forms.items():
            for runtime, hint in (("onnxruntime", None), ("openvino", "f32")):
                engine = open_model(
                    graph.SerializeToString(), SessionSettings(precision_hint=hint), runtime=runtime
                )
                engines[f"{form}/{runtime}"] = engine
                runs[f"{form}/{runtime}"] = partial(engine.run, feeds[0])
        times = interleave(runs, seconds=a.seconds, min_rounds=30, max_rounds=400)
        out = model.graph.output[0].name
        want = engines["float/onnxruntime"].run(feeds[0])[out].ravel().astype(np.float64)
        for name, engine in engines.items():
            form, runtime = name.split("/")
            got = engine.run(feeds[0])[out].ravel().astype(np.float64)
            ratio = paired_ratio(times["float/onnxruntime"], times[name])
            share = len(forms[form].SerializeToString()) / len(model.SerializeToString())
            cosine = want @ got / np.sqrt((want @ want) * (got @ got))
            print(
                f"| {rows} | {form} | {share:.0%} | {runtime} | {np.median(times[name]):.3f} | "
                f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] | {cosine:.4f} |"
            )


if __name__ == "__main__":
    main()
