"""Kernel families: the form of int8 that each kind of kernel takes fast. One table; the writers know nothing
else.

Measured reasons (docs/benchmarks.md): S8S8 is slower than float on x86 VNNI, where U8S8 is 3 ×
faster; without VNNI U8S8 saturates in 16 bit unless weights have 7 bit; ARM dot products take S8S8; TensorRT
wants symmetric activations with zero point 0, Q/DQ on the inputs of weighted layers only, and float biases;
OpenVINO runs SiLU networks faster from that placement than from whole chains (bench/matrix_products.py has
the products).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FAMILIES", "QDQ", "Family"]


@dataclass(frozen=True)
class Family:
    name: str
    activation: Literal["uint8", "int8", "float32"]
    symmetric: bool
    """Activations: zero point 0 and the same scale on both sides."""
    weight_max: int
    """Largest absolute weight code: 127, or 63 where products of 8 × 8 bit saturate."""
    int32_bias: bool
    placement: Literal["tensors", "inputs", "everything", "matmul"]
    """``tensors``: whole chains run in int8 (every tensor between quantized nodes carries Q/DQ).
    ``inputs``: only what weighted layers read; everything else is left to the compiler's fusion.
    ``everything``: each tensor of each layer that DLA runs: one without a scale makes its whole region
    fall back. ``matmul``: matrix products are rewritten, and there is no Q/DQ
    (:mod:`edgectl.builder.int8.matmul`)."""
    min_channels: int
    """Convolutions with fewer input or output channels stay float (depthwise ones count their groups)."""
    quantize_gemv: bool
    """Whether a matrix product with one row is worth quantizing."""


FAMILIES = {
    f.name: f
    for f in (
        Family("x86-vnni", "uint8", False, 127, True, "tensors", 1, True),
        Family("x86-avx2", "uint8", False, 63, True, "tensors", 1, True),
        Family("arm64", "int8", False, 127, True, "tensors", 1, True),
        Family("openvino", "uint8", False, 127, False, "inputs", 1, True),
        Family("trt-gpu", "int8", True, 127, False, "inputs", 16, False),
        Family("trt-dla", "int8", True, 127, False, "everything", 1, True),
        Family("dynamic", "uint8", False, 127, False, "matmul", 1, True),
        Family("weights-8", "float32", False, 127, False, "matmul", 1, True),
        Family("weights-4", "float32", False, 7, False, "matmul", 1, True),
    )
}
QDQ = {n: f for n, f in FAMILIES.items() if f.placement != "matmul"}
"""The families that are written as Q/DQ pairs from a calibration table."""
