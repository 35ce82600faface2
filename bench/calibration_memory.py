"""Peak memory of calibrating a ResNet50-shaped graph (seeded weights) on 512 images of 224 × 224.

    python bench/calibration_memory.py [--images 512]

Runs in this process alone; prints time and peak resident memory (``ru_maxrss``), before and after, in MiB.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from edgectl.builder.int8.calibrate import RANGE_KINDS, calibrate


def resnet50(seed: int = 0) -> ModelProto:
    """Convolutions with folded batch norms: 7×7 stem, stages of 3, 4, 6, 3 bottlenecks, global pool, 1000
    classes."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, c_in: int, c_out: int, k: int, stride: int, relu: bool) -> str:
        n = f"conv{len(nodes)}"
        w = rng.standard_normal((c_out, c_in, k, k)).astype(np.float32) * np.float32(
            np.sqrt(1.0 / (c_in * k * k))
        )
        weights.extend(
            [
                numpy_helper.from_array(w, f"{n}_w"),
                numpy_helper.from_array(np.zeros(c_out, np.float32), f"{n}_b"),
            ]
        )
        p = k // 2
        nodes.append(
            helper.make_node("Conv", [x, f"{n}_w", f"{n}_b"], [n], name=n, strides=[stride] * 2, pads=[p] * 4)
        )
        if not relu:
            return n
        nodes.append(helper.make_node("Relu", [n], [f"{n}_r"], name=f"{n}_relu"))
        return f"{n}_r"

    x = conv("image", 3, 64, 7, 2, True)
    nodes.append(
        helper.make_node(
            "MaxPool", [x], ["pool"], name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        )
    )
    x, c_in = "pool", 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = conv(
                conv(conv(x, c_in, width, 1, 1, True), width, width, 3, stride, True),
                width,
                4 * width,
                1,
                1,
                False,
            )
            skip = conv(x, c_in, 4 * width, 1, stride, False) if not block else x
            nodes.append(
                helper.make_node("Add", [y, skip], [f"add{stage}_{block}"], name=f"add{stage}_{block}")
            )
            x, c_in = f"relu{stage}_{block}", 4 * width
            nodes.append(helper.make_node("Relu", [f"add{stage}_{block}"], [x], name=x))
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["gap"], name="gap"),
        helper.make_node("Flatten", ["gap"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["out"], name="fc"),
    ]
    weights.append(
        numpy_helper.from_array(
            rng.standard_normal((2048, 1000)).astype(np.float32) * np.float32(0.02), "fc_w"
        )
    )
    weights.append(numpy_helper.from_array(np.zeros(1000, np.float32), "fc_b"))
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", 1, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("out", 1, [1, 1000])],
        weights,
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512)
    a = parser.parse_args()
    model = resnet50()
    before = peak_mb()

    def images() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(1)
        for _ in range(a.images):
            yield {"image": rng.random((1, 3, 224, 224), np.float32)}

    started = time.monotonic()
    table = calibrate(model, images(), data_digest="sha256:" + "0" * 64)
    streamed = time.monotonic() - started
    for kind in RANGE_KINDS:
        for tensor in table.ranges:
            table.range(tensor, kind)
    derived = time.monotonic() - started - streamed
    print(
        f"{a.images} images, {len(table.ranges)} tensors: {streamed:.1f} s, all range kinds {derived:.1f} s more"
    )
    print(f"peak RSS {peak_mb():.0f} MiB ({before:.0f} MiB with the model built, before calibration)")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
